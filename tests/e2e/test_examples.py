"""The templates in examples/, deployed by the AWS CLI as their pages say, the one's service used by the other."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from local.cloud import Cloud
from local.deployment import Deployment
from local.process import ROOT, TOOLS
from tests.e2e.stacks import attributes, inventory, pairs, read
from tools.parameters import template

PRINCIPAL = "arn:aws:iam::123456789012:root"


@pytest.fixture
def stacks(cloud: Cloud) -> Iterator[list[str]]:
    """Names of stacks that are deleted in the end."""
    names: list[str] = []
    yield names
    for name in names:
        delete(cloud, name)


def delete(cloud: Cloud, name: str) -> None:
    """Deletes a stack, if there is one."""
    formation = cloud.client("cloudformation")
    formation.delete_stack(StackName=name)
    formation.get_waiter("stack_delete_complete").wait(StackName=name, WaiterConfig={"Delay": 1})


def deploy(cloud: Cloud, stack: str, example: str, **parameters: str) -> Deployment:
    """`aws cloudformation deploy`, which finds nothing to change a second time."""
    command = [str(TOOLS / "aws"), "cloudformation", "deploy", "--no-fail-on-empty-changeset", "--stack-name", stack]
    command += ["--template-file", f"examples/{example}", "--parameter-overrides"]
    command += [f"{name}={value}" for name, value in parameters.items()]
    env = {**os.environ, "AWS_ENDPOINT_URL": cloud.endpoint}
    for wanted in ("Successfully created/updated stack", "No changes to deploy"):
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert wanted in done.stdout + done.stderr
        # The AWS CLI names a change set by the second.
        time.sleep(1.1)
    return Deployment(cloud, stack)


def change(cloud: Cloud, stack: str, **parameters: str) -> None:
    """Updates a stack, with its other parameters as they are."""
    formation = cloud.client("cloudformation")
    (found,) = formation.describe_stacks(StackName=stack)["Stacks"]
    kept = [x["ParameterKey"] for x in found["Parameters"] if x["ParameterKey"] not in parameters]
    values = [{"ParameterKey": x, "UsePreviousValue": True} for x in kept] + pairs(parameters)
    formation.update_stack(StackName=stack, UsePreviousTemplate=True, Parameters=values)
    formation.get_waiter("stack_update_complete").wait(StackName=stack, WaiterConfig={"Delay": 1})


def test_an_ssh_host_and_its_consumer(cloud: Cloud, stacks: list[str]) -> None:
    ec2 = cloud.client("ec2")
    vpc, subnets = cloud.create_network()
    group = ec2.create_security_group(GroupName="ssh", Description="ssh", VpcId=vpc)["GroupId"]
    (instance,) = ec2.run_instances(ImageId="ami-12345678", MinCount=1, MaxCount=1, SubnetId=subnets[0])["Instances"]
    theirs, their_subnets = cloud.create_network()
    before = inventory(cloud)
    stacks += ["ssh-host", "consumer"]
    offered = deploy(
        cloud,
        "ssh-host",
        "instance-targets.yaml",
        VpcId=vpc,
        SubnetIds=",".join(subnets),
        InstanceId=instance["InstanceId"],
        InstanceSecurityGroupId=group,
        Port="22",
        AllowedPrincipals=PRINCIPAL,
    )
    # A third time with one parameter more, nothing is made anew.
    made = offered.resources
    change(cloud, "ssh-host", IdleTimeoutSeconds="900")
    assert Deployment(cloud, "ssh-host").resources == made
    (listener,) = cloud.elb.describe_listener_attributes(ListenerArn=made["Listener"])["Attributes"]
    assert listener == {"Key": "tcp.idle_timeout.seconds", "Value": "900"}
    arn = offered.outputs["TargetGroupArn"]
    (target_group,) = cloud.elb.describe_target_groups(TargetGroupArns=[arn])["TargetGroups"]
    assert (target_group["TargetType"], target_group["Protocol"], target_group["Port"]) == ("instance", "TCP", 22)
    health = cloud.elb.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]
    assert [x["Target"]["Id"] for x in health] == [instance["InstanceId"]]
    of_group = attributes(cloud.elb.describe_target_group_attributes(TargetGroupArn=arn)["Attributes"])
    assert of_group["proxy_protocol_v2.enabled"] == of_group["preserve_client_ip.enabled"] == "false"
    (admitting,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    (admitted,) = admitting["IpPermissions"]
    assert admitted["UserIdGroupPairs"][0]["GroupId"] == offered.resources["LoadBalancerSecurityGroup"]
    service = offered.outputs["EndpointServiceId"]
    allowed = ec2.describe_vpc_endpoint_service_permissions(ServiceId=service)["AllowedPrincipals"]
    assert [x["Principal"] for x in allowed] == [PRINCIPAL]

    consumer = deploy(
        cloud,
        "consumer",
        "consumer-endpoint.yaml",
        ServiceName=offered.outputs["ServiceName"],
        VpcId=theirs,
        SubnetIds=",".join(their_subnets),
        ClientCidr="10.0.0.0/16",
        Port="22",
    )
    (endpoint,) = ec2.describe_vpc_endpoints(VpcEndpointIds=[consumer.outputs["EndpointId"]])["VpcEndpoints"]
    assert (endpoint["ServiceName"], endpoint["VpcEndpointType"]) == (offered.outputs["ServiceName"], "Interface")
    (mine,) = ec2.describe_security_groups(GroupIds=[consumer.resources["SecurityGroup"]])["SecurityGroups"]
    assert [(x["FromPort"], x["IpRanges"][0]["CidrIp"]) for x in mine["IpPermissions"]] == [(22, "10.0.0.0/16")]

    while stacks:
        delete(cloud, stacks.pop())
    assert inventory(cloud) == before


def test_the_parameter_file_is_of_the_six_values() -> None:
    values = json.loads(read("examples", "orders.json"))
    assert len(values) == 6
    assert set(values) <= set(template()["Parameters"])
