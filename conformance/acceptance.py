"""`make acceptance-aws`: a stack from a package, through the failovers of `make run`, on AWS.

What no emulation can tell is measured: how soon the load balancer follows, what becomes of connections, and what
CloudFormation makes of changes of the stack. On an emulation all that it has runs, and the rest is not supported.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from samcli.yamlhelper import yaml_parse

from conformance.facts import Differs, NotSupported, Outcome, expect
from conformance.network import TAG, Network, removing
from local.cloud import Cloud
from local.deployment import SCHEDULE_SECONDS, Deployment
from local.process import ROOT, Failure, in_background, wait_for
from local.scenario import AFTER, BEFORE, PORT, Scenario, registered
from tools.deploy import STACK_POLICY, TARGETS, archive

SURROUNDINGS = ROOT / "conformance" / "acceptance.yaml"
REPORT = ROOT / "target" / "acceptance.md"
DOMAIN = "conformance.internal"
HOSTNAME = f"orders.{DOMAIN}"
# The function's own tags, in which it keeps its state.
OUR_TAGS = "nlb-hostname-targets:"

COSTS = f"""\
It makes two stacks: a VPC, a private hosted zone, a bucket, two t4g.nano servers and a function that connects to them;
and the stack of a package, with its network load balancer and endpoint service. They are there for about an hour, of
which half is their removal, and cost less than 0.30 USD.
Everything has the tag {TAG}. Everything is removed in the end, also if it fails or is interrupted."""


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
        route53 = self.place.client("route53")
        records = route53.list_resource_record_sets(HostedZoneId=self.identifier)["ResourceRecordSets"]
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

    def _record(self, name: str) -> dict[str, Any]:
        return {"Name": name, "Type": "A", "TTL": 5, "ResourceRecords": [{"Value": self._address}]}

    def _change(self, action: str, record: dict[str, Any]) -> None:
        route53 = self.place.client("route53")
        batch = {"Changes": [{"Action": action, "ResourceRecordSet": record}]}
        change = route53.change_resource_record_sets(HostedZoneId=self.identifier, ChangeBatch=batch)["ChangeInfo"][
            "Id"
        ]
        self.changed_at = time.time()
        if self.waits:
            status = lambda: route53.get_change(Id=change)["ChangeInfo"]["Status"]
            wait_for("the zone's change", lambda: status() == "INSYNC" or None, 300, pause=self.place.pause)
            # What resolvers have kept.
            time.sleep(0 if self.place.endpoint else 6)


@dataclass
class Report:
    """What each step came to."""

    place: Network
    rows: list[tuple[str, Outcome]] = field(default_factory=list)

    def step(self, what: str, act: Callable[[], str | None], measured: bool = False) -> bool:
        """Does a step; whether it did what it says."""
        try:
            outcome = Outcome("measured" if measured else "holds", act() or "")
        except NotSupported as unsupported:
            outcome = Outcome("not supported", str(unsupported))
        except (Differs, Failure, BotoCoreError, ClientError) as failure:
            outcome = Outcome("differs", str(failure))
        self.add(what, outcome)
        return outcome.verdict != "differs"

    def add(self, what: str, outcome: Outcome) -> None:
        """Tells of one."""
        print(f"{what}: {outcome.verdict}{f': {outcome.seen}' if outcome.seen else ''}", flush=True)
        self.rows.append((what, outcome))

    def on_aws(self) -> None:
        """Ends a step that an emulation has nothing to say to."""
        if self.place.endpoint:
            raise NotSupported("on AWS only")

    def markdown(self, package: str) -> str:
        """The report, for an issue."""
        lines = [f"Acceptance of {package} in {self.place.session.region_name}, run {self.place.run}:", ""]
        lines += ["| step | verdict | seen |", "|---|---|---|"]
        for what, outcome in self.rows:
            seen = " ".join(outcome.seen.split()).replace("|", "\\|")
            lines.append(f"| {what} | {outcome.verdict} | {seen} |")
        return "\n".join(lines) + "\n"


def main(place: Network, package: Path, settings: str = "") -> int:
    """Accepts the package; 0 if nothing differs. The settings are further ones of the stack."""
    architecture, code = function_of(package)
    report = Report(place)
    with removing(place, print):
        try:
            accept(report, package / "template.yaml", code, architecture, settings)
        finally:
            REPORT.parent.mkdir(exist_ok=True)
            REPORT.write_text(report.markdown(code.stem))
            print(f"\n{REPORT.read_text()}\nThe same is in {REPORT}.\n", flush=True)
    return 1 if any(outcome.verdict == "differs" for _, outcome in report.rows) else 0


def function_of(package: Path) -> tuple[str, Path]:
    """The processor and the zip of a package; arm64 where it has both."""
    for architecture in sorted(TARGETS):
        if (code := archive(package, architecture)).exists() and (package / "template.yaml").exists():
            return architecture, code
    raise Failure(f"{package} has no package of this version: `make package` makes one, PACKAGE=… names another folder")


def accept(report: Report, template: Path, code: Path, architecture: str, settings: str) -> None:
    """All steps."""
    place = report.place
    connections = "false" if place.endpoint else "true"
    around = create(
        place,
        f"surroundings-{place.run}",
        {"TemplateBody": json.dumps(yaml_parse(SURROUNDINGS.read_text()))},
        {"Zones": ",".join(place.find_zones()), "Domain": DOMAIN, "Connections": connections},
    )
    s3 = place.client("s3")
    s3.upload_file(str(code), around["Bucket"], code.name)
    s3.upload_file(str(template), around["Bucket"], template.name)
    source = {"TemplateURL": f"{s3.meta.endpoint_url}/{around['Bucket']}/{template.name}"}
    zone = Zone(place, around["HostedZoneId"])
    zone.forget_soon()
    name = f"acceptance-{place.run}"
    stack = Product(place, name, source)
    started = time.monotonic()
    account = place.client("sts").get_caller_identity()["Account"]
    stack.create(
        CodeS3Bucket=around["Bucket"],
        CodeS3Key=code.name,
        Architecture=architecture,
        Hostname=HOSTNAME,
        Port=str(PORT),
        VpcId=around["VpcId"],
        SubnetIds=around["SubnetIds"],
        FunctionSubnetIds=around["SubnetIds"],
        CreateInterfaceEndpoints="true",
        AllowedPrincipals=f"arn:{stack.partition}:iam::{account}:root",
        CreateDashboard="false",
        Settings=settings,
    )
    report.add("a stack from the package", Outcome("measured", f"made in {time.monotonic() - started:.0f} s"))
    cloud = Cloud(place.name, place.endpoint, attempts=1 if place.endpoint else 8)
    deployment = Deployment(cloud, name)
    following = 3.0 if place.endpoint else 120.0
    scenario = Scenario(cloud, zone, deployment.group, deployment, HOSTNAME, following)
    client = Client(place, around.get("Client", ""), deployment.outputs["LoadBalancerDnsName"])
    if failovers(report, scenario, stack, zone, client):
        changes(report, scenario, stack)
    report.step("the stack is deleted, and nothing of it is left", lambda: deleted(stack, deployment))


# The failovers of `make run`.


def failovers(report: Report, scenario: Scenario, stack: Product, zone: Zone, client: Client) -> bool:
    """The steps of local/scenario.py, and what connections see of them; whether the targets follow at all."""
    wait = 0 if report.place.endpoint else 60
    with stack.paused():
        # Otherwise the schedule might come first.
        if not report.step("the first run registers the address", lambda: told(scenario.first_sync())):
            return False
        report.step("the target becomes healthy", lambda: healthy(scenario, BEFORE), measured=True)
        report.step("the next run changes nothing", lambda: told(scenario.second_sync()))
        failover(report, scenario, zone, client)
    moved = lambda: told(scenario.scheduled(BEFORE, SCHEDULE_SECONDS + 2 * wait))
    report.step("the name moves back without an event, and the schedule follows", moved)
    report.step("the target becomes healthy again", lambda: healthy(scenario, BEFORE), measured=True)
    with stack.paused():
        report.step("DNS fails: the run fails, and the targets stay", lambda: told(scenario.dns_failure("NXDOMAIN")))
        report.step("DNS is back: a check finds nothing wrong", lambda: told(scenario.verified()))
    report.step("CloudWatch has the metrics of these runs", lambda: metrics(report, scenario))
    return True


def told(_: object) -> str:
    """A step of the scenario says by itself if it did not do what it should."""
    return ""


def healthy(scenario: Scenario, address: str) -> str:
    """How long until the target is."""
    started = time.monotonic()
    wanted = {f"{address}:{PORT}": "healthy"}
    targets = lambda: scenario.cloud.targets(scenario.group)
    wait_for(f"{wanted}", lambda: targets() == wanted or None, 300, pause=0.5)
    return f"{time.monotonic() - started:.0f} s later"


def failover(report: Report, scenario: Scenario, zone: Zone, client: Client) -> None:
    """An event, a watch, and the record changes while connections come in."""
    connecting = client.connect(seconds=240)

    def watch() -> str:
        step = scenario.failover()
        return f"DescribeTargetHealth showed it {step.followed_after:.1f} s after the record's change"

    zone.waits = False
    followed = report.step("an RDS event, then the record changes: the watch follows", watch)
    zone.waits = True
    changed = zone.changed_at + client.ahead
    if not followed:
        return
    report.step("RegisterTargets", lambda: to_register(report, scenario, changed), measured=True)
    connections(report, connecting.result() if connecting else None, changed)


def to_register(report: Report, scenario: Scenario, changed: float) -> str:
    """When the function's log says that it registered the new target; elsewhere lines have no time."""
    report.on_aws()
    target = f"{AFTER}:{PORT}"
    group = scenario.function.outputs["LogGroupName"]
    pages = scenario.cloud.client("logs").get_paginator("filter_log_events")

    def found() -> float | None:
        events = (
            x for page in pages.paginate(logGroupName=group, startTime=int(changed * 1000)) for x in page["events"]
        )
        return next((at for x in events if (at := registered_at(x["message"], target))), None)

    return after(changed, wait_for(f"a line in the log that {target} was registered", found, 120, pause=5))


