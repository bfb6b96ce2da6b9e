"""How long a consumer can't write when the database fails over: `make bench-failover`.

A real consumer writes to a real PostgreSQL through the load balancer of local/, each kind of function at the same
time, each with a world of its own. It prints Markdown tables, and draws docs/failover.svg.

Where a function waits for its schedule, nothing happens until it is invoked: the moment is drawn from the period, and
what is left of the wait, once no resolver repeats an old answer any more, is added instead of waited for. Everything
else is measured.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event

from local.cloud import Cloud, ministack
from local.database import database
from local.dns import TTL_SECONDS, DnsServer
from local.function import EVENTS, Function, build, serve
from local.process import ROOT, Failure, in_background, isolate, wait_for
from local.scenario import AFTER, BEFORE, FAILOVER, HOSTNAME, PARTS, PORT, Outage, World, bindings, world

FAILOVERS = int(os.environ.get("FAILOVERS", "20"))
# How many seconds after the promotion the name moves.
DNS_IS_LATE = (1.0, 10.0)
# As the template has them.
HEALTH_CHECK = {"HealthCheckIntervalSeconds": 10, "HealthyThresholdCount": 2, "UnhealthyThresholdCount": 2}
DRAINING = {
    "deregistration_delay.timeout_seconds": "0",
    "deregistration_delay.connection_termination.enabled": "true",
}


# How long a resolver may repeat an old answer, and how long after that a failover may take to be followed.
CACHED_SECONDS = TTL_SECONDS + 1.0
PATIENCE_SECONDS = 5


@dataclass(frozen=True)
class Mode:
    """A kind of function, and what invokes it."""

    title: str
    colour: str
    # Seconds between two scheduled runs, of which one falls at any moment of the period after the name has moved.
    period: float = 0
    # What it gets at the event, if it is told: the event itself, or nothing that says more than "run".
    event: Path | None = None
    polls: bool = False


MODES = (
    Mode("watch after an RDS event", "#0a84d6", event=EVENTS / FAILOVER),
    Mode("polling each second", "#0f9d6c", polls=True),
    Mode("the schedule alone, each minute", "#e07b00", period=60),
    Mode("a function that runs every five minutes", "#d5483b", period=300),
    Mode("a function that looks once, at the event", "#c23b9a", event=EVENTS / "scheduler.json"),
)


def main() -> int:
    """Measures all modes, without and with answers that are cached."""
    isolate()
    built = build()
    with tempfile.TemporaryDirectory(prefix="nlb-hostname-targets-") as work, ministack(Path(work)) as cloud:
        # Nobody builds another one meanwhile.
        binary = Path(shutil.copy(built, work))
        outages = {}
        for ttl in (0, TTL_SECONDS):
            with ThreadPoolExecutor(len(MODES)) as executor:
                found = executor.map(partial(measure, cloud, binary, ttl), range(len(MODES)))
                outages |= {(mode, ttl): x for mode, x in zip(MODES, found, strict=True)}
    print("\n".join(tables(outages)))
    path = ROOT / "docs" / "failover.svg"
    path.write_text(chart({mode: outages[mode, TTL_SECONDS] for mode in MODES}))
    print(f"\n{path} is drawn")
    return 0


def measure(cloud: Cloud, binary: Path, ttl: int, number: int) -> list[Outage]:
    """The outages of one mode."""
    mode, name = MODES[number], f"{ttl}-{number}"
    # The name moves equally late in all modes.
    lateness, waits = drawn(1, *DNS_IS_LATE), drawn(number, 0, mode.period)
    folder = binary.with_name(name)
    folder.mkdir()
    outages = []
    with closing(DnsServer(ttl, caches=ttl > 0)) as dns, database(HOSTNAME, (BEFORE, AFTER)) as postgres:
        group = cloud.create_target_group(f"failover-{name}", PORT, **HEALTH_CHECK)
        attributes = [{"Key": key, "Value": value} for key, value in DRAINING.items()]
        cloud.elb.modify_target_group_attributes(TargetGroupArn=group.arn, Attributes=attributes)
        dns.answer(HOSTNAME, BEFORE)
        env = {"BINDINGS": bindings(group), "METRICS": "off", "POLL_INTERVAL_SECONDS": "1" if mode.polls else "0"}
        with (
            serve(cloud, dns, folder, binary, **env) as function,
            running(function, mode),
            world(cloud, dns, postgres, group) as seen,
        ):
            for n, (late, wait) in enumerate(zip(lateness, waits, strict=True)):
                outages.append(fail_over(seen, function, mode, late, wait))
                told = f"{mode.title}, TTL {ttl} s, {n + 1} of {FAILOVERS}: {outages[-1] or 'not followed'}"
                print(told, file=sys.stderr, flush=True)
                settle(seen, function, mode)
                # No failover begins with the resolver's answers.
                time.sleep(0.5 + random.uniform(0, ttl))
            seen.check_rows()
    return outages


def drawn(seed: int, least: float, most: float) -> list[float]:
    """A number for each failover: one from each equal part of the range, in any order."""
    source = random.Random(seed)
    numbers = [least + (most - least) * (n + source.random()) / FAILOVERS for n in range(FAILOVERS)]
    source.shuffle(numbers)
    return numbers


def fail_over(seen: World, function: Function, mode: Mode, late: float, wait: float) -> Outage | None:
    """One failover; None if it is not followed."""
    if mode.event is not None:
        # Its end is not waited for.
        in_background(lambda: function.invoke(mode.event))
    added = 0.0

    def moved() -> None:
        nonlocal added
        if mode.period:
            added = look(function, mode.period, wait)

    try:
        outage = seen.fail_over(late, moved, TTL_SECONDS + PATIENCE_SECONDS)
    except Failure:
        return None
    return replace(outage, parts=outage.parts | {"function": outage.parts["function"] + added})


def look(function: Function, period: float, wait: float) -> float:
    """The run of the schedule that comes so long after the name moved; what has to be added to its time."""
    waited = min(wait, CACHED_SECONDS)
    time.sleep(waited)
    if function.invoke({}).group["outcome"] == "changed":
        return wait - waited
    # A resolver repeated the old answer, and the next run comes a period later.
    time.sleep(CACHED_SECONDS)
    function.invoke({})
    return wait - waited + period - CACHED_SECONDS


@contextmanager
def running(function: Function, mode: Mode) -> Iterator[None]:
    """The first run; where the function polls, one invocation after the other, as the schedule makes them."""
    stopped = Event()

    def poll() -> None:
        with suppress(Failure):
            while not stopped.is_set():
                function.invoke({})

    if mode.polls:
        in_background(poll)
    else:
        function.invoke({})
    yield
    stopped.set()


def settle(seen: World, function: Function, mode: Mode) -> None:
    """Until the writer is the only target, and takes writes; a watch is ended, so that each has one of its own."""
    target = f"{seen.database.writer.address}:{PORT}"

    def settled() -> bool | None:
        return True if seen.cloud.targets(seen.group) == {target: "healthy"} else None

    if not mode.polls:
        function.kill()
        function.invoke({})
    wait_for(f"{target} to be the only target, and healthy", settled, 30)


def tables(outages: dict[tuple[Mode, int], list[Outage | None]]) -> Iterator[str]:
    """What a consumer meets, in each mode; and of how much of it which part is."""
    ttls = (0, TTL_SECONDS)
    yield f"| no write for | {' | '.join(f'TTL {ttl} s: median | 95 % | worst' for ttl in ttls)} |"
    yield f"|---{'|---' * 3 * len(ttls)}|"
    for mode in MODES:
        cells = [cell for ttl in ttls for cell in spread(outages[mode, ttl])]
        yield f"| {mode.title} | {' | '.join(cells)} |"
    yield f"\n| medians, TTL {TTL_SECONDS} s | {' | '.join(PARTS)} | the function at worst |"
    yield f"|---{'|---' * len(PARTS)}|---|"
    for mode in MODES:
        found = [x for x in outages[mode, TTL_SECONDS] if x is not None]
        if found:
            medians = [f"{statistics.median(x.parts[part] for x in found):.1f} s" for part in PARTS]
            worst = max(x.parts["function"] for x in found)
            yield f"| {mode.title} | {' | '.join(medians)} | {worst:.1f} s |"


def spread(outages: list[Outage | None]) -> list[str]:
    """The median, the 95th percentile and the worst; or how many were followed."""
    seconds = sorted(x.seconds for x in outages if x is not None)
    if len(seconds) < len(outages):
        return [f"{len(seconds)} of {len(outages)} followed", "", ""]
    nearly_all = seconds[math.ceil(len(seconds) * 0.95) - 1]
    return [f"{x:.1f} s" for x in (statistics.median(seconds), nearly_all, seconds[-1])]


# The chart: the share of failovers after which the consumer wrote again, by the time without writes.
WIDTH, LEFT, RIGHT, TOP, BOTTOM, LINE = 860, 60, 840, 46, 346, 20
SHORTEST, LONGEST = 1, 400
TICKS = (1, 2, 5, 10, 20, 30, 60, 120, 300)
STYLE = """\
text { font: 13px Helvetica, Arial, sans-serif; fill: #24292f }
.title { font-size: 16px; font-weight: bold }
.grid { stroke: #808080; stroke-opacity: 0.3 }
.curve { fill: none; stroke-width: 2.5; stroke-linejoin: round }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }"""
TITLE = "Failovers after which a consumer writes again, by the time without writes"


def chart(outages: dict[Mode, list[Outage | None]]) -> str:
    """The chart as an SVG, legible on light and on dark backgrounds."""
    x = lambda seconds: LEFT + (RIGHT - LEFT) * math.log(seconds / SHORTEST) / math.log(LONGEST / SHORTEST)
    y = lambda share: BOTTOM - (BOTTOM - TOP) * share
    legend = BOTTOM + 66
    height = legend + LINE * len(outages)
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">', f"<title>{TITLE}</title>"]
    lines += [f"<style>\n{STYLE}\n</style>", f'<text class="title" x="{LEFT}" y="24">{TITLE}</text>']
    for percent in (0, 25, 50, 75, 100):
        at = y(percent / 100)
        lines.append(f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{RIGHT}" y2="{at:.1f}"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{percent} %</text>')
    for tick in TICKS:
        lines.append(f'<line class="grid" x1="{x(tick):.1f}" y1="{TOP}" x2="{x(tick):.1f}" y2="{BOTTOM}"/>')
        lines.append(f'<text x="{x(tick):.1f}" y="{BOTTOM + 20}" text-anchor="middle">{tick} s</text>')
    under = f"With a time to live of {TTL_SECONDS} s, as RDS has it: median, 95 %, worst"
    lines.append(f'<text x="{LEFT}" y="{BOTTOM + 44}">{under}</text>')
    for number, (mode, found) in enumerate(outages.items()):
        at = legend + LINE * number
        points = [(LEFT, y(0))]
        for n, seconds in enumerate(sorted(x.seconds for x in found if x is not None)):
            points += [(x(seconds), y(n / len(found))), (x(seconds), y((n + 1) / len(found)))]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in [*points, (RIGHT, points[-1][1])])
        curve = f'class="curve" stroke="{mode.colour}"'
        lines.append(f'<polyline {curve} points="{path}"/>')
        lines.append(f'<line {curve} x1="{LEFT}" y1="{at - 4}" x2="{LEFT + 28}" y2="{at - 4}"/>')
        label = f"{mode.title}: {', '.join(filter(None, spread(found)))}"
        lines.append(f'<text x="{LEFT + 38}" y="{at}">{label}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
