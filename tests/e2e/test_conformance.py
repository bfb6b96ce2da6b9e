"""The checks of AWS: all hold on our emulation, each can fail, and what they make on an account always goes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from conformance.__main__ import PAGE, run, with_matrix
from conformance.facts import FACTS, Differs, Fact, NotSupported
from conformance.network import TAG, Network, network, remove
from conformance.places import NAMES, ours
from local.cloud import Cloud
from local.process import ROOT, Failure

ACCOUNT = "000000000000"

Start = Callable[..., "subprocess.Popen[str]"]


def test_all_facts_hold_on_our_emulation_and_the_page_tells_what_others_do(tmp_path: Path) -> None:
    matrix = {name: run(name, tmp_path) for name in NAMES}
    assert {name: x for name, x in matrix["ours"].items() if x.verdict != "holds"} == {}
    assert PAGE.read_text() == with_matrix(PAGE.read_text(), matrix), "run `make conformance`, and commit the page"


# An AWS that forgets what it is told, one that refuses it, one that tells nothing of what it has, and one that tells what
# is not so.
WRITES = {"AddTags", "DeregisterTargets", "PutMetricData", "RegisterTargets", "RemoveTags"}
SABOTAGE = ("forgets", "refuses", "tells nothing", "tells otherwise")


def sabotaged(place: Any, how: str, spared: int) -> None:
    """Makes the place's clients see such an AWS after so many writes of a check."""

    def instead(model: Any, **_: Any) -> Any:
        if model.name not in WRITES:
            return None
        place.writes += 1
        if place.writes <= spared or how.startswith("tells"):
            return None
        return (type("Response", (), {"status_code": 200})(), {}) if how == "forgets" else refusal()

    def refusal() -> Any:
        error = {"Error": {"Code": "Sabotage", "Message": "refused"}}
        return type("Response", (), {"status_code": 400})(), error

    def after(parsed: dict[str, Any], model: Any, **_: Any) -> None:
        if place.writes >= spared and how.startswith("tells") and model.name.startswith("Describe"):
            lists = {name: value for name, value in parsed.items() if isinstance(value, list)}
            parsed.update({name: [] if how == "tells nothing" else otherwise(value) for name, value in lists.items()})

    def otherwise(told: Any) -> Any:
        if isinstance(told, dict):
            # Of the same targets and groups.
            return {key: x if re.fullmatch("Id|Port|.*Arns?", key) else otherwise(x) for key, x in told.items()}
        return [otherwise(x) for x in told] if isinstance(told, list) else told * 2

    for service in ("elbv2", "elbv2-once", "cloudwatch", "resourcegroupstaggingapi"):
        events = place.client(service).meta.events
        events.register("before-call", instead)
        events.register("after-call", after)


def differs(fact: Fact, place: Any) -> bool:
    """Whether what it asserts is not so. That what it takes cannot be had shows nothing."""
    place.writes = 0
    try:
        fact.check(place)
    except Differs:
        return True
    except (NotSupported, BotoCoreError, ClientError, LookupError, TypeError, ValueError):
        pass
    return False


def test_each_check_can_fail() -> None:
    never = list(FACTS)
    # What a check needs to begin with is spared.
    for spared, how in product((2, 1, 0), SABOTAGE):
        with ours() as place:
            place.patience, place.initial_seconds = 0.2, 2
            place.throttle = lambda: None
            sabotaged(place, how, spared)
            never = [fact for fact in never if not differs(fact, place)]
    assert [fact.name for fact in never] == []


@pytest.fixture(scope="module")
def bystanders(cloud: Cloud) -> None:
    """What is not of the checks, though some of it looks so."""
    cloud.create_target_group("bystander", 5432)
    tags = [{"Key": f"{TAG}-of-others", "Value": "20260101t000000-0000"}]
    cloud.client("ec2").create_vpc(CidrBlock="10.9.0.0/16", TagSpecifications=[{"ResourceType": "vpc", "Tags": tags}])


