"""The README's commands, run as they are written, in a copy of the repository and against the local AWS."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from local.cloud import Cloud
from local.deployment import Deployment
from local.dns import DnsServer
from local.scenario import HOSTNAME
from tests.e2e.stacks import inventory, read

# What a reader puts their own values in place of.
EXAMPLES = {
    "vpc-0123456789abcdef0": "VpcId",
    "subnet-0123456789abcdef0,subnet-0123456789abcdef1": "SubnetIds",
    "sg-0123456789abcdef0": "DatabaseSecurityGroupId",
}
# Commands that are run elsewhere.
ELSEWHERE = {
    "git clone https://github.com/OWNER/nlb-hostname-targets && cd nlb-hostname-targets": "it is in the copy",
    "make run": "test_run.py",
    "make test": "this is it",
}
STACK = "orders"


def blocks(page: str) -> list[str]:
    """The shell blocks of a page."""
    return re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def as_run(block: str, values: dict[str, str]) -> str:
    """A block with the reader's values, less what is run elsewhere."""
    for example, name in EXAMPLES.items():
        block = block.replace(example, values[name])
    lines = block.splitlines(keepends=True)
    return "".join(x for x in lines if x.partition("#")[0].strip() not in ELSEWHERE)


def run(script: str, folder: Path, environment: dict[str, str]) -> str:
    """What the script writes; on its standard input is a yes."""
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(
        command, cwd=folder, env=environment, input="y\n", capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.differs("initial")
def test_the_readme_from_the_top(
    cloud: Cloud, dns: DnsServer, folder: Path, environment: dict[str, str], admitting: dict[str, str]
) -> None:
    found = blocks(read("README.md"))
    commands = {line.partition("#")[0].strip() for block in found for line in block.splitlines()}
    assert set(ELSEWHERE) <= commands, "these need not be left out any more"
    scripts = [as_run(x, admitting) for x in found]
    (quick_start,) = [n for n, x in enumerate(scripts) if f"make deploy STACK={STACK}" in x]
    before = inventory(cloud)
    dns.answer(HOSTNAME, "10.0.1.10")
    try:
        run("".join(scripts[: quick_start + 1]), folder, environment)
        deployment = Deployment(cloud, STACK)
        # The DNS of this machine does not know the database.
        variables = deployment.environment | {"DNS_SERVERS": dns.address}
        cloud.client("lambda").update_function_configuration(
            FunctionName=deployment.outputs["FunctionName"], Environment={"Variables": variables}
        )
        # As the schedule would within a minute.
        assert deployment.invoke({}).error is None
        told = run("".join(scripts[quick_start + 1 :]), folder, environment)
    finally:
        formation = cloud.client("cloudformation")
        formation.update_termination_protection(StackName=STACK, EnableTerminationProtection=False)
        formation.delete_stack(StackName=STACK)
        formation.get_waiter("stack_delete_complete").wait(StackName=STACK, WaiterConfig={"Delay": 1})
    assert deployment.outputs["ServiceName"] in told
    assert "Nothing is wrong" in told
    # What SAM keeps code in stays, for all stacks.
    assert inventory(cloud) - before == set()
