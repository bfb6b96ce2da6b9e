"""`make deploy` as a user has it: in a folder of their own, against the local AWS, with `sam` and all it brings."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local.cloud import Cloud
from local.deployment import Deployment
from local.process import TOOLS
from local.scenario import HOSTNAME
from tests.e2e.stacks import CAPABILITIES, pairs, read
from tests.e2e.test_policies import printed
from tools.deploy import for_architecture
from tools.parameters import Refused


@pytest.fixture
def stacks(cloud: Cloud) -> Iterator[list[str]]:
    """Names of stacks that are deleted in the end."""
    names: list[str] = []
    yield names
    formation = cloud.client("cloudformation")
    for name in names:
        formation.delete_stack(StackName=name)
        formation.get_waiter("stack_delete_complete").wait(StackName=name, WaiterConfig={"Delay": 1})


def make(folder: Path, env: dict[str, str], *arguments: str, answers: str = "") -> subprocess.CompletedProcess[str]:
    """`make deploy`, on whose standard input the answers are."""
    command = ["make", "--silent", "deploy", *arguments]
    return subprocess.run(
        command, cwd=folder, env=env, input=answers, capture_output=True, text=True, timeout=600, check=False
    )


def outputs(cloud: Cloud, stack: str) -> dict[str, str]:
    """The stack's outputs now."""
    return Deployment(cloud, stack).outputs


def test_a_stack_by_its_file_and_its_updates(
    cloud: Cloud, folder: Path, environment: dict[str, str], admitting: dict[str, str], stacks: list[str]
) -> None:
    stacks.append("by-file")
    file = folder / "by-file.json"
    subnets = admitting["SubnetIds"].split(",")
    file.write_text(json.dumps(admitting | {"Port": 5432, "SubnetIds": subnets, "DeletionProtection": False}))
    made = make(folder, environment, "STACK=by-file", "AWS_REGION=eu-west-1", "CONFIRM=no")
    assert made.returncode == 0, made.stdout + made.stderr
    first = outputs(cloud, "by-file")
    formation = cloud.client("cloudformation")
    policy = formation.get_stack_policy(StackName="by-file")["StackPolicyBody"]
    assert json.loads(policy) == json.loads(read("tools", "stack-policy.json"))
    (stack,) = formation.describe_stacks(StackName="by-file")["Stacks"]
    assert {"Key": "Application", "Value": "nlb-hostname-targets"} in stack["Tags"]

    # Once more: nothing changes, whoever presses Enter.
    again = make(folder, environment, "STACK=by-file", answers="\n")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "No changes to deploy" in again.stdout
    assert outputs(cloud, "by-file") == first

    # A value that the file no longer names stays, and one that it does changes, once that is confirmed: here by a user
    # who may do what is printed, and no more. Of CloudFormation and S3 the local AWS enforces that.
    values = {"AllowedPrincipals": ["firehose.amazonaws.com"], "Settings": "LOG_RETENTION_DAYS=60 LOOKUPS=5"}
    file.write_text(json.dumps(values))
    iam = cloud.client("iam")
    iam.create_user(UserName="deployer")
    keys = iam.create_access_key(UserName="deployer")["AccessKey"]
    mine = environment | {"AWS_ACCESS_KEY_ID": keys["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"]}
    refused = make(folder, mine, "STACK=by-file", answers="y\n")
    assert refused.returncode != 0
    assert "AccessDenied" in refused.stderr
    *_, allowed = printed("by-file")
    iam.put_user_policy(UserName="deployer", PolicyName="deploy", PolicyDocument=json.dumps(allowed))
    s3 = cloud.client("s3")
    (bucket,) = [x["Name"] for x in s3.list_buckets()["Buckets"] if x["Name"].startswith("aws-sam-cli")]
    # The local AWS does not speak TLS, without which SAM's bucket takes nothing from anybody but the root user.
    s3.delete_bucket_policy(Bucket=bucket)
    changed = make(folder, mine, "STACK=by-file", answers="y\n")
    assert changed.returncode == 0, changed.stdout + changed.stderr
    # Apart from the packages of other stacks.
    assert any(x.startswith("by-file/") for x in packages(cloud))
    assert outputs(cloud, "by-file") == first
    assert retention(cloud, first["LogGroupName"]) == 60
    permissions = cloud.client("ec2").describe_vpc_endpoint_service_permissions(ServiceId=first["EndpointServiceId"])
    assert [x["Principal"] for x in permissions["AllowedPrincipals"]] == ["firehose.amazonaws.com"]


