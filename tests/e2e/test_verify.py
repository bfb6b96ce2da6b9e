"""`make verify` and the check behind it, on the deployed stack."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from local.cloud import Cloud
from local.deployment import Deployment
from local.dns import DnsServer
from local.process import ROOT
from local.scenario import AFTER, BEFORE, HOSTNAME, PORT
from tests.e2e.conftest import Deploy
from tools import verify


@pytest.fixture
def stack(standing: Deployment, dns: DnsServer) -> Deployment:
    """A stack of the template that works."""
    dns.answer(HOSTNAME, BEFORE)
    assert standing.invoke({}).error is None
    return standing


def make_verify(cloud: Cloud, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`make verify` as a user calls it, with the local AWS for theirs."""
    command = ["make", "--silent", "verify", *arguments]
    env = {**os.environ, "AWS_ENDPOINT_URL": cloud.endpoint}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)


def run_advice(cloud: Cloud, advice: str) -> None:
    """Runs the command that an advice ends with."""
    # Version 1 of the AWS CLI, which PyPI has, takes the payload as it is, and does not know this option of version 2.
    command = advice[advice.index("aws ") :].replace("--cli-binary-format raw-in-base64-out", "")
    env = {**os.environ, "AWS_ENDPOINT_URL": cloud.endpoint}
    subprocess.run(command, shell=True, env=env, check=True, capture_output=True, timeout=60)


@pytest.mark.differs("initial")
def test_what_works_and_what_is_wrong(cloud: Cloud, dns: DnsServer, stack: Deployment) -> None:
    group = {"TargetGroupArn": stack.group.arn}
    before = cloud.targets(stack.group)
    done = make_verify(cloud, f"STACK={stack.stack}")
    assert f"{HOSTNAME} in {stack.group.dimension}\n  ok  {BEFORE}\n" in done.stdout, done.stdout + done.stderr
    assert "\033[" not in done.stdout
    assert cloud.targets(stack.group) == before

    proxy = {"Key": "proxy_protocol_v2.enabled", "Value": "true"}
    cloud.elb.modify_target_group_attributes(**group, Attributes=[proxy])
    dns.answer(HOSTNAME, AFTER)
    done = make_verify(cloud, f"FUNCTION={stack.outputs['FunctionName']}")
    # make's own status, whatever a command of it ends with.
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Error 1" in done.stderr
    assert f"error    proxy-protocol  {stack.group.dimension}\n" in done.stdout
    command = f"aws elbv2 modify-target-group-attributes --target-group-arn {stack.group.arn} --attributes"
    assert f"→ {command} Key=proxy_protocol_v2.enabled,Value=false\n" in done.stdout
    assert f"register {AFTER}:{PORT} and deregister {BEFORE}:{PORT}" in done.stdout
    cloud.elb.modify_target_group_attributes(**group, Attributes=[proxy | {"Value": "false"}])


@pytest.mark.differs("initial", "draining-is-listed")
def test_the_advice_mends_what_was_found(cloud: Cloud, dns: DnsServer, stack: Deployment) -> None:
    wrong = {"preserve_client_ip.enabled": "true", "deregistration_delay.timeout_seconds": "300"}
    attributes = [{"Key": x, "Value": y} for x, y in wrong.items()]
    cloud.elb.modify_target_group_attributes(TargetGroupArn=stack.group.arn, Attributes=attributes)
    cloud.elb.modify_target_group(TargetGroupArn=stack.group.arn, HealthCheckIntervalSeconds=300)
    off = [{"Key": "load_balancing.cross_zone.enabled", "Value": "false"}]
    balancer = stack.outputs["LoadBalancerArn"]
    cloud.elb.modify_load_balancer_attributes(LoadBalancerArn=balancer, Attributes=off)
    dns.answer(HOSTNAME, AFTER)
    findings = stack.invoke({"check": True}).group["findings"]
    codes = {"client-ip", "cross-zone", "out-of-step", "slow-drain", "slow-health-check"}
    assert {x["code"] for x in findings} == codes
    for finding in findings:
        run_advice(cloud, finding["advice"])
    assert list(cloud.targets(stack.group)) == [f"{AFTER}:{PORT}"]
    assert stack.invoke({"check": True}).group["findings"] == []


def test_what_is_around_the_function(cloud: Cloud, stack: Deployment) -> None:
    """A schedule that is off, a subscription that waits, an endpoint that waits, a name that is not verified."""
    ec2, scheduler = cloud.client("ec2"), cloud.client("scheduler")
    vpc, subnets = cloud.create_network()
    service, name = stack.outputs["EndpointServiceId"], stack.resources["Schedule"]
    service_name = stack.outputs["ServiceName"]
    endpoint = ec2.create_vpc_endpoint(
        VpcEndpointType="Interface", VpcId=vpc, SubnetIds=subnets, ServiceName=service_name
    )
    endpoint_id = endpoint["VpcEndpoint"]["VpcEndpointId"]
    schedule = scheduler.get_schedule(Name=name)
    kept = {x: schedule[x] for x in ("Name", "ScheduleExpression", "FlexibleTimeWindow", "Target")}
    scheduler.update_schedule(**kept, State="DISABLED")
    try:
        done = make_verify(cloud, f"FUNCTION={stack.outputs['FunctionName']}")
        assert done.returncode == 2, done.stdout + done.stderr
        lines = done.stdout.splitlines()
        assert lines[0] == "The function, and what is around it"
        found = {x.split()[1]: x.split()[0] for x in lines if x.startswith("  ") and x.split()[0] in verify.RANKS}
        wanted = {"schedule-disabled": "error", "endpoint-waits": "warning", "private-dns-name": "warning"}
        assert found | wanted == found
        accept = f"aws ec2 accept-vpc-endpoint-connections --service-id {service} --vpc-endpoint-ids {endpoint_id}"
        assert f"→ {accept}\n" in done.stdout
        assert f"a TXT record {stack.outputs['PrivateDnsRecordName']} has to say" in done.stdout
        run_advice(cloud, accept)
        scheduler.update_schedule(**kept, State="ENABLED")
        done = make_verify(cloud, f"STACK={stack.stack}")
        assert not {"schedule-disabled", "endpoint-waits"} & set(done.stdout.split())
    finally:
        scheduler.update_schedule(**kept, State="ENABLED")
        ec2.delete_vpc_endpoints(VpcEndpointIds=[endpoint_id])