def registered_at(line: str, target: str) -> float | None:
    """The time of a line that says that the target was registered."""
    if not line.startswith("{"):
        return None
    said = json.loads(line)
    fields = said.get("fields", {})
    if (fields.get("message"), fields.get("target")) != ("registered", target):
        return None
    return datetime.fromisoformat(said["timestamp"].replace("Z", "+00:00")).timestamp()


def connections(report: Report, seen: dict[str, Any] | None, changed: float) -> None:
    """What the client saw."""

    def first() -> str:
        report.on_aws()
        found = [at for at, who in seen["changes"] if who == AFTER]
        expect(found != [], f"there is none: {turns()}")
        return after(changed, found[0])

    def last() -> str:
        report.on_aws()
        ends = [end for (_, who), (end, _) in pairwise(seen["changes"]) if who == BEFORE]
        expect(ends != [] and seen["changes"][-1][1] != BEFORE, f"they still come: {turns()}")
        return f"{after(changed, ends[-1])} ({turns()})"

    def held() -> str:
        report.on_aws()
        expect(seen["held"] == BEFORE, f"it led to {seen['held']}")
        return f"{seen['ended'][1]} {after(changed, seen['ended'][0])}" if seen["ended"] else "it did not end"

    def turns() -> str:
        return ", ".join(f"{who} from {at - changed:.1f} s on" for at, who in seen["changes"])

    report.step("the first connection on the new target", first, measured=True)
    report.step("the last connection on the old target", last, measured=True)
    report.step("the end of a connection held on the old target", held, measured=True)


