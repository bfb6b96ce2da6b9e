"""A network to run the checks in: a VPC, two subnets, a load balancer, target groups; and how all of it goes again.

Everything is tagged in the call that makes it. What goes is found by that tag, and nothing else ever goes.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from conformance.facts import FIRST, PORT, NotSupported
from local.process import Failure, wait_for

# Each resource has it, with the id of the run that made it. Of the function's own tags it is none.
TAG = "nlb-hostname-targets-conformance"
# The load balancer's interfaces go minutes after it, those of a function in a VPC half an hour.
REMOVAL_SECONDS = 2700

# A client that sends what is wrong, and how large it is.
UNCHECKED = {"parameter_validation": False, "disable_request_compression": True}

Removal = tuple[str, Callable[[], Any]]


def run_id() -> str:
    """A new run's, which tells when it began."""
    return f"{datetime.now(timezone.utc):%Y%m%dt%H%M%S}-{secrets.token_hex(2)}"


class Network:
    """A place whose network is made by AWS's own API."""

    def __init__(
        self,
        name: str,
        session: boto3.Session,
        endpoint: str | None = None,
        patience: float = 0.5,
        initial_seconds: float = 5,
        settle_seconds: float = 0,
        pause: float = 0.1,
    ) -> None:
        self.name = name
        self.patience = patience
        self.initial_seconds = initial_seconds
        self.settle_seconds = settle_seconds
        # Between two looks at what there is still to be removed.
        self.pause = pause
        self.zones = ("", "")
        self.ipv6 = ""
        self.run = run_id()
        self.session = session
        self.endpoint = endpoint
        self._clients: dict[str, Any] = {}
        self._made = 0
        self._vpc = ""
        self._subnets: list[str] = []
        self._balancer = ""
        self._listening: tuple[str, int] | NotSupported | None = None

    def client(self, service: str) -> Any:
        """A client, which for the sake of wrong values checks none; one named elbv2-once tries nothing again."""
        if service not in self._clients:
            attempts = 1 if self.endpoint or service == "elbv2-once" else 8
            retries = {"mode": "standard", "total_max_attempts": attempts}
            config = Config(read_timeout=60, retries=retries, **UNCHECKED)
            made = self.session.client(service.removesuffix("-once"), endpoint_url=self.endpoint, config=config)
            self._clients[service] = made
        return self._clients[service]

    def create(self) -> None:
        """Makes the VPC and its subnets."""
        ec2 = self.client("ec2")
        self.zones = self.find_zones()
        made = ec2.create_vpc(CidrBlock="10.0.0.0/16", AmazonProvidedIpv6CidrBlock=True, **self._tagged("vpc"))
        self._vpc = made["Vpc"]["VpcId"]
        # What was made a moment ago may not be known everywhere yet.
        ec2.get_waiter("vpc_exists").wait(VpcIds=[self._vpc])
        first_four = self._first_ipv6_groups()
        for n, zone in enumerate(self.zones, start=1):
            block = {"Ipv6CidrBlock": f"{first_four}::/64"} if first_four and n == 1 else {}
            cidr = {"CidrBlock": f"10.0.{n}.0/24", "AvailabilityZone": zone}
            subnet = ec2.create_subnet(VpcId=self._vpc, **cidr, **block, **self._tagged("subnet"))
            self._subnets.append(subnet["Subnet"]["SubnetId"])
        self.ipv6 = first_four

    def find_zones(self) -> tuple[str, str]:
        """Two zones of the Region."""
        here = [{"Name": "zone-type", "Values": ["availability-zone"]}]
        found = self.client("ec2").describe_availability_zones(Filters=here)["AvailabilityZones"]
        first, second, *_ = sorted(x["ZoneName"] for x in found)
        return first, second

    def group(self, attached: bool = False, ipv6: bool = False) -> str:
        """Makes a target group, behind a listener of the one load balancer if it is to be attached."""
        elb = self.client("elbv2")
        self._made += 1
        group = elb.create_target_group(
            Name=f"{self.run}-{self._made}",
            TargetType="ip",
            IpAddressType="ipv6" if ipv6 else "ipv4",
            Protocol="TCP",
            Port=PORT,
            VpcId=self._vpc,
            Tags=self.tags,
        )
        arn: str = group["TargetGroups"][0]["TargetGroupArn"]
        if attached:
            elb.create_listener(
                LoadBalancerArn=self._load_balancer(),
                Protocol="TCP",
                # A port that no listener has.
                Port=10_000 + self._made,
                DefaultActions=[{"Type": "forward", "TargetGroupArn": arn}],
                Tags=self.tags,
            )
        return arn

    def listening(self) -> tuple[str, int]:
        """An interface endpoint of ELBv2's own API, which is the least that there is of something that listens."""
        if self._listening is None:
            try:
                self._listening = self._endpoint()
            except (BotoCoreError, ClientError, Failure) as error:
                # It is not tried again: what there is of it would be in the way.
                self._listening = NotSupported(f"nothing that listens could be made: {error}")
        if isinstance(self._listening, NotSupported):
            raise self._listening
        return self._listening

    def throttle(self) -> None:
        """Nothing: whoever throttles does so by itself."""

    @property
    def tags(self) -> list[dict[str, str]]:
        """The tag that everything has."""
        return [{"Key": TAG, "Value": self.run}]

    def _load_balancer(self) -> str:
        if not self._balancer:
            elb = self.client("elbv2")
            made = elb.create_load_balancer(
                Name=self.run, Type="network", Scheme="internal", Subnets=self._subnets[:1], Tags=self.tags
            )
            self._balancer = made["LoadBalancers"][0]["LoadBalancerArn"]
            elb.get_waiter("load_balancer_available").wait(LoadBalancerArns=[self._balancer])
        return self._balancer

    def _endpoint(self) -> tuple[str, int]:
        ec2 = self.client("ec2")
        admitted = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": "10.0.0.0/16"}]}
        rules = ec2.create_security_group(
            GroupName=self.run, Description="443 from the VPC", VpcId=self._vpc, **self._tagged("security-group")
        )["GroupId"]
        ec2.get_waiter("security_group_exists").wait(GroupIds=[rules])
        ec2.authorize_security_group_ingress(GroupId=rules, IpPermissions=[admitted])
        made = ec2.create_vpc_endpoint(
            VpcEndpointType="Interface",
            VpcId=self._vpc,
            ServiceName=f"com.amazonaws.{self.session.region_name}.elasticloadbalancing",
            SubnetIds=self._subnets[:1],
            SecurityGroupIds=[rules],
            PrivateDnsEnabled=False,
            **self._tagged("vpc-endpoint"),
        )["VpcEndpoint"]
        return self._once_available(made["VpcEndpointId"])

    def _once_available(self, endpoint: str) -> tuple[str, int]:
        ec2 = self.client("ec2")

        def available() -> dict[str, Any] | None:
            try:
                (found,) = ec2.describe_vpc_endpoints(VpcEndpointIds=[endpoint])["VpcEndpoints"]
            except ClientError as error:
                # As above.
                if "NotFound" not in str(error):
                    raise
                return None
            return found if found["State"].lower() == "available" else None

        found = wait_for(f"endpoint {endpoint} to be available", available, 600, pause=self.pause)
        if not found.get("NetworkInterfaceIds"):
            # ministack makes none, and to it any target is healthy.
            return FIRST, PORT
        (interface,) = ec2.describe_network_interfaces(NetworkInterfaceIds=found["NetworkInterfaceIds"])[
            "NetworkInterfaces"
        ]
        return interface["PrivateIpAddress"], 443

    def _first_ipv6_groups(self) -> str:
        """Of the VPC's IPv6 block, which comes some seconds after the VPC; empty if none comes."""
        deadline = time.monotonic() + self.patience
        while True:
            (vpc,) = self.client("ec2").describe_vpcs(VpcIds=[self._vpc])["Vpcs"]
            for block in vpc.get("Ipv6CidrBlockAssociationSet", []):
                if block["Ipv6CidrBlockState"]["State"] == "associated":
                    return str(block["Ipv6CidrBlock"]).split("::")[0]
            if time.monotonic() > deadline:
                return ""
            time.sleep(0.5)

    def _tagged(self, kind: str) -> dict[str, Any]:
        return {"TagSpecifications": [{"ResourceType": kind, "Tags": self.tags}]}