@pytest.fixture
def account(cloud: Cloud, bystanders: None) -> Iterator[Start]:
    """`python -m conformance` on ministack in place of AWS; whatever it is told, it has to leave what it found."""
    found = there_is(cloud)
    environment = {**os.environ, "AWS_ENDPOINT_URL": cloud.endpoint}

    def start(*arguments: str, **env: str | None) -> subprocess.Popen[str]:
        given = {name: value for name, value in (environment | env).items() if value is not None}
        command = [sys.executable, "-u", "-m", "conformance", *arguments]
        return subprocess.Popen(
            command, cwd=ROOT, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    yield start
    assert there_is(cloud) == found


def there_is(cloud: Cloud) -> set[str]:
    """Whatever the checks make, whoever made it."""
    ec2, elb = cloud.client("ec2"), cloud.elb
    return {
        *[x["VpcId"] for x in ec2.describe_vpcs()["Vpcs"]],
        *[x["SubnetId"] for x in ec2.describe_subnets()["Subnets"]],
        *[x["GroupId"] for x in ec2.describe_security_groups()["SecurityGroups"]],
        *[x["VpcEndpointId"] for x in ec2.describe_vpc_endpoints()["VpcEndpoints"]],
        *[x["LoadBalancerArn"] for x in elb.describe_load_balancers()["LoadBalancers"]],
        *[x["TargetGroupArn"] for x in elb.describe_target_groups()["TargetGroups"]],
        *[x["StackName"] for x in cloud.client("cloudformation").describe_stacks()["Stacks"]],
    }


def output(started: subprocess.Popen[str]) -> tuple[int, str]:
    """What it ended with, and what it printed."""
    told, _ = started.communicate(timeout=120)
    return started.returncode, told


REFUSALS = {
    "no sandbox is named": ([], {}, f"SANDBOX={ACCOUNT}"),
    "another account": (["--sandbox", "123456789012"], {}, "The sandbox is to be 123456789012"),
    "no Region": (["--sandbox", ACCOUNT], {"AWS_REGION": None, "AWS_DEFAULT_REGION": None}, "set AWS_REGION"),
}


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.parametrize("where", ["aws", "acceptance", "sweep"])
def test_it_refuses_where_it_cannot_tell_that_it_is_a_sandbox(account: Start, where: str, case: str) -> None:
    arguments, environment, why = REFUSALS[case]
    status, told = output(account(where, "--yes", *arguments, **environment))
    assert (status, why in told) == (1, True), told


def test_it_tells_what_it_would_do_and_does_nothing(account: Start) -> None:
    for where in ("aws", "acceptance"):
        status, told = output(account(where, "--sandbox", ACCOUNT))
        assert (status, "USD" in told, "CONFIRM=no" in told) == (2, True, True), told


def test_make_hands_on_what_it_is_given(cloud: Cloud) -> None:
    def make(*arguments: str) -> tuple[int, str]:
        command = ["make", "--silent", *arguments, f"SANDBOX={ACCOUNT}"]
        env = {**os.environ, "AWS_ENDPOINT_URL": cloud.endpoint}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, done.stdout + done.stderr

    for goal in ("conformance-aws", "acceptance-aws", "conformance-sweep"):
        status, told = make(goal)
        assert (status, "add CONFIRM=no" in told) == (2, True), told
    status, told = make("conformance-sweep", "CONFIRM=no")
    assert (status, "Nothing with the tag is left" in told) == (0, True), told
    status, told = make("acceptance-aws", "CONFIRM=no", "PACKAGE=events")
    assert (status, "events has no package of this version" in told) == (2, True), told
    assert "--throttle" in make("--dry-run", "conformance-aws", "THROTTLE=yes")[1]


def test_a_whole_run_leaves_nothing(account: Start) -> None:
    status, told = output(account("aws", "--sandbox", ACCOUNT, "--yes"))
    # ministack differs, and that is no failure to run.
    assert status == 1, told
    assert "FAILED" not in told
    assert "| `draining-is-listed` |" in told
    assert "Removing what run" in told


INTERRUPTIONS = {
    "before anything is made": ("This is run", signal.SIGINT, False),
    "in the middle": ("draining-is-listed", signal.SIGTERM, False),
    "in the middle, and again while it is removed": ("draining-is-listed", signal.SIGINT, True),
    "while it is removed": ("Removing what", signal.SIGINT, False),
}


@pytest.mark.parametrize("case", INTERRUPTIONS)
def test_an_interruption_leaves_nothing(account: Start, case: str) -> None:
    moment, number, again = INTERRUPTIONS[case]
    with account("aws", "--sandbox", ACCOUNT, "--yes") as started:
        assert any(moment in line for line in started.stdout)
        started.send_signal(number)
        if again:
            assert any("Removing what" in line for line in started.stdout)
            started.send_signal(number)
        told, _ = started.communicate(timeout=60)
    assert started.returncode == 128 + number, told
    assert "what was made has been removed" in told


def test_a_terminal_that_is_closed_keeps_nothing_from_being_removed(account: Start) -> None:
    with account("aws", "--sandbox", ACCOUNT, "--yes") as started:
        assert any("draining-is-listed" in line for line in started.stdout)
        # Whatever is told from now on is an error.
        started.stdout.close()
    assert started.returncode != 0


def test_what_a_killed_run_left_is_swept(account: Start, cloud: Cloud) -> None:
    before = there_is(cloud)
    with account("aws", "--sandbox", ACCOUNT, "--yes") as started:
        for line in started.stdout:
            if "draining-is-listed" in line:
                started.kill()
    left = there_is(cloud) - before
    assert {x.split("-")[0] for x in left if not x.startswith("arn")} == {"sg", "subnet", "vpc", "vpce"}
    assert any(":loadbalancer/" in x for x in left)
    assert any(":targetgroup/" in x for x in left)
    assert output(account("sweep", "--sandbox", ACCOUNT))[0] == 2
    assert there_is(cloud) - before == left
    status, told = output(account("sweep", "--sandbox", ACCOUNT, "--yes"))
    assert status == 0, told
    # The VPC's own security group, which goes with it, has no tag.
    assert len([x for x in left if x not in told]) <= 1, told


# Shared, because to make one takes long.
SESSION = boto3.Session()


class Fault(Exception):
    """What goes wrong on purpose."""


def struck(place: Network, at: int, error: BaseException, only: str = "", moment: str = "before-call") -> list[str]:
    """Lets the call of this number fail, of those whose name begins so; the names of all calls, as they are made."""
    calls: list[str] = []

    def strike(model: Any, **_: Any) -> None:
        if model.name.startswith(only):
            calls.append(model.name)
            if len(calls) == at:
                raise error

    for service in ("ec2", "elbv2", "cloudformation"):
        place.client(service).meta.events.register(moment, strike)
    return calls


def attempt(place: Network) -> None:
    """Makes all kinds of what there is to be made."""
    with network(place, lambda _: None):
        place.group()
        place.group(attached=True)
        place.listening()


# What is done although its reply gets lost has to go as well.
@pytest.mark.parametrize("moment", ["before-call", "after-call"])
def test_wherever_it_fails_nothing_is_left(cloud: Cloud, moment: str) -> None:
    before = there_is(cloud)
    place = Network("emulation", SESSION, cloud.endpoint)
    calls = struck(place, 0, Fault())
    attempt(place)
    assert there_is(cloud) == before
    (end,) = [n for n, call in enumerate(calls) if call == "DescribeStacks"][:1]
    assert {"CreateVpc", "CreateSubnet", "CreateTargetGroup", "CreateLoadBalancer", "CreateListener"} <= set(
        calls[:end]
    )
    for at in range(1, end + 1):
        error = Fault() if at % 2 else KeyboardInterrupt(signal.SIGINT)
        place = Network("emulation", SESSION, cloud.endpoint)
        struck(place, at, error, moment=moment)
        with pytest.raises(type(error)):
            attempt(place)
        assert there_is(cloud) == before, calls[at - 1]


def test_a_removal_that_fails_is_tried_again(cloud: Cloud) -> None:
    before = there_is(cloud)
    refusal = ClientError({"Error": {"Code": "DependencyViolation", "Message": "has dependencies"}}, "Delete")
    for only in ("Delete", "Describe"):
        place = Network("emulation", SESSION, cloud.endpoint)
        with network(place, lambda _: None):
            place.group(attached=True)
            place.listening()
            # The first, the second and so on of what removes it.
            for at in range(1, 8):
                struck(place, at, refusal, only)
        assert there_is(cloud) == before


def test_what_cannot_be_removed_is_named(cloud: Cloud) -> None:
    place = Network("emulation", SESSION, cloud.endpoint)
    place.create()
    refusal = ClientError({"Error": {"Code": "UnauthorizedOperation", "Message": "not yours"}}, "DeleteVpc")

    def refuse(**_: Any) -> None:
        raise refusal

    place.client("ec2").meta.events.register("before-call.ec2.DeleteVpc", refuse)
    with pytest.raises(Failure, match="(?s)VPC vpc-.*not yours.*make conformance-sweep"):
        remove(place, lambda _: None, seconds=0.5)
    place.client("ec2").meta.events.unregister("before-call.ec2.DeleteVpc", refuse)
    remove(place, lambda _: None)


def test_an_earlier_run_is_told_of(account: Start, cloud: Cloud) -> None:
    earlier = Network("emulation", SESSION, cloud.endpoint)
    earlier.create()
    with account("aws", "--sandbox", ACCOUNT, "--yes") as started:
        assert any("Of another run there is still" in line for line in started.stdout)
        started.send_signal(signal.SIGTERM)
        started.communicate(timeout=60)
    remove(earlier, lambda _: None)


def test_a_run_removes_what_is_its_own_alone(cloud: Cloud) -> None:
    first, second = (Network("emulation", SESSION, cloud.endpoint) for _ in range(2))
    before = there_is(cloud)
    second.create()
    own = there_is(cloud) - before
    first.create()
    first.group(attached=True)
    remove(first, lambda _: None)
    assert there_is(cloud) - before == own
    remove(second, lambda _: None)
    assert there_is(cloud) == before
