"""`make acceptance-aws`: a stack from a package, through the failovers of `make run`, on AWS.

What no emulation can tell is measured: how soon the load balancer follows, what becomes of connections, and what
CloudFormation makes of changes of the stack. On an emulation all that it has runs, and the rest is not supported.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from conformance.facts import Outcome, judge
from conformance.network import TAG, Network, Stack, removing
from conformance.places import NotSupported, expect
from conformance.scenario import Scenario
from local.cloud import Cloud
from local.deployment import SCHEDULE_SECONDS, Deployment
from local.process import ROOT, Failure, in_background, wait_for
from local.scenario import AFTER, BEFORE, PORT

STACK_POLICY = ROOT / "tools" / "stack-policy.json"
REPORT = ROOT / "target" / "acceptance.md"
HOSTNAME = "orders.conformance.internal"

COSTS = f"""\
It makes two stacks: a VPC, a private hosted zone, a bucket, two t4g.nano servers and a function that connects to them;
and the stack of a package, with its network load balancer and endpoint service. They are there for about an hour, of
which half is their removal, and cost less than 0.30 USD.
Everything has the tag {TAG}. Everything is removed in the end, also if it fails or is interrupted."""

# What the client saw: see Client in network.yaml.
Seen = dict[str, Any]


@dataclass
class Zone:
    """The private hosted zone, as scenarios know DNS. What it says is soon what the resolver says."""

    place: Network
    identifier: str
    changed_at: float = 0
    # Whether a change is waited for until all of Route 53 has it.
    waits: bool = True
    _address: str = ""

    def forget_soon(self) -> None:
        """Lets resolvers keep for seconds that there is no such name, not for a quarter of an hour."""
        records = self._route53.list_resource_record_sets(HostedZoneId=self.identifier)["ResourceRecordSets"]
        (start,) = [x for x in records if x["Type"] == "SOA"]
        *fields, _ = start["ResourceRecords"][0]["Value"].split()
        self._change("UPSERT", {**start, "TTL": 5, "ResourceRecords": [{"Value": " ".join([*fields, "5"])}]})

    def answer(self, name: str, address: str) -> None:
        """From now on the name has this address."""
        self._address = address
        self._change("UPSERT", self._record(name))

    def fail(self, name: str, code: str) -> None:
        """From now on there is no such name, which is the one error that a zone can give."""
        expect(code == "NXDOMAIN", code)
        self._change("DELETE", self._record(name))

    @property
    def _route53(self) -> Any:
        return self.place.client("route53")

    def _record(self, name: str) -> dict[str, Any]:
        return {"Name": name, "Type": "A", "TTL": 5, "ResourceRecords": [{"Value": self._address}]}

    def _change(self, action: str, record: dict[str, Any]) -> None:
        batch = {"Changes": [{"Action": action, "ResourceRecordSet": record}]}
        change = self._route53.change_resource_record_sets(HostedZoneId=self.identifier, ChangeBatch=batch)
        self.changed_at = time.time()
        if self.waits:
            often = {"Delay": self.place.pause, "MaxAttempts": 100}
            waiter = self._route53.get_waiter("resource_record_sets_changed")
            waiter.wait(Id=change["ChangeInfo"]["Id"], WaiterConfig=often)
            # What resolvers have kept.
            time.sleep(0 if self.place.endpoint else 6)


@dataclass
class Report:
    """What each step came to."""

    place: Network
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def step(self, what: str, act: Callable[[], object], aws_only: bool = False) -> bool:
        """Does a step, of which only text is told; whether it did what it says."""

        def told() -> str:
            if aws_only and self.place.endpoint:
                raise NotSupported("on AWS only")
            return said if isinstance(said := act(), str) else ""

        outcome = self.outcomes[what] = judge(told)
        print(f"{what}: {outcome.verdict}: {outcome.seen}", flush=True)
        return outcome.verdict != "differs"

    def write(self, package: str) -> None:
        """Prints the report, for an issue, and keeps it."""
        lines = [f"Acceptance of {package} in {self.place.session.region_name}, run {self.place.run}:", ""]
        lines += ["| step | |", "|---|---|", *(f"| {what} | {x.cell()} |" for what, x in self.outcomes.items())]
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text("\n".join(lines) + "\n")
        print(f"\n{REPORT.read_text()}\nThe same is in {REPORT}.\n", flush=True)


def main(place: Network, package: Path, **further: str) -> int:
    """Accepts the package, with further parameters of its stack; 0 if nothing differs."""
    # arm64 where it has both processors.
    found = sorted(package.glob("nlb-hostname-targets-*.zip"))
    if not found or not (package / "template.yaml").exists():
        raise Failure(f"{package} has no package: `make package` makes one, PACKAGE=… names another folder")
    report = Report(place)
    with removing(place, print):
        try:
            accept(report, package / "template.yaml", found[0], **further)
        finally:
            report.write(found[0].stem)
    return 1 if any(x.verdict == "differs" for x in report.outcomes.values()) else 0


def accept(report: Report, template: Path, code: Path, **parameters: str) -> None:
    """All steps."""
    place = report.place
    around = place.stack("acceptance")
    s3 = place.client("s3")
    for file in (code, template):
        s3.upload_file(str(file), around["Bucket"], file.name)
    zone = Zone(place, around["HostedZoneId"])
    zone.forget_soon()
    source = {"TemplateURL": f"{s3.meta.endpoint_url}/{around['Bucket']}/{template.name}"}
    _, partition, _, _, account, _ = place.client("sts").get_caller_identity()["Arn"].split(":", 5)
    stack = Stack(place, f"acceptance-{place.run}", source, tags={"Application": "nlb-hostname-targets"})
    stack.create(
        CodeS3Bucket=around["Bucket"],
        CodeS3Key=code.name,
        Architecture=code.stem.rsplit("-", 1)[1],
        Hostname=HOSTNAME,
        Port=str(PORT),
        VpcId=around["VpcId"],
        SubnetIds=around["SubnetIds"],
        FunctionSubnetIds=around["SubnetIds"],
        AllowedPrincipals=f"arn:{partition}:iam::{account}:root",
        **parameters,
    )
    # As `make deploy` does.
    stack.formation.set_stack_policy(StackName=stack.name, StackPolicyBody=STACK_POLICY.read_text())
    cloud = Cloud(place.name, place.endpoint, attempts=1 if place.endpoint else 8)
    deployment = Deployment(cloud, stack.name)
    within = 3.0 if place.endpoint else 120.0
    scenario = Scenario(cloud, zone, deployment.group, deployment, HOSTNAME, within)
    if failovers(report, scenario, around.get("Client")):
        changes(report, stack)
    report.step("the stack is deleted, and nothing of it is left", lambda: deleted(stack))


# The failovers of `make run`.


def failovers(report: Report, scenario: Scenario, client: str | None) -> bool:
    """The steps of scenario.py, and what connections see of them; whether the targets follow at all."""
    # Otherwise the schedule might come first.
    schedule(scenario.function, "DISABLED")
    if not report.step("the first run registers the address", scenario.first_sync):
        return False
    report.step("how long until the target is healthy", lambda: healthy(scenario))
    report.step("the next run changes nothing", scenario.second_sync)
    report.step("DNS fails: the run fails, and the targets stay", lambda: scenario.dns_failure("NXDOMAIN"))
    report.step("DNS is back: a check finds nothing wrong", scenario.verified)
    failover(report, scenario, client)
    schedule(scenario.function, "ENABLED")
    minutes = SCHEDULE_SECONDS + (0 if report.place.endpoint else 120)
    back = lambda: scenario.scheduled(BEFORE, minutes)
    report.step("the name moves back without an event, and the schedule follows", back)
    # As `make run` has them, but from the log, because the function is in a VPC.
    metrics = lambda: str({name: total for name, (_, total) in scenario.metrics(5, 3, seconds=300).items()})
    report.step("CloudWatch has the metrics of these runs", metrics, aws_only=True)
    return True


def schedule(function: Deployment, state: str) -> None:
    """Lets the schedule run the function, or not."""
    scheduler = function.cloud.client("scheduler")
    found = scheduler.get_schedule(Name=function.resources["Schedule"])
    known = ("Name", "GroupName", "Description", "ScheduleExpression", "FlexibleTimeWindow", "Target")
    scheduler.update_schedule(**{key: found[key] for key in known if key in found}, State=state)
    # What runs already.
    time.sleep(65 if state == "DISABLED" and not function.cloud.endpoint else 0)


def healthy(scenario: Scenario) -> str:
    """Waits for it."""
    started = time.monotonic()
    wanted = {f"{BEFORE}:{PORT}": "healthy"}
    wait_for(f"{wanted}", lambda: scenario.cloud.targets(scenario.group) == wanted or None, 300, pause=0.5)
    return f"{time.monotonic() - started:.0f} s"


def failover(report: Report, scenario: Scenario, client: str | None) -> None:
    """An event, a watch, and the record changes while connections come in."""
    zone = scenario.dns
    ahead, connecting = connect(scenario, client, 240) if client else (0.0, None)

    def watch() -> str:
        followed = scenario.failover().followed_after
        return f"DescribeTargetHealth showed it {followed:.1f} s after the record's change"

    zone.waits = False
    followed = report.step("an RDS event, then the record changes: the watch follows", watch)
    zone.waits = True
    if not followed:
        return
    changed = zone.changed_at + ahead
    report.step("RegisterTargets", lambda: after(changed, registered_at(scenario, changed)), aws_only=True)
    connections(report, lambda: connecting.result() if connecting else {}, changed)


def connect(scenario: Scenario, client: str, seconds: int) -> tuple[float, Future[Seen]]:
    """Begins to connect for so long: how far AWS's clock is ahead of ours, and what will have been seen."""

    def invoke(seconds: int) -> Seen:
        functions = scenario.cloud.client("lambda", read_seconds=900)
        event = {"host": scenario.function.outputs["LoadBalancerDnsName"], "seconds": seconds}
        done = functions.invoke(FunctionName=client, Payload=json.dumps(event))
        reply: Seen = json.loads(done["Payload"].read())
        if "FunctionError" in done:
            raise Failure(f"the client failed: {reply}")
        return reply

    asked = time.time()
    ahead = invoke(0)["now"] - (asked + time.time()) / 2
    connecting = in_background(lambda: invoke(seconds))
    # By then the first connection must be there.
    time.sleep(5)
    return ahead, connecting