def retention(cloud: Cloud, name: str) -> int:
    """How long a log is kept, in days."""
    (found,) = cloud.client("logs").describe_log_groups(logGroupNamePrefix=name)["logGroups"]
    days: int = found["retentionInDays"]
    return days


def test_a_new_stack_by_answers(
    cloud: Cloud, folder: Path, environment: dict[str, str], admitting: dict[str, str], stacks: list[str]
) -> None:
    stacks.append("by-answers")
    given = [*admitting.values(), ""]
    # A slip is said at once, and asked again.
    given.insert(1, "postgres")
    told = in_terminal(folder, environment, "STACK=by-answers", "CONFIRM=no", answers=given)
    assert "must be a port" in told
    # Each with its description.
    assert "The name to follow, such as" in told
    assert json.loads((folder / "by-answers.json").read_text()) == admitting
    assert outputs(cloud, "by-answers")["ServiceName"] in told

    # `sam delete` takes its package away, and none of another stack's.
    of_others = packages(cloud)
    of_others -= {x for x in of_others if x.startswith("by-answers/")}
    command = [str(TOOLS / "sam"), "delete", "--no-prompts", "--stack-name", "by-answers", "--region", "eu-west-1"]
    deleted = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert deleted.returncode == 0, deleted.stdout + deleted.stderr
    stacks.clear()
    assert of_others
    assert packages(cloud) >= of_others


def packages(cloud: Cloud) -> set[str]:
    """What lies in SAM's bucket."""
    s3 = cloud.client("s3")
    names = [x["Name"] for x in s3.list_buckets()["Buckets"] if x["Name"].startswith("aws-sam-cli")]
    return {x["Key"] for name in names for x in s3.list_objects_v2(Bucket=name).get("Contents", [])}


def in_terminal(folder: Path, env: dict[str, str], *arguments: str, answers: list[str]) -> str:
    """What `make deploy` writes in a terminal, and that it succeeds."""
    ours, theirs = pty.openpty()
    command = ["make", "--silent", "deploy", *arguments]
    with subprocess.Popen(command, cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as deploying:
        os.close(theirs)
        os.write(ours, "".join(f"{x}\n" for x in answers).encode())
        told = b""
        while True:
            try:
                told += os.read(ours, 65536)
            except OSError:
                break
        deploying.wait(timeout=60)
    os.close(ours)
    assert deploying.returncode == 0, told.decode()
    return told.decode().replace("\r\n", "\n")


def test_a_stack_of_before_keeps_its_values(
    cloud: Cloud, folder: Path, environment: dict[str, str], network: dict[str, str], stacks: list[str]
) -> None:
    stacks.append("before")
    declared = {x: {"Type": "String", "Default": ""} for x in ("Hostname", "SubnetIds", "VpcId", "AllowedPrincipals")}
    declared |= {"DnsServers": {"Type": "String", "Default": ""}, "ExtraBindings": {"Type": "String", "Default": ""}}
    declared |= {"Port": {"Type": "Number"}, "WatchSeconds": {"Type": "Number", "Default": 300}}
    declared |= {"Architecture": {"Type": "String", "Default": "x86_64"}}
    old = {"Parameters": declared, "Resources": {"AlarmTopic": {"Type": "AWS::SNS::Topic"}}}
    values = {"Hostname": HOSTNAME, "Port": "5432", **network, "DnsServers": "10.0.0.2, 10.0.0.3"}
    formation = cloud.client("cloudformation")
    extra = {"ExtraBindings": '[{"hostname":"a.b"}]'}
    body = {"TemplateBody": json.dumps(old), "Capabilities": CAPABILITIES}
    formation.create_stack(StackName="before", Parameters=pairs(values | extra), **body)
    formation.get_waiter("stack_create_complete").wait(StackName="before", WaiterConfig={"Delay": 1})

    # What has no place any more stops it, before anything is built.
    stopped = make(folder, environment, "STACK=before", "CONFIRM=no")
    assert stopped.returncode != 0
    assert 'ExtraBindings=[{"hostname":"a.b"}]' in stopped.stderr
    assert "docs/migration.md" in stopped.stderr
    kept = {"Hostname": HOSTNAME, "Port": "5432", **network, "Settings": "DNS_SERVERS=10.0.0.2,10.0.0.3"}
    assert json.loads((folder / "before.json").read_text()) == kept

    done = make(folder, environment, "STACK=before", "CONFIRM=no")
    assert done.returncode == 0, done.stdout + done.stderr
    assert Deployment(cloud, "before").environment["DNS_SERVERS"] == "10.0.0.2,10.0.0.3"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"Hostnam": HOSTNAME}, "Hostnam is no parameter of the template: did you mean Hostname?"),
        ({"PollIntervalSeconds": 5}, "put POLL_INTERVAL_SECONDS=… into Settings"),
        ({"Port": "postgres"}, "Port must be a port, 1 to 65535, or 0, not 'postgres'"),
        ({"IpAddressType": "ipv5"}, "IpAddressType must be ipv4 or ipv6, not 'ipv5'"),
        (["Hostname"], "must be a JSON object"),
    ],
)
def test_a_file_with_a_mistake_is_refused_before_anything_is_built(
    folder: Path, environment: dict[str, str], values: Any, message: str
) -> None:
    (folder / "mistaken.json").write_text(json.dumps(values))
    refused = make(folder, environment, "STACK=other", "PARAMETERS=mistaken.json", "CONFIRM=no")
    assert refused.returncode != 0
    assert message in refused.stderr


