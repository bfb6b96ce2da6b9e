"""Each file in events/ through `cargo lambda invoke`: what it is taken for, and that it does its work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.cloud import Cloud, TargetGroup
from local.dns import DnsServer
from local.function import EVENTS, Function, serve
from local.scenario import HOSTNAME, PORT, bindings

TRIGGERS = {
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


@pytest.mark.parametrize("name", sorted(set(TRIGGERS) - {"direct.json", "dry-run.json"}))
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


def test_a_dry_run_tells_what_would_be_done_and_does_nothing(
    cloud: Cloud, dns: DnsServer, group: TargetGroup, function: Function
) -> None:
    dns.answer(HOSTNAME, "10.0.1.30")
    function.invoke({})
    targets, metrics = cloud.targets(group), cloud.metrics(group)
    dns.answer(HOSTNAME, "10.0.2.30")

    invocation = function.invoke(EVENTS / "dry-run.json")

    assert invocation.reply["trigger"] == TRIGGERS["dry-run.json"]
    assert invocation.reply["dry_run"] is True
    assert invocation.group["registered"] == [f"10.0.2.30:{PORT}"]
    assert invocation.group["deregistered"] == [f"10.0.1.30:{PORT}"]
    assert cloud.targets(group) == targets == {f"10.0.1.30:{PORT}": "healthy"}
    assert cloud.metrics(group) == metrics


def test_a_direct_request_brings_its_own_bindings(
    cloud: Cloud, dns: DnsServer, group: TargetGroup, function: Function
) -> None:
    other = cloud.create_target_group("direct", 3306)
    before = cloud.targets(group)
    request = json.loads((EVENTS / "direct.json").read_text())
    (binding,) = request["bindings"]
    # The account of the example is not that of the emulation; everything else is as in the file.
    binding["target_group_arn"] = other.arn
    dns.answer(binding["hostname"], "10.0.1.40")

    invocation = function.invoke(request)

    assert invocation.reply["trigger"] == TRIGGERS["direct.json"]
    assert invocation.group["target_group_arn"] == other.arn
    assert cloud.targets(other) == {f"10.0.1.40:{binding['port']}": "healthy"}
    assert cloud.targets(group) == before


def test_a_mistyped_field_changes_nothing(cloud: Cloud, dns: DnsServer, group: TargetGroup, function: Function) -> None:
    before = cloud.targets(group)
    dns.answer(HOSTNAME, "10.0.1.41")
    invocation = function.invoke({"dryrun": True})
    assert "dryrun" in str(invocation.error)
    assert cloud.targets(group) == before
