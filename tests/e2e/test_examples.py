"""The templates in examples/, deployed by the AWS CLI as their pages say, the one's service used by the other."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from local.cloud import Cloud
from local.deployment import Deployment
from local.process import ROOT, TOOLS, wait_for
from local.scenario import HOSTNAME
from tests.e2e.stacks import alarms, attributes, inventory, pairs
from tools.deploy import read as read_parameters

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
        AlarmTopicArn="arn:aws:sns:eu-west-1:123456789012:pager",
        Port="22",
        AllowedPrincipals=PRINCIPAL,
    )
    # An Auto Scaling group brings its own: then there is no instance, and nothing else is made anew.
    made = offered.resources
    change(cloud, "ssh-host", InstanceId="")
    assert Deployment(cloud, "ssh-host").resources == made
    change(cloud, "ssh-host", InstanceId=instance["InstanceId"])
    alarm = alarms(offered)["NoHealthyTargetAlarm"]
    assert alarm["MetricName"] == "HealthyHostCount"
    assert alarm["AlarmActions"] == ["arn:aws:sns:eu-west-1:123456789012:pager"]
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
        DatabaseHostname=HOSTNAME,
    )
    (endpoint,) = ec2.describe_vpc_endpoints(VpcEndpointIds=[consumer.outputs["EndpointId"]])["VpcEndpoints"]
    assert (endpoint["ServiceName"], endpoint["VpcEndpointType"]) == (offered.outputs["ServiceName"], "Interface")
    (mine,) = ec2.describe_security_groups(GroupIds=[consumer.resources["SecurityGroup"]])["SecurityGroups"]
    assert [(x["FromPort"], x["IpRanges"][0]["CidrIp"]) for x in mine["IpPermissions"]] == [(22, "10.0.0.0/16")]

    # The database's own name, and no other of its domain, leads to the endpoint.
    route53 = cloud.client("route53")
    zone = route53.get_hosted_zone(Id=consumer.resources["Zone"])
    assert zone["HostedZone"]["Name"] == f"{HOSTNAME}."
    # The local AWS does not keep that it is one of the VPC alone.
    assert "VPCId: !Ref VpcId\n" in (ROOT / "examples/consumer-endpoint.yaml").read_text()
    records = route53.list_resource_record_sets(HostedZoneId=consumer.resources["Zone"])["ResourceRecordSets"]
    (alias,) = [x for x in records if x["Type"] == "A"]
    assert alias["Name"] == f"{HOSTNAME}."
    assert alias["AliasTarget"]["DNSName"].rstrip(".") == consumer.outputs["EndpointName"]

    # While somebody uses it, the service can't go, and what it needs is deleted after it.
    formation = cloud.client("cloudformation")
    formation.delete_stack(StackName="ssh-host")
    wait_for("the deletion to be refused", lambda: status(cloud, "ssh-host") == "DELETE_FAILED" or None, 30)
    assert service in {
        x["ServiceId"] for x in ec2.describe_vpc_endpoint_service_configurations()["ServiceConfigurations"]
    }

    while stacks:
        delete(cloud, stacks.pop())
    assert inventory(cloud) == before


def status(cloud: Cloud, stack: str) -> str:
    """The status of a stack."""
    (found,) = cloud.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    state: str = found["StackStatus"]
    return state


@pytest.mark.parametrize("name", ["orders", "second-database"])
def test_the_parameter_files_are_of_the_template(name: str) -> None:
    values, tags = read_parameters(ROOT / "examples" / f"{name}.json")
    assert values["Port"] == "5432"
    assert tags[0] == 'Application="nlb-hostname-targets"'
