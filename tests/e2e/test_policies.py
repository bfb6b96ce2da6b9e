"""`make policies`: what it prints, as roles and as a user on the local AWS, which enforces them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from local.cloud import Cloud
from local.dns import DnsServer
from local.process import ROOT
from local.scenario import HOSTNAME, PORT
from tests.e2e.conftest import Deploy
from tests.e2e.stacks import role
from tools.policies import UNUSED, Stack, read_of

# Of the local AWS.
ACCOUNT = "000000000000"

Policies = dict[str, dict[str, Any]]


def printed(stack: str, *options: str) -> list[dict[str, Any]]:
    """The documents that `make policies` prints, in their order."""
    command = ["make", "--silent", "policies", f"STACK={stack}", f"ACCOUNT={ACCOUNT}", "REGION=eu-west-1", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(x) for x in re.split("^# .*$", done.stdout, flags=re.MULTILINE)[1:]]


def test_roles_made_of_them_suffice(cloud: Cloud, dns: DnsServer, deploy: Deploy, network: dict[str, str]) -> None:
    function_trust, function, scheduler_trust, scheduler, _ = printed("roles-made-of-them-suffice")
    other = cloud.create_target_group("others", PORT)
    deployment = deploy(
        **network,
        FunctionRoleArn=role(cloud, "pasted-function", function_trust, function),
        SchedulerRoleArn=role(cloud, "pasted-scheduler", scheduler_trust, scheduler),
        Settings=f"DNS_SERVERS={dns.address} OWNERSHIP=shared DEREGISTER_AFTER_SECONDS=60",
    )
    assert {"FunctionRole", "SchedulerRole"} & set(deployment.resources) == set()
    for address in ("10.0.1.10", "10.0.1.11"):
        # Registered, and remembered in tags.
        dns.answer(HOSTNAME, address)
        reply = deployment.invoke({})
        assert reply.error is None
        assert reply.group["registered"] == [f"{address}:{PORT}"]
    (waiting,) = reply.group["waiting"]
    assert waiting["target"] == f"10.0.1.10:{PORT}"

    # A target group of somebody else's has not the stack's tag.
    request = {"bindings": [{"hostname": HOSTNAME, "target_group_arn": other.arn}]}
    assert "AccessDenied" in str(deployment.invoke(request).error)
    assert cloud.targets(other) == {}

    # And what is taken from it is refused.
    (change,) = [x for x in function["Statement"] if x["Sid"] == "Change"]
    change["Action"].remove("elasticloadbalancing:RegisterTargets")
    cloud.client("iam").put_role_policy(
        RoleName="pasted-function", PolicyName="own", PolicyDocument=json.dumps(function)
    )
    dns.answer(HOSTNAME, "10.0.1.12")
    error = str(deployment.invoke({}).error)
    assert "elasticloadbalancing:RegisterTargets" in error
    assert "AccessDenied" in error


def test_they_follow_the_parameter_file(tmp_path: Path) -> None:
    group = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/orders/0123456789abcdef"
    file = tmp_path / "own.json"
    values = {"Hostname": HOSTNAME, "TargetGroupArn": group, "VpcId": "vpc-01234567"}
    file.write_text(json.dumps(values | {"FunctionSubnetIds": ["subnet-01234567"], "DiscoverByTags": True}))
    _, function, *_ = printed("own", f"PARAMETERS={file}")
    statements = {x["Sid"]: x for x in function["Statement"]}
    assert set(statements) == {"Look", "Change", "Discover", "ChangeTagged", "Log", "Attach", "AttachByLambdaOnly"}
    assert statements["Change"]["Resource"] == [group]
    assert set(statements["ChangeTagged"]["Condition"]) == {"Null", "ForAllValues:StringLike"}


@pytest.mark.parametrize("region", ["us-gov-west-1", "cn-north-1", "eusc-de-east-1"])
def test_of_any_partition(region: str) -> None:
    stack = Stack("orders", ACCOUNT, region, {})
    text = json.dumps(stack.documents())
    assert set(re.findall(r"arn:([a-z-]+):", text)) == {stack.partition} != {"aws"}


def test_whoever_deploys_may_do_what_the_registry_says() -> None:
    stack = Stack("orders", ACCOUNT, "eu-west-1", {})
    document = stack.deployer()
    allowed = {x for statement in document["Statement"] for x in statement["Action"]}
    for action in stack.registered():
        assert {action, read_of(action)} & allowed, action
    assert "AWS::Lambda::Function" in stack.types()
    # The pattern of each service whose actions are left out leaves out something, and none of what deploys a stack.
    for pattern in UNUSED:
        assert not any(re.search(pattern, x) for x in ("ec2:CreateVpcEndpointServiceConfiguration", "iam:CreateRole"))
    # It has to fit into a managed policy.
    assert len(re.sub(r"\s", "", json.dumps(document))) <= 6144


def test_the_largest_policy_of_the_function_fits_into_a_role() -> None:
    databases = {"SecondDatabase": "a.b:1", "ThirdDatabase": "a.b:1", "FunctionSubnetIds": "subnet-01234567"}
    created = {"Hostname": "a.b", "Port": "1", "VpcId": "vpc-01234567", "SubnetIds": "subnet-01234567"}
    stack = Stack("x" * 128, ACCOUNT, "us-gov-west-1", created | databases | {"DiscoverByTags": "true"})
    document = stack.value(stack.template["Resources"]["FunctionRole"]["Properties"]["Policies"])[0]["PolicyDocument"]
    assert len(document["Statement"]) == 7
    assert len(re.sub(r"\s", "", json.dumps(document))) <= 10240