@contextmanager
def network(place: Network, say: Callable[[str], None]) -> Iterator[Network]:
    """The network for the length of a `with` block."""
    with removing(place, say):
        place.create()
        yield place


@contextmanager
def removing(place: Network, say: Callable[[str], None]) -> Iterator[None]:
    """A `with` block whose end removes all that the run made, however it ends."""
    try:
        yield
    finally:
        interruption = None
        while True:
            try:
                remove(place, say)
                break
            except KeyboardInterrupt as stop:
                # Whoever took it takes no other, so that this comes once.
                interruption = stop
        if interruption is not None:
            raise interruption


def remove(place: Network, say: Callable[[str], None], of_all: bool = False, seconds: float = REMOVAL_SECONDS) -> None:
    """Removes what has the tag, of this run or of all; returns once nothing has it."""
    deadline = time.monotonic() + seconds
    tell(say, f"Removing what {'all runs' if of_all else f'run {place.run}'} made")
    told: set[str] = set()
    before: set[str] = set()
    problem: Exception | None = None
    empty = 0
    while True:
        left: list[Removal] = []
        try:
            left = tagged(place, None if of_all else place.run)
            empty = 0 if left else empty + 1
            # What waits for something else to go has its own time after that.
            if (found := {name for name, _ in left}) != before:
                before, deadline = found, time.monotonic() + seconds
            # What was made a moment ago may not be listed yet.
            if empty == 2:
                return
        except (BotoCoreError, ClientError) as error:
            problem = error
        for name, delete in left:
            if name not in told:
                tell(say, f"  {name}")
                told.add(name)
            try:
                delete()
            except (BotoCoreError, ClientError) as error:
                # What uses it goes first, and takes its time.
                problem = error
        if time.monotonic() > deadline:
            names = "".join(f"\n  {name}" for name, _ in left)
            raise Failure(
                f"not removed after {seconds:.0f} s:{names or ' what there is cannot be asked for'}\n"
                f"The last error: {problem}\n"
                "It costs money until it is gone: run `make conformance-sweep`, or delete it by hand"
            )
        time.sleep(3 * place.settle_seconds if empty else place.pause)


