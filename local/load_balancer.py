"""The traffic of a network load balancer: a listener on the loopback interface that does as AWS's documents say.

It reads the target group, its attributes and its targets from the local AWS, and reports each target's health to it.
What AWS itself takes to begin and to end its work on a target, up to minutes, it does not take.

The pages that comments name are of https://docs.aws.amazon.com/elasticloadbalancing/latest/network/.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from local.cloud import Cloud, TargetGroup
from local.process import LOOPBACK, in_background

# How often it looks at what is registered, and at every which look also at the group's attributes.
LOOK_SECONDS = 0.1
LOOKS_PER_ATTRIBUTES = 10

Reach = Callable[[str, int], tuple[str, int]]


@dataclass(eq=False)
class Target:
    """A registered or draining target."""

    address: str
    port: int
    state: str = "initial"
    reason: str = "Elb.InitialHealthChecking"
    # How many checks in a row ended otherwise than the state says.
    contradictions: int = 0
    drained_at: float = float("inf")
    connections: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = field(default_factory=set)
    checking: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """ADDRESS:PORT."""
        return f"{self.address}:{self.port}"


class LoadBalancer:
    """Runs in a thread of its own, with one listener, which forwards to one target group."""

    def __init__(self, cloud: Cloud, group: TargetGroup, reach: Reach, haste: float = 1) -> None:
        self.port = 0
        # What happened: when, to which target, and what.
        self.log: list[tuple[float, str, str]] = []
        # For tests: nothing that is checked passes, as where a security group shuts the load balancer's nodes out.
        self.fails_checks = False
        self._cloud, self._group, self._reach = cloud, group, reach
        # How many times as often as the group says it checks, for tests: AWS allows no interval under 5 s.
        self._haste = haste
        self._targets: dict[str, Target] = {}
        self._settings: dict[str, Any] = {}
        self._healthy = -1
        self._report = cloud.health_report(group)
        self._task: asyncio.Task[None] | None = None

    def first(self, target: str, what: str, since: float) -> float | None:
        """When that happened to the target for the first time since then."""
        return next((at for at, name, did in list(self.log) if (name, did) == (target, what) and at >= since), None)

    def run(self, ready: threading.Event) -> None:
        """Balances until `stop`."""
        with suppress(asyncio.CancelledError):
            asyncio.run(self._run(ready))
        self._report.unlink(missing_ok=True)

    def stop(self) -> None:
        """Ends it, with all connections."""
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    async def _run(self, ready: threading.Event) -> None:
        self._task = asyncio.current_task()
        server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.port = server.sockets[0].getsockname()[1]
        look = 0
        while True:
            if look % LOOKS_PER_ATTRIBUTES == 0:
                self._settings = await asyncio.to_thread(self._cloud.settings, self._group)
            listed = await asyncio.to_thread(self._cloud.targets, self._group)
            self._follow({target for target, state in listed.items() if state != "draining"})
            self._tell()
            await asyncio.to_thread(self._measure)
            ready.set()
            look += 1
            await asyncio.sleep(LOOK_SECONDS)

    def _follow(self, registered: set[str]) -> None:
        """What was registered is checked, what was deregistered drains, and what has drained is gone."""
        for name in registered:
            if name not in self._targets or self._targets[name].state == "draining":
                address, port = name.rsplit(":", 1)
                again = self._targets.get(name)
                self._targets[name] = target = Target(address, int(port))
                # A target can be registered again while it drains: load-balancer-target-groups.html
                target.connections = again.connections if again else set()
                target.checking = asyncio.ensure_future(self._check(target))
                self._note(target, "registered")
        for name in self._targets.keys() - registered:
            target = self._targets[name]
            if target.state != "draining" and target.checking is not None:
                target.checking.cancel()
                self._change(target, "draining", "Target.DeregistrationInProgress")
                target.drained_at = time.monotonic() + float(self._settings["deregistration_delay.timeout_seconds"])
            if time.monotonic() >= target.drained_at:
                # At the end of the delay connections are ended where the attribute says so; else they may go on.
                # load-balancer-target-groups.html#deregistration-delay
                if self._settings["deregistration_delay.connection_termination.enabled"] == "true":
                    self._cut(target)
                del self._targets[name]
                self._note(target, "gone")

    async def _check(self, target: Target) -> None:
        """Connects by TCP again and again, with the group's interval and time-out."""
        while True:
            self.judge(target, await self._passes(target))
            await asyncio.sleep(self._settings["HealthCheckIntervalSeconds"] / self._haste)

    def judge(self, target: Target, passed: bool) -> None:
        """What a check makes of the target.

        A new one is in service with the first that passes; else the thresholds count, which are of checks in a row:
        load-balancer-troubleshooting.html#target-not-in-service, target-group-health-checks.html
        """
        if target.state == ("healthy" if passed else "unhealthy"):
            target.contradictions = 0
            return
        target.contradictions += 1
        threshold = self._settings["HealthyThresholdCount" if passed else "UnhealthyThresholdCount"]
        if target.contradictions >= (1 if passed and target.state == "initial" else threshold):
            self._change(target, *(("healthy", "") if passed else ("unhealthy", "Target.FailedHealthChecks")))

    async def _passes(self, target: Target) -> bool:
        if self.fails_checks:
            return False
        try:
            connect = asyncio.open_connection(*self._reach(target.address, target.port))
            _, writer = await asyncio.wait_for(connect, self._settings["HealthCheckTimeoutSeconds"])
        except (OSError, asyncio.TimeoutError):
            return False
        writer.transport.abort()
        return True

    def _change(self, target: Target, state: str, reason: str) -> None:
        target.state, target.reason, target.contradictions = state, reason, 0
        self._note(target, state)
        # Connections to a target that became unhealthy are ended, unless the attribute says otherwise.
        # edit-target-group-attributes.html#unhealthy-target-connection-termination
        if (
            state == "unhealthy"
            and self._settings["target_health_state.unhealthy.connection_termination.enabled"] == "true"
        ):
            self._cut(target)

    def _cut(self, target: Target) -> None:
        if target.connections:
            self._note(target, "cut")
        for ends in target.connections:
            for end in ends:
                end.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries a new connection to a healthy registered target; where none is healthy, to any registered one.

        Fail open: target-group-health-checks.html. Where nothing is registered, or the target refuses, so
        does the load balancer.
        """
        registered = [x for x in self._targets.values() if x.state != "draining"]
        choices = [x for x in registered if x.state == "healthy"] or registered
        try:
            target = random.choice(choices)
            backward, forward = await asyncio.open_connection(*self._reach(target.address, target.port))
        except (OSError, IndexError):
            writer.transport.abort()
            return
        ends = (writer, forward)
        target.connections.add(ends)
        # Cancelled where the load balancer is stopped.
        with suppress(asyncio.CancelledError):
            await asyncio.gather(carry(reader, forward), carry(backward, writer))
        target.connections.discard(ends)
        for end in ends:
            end.transport.abort()

    def _note(self, target: Target, what: str) -> None:
        self.log.append((time.monotonic(), target.name, what))

    def _tell(self) -> None:
        """Reports the health of all targets to the local AWS, whose DescribeTargetHealth tells it to the function."""
        told = self._report.with_suffix(".new")
        told.write_text(json.dumps({x.name: [x.state, x.reason] for x in self._targets.values()}))
        told.replace(self._report)

    def _measure(self) -> None:
        """Sends its metric where it changes; AWS does so each minute: load-balancer-cloudwatch-metrics.html."""
        healthy = sum(x.state == "healthy" for x in list(self._targets.values()))
        if healthy != self._healthy:
            self._healthy = healthy
            balancer = self._settings["LoadBalancerArns"][0].split(":loadbalancer/")[1]
            names = {"LoadBalancer": balancer, "TargetGroup": self._group.dimension}
            dimensions = [{"Name": name, "Value": value} for name, value in names.items()]
            datum = {"MetricName": "HealthyHostCount", "Dimensions": dimensions, "Value": healthy}
            self._cloud.client("cloudwatch").put_metric_data(Namespace="AWS/NetworkELB", MetricData=[datum])


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carries one direction of a connection to its end."""
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


@contextmanager
def balancing(cloud: Cloud, group: TargetGroup, reach: Reach, haste: float = 1) -> Iterator[LoadBalancer]:
    """A load balancer for the length of a `with` block."""
    balancer = LoadBalancer(cloud, group, reach, haste)
    ready = threading.Event()
    running = in_background(lambda: balancer.run(ready))
    try:
        while not ready.wait(0.05):
            if running.done():
                running.result()
        yield balancer
    finally:
        if not running.done():
            balancer.stop()
            running.result(timeout=10)