def registered_at(scenario: Scenario, since: float) -> float:
    """When the function's log says that it registered the new target."""
    pages = scenario.cloud.client("logs").get_paginator("filter_log_events")
    where = {"logGroupName": scenario.function.outputs["LogGroupName"], "startTime": int(since * 1000)}
    pattern = f'{{ $.fields.message = "registered" && $.fields.target = "{AFTER}:{PORT}" }}'
    search = lambda: next(iter(pages.paginate(**where, filterPattern=pattern).search("events[].timestamp")), None)
    return wait_for(f"a line in the log that {AFTER}:{PORT} was registered", search, 120, pause=5) / 1000


def connections(report: Report, client: Callable[[], Seen], changed: float) -> None:
    """What the client saw."""

    def turns() -> str:
        return ", ".join(f"{who} from {at - changed:.1f} s on" for at, who in client()["changes"])

    def first() -> str:
        found = [at for at, who in client()["changes"] if who == AFTER]
        expect(found != [], f"there is none: {turns()}")
        return after(changed, found[0])

    def last() -> str:
        changes = client()["changes"]
        ends = [end for (_, who), (end, _) in pairwise(changes) if who == BEFORE]
        expect(ends != [] and changes[-1][1] != BEFORE, f"they still come: {turns()}")
        return f"{after(changed, ends[-1])} ({turns()})"

    def held() -> str:
        seen = client()
        expect(seen["held"] == BEFORE, f"it led to {seen['held']}")
        return f"{seen['ended'][1]} {after(changed, seen['ended'][0])}" if seen["ended"] else "it did not end"

    report.step("the first connection on the new target", first, aws_only=True)
    report.step("the last connection on the old target", last, aws_only=True)
    report.step("the end of a connection held on the old target", held, aws_only=True)