class Topics:
    """SNS as it is before anybody confirmed, and CloudWatch; the local AWS confirms for everybody."""

    def __init__(self, subscriptions: list[dict[str, str]], actions: list[str]) -> None:
        self.subscriptions, self.actions = subscriptions, actions

    def describe_alarms_for_metric(self, **_: object) -> dict[str, list[dict[str, list[str]]]]:
        """The alarms."""
        return {"MetricAlarms": [{"AlarmActions": self.actions}]}

    def get_paginator(self, _: str) -> Topics:
        """The pages of list_subscriptions_by_topic."""
        return self

    def paginate(self, **_: object) -> list[dict[str, list[dict[str, str]]]]:
        """One of them."""
        return [{"Subscriptions": self.subscriptions}]


def test_subscriptions_that_nobody_confirmed() -> None:
    topic = "arn:aws:sns:eu-west-1:123456789012:pager"
    confirmed = {"SubscriptionArn": f"{topic}:1", "Endpoint": "a@example.com"}
    waiting = {"SubscriptionArn": "PendingConfirmation", "Endpoint": "b@example.com"}
    for subscriptions, actions, wanted in (
        ([confirmed], [topic], []),
        ([confirmed, waiting], [topic], ["unconfirmed"]),
        ([], [topic], ["nobody-told"]),
        ([], [], ["nobody-told"]),
    ):
        stub = Topics(subscriptions, actions)
        assert [x["code"] for x in verify.subscriptions("function", {}, lambda _: stub)] == wanted  # noqa: B023


@pytest.mark.nightly
def test_actions_that_the_role_lacks_are_named(
    cloud: Cloud, dns: DnsServer, deploy: Deploy, network: dict[str, str]
) -> None:
    dns.answer(HOSTNAME, BEFORE)
    stack = deploy(**network, DnsServers=dns.address)
    assert stack.invoke({}).error is None
    iam, role = cloud.client("iam"), stack.resources["FunctionRole"]
    document = iam.get_role_policy(RoleName=role, PolicyName="function")["PolicyDocument"]
    (look,) = [x for x in document["Statement"] if x.get("Sid") == "Look"]
    for action in [x for x in look["Action"] if not x.endswith(("DescribeTags", "DescribeTargetGroups"))]:
        rest = [x for x in look["Action"] if x != action]
        lacking = document | {"Statement": [x | {"Action": rest} if x is look else x for x in document["Statement"]]}
        iam.put_role_policy(RoleName=role, PolicyName="function", PolicyDocument=json.dumps(lacking))
        (finding,) = stack.invoke({"check": True}).group["findings"]
        assert finding["code"] == "permission"
        assert f"Allow {action} " in finding["advice"]


@pytest.mark.nightly
def test_that_the_role_may_not_discover_is_found(cloud: Cloud, dns: DnsServer, deploy: Deploy) -> None:
    by_tags = {"DiscoverByTags": "true", "AllowedHostnames": "*.example.test"}
    stack = deploy(Hostname="", Port="0", **by_tags, DnsServers=dns.address)
    iam, role = cloud.client("iam"), stack.resources["FunctionRole"]
    document = iam.get_role_policy(RoleName=role, PolicyName="function")["PolicyDocument"]
    document["Statement"] = [x for x in document["Statement"] if x["Sid"] != "Discover"]
    iam.put_role_policy(RoleName=role, PolicyName="function", PolicyDocument=json.dumps(document))
    done = make_verify(cloud, f"STACK={stack.stack}")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error    permission   DISCOVERY\n" in done.stdout
    assert "→ Allow tag:GetResources on `*`" in done.stdout


def test_it_says_why_it_can_not_verify(cloud: Cloud) -> None:
    done = make_verify(cloud, "STACK=nowhere")
    assert done.returncode == 2
    assert "there is no stack nowhere in this account and Region" in done.stderr
    done = make_verify(cloud)
    assert "STACK must name the stack" in done.stdout


def test_colours_and_order() -> None:
    found = {"severity": "error", "code": "scheme", "subject": "arn:aws:x:y:z:loadbalancer/net/a/b", "message": "m"}
    found |= {"advice": "do it"}
    group = {"hostnames": ["a", "b"], "target_group_arn": "arn:aws:x:y:z:targetgroup/a/b", "outcome": "in_sync"}
    reply = {"ok": False, "groups": [group | {"findings": [found], "resolved": []}], "findings": [found]}
    lines = list(verify.table(reply, verify.coloured))
    assert lines[1] == "  \033[31merror  \033[0m  scheme  loadbalancer/net/a/b"
    assert lines[-1] == "2 errors"
    lines = list(verify.table({"ok": True, "groups": []}, verify.colourless))
    assert "No target group is bound" in lines[0]
