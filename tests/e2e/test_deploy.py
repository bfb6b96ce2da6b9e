"""`make deploy` as a user has it: in a folder of their own, against the local AWS, with `sam` and all it brings."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local.cloud import Cloud
from local.deployment import Deployment
from local.scenario import HOSTNAME
from tests.e2e.stacks import attributes, read
from tests.e2e.test_policies import policy


@pytest.fixture
def stacks(cloud: Cloud) -> Iterator[list[str]]:
    """Names of stacks that are deleted in the end."""
    names: list[str] = []
    yield names
    formation = cloud.client("cloudformation")
    for name in names:
        formation.update_termination_protection(StackName=name, EnableTerminationProtection=False)
        formation.delete_stack(StackName=name)
        formation.get_waiter("stack_delete_complete").wait(StackName=name, WaiterConfig={"Delay": 1})


def make(folder: Path, env: dict[str, str], *arguments: str, answers: str = "") -> subprocess.CompletedProcess[str]:
    """`make deploy`, on whose standard input the answers are."""
    command = ["make", "--silent", "deploy", *arguments]
    return subprocess.run(
        command, cwd=folder, env=env, input=answers, capture_output=True, text=True, timeout=600, check=False
    )


def test_a_stack_by_its_file_and_its_updates(
    cloud: Cloud, folder: Path, environment: dict[str, str], admitting: dict[str, str], stacks: list[str]
) -> None:
    stacks.append("by-file")
    file = folder / "by-file.json"
    values: dict[str, Any] = {**admitting, "Port": 5432, "SubnetIds": admitting["SubnetIds"].split(",")}
    values["Tags"] = {"Team": "orders and bills", "Application": "orders"}
    file.write_text(json.dumps(values))
    # Whoever does not confirm gets nothing that is protected.
    asked = ("STACK=unsure", "PARAMETERS=by-file.json", "AWS_REGION=eu-west-1")
    unsure = make(folder, environment, *asked, answers="n\n")
    assert (unsure.returncode, "protected" in unsure.stdout) == (0, False), unsure.stdout + unsure.stderr
    made = make(folder, environment, "STACK=by-file", "AWS_REGION=eu-west-1", "CONFIRM=no")
    assert made.returncode == 0, made.stdout + made.stderr
    outputs = Deployment(cloud, "by-file").outputs
    formation = cloud.client("cloudformation")
    policy_body = formation.get_stack_policy(StackName="by-file")["StackPolicyBody"]
    assert json.loads(policy_body) == json.loads(read("tools", "stack-policy.json"))
    (stack,) = formation.describe_stacks(StackName="by-file")["Stacks"]
    assert attributes(stack["Tags"]) == {"Team": "orders and bills", "Application": "orders"}
    described = cloud.elb.describe_tags(ResourceArns=[outputs["TargetGroupArn"]])["TagDescriptions"]
    assert attributes(described[0]["Tags"])["Team"] == "orders and bills"
    assert "--no-enable-termination-protection --stack-name by-file" in made.stdout
    assert stack["EnableTerminationProtection"]
    with pytest.raises(ClientError, match="TerminationProtection"):
        formation.delete_stack(StackName="by-file")

    # Changed once that is confirmed: here by a user who may do what policies/deploy.json says, and no more. Of
    # CloudFormation and S3 the local AWS enforces that. A value that the file no longer names is the template's again.
    del values["AllowedPrincipals"]
    file.write_text(json.dumps(values | {"LogRetentionDays": 60}))
    iam = cloud.client("iam")
    iam.create_user(UserName="deployer")
    keys = iam.create_access_key(UserName="deployer")["AccessKey"]
    mine = environment | {"AWS_ACCESS_KEY_ID": keys["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"]}
    refused = make(folder, mine, "STACK=by-file", answers="y\n")
    assert refused.returncode != 0
    assert "AccessDenied" in refused.stderr
    iam.put_user_policy(UserName="deployer", PolicyName="deploy", PolicyDocument=policy("deploy", "by-file"))
    s3 = cloud.client("s3")
    (bucket,) = [x["Name"] for x in s3.list_buckets()["Buckets"] if x["Name"].startswith("aws-sam-cli")]
    # The local AWS does not speak TLS, without which SAM's bucket takes nothing from anybody but the root user.
    s3.delete_bucket_policy(Bucket=bucket)
    changed = make(folder, mine, "STACK=by-file", answers="y\n")
    assert changed.returncode == 0, changed.stdout + changed.stderr
    # Apart from the packages of other stacks.
    assert any(x["Key"].startswith("by-file/") for x in s3.list_objects_v2(Bucket=bucket)["Contents"])
    assert Deployment(cloud, "by-file").outputs == outputs
    (log,) = cloud.client("logs").describe_log_groups(logGroupNamePrefix=outputs["LogGroupName"])["logGroups"]
    assert log["retentionInDays"] == 60
    service = {"ServiceId": outputs["EndpointServiceId"]}
    permissions = cloud.client("ec2").describe_vpc_endpoint_service_permissions(**service)
    assert permissions["AllowedPrincipals"] == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"Hostnam": HOSTNAME}, "Hostnam is no parameter of the template: did you mean Hostname?"),
        ({"Settings": "LOOKUPS=5"}, "Settings is no parameter of the template"),
        (["Hostname"], "must be a JSON object"),
        ({"Tags": ["a"]}, "must be a JSON object"),
        (None, "copy examples/orders.json"),
    ],
)
def test_a_file_with_a_mistake_is_refused_before_anything_is_built(
    folder: Path, environment: dict[str, str], values: Any, message: str
) -> None:
    (folder / "mistaken.json").unlink(missing_ok=True)
    if values is not None:
        (folder / "mistaken.json").write_text(json.dumps(values))
    refused = make(folder, environment, "STACK=other", "PARAMETERS=mistaken.json", "CONFIRM=no")
    assert refused.returncode != 0
    assert message in refused.stderr


def test_where_it_runs_and_what_is_missing(folder: Path, environment: dict[str, str]) -> None:
    nameless = make(folder, environment)
    assert "STACK must name the stack" in nameless.stdout + nameless.stderr
    (folder / "where.json").write_text(json.dumps({"Hostname": HOSTNAME}))
    nowhere = {x: y for x, y in environment.items() if x not in ("AWS_REGION", "AWS_DEFAULT_REGION")}
    assert "must specify a region" in make(folder, nowhere, "STACK=where").stderr
    # A package that is not there ends it, before anything is sent.
    here = ("STACK=where", "PACKAGE=nothing")
    assert "nothing for x86_64: rustup target add x86_64" in make(folder, environment, *here).stderr
    assert "nothing for arm64" in make(folder, environment, *here, "ARCHITECTURE=arm64").stderr


def test_the_architecture_goes_by_the_region(folder: Path, environment: dict[str, str]) -> None:
    (folder / "where.json").write_text(json.dumps({"Hostname": HOSTNAME}))
    dist = folder / "zips"
    dist.mkdir()
    for architecture in ("arm64", "x86_64"):
        (dist / f"nlb-hostname-targets-1.0.0-{architecture}.zip").write_bytes(b"")
    told = {"eu-west-1": "eu-west-1 for arm64\n", "ca-west-1": "for x86_64, because arm64 is not known to be there\n"}
    for region, wanted in told.items():
        env = {x: y for x, y in environment.items() if x != "AWS_DEFAULT_REGION"} | {"AWS_REGION": region}
        assert wanted in make(folder, env, "STACK=where", "PACKAGE=zips", "CONFIRM=no").stdout


def test_the_stack_policy_is_about_what_the_template_has(template: dict[str, Any]) -> None:
    deny, allow = json.loads(read("tools", "stack-policy.json"))["Statement"]
    protected = {x.removeprefix("LogicalResourceId/") for x in deny["Resource"]}
    kept = ("LoadBalancer", "TargetGroup", "Listener", "VPCEndpointService")
    assert protected == {name for name, x in template["Resources"].items() if x["Type"].split("::")[-1] in kept}
    assert (deny["Effect"], deny["Action"]) == ("Deny", ["Update:Delete", "Update:Replace"])
    assert (allow["Effect"], allow["Action"], allow["Resource"]) == ("Allow", "Update:*", "*")
    # What the tool changes for the architecture and for a package.
    assert [read("template.yaml").count(x) for x in ("Architectures: [x86_64]", "CodeUri: .")] == [1, 1]