def after(changed: float, moment: float) -> str:
    """A moment, by the record's change."""
    return f"{moment - changed:.1f} s after the record's change"


# What CloudFormation makes of changes of the stack, against what docs/operations.md says.


def changes(report: Report, stack: Stack) -> None:
    """The steps."""
    report.step("an update of the stack keeps the tags that others gave the target group", lambda: keeps_tags(stack))
    report.step("AllowedPrincipals is emptied: the service stays, and nobody may connect", lambda: nobody(stack))
    first = stack.parameters["SubnetIds"].split(",")[0]
    removed = lambda: stack.update(SubnetIds=first) or "done"
    # Whether AWS takes a zone from a network load balancer is not known to us.
    report.step("what becomes of a subnet that is removed from SubnetIds", removed, aws_only=True)
    # ministack keeps a stack policy, and does not go by it.
    report.step("another port: the stack policy keeps the target group", lambda: other_port(stack), aws_only=True)


def keeps_tags(stack: Stack) -> None:
    """The stack's own tags change, and one that is not the stack's is still there."""
    arn = stack.outputs()["TargetGroupArn"]
    own, theirs = {"Key": "Application", "Value": "acceptance"}, {"Key": f"{TAG}-kept", "Value": "yes"}
    stack.place.elb.add_tags(ResourceArns=[arn], Tags=[theirs])
    stack.tags = {"Application": "acceptance"}
    expect((why := stack.update()) == "", why)
    (found,) = stack.place.elb.describe_tags(ResourceArns=[arn])["TagDescriptions"]
    expect(own in found["Tags"] and theirs in found["Tags"], found["Tags"])