def tell(say: Callable[[str], None], text: str) -> None:
    """Says it, if somebody still listens: a terminal that was closed must not keep anything from being removed."""
    with suppress(OSError):
        say(text)


def tagged(place: Network, run: str | None) -> list[Removal]:
    """What has the tag, and how each goes, in the order in which it can."""
    # What belongs to a stack has its tags, and goes with it.
    return of_stacks(place, run) or [*of_elb(place, run), *of_ec2(place, run)]


def of_stacks(place: Network, run: str | None) -> list[Removal]:
    """The stack that was made last: it may use what the ones before it have."""
    formation = place.client("cloudformation")
    pages = formation.get_paginator("describe_stacks").paginate()
    stacks = [x for page in pages for x in page["Stacks"] if marked(x.get("Tags", []), run)]
    # A stack whose deletion is done may be listed for a while.
    stacks = [x for x in stacks if x["StackStatus"] != "DELETE_COMPLETE"]
    stacks.sort(key=lambda x: x["CreationTime"])
    return [(f"stack {x['StackName']}", lambda x=x: delete_stack(place, x)) for x in stacks[-1:]]


def delete_stack(place: Network, stack: dict[str, Any]) -> None:
    """Begins to delete a stack, with what it holds that CloudFormation does not delete."""
    if stack["StackStatus"] == "DELETE_IN_PROGRESS":
        return
    formation = place.client("cloudformation")
    for x in formation.describe_stack_resources(StackName=stack["StackName"])["StackResources"]:
        if x["ResourceStatus"].startswith("DELETE_COMPLETE") or not x.get("PhysicalResourceId"):
            continue
        if x["ResourceType"] == "AWS::S3::Bucket":
            empty_bucket(place, x["PhysicalResourceId"])
        if x["ResourceType"] == "AWS::Route53::HostedZone":
            empty_zone(place, x["PhysicalResourceId"])
    formation.delete_stack(StackName=stack["StackName"])


