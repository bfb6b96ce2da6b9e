"""`make run`: the function at work, told step by step."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import textwrap
import time
from contextlib import closing
from pathlib import Path

from local.cloud import ministack
from local.dns import DnsServer
from local.function import build, serve
from local.process import Failure, isolate
from local.scenario import AFTER, BEFORE, HOSTNAME, PORT, Scenario, Step, bindings

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_started = time.monotonic()


def main() -> int:
    """Runs the demo; 0 if every step did what it says."""
    for number in STOPS:
        signal.signal(number, interrupt)
    isolate()
    try:
        with tempfile.TemporaryDirectory(prefix="nlb-hostname-targets-") as work:
            demonstrate(Path(work))
    except Failure as failure:
        print(f"\nFAILED: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print("\nInterrupted; everything that was started has been stopped.", file=sys.stderr)
        return 128 + int(stop.args[0])
    say("Everything did what it should, and everything that was started has been stopped.")
    return 0


def interrupt(number: int, _: object) -> None:
    """Unwinds the stack, and so ends what was started on the way; a second signal does not cut that short."""
    for other in STOPS:
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def demonstrate(work: Path) -> None:
    """The whole of it; returns only if each step's checks hold."""
    if shutil.which("cargo") is None:
        raise Failure("cargo is not on the PATH: install Rust first")
    say("Building the function (some minutes the first time)")
    build()

    say("Starting a local AWS (ministack) and a local DNS server")
    with ministack(work) as cloud, closing(DnsServer()) as dns:
        tell(f"AWS {cloud.endpoint}, DNS {dns.address}")

        say("Creating a VPC, two subnets, an internal NLB, an IP target group and a listener")
        group = cloud.create_target_group("orders", PORT)
        tell(group.arn)

        say("Starting the function with cargo lambda watch")
        tell(f"BINDINGS={bindings(group)}")
        with serve(cloud, dns, work, BINDINGS=bindings(group)) as function:
            scenario = Scenario(cloud, dns, group, function)

            say(f"{HOSTNAME} is {BEFORE}; the schedule invokes the function")
            show("scheduler.json", scenario.first_sync())

            say("Nothing has changed a minute later, and nothing is done")
            show("scheduler.json", scenario.second_sync())

            say(f"Failover: {HOSTNAME} moves to {AFTER}; RDS sends an event")
            show("rds-instance-failover.json", scenario.failover())

            say("DNS fails: the invocation fails and says why, and the targets stay")
            show("scheduler.json", scenario.dns_failure())

            say("What the function sent to CloudWatch in these four runs")
            metrics = scenario.metrics()
            tell(f"namespace NlbHostnameTargets, TargetGroup={group.dimension}\n")
            table(["METRIC", "VALUES", "SUM"], [[name, *values] for name, values in metrics.items()])

        say("Stopping the function, the DNS server and the local AWS")


def say(headline: str) -> None:
    """Begins a step."""
    print(f"\n[{time.monotonic() - _started:5.1f} s] {headline}", flush=True)


def tell(text: str) -> None:
    """A detail of the step."""
    print(textwrap.indent(text, "    "), flush=True)


def show(event: str, step: Step) -> None:
    """What an invocation did to the target group."""
    tell(f"cargo lambda invoke --data-file events/{event}")
    if step.invocation.error is not None:
        tell(f"function error: {step.invocation.error}")
    else:
        reply = step.invocation.group
        done = [f"{verb} {', '.join(reply[verb])}" for verb in ("registered", "deregistered") if reply[verb]]
        tell(f"reply: {'; '.join([reply['outcome'], *done])}")
    print()
    targets = sorted(step.before.keys() | step.after.keys())
    table(
        ["TARGET", "BEFORE", "AFTER"],
        [[target, step.before.get(target, "-"), step.after.get(target, "-")] for target in targets],
    )


def table(head: list[str], rows: list[list[object]]) -> None:
    """Prints aligned columns."""
    lines = [head, *([f"{cell:g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    for line in lines:
        tell("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