def after(changed: float, moment: float) -> str:
    """A moment, by the record's change."""
    return f"{moment - changed:.1f} s after the record's change"


def metrics(report: Report, scenario: Scenario) -> str:
    """As `make run` has them, but from the log, because the function is in a VPC."""
    if report.place.endpoint:
        raise NotSupported("metrics in the embedded metric format")
    found = scenario.metrics(runs=5, changes=3, seconds=300)
    return ", ".join(f"{name} {total:g}" for name, (_, total) in found.items())


@dataclass
class Client:
    """What connects through the load balancer, if there is something."""

    place: Network
    function: str
    host: str
    # Of AWS's clock before ours, in seconds.
    ahead: float = 0

    def connect(self, seconds: int) -> Any:
        """Begins to connect for so long; a future of what was seen, once the first connection must be there."""
        if not self.function:
            return None
        asked = time.time()
        self.ahead = self._invoke(0)["now"] - (asked + time.time()) / 2
        connecting = in_background(lambda: self._invoke(seconds))
        time.sleep(5)
        return connecting

    def _invoke(self, seconds: int) -> dict[str, Any]:
        functions = Cloud(self.place.name, None).client("lambda", read_seconds=900)
        event = json.dumps({"host": self.host, "seconds": seconds})
        done = functions.invoke(FunctionName=self.function, Payload=event)
        reply: dict[str, Any] = json.loads(done["Payload"].read())
        if "FunctionError" in done:
            raise Failure(f"the client failed: {reply}")
        return reply


