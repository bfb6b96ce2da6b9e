"""What `make run` shows and tests/e2e asserts: a first sync, a failover, a DNS failure, the metrics.

Every step does one thing, checks what came of it and raises Failure if that is not what the function promises.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from local.cloud import METRICS, Cloud, TargetGroup
from local.dns import DnsServer
from local.function import EVENTS, Function, Invocation
from local.process import Failure

HOSTNAME = "orders.c9akciq32abc.eu-west-1.rds.amazonaws.com"
PORT = 5432
BEFORE = "10.0.1.10"
AFTER = "10.0.2.20"

Targets = dict[str, str]


@dataclass(frozen=True)
class Step:
    """The target group around an invocation, and what the invocation said."""

    before: Targets
    after: Targets
    invocation: Invocation


def bindings(group: TargetGroup, *hostnames: str) -> str:
    """The value of BINDINGS that ties the hostnames to the group."""
    return json.dumps([{"hostname": x, "target_group_arn": group.arn} for x in hostnames or (HOSTNAME,)])


def expect(truth: bool, promise: str, found: object) -> None:
    """Fails unless it is true, telling what was promised and what was found."""
    if not truth:
        raise Failure(f"expected {promise}, found {found}")


def expect_targets(targets: Targets, *registered: str) -> None:
    """These targets are registered, and any other is at most draining still."""
    found = {target for target, state in targets.items() if state != "draining"}
    expect(found == set(registered), f"the registered targets {sorted(registered)}", targets)


@dataclass(frozen=True)
class Scenario:
    """One hostname, one target group, one function."""

    cloud: Cloud
    dns: DnsServer
    group: TargetGroup
    function: Function

    def first_sync(self) -> Step:
        """The group is empty; the schedule invokes the function; the address is registered."""
        self.dns.answer(HOSTNAME, BEFORE)
        step = self._invoke("scheduler.json")
        reply = step.invocation.group
        expect_targets(step.after, f"{BEFORE}:{PORT}")
        expect(reply["outcome"] == "changed", "the outcome changed", reply)
        expect(reply["resolved"] == [BEFORE], f"{BEFORE} resolved", reply)
        expect(reply["registered"] == [f"{BEFORE}:{PORT}"], f"{BEFORE}:{PORT} registered", reply)
        expect(reply["deregistered"] == [], "nothing deregistered", reply)
        return step

    def second_sync(self) -> Step:
        """Nothing has changed, and nothing is done."""
        step = self._invoke("scheduler.json")
        reply = step.invocation.group
        expect(step.after == step.before, f"the targets as before, {step.before}", step.after)
        expect(reply["outcome"] == "in_sync", "the outcome in_sync", reply)
        expect(reply["registered"] == reply["deregistered"] == [], "nothing registered or deregistered", reply)
        return step

    def failover(self) -> Step:
        """The hostname moves; RDS reports it; the new address takes the old one's place."""
        self.dns.answer(HOSTNAME, AFTER)
        step = self._invoke("rds-instance-failover.json")
        reply = step.invocation.group
        expect_targets(step.after, f"{AFTER}:{PORT}")
        expect(reply["outcome"] == "changed", "the outcome changed", reply)
        expect(reply["registered"] == [f"{AFTER}:{PORT}"], f"{AFTER}:{PORT} registered", reply)
        expect(reply["deregistered"] == [f"{BEFORE}:{PORT}"], f"{BEFORE}:{PORT} deregistered", reply)
        return step

    def dns_failure(self, code: str = "SERVFAIL") -> Step:
        """DNS answers with an error: the invocation fails, saying for whom, and the targets stay."""
        self.dns.fail(HOSTNAME, code)
        step = self._invoke("scheduler.json")
        expect(step.invocation.error is not None, "the invocation to fail", step.invocation.reply)
        for part in (HOSTNAME, self.group.dimension, code):
            expect(part in str(step.invocation.error), f"an error that names {part}", step.invocation.error)
        expect(step.after == step.before, f"the targets as before, {step.before}", step.after)
        return step

    def metrics(self) -> dict[str, tuple[int, float]]:
        """After the four steps above, CloudWatch has each metric of each of the four runs."""
        found = self.cloud.metrics(self.group)
        expect(set(found) == set(METRICS), f"the metrics {sorted(METRICS)}", sorted(found))
        expect(all(count == 4 for count, _ in found.values()), "four values of each metric", found)
        sums = {"Registrations": 2, "Deregistrations": 1, "Failures": 1, "RefusedAddresses": 0, "WaitingTargets": 0}
        for name, wanted in sums.items():
            expect(found[name][1] == wanted, f"{name} to add up to {wanted}", found[name][1])
        return found

    def _invoke(self, event: str) -> Step:
        before = self.cloud.targets(self.group)
        invocation = self.function.invoke(EVENTS / event)
        return Step(before, self.cloud.targets(self.group), invocation)