def test_it_says_what_is_missing(folder: Path, environment: dict[str, str]) -> None:
    nameless = make(folder, environment)
    assert "STACK must name the stack" in nameless.stdout + nameless.stderr
    without = make(folder, environment, "STACK=nowhere")
    assert "there is no stack nowhere and no parameter file: copy examples/orders.json" in without.stderr
    regions = {x: y for x, y in environment.items() if x not in ("AWS_REGION", "AWS_DEFAULT_REGION")}
    assert "name the Region" in make(folder, regions, "STACK=nowhere").stderr
    # Whatever is installed here, one of both is not.
    for architecture in ("arm64", "x86_64"):
        refused = make(folder, environment, "STACK=nowhere", f"ARCHITECTURE={architecture}")
        assert "rustup target add" in refused.stderr or "there is no stack" in refused.stderr
    assert "invalid choice" in make(folder, environment, "STACK=nowhere", "ARCHITECTURE=sparc").stderr


def test_build_and_deployment_take_the_architecture_from_one_place(template: dict[str, Any]) -> None:
    assert template["Resources"]["Function"]["Properties"]["Architectures"] == ["x86_64"]
    assert "Architecture" not in template["Parameters"]
    source = read("template.yaml")
    assert for_architecture(source, "x86_64") == source
    changed = for_architecture(source, "arm64")
    assert changed.replace("arm64", "x86_64") == source.replace("arm64", "x86_64")
    assert "Architectures: [arm64]" in changed
    with pytest.raises(Refused):
        for_architecture("", "arm64")


def test_the_stack_policy_is_about_what_the_template_has(template: dict[str, Any]) -> None:
    deny, allow = json.loads(read("tools", "stack-policy.json"))["Statement"]
    protected = {x.removeprefix("LogicalResourceId/") for x in deny["Resource"]}
    kept = ("LoadBalancer", "TargetGroup", "Listener", "VPCEndpointService")
    assert protected == {name for name, x in template["Resources"].items() if x["Type"].split("::")[-1] in kept}
    assert (deny["Effect"], deny["Action"]) == ("Deny", ["Update:Delete", "Update:Replace"])
    assert (allow["Effect"], allow["Action"], allow["Resource"]) == ("Allow", "Update:*", "*")
