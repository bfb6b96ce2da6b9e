"""`make verify` and the check behind it, on the deployed stack."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from local.cloud import Cloud
from local.deployment import Deployment
from local.dns import DnsServer
from local.process import ROOT
from local.scenario import AFTER, BEFORE, HOSTNAME, PORT
from tests.e2e.conftest import Deploy
from tools import verify


@pytest.fixture
def stack(deploy: Deploy, dns: DnsServer, network: dict[str, str]) -> Deployment:
    """A stack of the template that works."""
    dns.answer(HOSTNAME, BEFORE)
    deployed = deploy(**network, Settings=f"DNS_SERVERS={dns.address}")
    assert deployed.invoke({}).error is None
    return deployed


def make_verify(cloud: Cloud, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`make verify` as a user calls it, with the local AWS for theirs."""
    return subprocess.run(
        ["make", "--silent", "verify", *arguments],
        cwd=ROOT,
        env={**os.environ, "AWS_ENDPOINT_URL": cloud.endpoint, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def codes(stack: Deployment) -> list[str]:
    """What a check finds."""
    done = stack.invoke({"check": True})
    return [x["code"] for x in done.group["findings"]]


def set_attribute(cloud: Cloud, stack: Deployment, key: str, value: str) -> None:
    """Changes an attribute of the stack's target group."""
    cloud.elb.modify_target_group_attributes(TargetGroupArn=stack.group.arn, Attributes=[{"Key": key, "Value": value}])


@pytest.mark.differs("initial")
def test_a_stack_that_works_has_nothing_above_info(cloud: Cloud, stack: Deployment) -> None:
    before = cloud.targets(stack.group)
    done = make_verify(cloud, f"STACK={stack.stack}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{HOSTNAME} in {stack.group.dimension}\n  ok  {BEFORE}\nNothing is wrong." in done.stdout
    assert "\033[" not in done.stdout
    assert cloud.targets(stack.group) == before


def test_what_is_wrong_is_shown_and_ends_with_an_error(cloud: Cloud, dns: DnsServer, stack: Deployment) -> None:
    set_attribute(cloud, stack, "proxy_protocol_v2.enabled", "true")
    dns.answer(HOSTNAME, AFTER)
    done = make_verify(cloud, f"STACK={stack.stack}")
    # make's own status, whatever a command of it ends with.
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Error 1" in done.stderr
    assert f"error    proxy-protocol  {stack.group.dimension}\n" in done.stdout
    command = f"aws elbv2 modify-target-group-attributes --target-group-arn {stack.group.arn} --attributes"
    assert f"→ {command} Key=proxy_protocol_v2.enabled,Value=false\n" in done.stdout
    assert f"register {AFTER}:{PORT} and deregister {BEFORE}:{PORT}" in done.stdout
    assert "1 error, 1 warning" in done.stdout


@pytest.mark.differs("initial")
def test_a_warning_alone_is_no_failure(cloud: Cloud, stack: Deployment) -> None:
    set_attribute(cloud, stack, "stickiness.enabled", "true")
    done = make_verify(cloud, f"STACK={stack.stack}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning  stickiness" in done.stdout


@pytest.mark.differs("initial")
def test_the_advice_mends_what_was_found(cloud: Cloud, stack: Deployment) -> None:
    set_attribute(cloud, stack, "preserve_client_ip.enabled", "true")
    set_attribute(cloud, stack, "deregistration_delay.timeout_seconds", "300")
    cloud.elb.modify_target_group(TargetGroupArn=stack.group.arn, HealthCheckIntervalSeconds=300)
    balancer = stack.outputs["LoadBalancerArn"]
    off = [{"Key": "load_balancing.cross_zone.enabled", "Value": "false"}]
    cloud.elb.modify_load_balancer_attributes(LoadBalancerArn=balancer, Attributes=off)
    reply = stack.invoke({"check": True}).group
    assert [x["code"] for x in reply["findings"]] == ["client-ip", "cross-zone", "slow-drain", "slow-health-check"]
    for finding in reply["findings"]:
        command = finding["advice"][finding["advice"].index("aws ") :]
        env = {**os.environ, "AWS_ENDPOINT_URL": cloud.endpoint}
        subprocess.run(command, shell=True, env=env, check=True, capture_output=True, timeout=60)
    assert codes(stack) == []


@pytest.mark.differs("initial", "draining-is-listed")
def test_what_is_out_of_step_is_put_right_by_the_advice(cloud: Cloud, dns: DnsServer, stack: Deployment) -> None:
    dns.answer(HOSTNAME, AFTER)
    (finding,) = stack.invoke({"check": True}).group["findings"]
    assert finding["code"] == "out-of-step"
    # Version 1 of the AWS CLI, which PyPI has, takes the payload as it is, and does not know this option of version 2.
    command = finding["advice"][finding["advice"].index("aws ") :].replace("--cli-binary-format raw-in-base64-out", "")
    env = {**os.environ, "AWS_ENDPOINT_URL": cloud.endpoint}
    subprocess.run(command, shell=True, env=env, check=True, capture_output=True, timeout=60)
    assert list(cloud.targets(stack.group)) == [f"{AFTER}:{PORT}"]
    assert codes(stack) == []


def test_target_groups_that_no_load_balancer_has_are_found(
    cloud: Cloud, dns: DnsServer, deploy: Deploy, network: dict[str, str]
) -> None:
    """One never had any. That of the other was deleted, and the local AWS goes on to name it."""
    former = cloud.create_target_group("former", PORT)
    vpc, _ = cloud.create_network()
    made = cloud.elb.create_target_group(Name="no-balancer", TargetType="ip", Protocol="TCP", Port=PORT, VpcId=vpc)
    bare = made["TargetGroups"][0]["TargetGroupArn"]
    cloud.elb.delete_load_balancer(LoadBalancerArn=former.load_balancer)
    dns.answer(HOSTNAME, BEFORE)
    stack = deploy(**network, Settings=f"DNS_SERVERS={dns.address}")
    bindings = [{"hostname": HOSTNAME, "target_group_arn": x} for x in (stack.group.arn, former.arn, bare)]
    reply = stack.invoke({"check": True, "bindings": bindings}).reply
    assert reply is not None
    assert not reply["ok"]
    of = [[x["code"] for x in group["findings"]] for group in reply["groups"]]
    assert ["unused" in codes for codes in of] == [False, True, True], of
    assert not any("failed" in codes for codes in of), of


@pytest.fixture
def policy(cloud: Cloud, stack: Deployment) -> Iterator[dict[str, Any]]:
    """The policy of the function's role."""
    role = stack.outputs["FunctionRoleArn"].rsplit("/", 1)[1]
    yield cloud.client("iam").get_role_policy(RoleName=role, PolicyName="function")["PolicyDocument"]


@pytest.mark.parametrize(
    "action",
    [
        "DescribeListeners",
        "DescribeLoadBalancerAttributes",
        "DescribeLoadBalancers",
        "DescribeTargetGroupAttributes",
        "DescribeTargetHealth",
    ],
)
def test_an_action_that_the_role_lacks_is_named(
    action: str, cloud: Cloud, stack: Deployment, policy: dict[str, Any]
) -> None:
    (look,) = [x for x in policy["Statement"] if x.get("Sid") == "Look"]
    look["Action"].remove(f"elasticloadbalancing:{action}")
    role = stack.outputs["FunctionRoleArn"].rsplit("/", 1)[1]
    cloud.client("iam").put_role_policy(RoleName=role, PolicyName="function", PolicyDocument=json.dumps(policy))
    (finding,) = stack.invoke({"check": True}).group["findings"]
    assert finding["code"] == "permission"
    assert f"Allow elasticloadbalancing:{action} " in finding["advice"]


def test_that_the_role_may_not_discover_is_found(cloud: Cloud, dns: DnsServer, deploy: Deploy) -> None:
    stack = deploy(Hostname="", Port="0", DiscoverByTags="true", Settings=f"DNS_SERVERS={dns.address}")
    iam, role = cloud.client("iam"), stack.outputs["FunctionRoleArn"].rsplit("/", 1)[1]
    document = iam.get_role_policy(RoleName=role, PolicyName="function")["PolicyDocument"]
    document["Statement"] = [x for x in document["Statement"] if x["Sid"] != "Discover"]
    iam.put_role_policy(RoleName=role, PolicyName="function", PolicyDocument=json.dumps(document))
    done = make_verify(cloud, f"STACK={stack.stack}")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error    permission  DISCOVERY\n" in done.stdout
    assert "→ Allow tag:GetResources on `*`" in done.stdout


def test_it_says_why_it_can_not_verify(cloud: Cloud) -> None:
    done = make_verify(cloud, "STACK=nowhere")
    assert done.returncode == 2
    assert "there is no stack nowhere in this account and Region" in done.stderr
    done = make_verify(cloud)
    assert "STACK must name the stack" in done.stdout


def test_a_terminal_gets_colours() -> None:
    found = {"severity": "error", "code": "scheme", "subject": "arn:aws:x:y:z:loadbalancer/net/a/b", "message": "m"}
    group = {"hostnames": ["a", "b"], "target_group_arn": "arn:aws:x:y:z:targetgroup/a/b", "outcome": "in_sync"}
    reply = {"ok": False, "groups": [group | {"findings": [found | {"advice": "do it"}], "resolved": []}]}
    expected = "\033[31merror  \033[0m  scheme  loadbalancer/net/a/b"
    assert expected in "\n".join(verify.table(reply, verify.coloured))
    script = (
        f"import sys; sys.stdout.isatty() or sys.exit(3); from tools import verify; verify.check = lambda *_: {reply}"
    )
    script += "; sys.argv = ['verify', 'orders']; sys.exit(verify.main())"
    for env, wanted in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        ours, theirs = pty.openpty()
        plain = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm"}
        command = [verify.sys.executable, "-c", script]
        done = subprocess.run(command, cwd=ROOT, env=plain | env, stdout=theirs, timeout=60, check=False)
        os.close(theirs)
        assert done.returncode == 1
        assert (expected in os.read(ours, 65536).decode()) is wanted
        os.close(ours)


def test_what_is_of_no_one_target_group_comes_first() -> None:
    found = {"severity": "error", "code": "permission", "subject": "DISCOVERY", "message": "m", "advice": "do it"}
    lines = list(verify.table({"ok": False, "groups": [], "findings": [found]}, verify.colourless))
    assert lines[1] == "  error    permission  DISCOVERY"
    assert lines[-1] == "1 error"
    lines = list(verify.table({"ok": True, "groups": []}, verify.colourless))
    assert "No target group is bound" in lines[0]
