"""The checks of AWS: all hold on our emulation, each can fail, and what they make on an account always goes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from conformance.__main__ import PAGE, on_emulations, with_matrix
from conformance.facts import FACTS, Fact
from conformance.network import TAG, Network, network, remove
from conformance.places import Differs, NotSupported, ours
from local.cloud import Cloud
from local.process import ROOT, Failure
from tests.e2e.stacks import inventory

ACCOUNT = "000000000000"

Start = Callable[..., "subprocess.Popen[str]"]


def test_all_facts_hold_on_our_emulation_and_the_page_tells_what_others_do() -> None:
    assert [fact.name for fact in FACTS if not fact.says or not fact.source.startswith("https://")] == []
    matrix = on_emulations()
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
        error = {"Error": {"Code": "Sabotage", "Message": "refused"}}
        status, parsed = (200, {}) if how == "forgets" else (400, error)
        return type("Response", (), {"status_code": status})(), parsed

    def after(parsed: dict[str, Any], model: Any, **_: Any) -> None:
        if place.writes >= spared and how.startswith("tells") and model.name.startswith("Describe"):
            lists = {name: value for name, value in parsed.items() if isinstance(value, list)}
            parsed.update({name: [] if how == "tells nothing" else otherwise(value) for name, value in lists.items()})

    def otherwise(told: Any) -> Any:
        if isinstance(told, dict):
            # Of the same targets and groups.
            return {key: x if re.fullmatch("Id|Port|.*Arns?", key) else otherwise(x) for key, x in told.items()}
        return [otherwise(x) for x in told] if isinstance(told, list) else told * 2

    for client in ("elbv2", "cloudwatch", "resourcegroupstaggingapi"):
        events = place.client(client).meta.events
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


@pytest.mark.nightly
def test_each_check_can_fail() -> None:
    never = list(FACTS)
    # What a check needs to begin with is spared.
    for spared, how in product((3, 2, 1, 0), SABOTAGE):
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
    """`python -m conformance` on ministack in place of AWS; it has to leave what is not its own, and nothing else."""
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
    """Whatever the checks and the acceptance make, whoever made it."""
    found = {
        "ec2": ("describe_vpcs", "Vpcs", "VpcId"),
        "cloudformation": ("describe_stacks", "Stacks", "StackName"),
        "s3": ("list_buckets", "Buckets", "Name"),
        "route53": ("list_hosted_zones", "HostedZones", "Id"),
    }
    subnets = {x["SubnetId"] for x in cloud.client("ec2").describe_subnets()["Subnets"]}
    names = {
        x[name] for service, (call, key, name) in found.items() for x in getattr(cloud.client(service), call)()[key]
    }
    return inventory(cloud) | subnets | names


def output(started: subprocess.Popen[str]) -> tuple[int, str]:
    """What it ended with, and what it printed."""
    told, _ = started.communicate(timeout=120)
    return started.returncode, told


REFUSALS = {
    "no sandbox is named": (["aws", "--yes"], {}, f"SANDBOX={ACCOUNT}"),
    "another account": (["acceptance", "--yes", "--sandbox", "123456789012"], {}, "The sandbox is to be 123456789012"),
    "no Region": (["sweep", "--yes"], {"AWS_REGION": None, "AWS_DEFAULT_REGION": None}, "set AWS_REGION"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_it_refuses_where_it_cannot_tell_that_it_is_a_sandbox(account: Start, case: str) -> None:
    arguments, environment, why = REFUSALS[case]
    status, told = output(account(*arguments, **environment))
    assert (status, why in told) == (1, True), told


@pytest.mark.parametrize("where", ["conformance-aws", "acceptance-aws", "conformance-sweep"])
def test_make_tells_what_it_would_do_and_hands_on_what_it_is_given(account: Start, cloud: Cloud, where: str) -> None:
    def make(*arguments: str) -> tuple[int, str]:
        command = ["make", "--silent", where, *arguments, f"SANDBOX={ACCOUNT}"]
        env = {**os.environ, "AWS_ENDPOINT_URL": cloud.endpoint}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, done.stdout + done.stderr

    status, told = make()
    assert (status, "add CONFIRM=no" in told) == (2, True), told
    status, told = make("CONFIRM=no", "PACKAGE=events", "THROTTLE=yes", *(["-n"] if where == "conformance-aws" else []))
    expected = {
        "conformance-aws": (0, "--yes --throttle"),
        "acceptance-aws": (2, "events has no package:"),
        "conformance-sweep": (0, "Nothing with the tag is left"),
    }[where]
    assert (status, expected[1] in told) == (expected[0], True), told


@pytest.mark.nightly
def test_a_whole_run_leaves_nothing_and_tells_of_another_one(account: Start, cloud: Cloud) -> None:
    earlier = Network("emulation", SESSION, cloud.endpoint)
    earlier.create()
    status, told = output(account("aws", "--sandbox", ACCOUNT, "--yes"))
    # ministack differs, and that is no failure to run.
    assert (status, "FAILED" in told) == (1, False), told
    for part in ("| [`draining-is-listed`](https://", "Of another run there is still", "Removing what run"):
        assert part in told
    remove(earlier, lambda _: None)


INTERRUPTIONS = {
    "before anything is made": ("This is run", signal.SIGINT, False),
    "in the middle": ("draining-is-listed", signal.SIGTERM, False),
    "in the middle, and again while it is removed": ("draining-is-listed", signal.SIGINT, True),
    "while it is removed": ("Removing what", signal.SIGINT, False),
    "by a terminal that is closed": ("draining-is-listed", None, False),
}


@pytest.mark.nightly
@pytest.mark.parametrize("case", INTERRUPTIONS)
def test_an_interruption_leaves_nothing(account: Start, case: str) -> None:
    moment, number, again = INTERRUPTIONS[case]
    with account("aws", "--sandbox", ACCOUNT, "--yes") as started:
        assert any(moment in line for line in started.stdout)
        if number is None:
            # Whatever is told from now on is an error.
            started.stdout.close()
            assert started.wait(timeout=60) != 0
            return
        started.send_signal(number)
        if again:
            assert any("Removing what" in line for line in started.stdout)
            started.send_signal(number)
        told, _ = started.communicate(timeout=60)
    assert (started.returncode, "what was made has been removed" in told) == (128 + number, True), told


@pytest.mark.nightly
def test_what_a_killed_run_left_is_swept(account: Start, cloud: Cloud) -> None:
    before = there_is(cloud)
    with account("aws", "--sandbox", ACCOUNT, "--yes") as started:
        for line in started.stdout:
            if "draining-is-listed" in line:
                started.kill()
    left = there_is(cloud) - before
    assert {
        x for x in ("network-", "vpc-", ":loadbalancer/", ":targetgroup/") if not any(x in y for y in left)
    } == set()
    assert output(account("sweep", "--sandbox", ACCOUNT))[0] == 2
    assert there_is(cloud) - before == left
    status, told = output(account("sweep", "--sandbox", ACCOUNT, "--yes"))
    assert status == 0, told
    assert all(x in told for x in left if x.startswith("network-") or ":targetgroup/" in x), told


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


# What is done although its reply gets lost has to go as well.
@pytest.mark.nightly
@pytest.mark.parametrize("moment", ["before-call", "after-call"])
def test_wherever_it_fails_nothing_is_left(cloud: Cloud, moment: str) -> None:
    before = there_is(cloud)
    place = Network("emulation", SESSION, cloud.endpoint)
    calls = struck(place, 0, Fault())
    attempt(place)
    assert there_is(cloud) == before
    made = calls[: calls.index("CreateListener") + 1]
    assert {"CreateStack", "CreateTargetGroup"} <= set(made)
    for at, call in enumerate(made, 1):
        error = Fault() if at % 2 else KeyboardInterrupt(signal.SIGINT)
        place = Network("emulation", SESSION, cloud.endpoint)
        struck(place, at, error, moment=moment)
        with pytest.raises(type(error)):
            attempt(place)
        assert there_is(cloud) == before, call


@pytest.mark.nightly
def test_a_removal_that_fails_is_tried_again(cloud: Cloud) -> None:
    before = there_is(cloud)
    refusal = ClientError({"Error": {"Code": "DependencyViolation", "Message": "has dependencies"}}, "Delete")
    for only in ("Delete", "Describe"):
        place = Network("emulation", SESSION, cloud.endpoint)
        with network(place, lambda _: None):
            place.group(attached=True)
            # The first, the second and so on of what removes it.
            for at in range(1, 8):
                struck(place, at, refusal, only)
        assert there_is(cloud) == before


def test_a_run_removes_what_is_its_own_alone_and_names_what_it_cannot_remove(cloud: Cloud) -> None:
    before = there_is(cloud)
    first, second = (Network("emulation", SESSION, cloud.endpoint) for _ in range(2))
    second.create()
    own = there_is(cloud) - before
    first.create()
    first.group(attached=True)
    refusal = ClientError({"Error": {"Code": "AccessDenied", "Message": "not yours"}}, "DeleteStack")
    calls = struck(first, -1, refusal)

    def refuse(**_: Any) -> None:
        raise refusal

    first.client("cloudformation").meta.events.register("before-call.cloudformation.DeleteStack", refuse)
    with pytest.raises(Failure, match="(?s)stack network-.*not yours.*make conformance-sweep"):
        remove(first, lambda _: None, seconds=0.5)
    first.client("cloudformation").meta.events.unregister("before-call.cloudformation.DeleteStack", refuse)
    remove(first, lambda _: None)
    assert there_is(cloud) - before == own, calls
    remove(second, lambda _: None)
    assert there_is(cloud) == before