def empty_bucket(place: Network, bucket: str) -> None:
    """Deletes what a stack's own bucket holds."""
    s3 = place.client("s3")
    for x in s3.list_objects_v2(Bucket=bucket).get("Contents", []):
        s3.delete_object(Bucket=bucket, Key=x["Key"])


def empty_zone(place: Network, zone: str) -> None:
    """Deletes what a stack's own hosted zone holds besides what it began with."""
    route53 = place.client("route53")
    records = route53.list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]
    changes = [{"Action": "DELETE", "ResourceRecordSet": x} for x in records if x["Type"] not in ("NS", "SOA")]
    if changes:
        route53.change_resource_record_sets(HostedZoneId=zone, ChangeBatch={"Changes": changes})


def of_elb(place: Network, run: str | None) -> list[Removal]:
    """Load balancers, which take their listeners along, then target groups."""
    elb = place.client("elbv2")
    pages = elb.get_paginator("describe_load_balancers").paginate()
    balancers = [x["LoadBalancerArn"] for page in pages for x in page["LoadBalancers"]]
    pages = elb.get_paginator("describe_target_groups").paginate()
    groups = [x["TargetGroupArn"] for page in pages for x in page["TargetGroups"]]
    mine: set[str] = set()
    arns = balancers + groups
    for first in range(0, len(arns), 20):
        found = elb.describe_tags(ResourceArns=arns[first : first + 20])["TagDescriptions"]
        mine.update(x["ResourceArn"] for x in found if marked(x["Tags"], run))
    return [
        (f"load balancer {x}", lambda x=x: elb.delete_load_balancer(LoadBalancerArn=x)) for x in balancers if x in mine
    ] + [(f"target group {x}", lambda x=x: elb.delete_target_group(TargetGroupArn=x)) for x in groups if x in mine]


def of_ec2(place: Network, run: str | None) -> list[Removal]:
    """Endpoints, security groups, subnets, then VPCs."""
    ec2 = place.client("ec2")
    having = [{"Name": "tag-key", "Values": [TAG]}] if run is None else [{"Name": f"tag:{TAG}", "Values": [run]}]

    def found(described: dict[str, Any], kind: str) -> list[dict[str, Any]]:
        # The filter is the server's: what comes is looked at once more before it goes.
        return [x for x in described[kind] if marked(x.get("Tags", []), run)]

    endpoints = found(ec2.describe_vpc_endpoints(Filters=having), "VpcEndpoints")
    # Those that go are listed for a while.
    endpoints = [x["VpcEndpointId"] for x in endpoints if not x["State"].lower().startswith("delet")]
    rules = [x["GroupId"] for x in found(ec2.describe_security_groups(Filters=having), "SecurityGroups")]
    subnets = [x["SubnetId"] for x in found(ec2.describe_subnets(Filters=having), "Subnets")]
    vpcs = [x["VpcId"] for x in found(ec2.describe_vpcs(Filters=having), "Vpcs")]
    return [
        *[(f"endpoint {x}", lambda x=x: ec2.delete_vpc_endpoints(VpcEndpointIds=[x])) for x in endpoints],
        *[(f"security group {x}", lambda x=x: ec2.delete_security_group(GroupId=x)) for x in rules],
        *[(f"subnet {x}", lambda x=x: ec2.delete_subnet(SubnetId=x)) for x in subnets],
        *[(f"VPC {x}", lambda x=x: ec2.delete_vpc(VpcId=x)) for x in vpcs],
    ]


def marked(tags: list[dict[str, str]], run: str | None) -> bool:
    """Whether these are the tags of something that a run made, this one or any."""
    return any(x["Key"] == TAG and run in (None, x["Value"]) for x in tags)
