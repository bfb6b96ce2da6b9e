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
from local.deployment import SCHEDULE_SECONDS, Deployment, deployed, package
from local.dns import DnsServer
from local.process import Failure, isolate
from local.scenario import AFTER, BEFORE, DNS_IS_LATE_SECONDS, FAILOVER, HOSTNAME, PORT, Scenario, Step
from tools import verify

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The database of events/rds-instance-failover.json.
DATABASE = "arn:aws:rds:eu-west-1:123456789012:db:orders"
CONSUMER = "arn:aws:iam::123456789012:root"

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
    say("sam build (some minutes the first time; with the dev profile, which is faster to build)")
    template = package(work)

    say("Starting a local AWS (ministack) and a local DNS server")
    with ministack(work) as cloud, closing(DnsServer()) as dns:
        tell(f"AWS {cloud.endpoint}, which enforces IAM; DNS {dns.address}")
        dns.answer(HOSTNAME, BEFORE)

        say("Creating a VPC and two subnets; sam deploy creates all else")
        vpc, subnets = cloud.create_network()
        parameters = {"Hostname": HOSTNAME, "Port": str(PORT), "VpcId": vpc, "SubnetIds": ",".join(subnets)}
        parameters |= {"AllowedPrincipals": CONSUMER, "DatabaseArns": DATABASE, "AlarmEmail": "you@example.com"}
        parameters |= {"DnsServers": dns.address}
        for name, value in parameters.items():
            tell(f"{name}={value}")
        with deployed(cloud, work, template, "orders", parameters) as stack:
            print()
            table(["OUTPUT", "VALUE"], [[name, value] for name, value in stack.outputs.items()])
            follow(stack, Scenario(cloud, dns, stack.group, stack))

        say("Stopping the function, the DNS server and the local AWS")


def follow(stack: Deployment, scenario: Scenario) -> None:
    """The target group follows DNS."""
    say(f"{HOSTNAME} is {BEFORE}; the first run need not wait for the schedule")
    show("hand, with events/scheduler.json", scenario.first_sync())

    say(
        f"Failover: RDS sends an event, and the function watches; {DNS_IS_LATE_SECONDS} s later the name moves to {AFTER}"
    )
    if not stack.rule_matches(FAILOVER):
        raise Failure(f"the rule for RDS events does not match events/{FAILOVER}")
    step = scenario.failover()
    show(f"the rule, which matches events/{FAILOVER}", step)
    tell(f"the targets had followed {step.followed_after:.1f} s after DNS had moved;")
    tell(f"the same invocation watched for another {step.watched_on:.0f} s, in case that the name moved again")

    say(f"{HOSTNAME} moves back to {BEFORE}; no event: waiting for the schedule (up to a minute)")
    show("the schedule", scenario.scheduled(BEFORE, SCHEDULE_SECONDS))

    say("DNS fails: the invocation fails and says why, and the targets stay")
    show("hand, with events/scheduler.json", scenario.dns_failure())

    say("What the function sent to CloudWatch in these four runs")
    metrics = scenario.metrics(runs=4, changes=3)
    tell(f"namespace NlbHostnameTargets, TargetGroup={stack.group.dimension}\n")
    table(["METRIC", "VALUES", "SUM"], [[name, *values] for name, values in metrics.items()])

    say("DNS is back; the function checks the set-up, as by `make verify`")
    tell("\n".join(verify.table(scenario.verified(), verify.colourless)))


def say(headline: str) -> None:
    """Begins a step."""
    print(f"\n[{time.monotonic() - _started:5.1f} s] {headline}", flush=True)


def tell(text: str) -> None:
    """A detail of the step."""
    print(textwrap.indent(text, "    "), flush=True)


def show(trigger: str, step: Step) -> None:
    """What an invocation did to the target group."""
    tell(f"invoked by: {trigger}")
    if step.invocation is None:
        pass
    elif step.invocation.error is not None:
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
