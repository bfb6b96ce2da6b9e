"""Each file in events/ as an invocation: what it is taken for, and that it does its work."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from local.cloud import Cloud, TargetGroup
from local.dns import DnsServer
from local.function import EVENTS, Function, serve
from local.process import in_background, wait_for
from local.scenario import HOSTNAME, PORT, bindings

TRIGGERS = {
    "check.json": "direct",
    "direct.json": "direct",
    "dry-run.json": "direct",
    "rds-blue-green-switchover.json": "rds-event",
    "rds-cluster-failover.json": "rds-event",
    "rds-cluster-topology.json": "rds-event",
    "rds-instance-backup.json": "rds-event",
    "rds-instance-failover.json": "rds-event",
    "rds-proxy-endpoint.json": "rds-event",
    "rule.json": "schedule",
    "scheduler.json": "schedule",
    "sns-rds-notification.json": "rds-event",
}
# These leave DNS alone, and so nothing is to be waited for.
WITHOUT_WATCH = {"rds-instance-backup.json", "rule.json", "scheduler.json"}
WATCHED = set(TRIGGERS) - WITHOUT_WATCH - {"check.json", "direct.json", "dry-run.json"}


@pytest.fixture(scope="module")
def group(cloud: Cloud) -> TargetGroup:
    """The target group of BINDINGS."""
    return cloud.create_target_group("events", PORT)


@pytest.fixture(scope="module")
def function(cloud: Cloud, dns: DnsServer, work: Path, group: TargetGroup) -> Iterator[Function]:
    """The function with one binding."""
    with serve(cloud, dns, work, BINDINGS=bindings(group)) as running:
        yield running


def test_every_event_is_tested() -> None:
    assert {x.name for x in EVENTS.iterdir()} == set(TRIGGERS)


@pytest.mark.differs("draining-is-listed")
@pytest.mark.parametrize("name", sorted(WITHOUT_WATCH))
def test_an_event_of_aws_is_a_run(
    name: str, cloud: Cloud, dns: DnsServer, group: TargetGroup, function: Function
) -> None:
    # Another address for each event, so that each has something to do.
    address = f"10.0.1.{50 + sorted(TRIGGERS).index(name)}"
    dns.answer(HOSTNAME, address)
    invocation = function.invoke(EVENTS / name)
    assert invocation.group["registered"] == [f"{address}:{PORT}"]
    assert invocation.reply["trigger"] == TRIGGERS[name]
    assert invocation.reply["dry_run"] is False
    assert list(cloud.targets(group)) == [f"{address}:{PORT}"]


@pytest.mark.nightly
@pytest.mark.differs("draining-is-listed")
def test_the_other_events_of_rds_are_watches_which_do_each_other_no_harm(
    cloud: Cloud, dns: DnsServer, work: Path
) -> None:
    group = cloud.create_target_group("watches", PORT)
    dns.answer(HOSTNAME, "10.0.1.20")
    with serve(cloud, dns, work, BINDINGS=bindings(group)) as function:
        watches = {name: in_background(partial(function.invoke, EVENTS / name)) for name in sorted(WATCHED)}
        wait_for("the first runs", lambda: True if cloud.targets(group) else None, 20)
        # Until each has begun: they start a process each.
        time.sleep(3)
        dns.answer(HOSTNAME, "10.0.2.20")
        moved = {f"10.0.2.20:{PORT}"}
        wait_for("the targets to follow", lambda: True if set(cloud.targets(group)) == moved else None, 5)
        assert not any(watch.done() for watch in watches.values())
        invocations = {name: watch.result() for name, watch in watches.items()}
    assert {name: x.reply["trigger"] for name, x in invocations.items()} == {x: TRIGGERS[x] for x in WATCHED}
    assert [x.group["resolved"] for x in invocations.values()] == [["10.0.2.20"]] * len(WATCHED)
    assert {x.group["outcome"] for x in invocations.values()} <= {"changed", "in_sync"}
    assert set(cloud.targets(group)) == moved


@pytest.mark.differs("initial", "draining-is-listed")
def test_direct_requests(cloud: Cloud, dns: DnsServer, group: TargetGroup, function: Function) -> None:
    """A dry run and a check change nothing, and bindings of its own go to their own group."""
    dns.answer(HOSTNAME, "10.0.1.30")
    function.invoke({})
    targets, metrics = cloud.targets(group), cloud.metrics(group)
    dns.answer(HOSTNAME, "10.0.2.30")
    dry_run = function.invoke(EVENTS / "dry-run.json")
    assert (dry_run.reply["trigger"], dry_run.reply["dry_run"]) == (TRIGGERS["dry-run.json"], True)
    assert dry_run.group["registered"] == [f"10.0.2.30:{PORT}"]
    assert dry_run.group["deregistered"] == [f"10.0.1.30:{PORT}"]
    check = function.invoke(EVENTS / "check.json")
    assert check.reply["trigger"] == TRIGGERS["check.json"]
    assert "out-of-step" in {finding["code"] for finding in check.group["findings"]}
    assert cloud.targets(group) == targets == {f"10.0.1.30:{PORT}": "healthy"}
    assert cloud.metrics(group) == metrics

    other = cloud.create_target_group("direct", 3306)
    request = json.loads((EVENTS / "direct.json").read_text())
    (binding,) = request["bindings"]
    # The account of the example is not that of the emulation; everything else is as in the file.
    binding["target_group_arn"] = other.arn
    dns.answer(binding["hostname"], "10.0.1.40")
    direct = function.invoke(request)
    assert direct.reply["trigger"] == TRIGGERS["direct.json"]
    assert cloud.targets(other) == {f"10.0.1.40:{binding['port']}": "healthy"}
    assert cloud.targets(group) == targets
