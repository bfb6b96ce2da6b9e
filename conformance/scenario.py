"""What `make acceptance-aws` and tests/e2e assert: first sync, failover, the way back, a DNS failure, the metrics.

Every step does one thing, checks what came of it and raises Failure if that is not what the function promises.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from local.cloud import STEADY_METRICS, Cloud, TargetGroup
from local.function import EVENTS, Invocation
from local.process import Failure, in_background, wait_for
from local.scenario import AFTER, BEFORE, FAILOVER, HOSTNAME, PORT

# How long after the event DNS moves here; on AWS it is up to minutes.
DNS_IS_LATE_SECONDS = 3
# A look each second, and what the machine needs that does all of this at once.
FOLLOWED_WITHIN_SECONDS = 3

Targets = dict[str, str]


@dataclass(frozen=True)
class Step:
    """The target group around an invocation, and what the invocation said."""

    before: Targets
    after: Targets
    # None where the schedule invoked the function: nobody sees that reply.
    invocation: Invocation | None
    # Of a watch: seconds from the change in DNS until the targets had followed, and from then to its end.
    followed_after: float = 0
    watched_on: float = 0


class Names(Protocol):
    """What DNS says, wherever it is asked."""

    def answer(self, name: str, address: str) -> None:
        """From now on the name has this address."""

    def fail(self, name: str, code: str) -> None:
        """From now on questions for the name end with this code."""


class Invocable(Protocol):
    """The function, wherever it runs."""

    def invoke(self, event: Any) -> Invocation:
        """Gives it an event and waits for what comes of it."""


def expect(truth: bool, promise: str, found: object) -> None:
    """Fails unless it is true, telling what was promised and what was found."""
    if not truth:
        raise Failure(f"expected {promise}, found {found}")


def expect_targets(targets: Targets, *wanted: str) -> None:
    """These targets are registered, and any other is at most draining still."""
    expect(registered(targets) == set(wanted), f"the registered targets {sorted(wanted)}", targets)


def registered(targets: Targets) -> set[str]:
    """Those that are not draining."""
    return {target for target, state in targets.items() if state != "draining"}


def expect_replaced(targets: Targets, reply: dict[str, Any]) -> None:
    """The target that AFTER makes has taken the place of that of BEFORE, and the reply says so."""
    expect_targets(targets, f"{AFTER}:{PORT}")
    expect(reply["outcome"] == "changed", "the outcome changed", reply)
    expect(reply["registered"] == [f"{AFTER}:{PORT}"], f"{AFTER}:{PORT} registered", reply)
    expect(reply["deregistered"] == [f"{BEFORE}:{PORT}"], f"{BEFORE}:{PORT} deregistered", reply)


def expect_still_watching(watch: Future[Invocation]) -> None:
    """The invocation goes on."""
    if watch.done():
        expect(False, "an invocation that goes on watching", watch.result())


@dataclass(frozen=True)
class Scenario:
    """One hostname, one target group, one function."""

    cloud: Cloud
    dns: Names
    group: TargetGroup
    function: Invocable
    hostname: str = HOSTNAME
    followed_within_seconds: float = FOLLOWED_WITHIN_SECONDS

    def scheduled(self, address: str, seconds: float) -> Step:
        """The hostname moves; nobody says so; the schedule's next run brings the group in step."""
        before = self.cloud.targets(self.group)
        self.dns.answer(self.hostname, address)
        return Step(before, self._wait_for_only(address, seconds), None)

    def first_sync(self) -> Step:
        """The group is empty; the function is invoked; the address is registered."""
        self.dns.answer(self.hostname, BEFORE)
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
        """RDS sends an event; the hostname moves seconds later; the function, which watches it, follows at once."""
        before = self.cloud.targets(self.group)
        watch = in_background(lambda: self.function.invoke(EVENTS / FAILOVER))
        time.sleep(DNS_IS_LATE_SECONDS)
        expect_still_watching(watch)
        expect(self.cloud.targets(self.group) == before, f"the targets as before, {before}, until DNS moves", "others")
        self.dns.answer(self.hostname, AFTER)
        moved = time.monotonic()
        self._wait_for_only(AFTER, self.followed_within_seconds)
        followed = time.monotonic()
        expect_still_watching(watch)
        invocation = watch.result()
        ended = time.monotonic()
        after = self.cloud.targets(self.group)
        expect_replaced(after, invocation.group)
        expect(invocation.reply["trigger"] == "rds-event", "the trigger rds-event", invocation.reply)
        return Step(before, after, invocation, followed - moved, ended - followed)

    def dns_failure(self, code: str = "SERVFAIL") -> Step:
        """DNS answers with an error: the invocation fails, saying for whom, and the targets stay."""
        self.dns.fail(self.hostname, code)
        step = self._invoke("scheduler.json")
        expect(step.invocation.error is not None, "the invocation to fail", step.invocation.reply)
        for part in (self.hostname, self.group.dimension, code):
            expect(part in str(step.invocation.error), f"an error that names {part}", step.invocation.error)
        expect(step.after == step.before, f"the targets as before, {step.before}", step.after)
        return step

    def verified(self) -> dict[str, Any]:
        """DNS answers again: a check finds nothing that is wrong, and changes nothing."""
        self.dns.answer(self.hostname, BEFORE)
        step = self._invoke("check.json")
        reply = step.invocation.reply
        expect(step.after == step.before, f"the targets as before, {step.before}", step.after)
        expect(reply is not None and reply["ok"], "a check that finds no error", step.invocation)
        worse = [x for x in step.invocation.group["findings"] if x["severity"] != "info"]
        expect(worse == [], "nothing found above info", worse)
        return reply

    def metrics(self, runs: int = 4, changes: int = 2, seconds: float = 10) -> dict[str, tuple[int, float]]:
        """CloudWatch has the metrics of at least so many runs, a failure, and the changes that they made."""

        def complete() -> dict[str, tuple[int, float]] | None:
            found = self.cloud.metrics(self.group)
            return found if all(found.get(name, (0, 0))[0] >= runs for name in STEADY_METRICS) else None

        # A scheduled run sends them after the targets were seen to change.
        found = wait_for(f"the metrics of {runs} runs", complete, seconds)
        wanted = {"Registrations": changes, "Deregistrations": changes - 1}
        wanted = {name: number for name, number in wanted.items() if number > 0}
        sums = {name: total for name, (_, total) in found.items() if name not in STEADY_METRICS}
        expect(sums == wanted, f"the metrics of changes to add up to {wanted}", sums)
        # The schedule may have come in between, once more.
        expect(found["Failures"][1] >= 1, "a failure", found["Failures"])
        return found

    def _wait_for_only(self, address: str, seconds: float) -> Targets:
        def in_step() -> Targets | None:
            targets = self.cloud.targets(self.group)
            return targets if registered(targets) == {f"{address}:{PORT}"} else None

        return wait_for(f"{address}:{PORT} to be the only target", in_step, seconds)

    def _invoke(self, event: str) -> Step:
        before = self.cloud.targets(self.group)
        invocation = self.function.invoke(EVENTS / event)
        return Step(before, self.cloud.targets(self.group), invocation)