# Changes of the stack.


def changes(report: Report, scenario: Scenario, stack: Product) -> None:
    """What CloudFormation makes of them, against what docs/operations.md says."""
    report.step("an update of the stack keeps the function's tags", lambda: keeps_tags(scenario, stack))
    report.step("AllowedPrincipals is emptied: the service stays, and nobody may connect", lambda: nobody(stack))
    report.step("a subnet is removed from SubnetIds", lambda: without_a_subnet(report, stack), measured=True)
    report.step("the address family changes: the stack policy refuses it", lambda: other_family(report, stack))


def keeps_tags(scenario: Scenario, stack: Product) -> str:
    """The function writes a tag, the stack's own tags change, and the function's is still there."""
    settings = f"{stack.parameters['Settings']} DEREGISTER_AFTER_SECONDS=86400".strip()
    expect(stack.update(Settings=settings) == "", "the update failed")
    scenario.dns.answer(HOSTNAME, AFTER)
    both = {f"{BEFORE}:{PORT}", f"{AFTER}:{PORT}"}
    follow = lambda: registered(scenario.cloud.targets(scenario.group)) == both or None
    scenario.function.invoke({})
    wait_for("both targets", follow, SCHEDULE_SECONDS, pause=0.5)

    def own() -> dict[str, str] | None:
        (found,) = scenario.cloud.elb.describe_tags(ResourceArns=[scenario.group.arn])["TagDescriptions"]
        return {x["Key"]: x["Value"] for x in found["Tags"] if x["Key"].startswith(OUR_TAGS)} or None

    before = wait_for("a tag of the function", own, 60, pause=0.5)
    stack.tags = {**stack.tags, "Application": "acceptance"}
    expect(stack.update() == "", "the update failed")
    (found,) = scenario.cloud.elb.describe_tags(ResourceArns=[scenario.group.arn])["TagDescriptions"]
    expect({"Key": "Application", "Value": "acceptance"} in found["Tags"], f"the stack's tag did not arrive: {found}")
    after = own()
    expect(after == before, f"{before} became {after}")
    return ", ".join(before)


def nobody(stack: Product) -> str:
    """No principal is left, and the service is the same."""
    before = stack.outputs()["ServiceName"]
    expect(stack.update(AllowedPrincipals="") == "", "the update failed")
    outputs = stack.outputs()
    expect(outputs["ServiceName"] == before, f"{before} became {outputs['ServiceName']}")
    ec2 = stack.place.client("ec2")
    found = ec2.describe_vpc_endpoint_service_permissions(ServiceId=outputs["EndpointServiceId"])["AllowedPrincipals"]
    expect(found == [], found)
    return ""


def without_a_subnet(report: Report, stack: Product) -> str:
    """Whether AWS takes a zone from a network load balancer is not known to us."""
    report.on_aws()
    first = stack.parameters["SubnetIds"].split(",")[0]
    return f"refused: {why}" if (why := stack.update(SubnetIds=first)) else "done"


def other_family(report: Report, stack: Product) -> str:
    """It would replace the target group."""
    # ministack keeps a stack policy, and does not go by it.
    report.on_aws()
    before = stack.outputs()["TargetGroupArn"]
    why = stack.update(IpAddressType="ipv6")
    expect("stack policy" in why, why or "the update went through")
    expect(stack.outputs()["TargetGroupArn"] == before, "the target group is another")
    return why


def deleted(stack: Product, deployment: Deployment) -> str:
    """It goes, and so do its group, its log and its service."""
    outputs = deployment.outputs
    started = time.monotonic()
    place = stack.place
    place.client("cloudformation").delete_stack(StackName=stack.name)
    if status := settled(place, stack.name):
        raise Differs(f"{status}: {failed(place, stack.name)}")
    groups = [x["TargetGroupArn"] for x in place.client("elbv2").describe_target_groups()["TargetGroups"]]
    expect(outputs["TargetGroupArn"] not in groups, "the target group is left")
    logs = place.client("logs").describe_log_groups(logGroupNamePrefix=outputs["LogGroupName"])["logGroups"]
    expect(logs == [], "the log is left")
    services = place.client("ec2").describe_vpc_endpoint_service_configurations()["ServiceConfigurations"]
    expect(outputs["EndpointServiceId"] not in [x["ServiceId"] for x in services], "the endpoint service is left")
    return f"{time.monotonic() - started:.0f} s"