def nobody(stack: Stack) -> None:
    """No principal is left, and the service is the same."""
    before = stack.outputs()["ServiceName"]
    expect((why := stack.update(AllowedPrincipals="")) == "", why)
    outputs = stack.outputs()
    expect(outputs["ServiceName"] == before, f"{before} became {outputs['ServiceName']}")
    ec2 = stack.place.client("ec2")
    found = ec2.describe_vpc_endpoint_service_permissions(ServiceId=outputs["EndpointServiceId"])["AllowedPrincipals"]
    expect(found == [], found)


def other_port(stack: Stack) -> str:
    """It would replace the target group."""
    before = stack.outputs()["TargetGroupArn"]
    why = stack.update(Port=str(PORT + 1))
    expect("stack policy" in why, why or "the update went through")
    expect(stack.outputs()["TargetGroupArn"] == before, "the target group is another")
    return why


def deleted(stack: Stack) -> str:
    """It goes, and so do its group, its log and its service."""
    outputs = stack.outputs()
    started = time.monotonic()
    expect((why := stack.delete()) == "", why)
    client = stack.place.client
    left = [
        *client("elbv2").get_paginator("describe_target_groups").paginate().search("TargetGroups[].TargetGroupArn"),
        *client("logs").get_paginator("describe_log_groups").paginate().search("logGroups[].logGroupName"),
        *[
            x["ServiceId"]
            for x in client("ec2").describe_vpc_endpoint_service_configurations()["ServiceConfigurations"]
        ],
    ]
    kept = {outputs[x] for x in ("TargetGroupArn", "LogGroupName", "EndpointServiceId")} & {*left}
    expect(not kept, f"left: {kept}")
    return f"{time.monotonic() - started:.0f} s"
