"""The network to run the checks in, made by CloudFormation, and how all that a run made goes again.

Everything is tagged in the call that makes it. What goes is found by that tag, and nothing else ever goes.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError, WaiterError
from samcli.yamlhelper import yaml_parse

from conformance.places import PORT, Group, Place
from local.process import ROOT, Failure

TEMPLATE = ROOT / "conformance" / "network.yaml"
# Each resource has it, with the id of the run that made it. Of the function's own tags it is none.
TAG = "nlb-hostname-targets-conformance"
# The load balancer's interfaces go minutes after it, those of a function in a VPC half an hour.
STACK_SECONDS = 2700
REMOVAL_SECONDS = 2 * STACK_SECONDS

Say = Callable[[str], None]
Removal = tuple[str, Callable[[], Any]]


class Network(Place):
    """A place on AWS, or on an emulation of all of it."""

    def __init__(self, name: str, session: boto3.Session, endpoint: str | None = None) -> None:
        super().__init__(name, session, endpoint, attempts=1 if endpoint else 8)
        self.run = f"{datetime.now(timezone.utc):%Y%m%dt%H%M%S}-{secrets.token_hex(2)}"
        # Between two looks at what goes on.
        self.pause = 0.1
        if endpoint is None:
            # Reads may lag, and targets are initial for minutes.
            self.patience, self.initial_seconds, self.settle_seconds, self.pause = 60, 300, 5, 5
        self._vpc = ""
        self.balancer = ""
        self._made = 0

    @property
    def tags(self) -> list[dict[str, str]]:
        """The tag that everything has."""
        return [{"Key": TAG, "Value": self.run}]

    def stack(self, purpose: str) -> dict[str, str]:
        """Makes the network, and what else is needed for the purpose; the outputs of its stack."""
        ec2 = self.client("ec2")
        here = [{"Name": "zone-type", "Values": ["availability-zone"]}]
        zones = sorted(x["ZoneName"] for x in ec2.describe_availability_zones(Filters=here)["AvailabilityZones"])
        self.zones = zones[0], zones[1]
        source = {"TemplateBody": json.dumps(yaml_parse(TEMPLATE.read_text()))}
        on_aws = "false" if self.endpoint else "true"
        return Stack(self, f"network-{self.run}", source).create(Zones=",".join(self.zones), For=purpose, OnAws=on_aws)

    def create(self) -> None:
        """Makes what the checks need."""
        made = self.stack("checks")
        self._vpc, self.balancer = made["VpcId"], made["LoadBalancerArn"]
        if interface := made.get("EndpointInterface"):
            found = self.client("ec2").describe_network_interfaces(NetworkInterfaceIds=[interface])
            self.listening = found["NetworkInterfaces"][0]["PrivateIpAddress"], 443
            self.ipv6 = made["Ipv6Cidr"].split("::")[0]

    def group(self, attached: bool = False, ipv6: bool = False) -> Group:
        """Makes a target group, behind a listener of the one load balancer if it is to be attached."""
        self._made += 1
        made = self.elb.create_target_group(
            Name=f"{self.run}-{self._made}",
            TargetType="ip",
            IpAddressType="ipv6" if ipv6 else "ipv4",
            Protocol="TCP",
            Port=PORT,
            VpcId=self._vpc,
            Tags=self.tags,
        )
        arn: str = made["TargetGroups"][0]["TargetGroupArn"]
        if attached:
            self.elb.create_listener(
                LoadBalancerArn=self.balancer,
                Protocol="TCP",
                # A port that no listener has.
                Port=10_000 + self._made,
                DefaultActions=[{"Type": "forward", "TargetGroupArn": arn}],
                Tags=self.tags,
            )
        return Group(self, arn)


@dataclass
class Stack:
    """A stack of a run."""

    place: Network
    name: str
    # Where its template is, as CreateStack has it.
    source: dict[str, str]
    parameters: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def create(self, **parameters: str) -> dict[str, str]:
        """Makes it; its outputs."""
        self.parameters = parameters
        if why := self._carried_out("create"):
            raise Failure(f"stack {self.name}: {why}")
        return self.outputs()

    def update(self, **parameters: str) -> str:
        """Updates it; why that failed, if it did."""
        earlier, self.parameters = self.parameters, self.parameters | parameters
        if why := self._carried_out("update"):
            self.parameters = earlier
        return why

    def delete(self) -> str:
        """Deletes it; why that failed, if it did."""
        self.formation.delete_stack(StackName=self.name)
        return self._settled("delete", datetime.now().astimezone())

    def outputs(self) -> dict[str, str]:
        """Its outputs now."""
        (stack,) = self.formation.describe_stacks(StackName=self.name)["Stacks"]
        return {x["OutputKey"]: x["OutputValue"] for x in stack.get("Outputs", [])}

    @property
    def formation(self) -> Any:
        """The client of CloudFormation."""
        return self.place.client("cloudformation")

    def _carried_out(self, what: str) -> str:
        since = datetime.now().astimezone()
        {"create": self.formation.create_stack, "update": self.formation.update_stack}[what](
            StackName=self.name,
            **self.source,
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in self.parameters.items()],
            Tags=[*self.place.tags, *({"Key": key, "Value": value} for key, value in self.tags.items())],
            Capabilities=["CAPABILITY_IAM"],
        )
        return self._settled(what, since)

    def _settled(self, what: str, since: datetime) -> str:
        """What failed, and why, once nothing goes on any more."""
        often = {"Delay": self.place.pause, "MaxAttempts": int(STACK_SECONDS / self.place.pause)}
        try:
            self.formation.get_waiter(f"stack_{what}_complete").wait(StackName=self.name, WaiterConfig=often)
        except WaiterError as error:
            events = self.formation.describe_stack_events(StackName=self.name)["StackEvents"]
            failed = [
                f"{x['LogicalResourceId']}: {x.get('ResourceStatusReason', x['ResourceStatus'])}"
                for x in reversed(events)
                if x["ResourceStatus"].endswith("FAILED") and x["Timestamp"] >= since
            ]
            return "; ".join(failed) or str(error)
        return ""


@contextmanager
def network(place: Network, say: Say) -> Iterator[Network]:
    """The network for the length of a `with` block."""
    with removing(place, say):
        place.create()
        yield place


@contextmanager
def removing(place: Network, say: Say) -> Iterator[None]:
    """A `with` block whose end removes all that the run made, however it ends."""
    try:
        yield
    finally:
        try:
            remove(place, say)
        except KeyboardInterrupt:
            # Whoever took it takes no other, so that this comes once.
            remove(place, say)
            raise


def remove(place: Network, say: Say, of_all: bool = False, seconds: float = REMOVAL_SECONDS) -> None:
    """Removes what has the tag, of this run or of all; returns once nothing has it."""
    run = None if of_all else place.run
    tell(say, f"Removing what {f'run {run}' if run else 'all runs'} made")
    deadline = time.monotonic() + seconds
    told: set[str] = set()
    problem: Exception | None = None
    empty = 0
    # What was made a moment ago may not be listed yet.
    while empty < 2:
        left: list[Removal] = []
        try:
            left = tagged(place, run)
            empty = 0 if left else empty + 1
            for name, delete in left:
                if name not in told:
                    tell(say, f"  {name}")
                    told.add(name)
                delete()
        except (BotoCoreError, ClientError) as error:
            # It is tried again: what uses it may have to go first.
            problem = error
        if time.monotonic() > deadline:
            names = "".join(f"\n  {name}" for name, _ in left)
            raise Failure(
                f"not removed after {seconds:.0f} s:{names or ' what there is cannot be asked for'}\n"
                f"The last error: {problem}\n"
                "It costs money until it is gone: run `make conformance-sweep`, or delete it by hand"
            )
        time.sleep(3 * place.settle_seconds if empty else place.pause)


def tell(say: Say, text: str) -> None:
    """Says it, if somebody still listens: a terminal that was closed must not keep anything from being removed."""
    with suppress(OSError):
        say(text)


def tagged(place: Network, run: str | None) -> list[Removal]:
    """What has the tag and goes next: stacks, the last one first because it may use the others; then target groups."""

    def marked(tags: list[dict[str, str]]) -> bool:
        return any(x["Key"] == TAG and run in (None, x["Value"]) for x in tags)

    stacks = place.client("cloudformation").get_paginator("describe_stacks").paginate().search("Stacks[]")
    # A stack whose deletion is done may be listed for a while.
    mine = [x for x in stacks if marked(x.get("Tags", [])) and x["StackStatus"] != "DELETE_COMPLETE"]
    if mine:
        last = max(mine, key=lambda x: x["CreationTime"])
        return [(f"stack {last['StackName']}", lambda: delete(place, last))]
    groups = place.elb.get_paginator("describe_target_groups").paginate().search("TargetGroups[].TargetGroupArn")
    arns = list(groups)
    described = [
        x
        for first in range(0, len(arns), 20)
        for x in place.elb.describe_tags(ResourceArns=arns[first : first + 20])["TagDescriptions"]
    ]
    return [
        (f"target group {x}", lambda x=x: place.elb.delete_target_group(TargetGroupArn=x))
        for x in (y["ResourceArn"] for y in described if marked(y["Tags"]))
    ]


def delete(place: Network, stack: dict[str, Any]) -> None:
    """Begins to delete a stack, with what it holds that CloudFormation does not delete."""
    if stack["StackStatus"] == "DELETE_IN_PROGRESS":
        return
    formation = place.client("cloudformation")
    for x in formation.describe_stack_resources(StackName=stack["StackName"])["StackResources"]:
        name = x.get("PhysicalResourceId")
        if not name or x["ResourceStatus"] == "DELETE_COMPLETE":
            continue
        if x["ResourceType"] == "AWS::S3::Bucket":
            place.session.resource("s3", endpoint_url=place.endpoint).Bucket(name).objects.delete()
        if x["ResourceType"] == "AWS::Route53::HostedZone":
            route53 = place.client("route53")
            records = route53.list_resource_record_sets(HostedZoneId=name)["ResourceRecordSets"]
            changes = [{"Action": "DELETE", "ResourceRecordSet": x} for x in records if x["Type"] not in ("NS", "SOA")]
            if changes:
                route53.change_resource_record_sets(HostedZoneId=name, ChangeBatch={"Changes": changes})
    formation.delete_stack(StackName=stack["StackName"])