# Stacks.


@dataclass
class Product:
    """The stack that is accepted."""

    place: Network
    name: str
    source: dict[str, str]
    parameters: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=lambda: {"Application": "nlb-hostname-targets"})

    @property
    def partition(self) -> str:
        """Of the Region."""
        partition: str = self.place.session.get_partition_for_region(self.place.session.region_name)
        return partition

    def create(self, **parameters: str) -> None:
        """Makes it, with the policy that `make deploy` gives a stack."""
        self.parameters = parameters
        create(self.place, self.name, self.source, parameters, self.tags)
        self.place.client("cloudformation").set_stack_policy(StackName=self.name, StackPolicyBody=STACK_POLICY)

    def update(self, **parameters: str) -> str:
        """Updates it; why that failed, if it did."""
        formation = self.place.client("cloudformation")
        since = datetime.now().astimezone()
        wanted = self.parameters | parameters
        formation.update_stack(StackName=self.name, **self.source, **arguments(self.place, wanted, self.tags))
        if settled(self.place, self.name) == "UPDATE_COMPLETE":
            self.parameters = wanted
            return ""
        return failed(self.place, self.name, since) or "it was rolled back"

    def outputs(self) -> dict[str, str]:
        """Its outputs now."""
        return outputs(self.place, self.name)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The schedule does not run the function."""
        scheduler = self.place.client("scheduler")
        (name,) = [
            x["PhysicalResourceId"]
            for x in self.place.client("cloudformation").describe_stack_resources(StackName=self.name)["StackResources"]
            if x["LogicalResourceId"] == "Schedule"
        ]
        found = scheduler.get_schedule(Name=name)
        known = ("Name", "GroupName", "Description", "ScheduleExpression", "FlexibleTimeWindow", "Target")
        schedule = {key: found[key] for key in known if key in found}
        scheduler.update_schedule(**schedule, State="DISABLED")
        # What runs already.
        time.sleep(0 if self.place.endpoint else 65)
        try:
            yield
        finally:
            scheduler.update_schedule(**schedule, State="ENABLED")


def arguments(place: Network, parameters: dict[str, str], tags: dict[str, str]) -> dict[str, Any]:
    """Of CreateStack and UpdateStack."""
    return {
        "Parameters": [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()],
        "Tags": [*place.tags, *({"Key": key, "Value": value} for key, value in tags.items())],
        "Capabilities": ["CAPABILITY_IAM"],
    }


def create(
    place: Network, name: str, source: dict[str, str], parameters: dict[str, str], tags: dict[str, str] | None = None
) -> dict[str, str]:
    """Makes a stack; its outputs."""
    formation = place.client("cloudformation")
    formation.create_stack(StackName=name, **source, **arguments(place, parameters, tags or {}))
    if (status := settled(place, name)) != "CREATE_COMPLETE":
        raise Failure(f"stack {name}: {status}: {failed(place, name)}")
    return outputs(place, name)


def outputs(place: Network, name: str) -> dict[str, str]:
    """A stack's outputs."""
    (stack,) = place.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
    return {x["OutputKey"]: x["OutputValue"] for x in stack.get("Outputs", [])}


def settled(place: Network, name: str) -> str | None:
    """The stack's status once nothing goes on any more; none if there is no such stack any more."""
    formation = place.client("cloudformation")
    deadline = time.monotonic() + 2700
    while True:
        # Those that are deleted are not among all.
        pages = formation.get_paginator("describe_stacks").paginate()
        status = {x["StackName"]: x["StackStatus"] for page in pages for x in page["Stacks"]}.get(name)
        if status in (None, "DELETE_COMPLETE"):
            return None
        if not status.endswith("IN_PROGRESS"):
            return status
        if time.monotonic() > deadline:
            raise Failure(f"stack {name} is still {status} after 45 minutes")
        time.sleep(place.pause)


def failed(place: Network, name: str, since: datetime | None = None) -> str:
    """What failed in a stack, and why."""
    events = place.client("cloudformation").describe_stack_events(StackName=name)["StackEvents"]
    return "; ".join(
        f"{x['LogicalResourceId']}: {x.get('ResourceStatusReason', x['ResourceStatus'])}"
        for x in reversed(events)
        if x["ResourceStatus"].endswith("FAILED") and (since is None or x["Timestamp"] >= since)
    )
