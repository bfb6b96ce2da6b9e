"""What the end-to-end tests share: a local AWS and DNS for all of them, and the built function."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from samcli.yamlhelper import yaml_dump, yaml_parse

from local.cloud import Cloud, ministack
from local.deployment import TEMPLATE, Deployment, package
from local.dns import DnsServer
from local.function import build
from local.process import ROOT, isolate
from local.scenario import HOSTNAME
from tests.e2e.stacks import DATABASE, Stack, inventory, read, stack_name

Deploy = Callable[..., Deployment]
PRINCIPALS = ["arn:aws:iam::123456789012:root", "firehose.amazonaws.com"]
# Not what builds and tools leave.
LEAVINGS = ("target", ".venv", ".git", ".aws-sam", "__pycache__", ".pytest_cache", ".ruff_cache", "fuzz")


def pytest_configure(config: pytest.Config) -> None:
    """Knows the marks: of tests that take long, and of those that go by what an emulation does otherwise than AWS."""
    config.addinivalue_line("markers", "nightly: it is not in `make test`, but in `make test-all`")
    config.addinivalue_line("markers", "differs(*facts): it goes by these, which docs/conformance.md says differ here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A mark goes when the emulation does as AWS."""
    page = read("docs", "conformance.md")
    for item in items:
        for fact in (fact for mark in item.iter_markers("differs") for fact in mark.args):
            if not re.search(rf"^\| \[`{re.escape(fact)}`\]\(.*\*\*differs\*\*", page, re.MULTILINE):
                raise pytest.UsageError(f"{item.nodeid}: {fact} does not differ, by docs/conformance.md")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Shows what the function wrote beside a test that failed with it."""
    report = (yield).get_result()
    function = getattr(item, "funcargs", {}).get("function")
    if report.failed and function is not None:
        report.sections.append(("the function", function.log()))


@pytest.fixture(scope="session", autouse=True)
def _built() -> None:
    isolate()
    build()


@pytest.fixture(scope="session")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as `sam build` leaves it, beside the built function."""
    return package(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A running ministack."""
    with ministack(tmp_path_factory.mktemp("ministack")) as running:
        yield running


@pytest.fixture(scope="session")
def dns() -> Iterator[DnsServer]:
    """A running DNS server."""
    with closing(DnsServer()) as running:
        yield running


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for logs."""
    return tmp_path_factory.mktemp("function")


@pytest.fixture(scope="session")
def template() -> dict[str, Any]:
    """The template as it is in the repository, in the long form of its functions."""
    parsed: dict[str, Any] = yaml_parse(TEMPLATE.read_text())
    return parsed


@pytest.fixture(scope="session")
def uploaded(cloud: Cloud, packaged: Path) -> str:
    """The address of the built template, whose function's code lies beside it."""
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="code", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    built = yaml_parse(packaged.read_text())
    code = packaged.parent / built["Resources"]["Function"]["Properties"]["CodeUri"]
    archive = shutil.make_archive(str(packaged.parent / "function"), "zip", code)
    s3.upload_file(archive, "code", "function.zip")
    built["Resources"]["Function"]["Properties"]["CodeUri"] = "s3://code/function.zip"
    s3.put_object(Bucket="code", Key="template.yaml", Body=yaml_dump(built).encode())
    return f"{cloud.endpoint}/code/template.yaml"


@pytest.fixture(scope="session")
def network(cloud: Cloud) -> dict[str, str]:
    """The parameters of a load balancer that is created."""
    vpc, subnets = cloud.create_network()
    return {"VpcId": vpc, "SubnetIds": ",".join(subnets)}


@pytest.fixture
def deploy(cloud: Cloud, uploaded: str, request: pytest.FixtureRequest) -> Iterator[Deploy]:
    """Deploys the template with these parameters; afterwards deletes it, which must leave nothing behind."""
    stack = Stack(cloud, uploaded, stack_name(request.node.name))
    before = inventory(cloud)

    def create(**parameters: str) -> Deployment:
        before.update(inventory(cloud))
        return stack.create(DATABASE | parameters)

    yield create
    stack.delete()
    assert inventory(cloud) - before == set()


@pytest.fixture(scope="session")
def standing(cloud: Cloud, dns: DnsServer, uploaded: str, admitting: dict[str, str]) -> Iterator[Deployment]:
    """A stack with all that it can create. Who changes it puts it back; it goes with the local AWS, but for its schedule."""
    stack = Stack(cloud, uploaded, "standing")
    parameters = DATABASE | admitting | {"ListenerPort": "15432", "AllowedPrincipals": ",".join(PRINCIPALS)}
    parameters |= {"SupportedRegions": "us-east-1,us-west-2", "PrivateDnsName": "orders.db.example.com"}
    parameters |= {"AllowedHostnames": "*.rds.amazonaws.com", "AllowedCidrs": "10.0.0.0/8,fd00::/8"}
    parameters |= {"LogRetentionDays": "365", "AlarmEmail": "you@example.com", "DnsServers": dns.address}
    yield stack.create(parameters)
    stack.delete()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, so that no parameter file of the user's is touched, with its tools and its build."""
    copy = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEAVINGS), dirs_exist_ok=True)
    for shared in ("target", ".venv"):
        (copy / shared).symlink_to(ROOT / shared)
    return copy


@pytest.fixture(scope="session")
def environment(cloud: Cloud, folder: Path) -> dict[str, str]:
    """The local AWS, and a build that does not take minutes."""
    return {
        **os.environ,
        "AWS_ENDPOINT_URL": cloud.endpoint,
        "CARGO_TARGET_DIR": str(ROOT / "target"),
        "CARGO_LAMBDA_COMPILER": "cargo",
        "SAM_BUILD_MODE": "debug",
        "__SAM_CLI_APP_DIR": str(folder / ".sam"),
    }


@pytest.fixture(scope="session")
def admitting(cloud: Cloud, network: dict[str, str]) -> dict[str, str]:
    """The six values of the quick start."""
    ec2 = cloud.client("ec2")
    group = ec2.create_security_group(GroupName="quick", Description="quick", VpcId=network["VpcId"])["GroupId"]
    answers = {"Hostname": HOSTNAME, "Port": "5432", **network, "DatabaseSecurityGroupId": group}
    return answers | {"AllowedPrincipals": "arn:aws:iam::123456789012:root"}
