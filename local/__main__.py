"""`make run`: a consumer writes to PostgreSQL through failovers, told step by step."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import closing
from pathlib import Path

from local.cloud import ministack
from local.database import database
from local.deployment import SCHEDULE_SECONDS, Deployment, deployed, package
from local.dns import DnsServer
from local.function import EVENTS
from local.process import ROOT, Failure, in_background, isolate, wait_for
from local.scenario import AFTER, BEFORE, FAILOVER, HOSTNAME, PORT, Outage, World, world

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

    say("Starting a local AWS (ministack), a local DNS server, and PostgreSQL with a synchronous standby")
    with ministack(work) as cloud, closing(DnsServer()) as dns, database(HOSTNAME, (BEFORE, AFTER)) as postgres:
        tell(f"AWS {cloud.endpoint}, which enforces IAM; DNS {dns.address}; PostgreSQL on {BEFORE} and {AFTER},")
        tell(f"which are {postgres.writer.host} and {postgres.standby.host} here")
        dns.answer(HOSTNAME, BEFORE)

        say("Creating a VPC and two subnets; sam deploy creates all else")
        vpc, subnets = cloud.create_network()
        parameters = {"Hostname": HOSTNAME, "Port": str(PORT), "VpcId": vpc, "SubnetIds": ",".join(subnets)}
        parameters |= {"AllowedPrincipals": CONSUMER, "DatabaseArns": DATABASE, "AlarmEmail": "you@example.com"}
        parameters |= {"DnsServers": dns.address}
        with deployed(cloud, work, template, "orders", parameters) as stack:
            tell(f"load balancer {stack.outputs['LoadBalancerDnsName']}")
            tell(f"endpoint service {stack.outputs['ServiceName']}")
            invocation = stack.invoke(EVENTS / "scheduler.json")
            tell(f"the first run registers {', '.join(invocation.group['registered'])}")

            say("A consumer begins to write: a row each 20 ms through the load balancer, over TLS with verify-full")
            with world(cloud, dns, postgres, stack.group) as seen:
                follow(stack, seen)

        say("Stopping the consumer, the load balancer, PostgreSQL, the DNS server and the local AWS")


def follow(stack: Deployment, seen: World) -> None:
    """What happens to the database, and what the consumer meets."""
    met = {
        "failover, with RDS's event": announced(stack, seen),
        "failover, no event": unannounced(seen),
        "DNS fails": without_dns(stack, seen),
        "the database dies": without_database(stack, seen),
    }
    say("What the consumer met")
    parts = list(dict.fromkeys(part for outage in met.values() for part in outage.parts))
    rows = [
        [what, f"{x.seconds:.1f} s", *(f"{x.parts[y]:.1f}" if y in x.parts else "" for y in parts)]
        for what, x in met.items()
    ]
    table(["", "NO WRITE FOR", *(x.upper() for x in parts)], rows)
    changes = seen.check_writers()
    expect(changes == 2, "a writer that changed twice", changes)
    tell(f"\nAll {seen.check_rows()} acknowledged rows are there, and never did two instances take writes at a time.")


def announced(stack: Deployment, seen: World) -> Outage:
    """A failover with its event, which starts a watch."""
    say(f"Failover to {AFTER}: RDS sends an event, and the function watches; seconds later the name moves")
    expect(stack.rule_matches(FAILOVER), f"a rule that matches events/{FAILOVER}", "none")
    watch = in_background(lambda: stack.invoke(EVENTS / FAILOVER))
    outage = seen.fail_over()
    tell(str(outage))
    expect(not watch.done(), "an invocation that goes on watching", watch)
    targets(seen)
    tell("the watch goes on until the name has stayed the same for 30 s")
    reply = watch.result().group
    expect(reply["registered"] == [f"{AFTER}:{PORT}"], f"{AFTER}:{PORT} registered", reply)
    expect(reply["deregistered"] == [f"{BEFORE}:{PORT}"], f"{BEFORE}:{PORT} deregistered", reply)
    return outage


def unannounced(seen: World) -> Outage:
    """A failover of which nobody tells the function."""
    say(f"Failover back to {BEFORE}, and the event gets lost: the schedule finds it, which may take a minute")
    outage = seen.fail_over(seconds=SCHEDULE_SECONDS)
    tell(str(outage))
    targets(seen)
    return outage


def without_dns(stack: Deployment, seen: World) -> Outage:
    """DNS answers with an error: the invocation fails, saying for whom, and the targets stay."""
    say("DNS fails: the run fails and says why, the targets stay, and the consumer does not notice")
    began, before = time.monotonic(), set(seen.cloud.targets(seen.group))
    seen.dns.fail(HOSTNAME, "SERVFAIL")
    error = str(stack.invoke(EVENTS / "scheduler.json").error)
    expect(HOSTNAME in error and "SERVFAIL" in error, f"an error that names {HOSTNAME} and SERVFAIL", error)
    tell(textwrap.fill(f"function error: {error}", 110))
    expect(set(seen.cloud.targets(seen.group)) == before, f"the targets as before, {before}", "others")
    seen.move_name()
    errors = seen.consumer.met(began)
    expect(not errors, "a consumer that meets no error", errors)
    return Outage({}, errors)


def without_database(stack: Deployment, seen: World) -> Outage:
    """Both instances crash: the load balancer, the metric and the check say so."""
    say("The database dies, both instances of it: the load balancer's health checks find it")
    died = time.monotonic()
    seen.database.die()
    target = f"{BEFORE}:{PORT}"
    wait_for("an unhealthy target", lambda: seen.balancer.first(target, "unhealthy", died), 60)
    before = seen.cloud.metrics(seen.group)["HealthyTargets"]
    stack.invoke(EVENTS / "scheduler.json")
    sent = lambda: (after := seen.cloud.metrics(seen.group)["HealthyTargets"]) != before and after
    after = wait_for("the metrics of a run", lambda: sent() or None, 10)
    expect(after[1] == before[1], "a run that adds 0 to HealthyTargets", after)
    targets(seen)
    tell("the load balancer's HealthyHostCount, which NoHealthyTargetAlarm goes by, and the function's HealthyTargets")
    tell(f"are 0; make verify STACK={stack.stack} says:")
    command = [sys.executable, "-m", "tools.verify", "--stack", stack.stack]
    env = {**os.environ, "AWS_ENDPOINT_URL": str(seen.cloud.endpoint)}
    verified = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    tell(textwrap.indent(verified.stdout.rstrip(), "  "))
    expect(verified.returncode == 1, "make verify to fail", verified.stderr or verified.stdout)
    expect("no-healthy-target" in verified.stdout, "the finding no-healthy-target", verified)
    seen.database.revive()
    revived = time.monotonic()
    writer = seen.database.writer.host
    first = wait_for("the consumer to write again", lambda: seen.consumer.first_on(writer, revived), 60)
    last = seen.consumer.last_before(died)
    outage = Outage({"database": revived - last, "load balancer": first - revived}, seen.consumer.met(died))
    tell(f"the database is back: {outage}")
    return outage


def targets(seen: World) -> None:
    """What the target group holds, once the load balancer has checked it."""
    states = lambda: seen.cloud.targets(seen.group)
    wait_for("the first health check", lambda: "initial" not in states().values() or None, 20)
    tell("targets: " + ", ".join(f"{target} {state}" for target, state in states().items()))


def expect(truth: bool, promise: str, found: object) -> None:
    """Fails unless it is true, telling what was promised and what was found."""
    if not truth:
        raise Failure(f"expected {promise}, found {found}")


def say(headline: str) -> None:
    """Begins a step."""
    print(f"\n[{time.monotonic() - _started:5.1f} s] {headline}", flush=True)


def tell(text: str) -> None:
    """A detail of the step."""
    print(textwrap.indent(text, "    "), flush=True)


def table(head: list[str], rows: list[list[str]]) -> None:
    """Prints aligned columns."""
    lines = [head, *rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    for line in lines:
        tell("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
