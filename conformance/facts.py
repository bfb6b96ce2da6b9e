"""The facts: each is a function whose docstring says what is so, and which fails where it is not.

A check makes target groups of its own and leaves those of others alone. Reads may lag writes, so what is expected is
waited for, and what must not happen is looked for a while later.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from conformance.places import (
    FIRST,
    NO_SUBNET,
    OUTSIDE,
    PORT,
    SECOND,
    Differs,
    Group,
    NotSupported,
    Place,
    Target,
    expect,
)
from local.process import Failure

API = "https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference"
NLB = "https://docs.aws.amazon.com/elasticloadbalancing/latest/network"
CONTROLLER = "https://github.com/kubernetes-sigs/aws-load-balancer-controller"
CLOUDWATCH = "https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html"
TAGGING = "https://docs.aws.amazon.com/resourcegroupstagging/latest/APIReference/API_GetResources.html"
THROTTLING = "https://docs.aws.amazon.com/elasticloadbalancing/latest/userguide/elb-api-throttling.html"
CALLER = f"{CONTROLLER}/blob/225f445/pkg/targetgroupbinding/targets_manager.go#L20"

# Errors that tell nothing about a fact: there is no such operation here, or the caller may not, or not now.
TELLS_NOTHING = {
    *("InvalidAction", "NotImplemented", "UnknownOperation", "UnknownOperationException", "UnsupportedOperation"),
    *("AccessDenied", "AccessDeniedException", "AuthFailure", "UnauthorizedOperation"),
    *("ExpiredToken", "ExpiredTokenException", "Throttling", "ThrottlingException", "ThrottledException"),
}

Check = Callable[[Place], "str | None"]


@dataclass(frozen=True)
class Fact:
    """Something that is so at AWS."""

    name: str
    says: str
    source: str
    check: Check
    # Whether it spends what others of the account need, and so runs only where that is asked for.
    spends: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a check."""

    verdict: str
    seen: str = ""

    def cell(self, length: int = 1000) -> str:
        """As a cell of a table in Markdown."""
        seen = " ".join(re.sub(r"arn:aws\S+:", "", self.seen).split())
        seen = seen if len(seen) <= length else f"{seen[:length].strip()}…"
        return f"**{self.verdict}**: " + re.sub(r"([|*`\[\]<>])", r"\\\1", seen) if seen else self.verdict


FACTS: list[Fact] = []


def fact(source: str, spends: bool = False) -> Callable[[Check], Check]:
    """Adds a check to the facts."""

    def add(check: Check) -> Check:
        says = " ".join((check.__doc__ or "").split())
        FACTS.append(Fact(check.__name__.replace("_", "-"), says, source, check, spends))
        return check

    return add


def judge(check: Callable[[], str | None]) -> Outcome:
    """Runs one check."""
    try:
        return Outcome("holds", check() or "")
    except (Differs, Failure) as differs:
        return Outcome("differs", str(differs))
    except NotSupported as unsupported:
        return Outcome("not supported", str(unsupported))
    except ClientError as error:
        code = error.response["Error"]["Code"]
        # What is made for a check is not what it is about.
        nothing = code in TELLS_NOTHING or error.operation_name.startswith("Create")
        seen = f"{error.operation_name}: {code}: {error.response['Error']['Message']}"
        return Outcome("not supported" if nothing else "differs", seen)
    except (ResponseParserError, LookupError, TypeError, ValueError) as error:
        # It must not keep the other checks from running.
        return Outcome("differs", f"an unexpected reply: {error!r}")
    except BotoCoreError as error:
        return Outcome("not supported", f"no reply: {error}")


def refused(codes: str, part: str, call: Callable[..., Any], *arguments: Any) -> None:
    """The call is refused with one of these codes, in words that hold this part."""
    try:
        call(*arguments)
    except ClientError as error:
        found = error.response["Error"]
        if found["Code"] in TELLS_NOTHING:
            raise NotSupported(f"{error.operation_name}: {found['Code']}") from None
        if found["Code"] not in codes.split("|"):
            raise Differs(f"{found['Code']}: {found['Message']}") from None
        expect(part.lower() in found["Message"].lower(), f"{found['Code']} in other words: {found['Message']}")
    else:
        raise Differs("accepted")


def each_refused(codes: str, call: Callable[[Any], Any], wrong: Iterable[Any]) -> None:
    """The call is refused with each of these."""
    others = []
    for x in wrong:
        try:
            refused(codes, "", call, x)
        except Differs as differs:
            others.append(f"{x}: {differs}")
    expect(others == [], "; ".join(others))


def tried(what: str, call: Callable[..., Any], *arguments: Any) -> str:
    """What becomes of a call that nothing is said of."""
    try:
        call(*arguments)
    except ClientError as error:
        return f"{what} are refused: {error.response['Error']['Code']}"
    return f"{what} are accepted, too"


def target(address: str, port: int | None = PORT, zone: str | None = None) -> Target:
    """A target as RegisterTargets takes it."""
    fields = {"Id": address, "Port": port, "AvailabilityZone": zone}
    return {name: value for name, value in fields.items() if value is not None}


def batch(count: int, first: int = 0) -> list[Target]:
    """So many targets: one address on many ports."""
    return [target(FIRST, 10_000 + first + n) for n in range(count)]


def takes(place: Place, *targets: Target, attached: bool = False, otherwise: type[Exception] = NotSupported) -> Group:
    """A new group that has these targets. Where they are what a fact is about, it differs otherwise."""
    group = place.group(attached)
    group.register(*targets)
    names = {f"{x['Id']}:{x['Port']}" for x in targets}
    group.comes_to(lambda found: found.keys() == names, otherwise)
    return group


def deregistered(place: Place) -> tuple[Group, Target]:
    """A new group whose only target was healthy, and was then deregistered."""
    only = target(*place.listening)
    group = takes(place, only, attached=True)
    group.comes_to(lambda found: list(found.values()) == ["healthy"], NotSupported, place.initial_seconds)
    group.deregister(only)
    return group, only


# Addresses and zones.


@fact(f"{CONTROLLER}/issues/561")
def inside_the_vpc(place: Place) -> None:
    """An address of a subnet is registered without a zone, and listed with its subnet's.

    With the zone `all` it is refused: ValidationError, "is within the VPC".
    """
    zones = takes(place, target(FIRST), target(SECOND), otherwise=Differs).zones()
    expect(zones == list(place.zones), f"the zones {zones}")
    refused("ValidationError", "is within the VPC", place.group().register, target(FIRST, zone="all"))


@fact(f"{CONTROLLER}/issues/3084")
def outside_the_vpc(place: Place) -> None:
    """A private address outside the VPC is refused without a zone: ValidationError, "outside the VPC".

    With the zone `all` it is registered, and listed so.
    """
    outside = (OUTSIDE, "172.16.0.9", "192.168.0.9", "100.64.0.9")
    zones = takes(place, *[target(x, zone="all") for x in outside], otherwise=Differs).zones()
    expect(zones == ["all"] * 4, f"the zones {zones}")
    refused("ValidationError", "outside the VPC", place.group().register, target(OUTSIDE))


@fact(f"{CONTROLLER}/issues/3714")
def no_subnet_without_a_zone(place: Place) -> None:
    """An address of the VPC in none of its subnets is refused without a zone: ValidationError, "not in the VPC".

    With the zone `all` it is registered, and listed so; the source only says that it needs a zone.
    """
    refused("ValidationError", "not in the VPC", place.group().register, target(NO_SUBNET))
    zones = takes(place, target(NO_SUBNET, zone="all"), otherwise=Differs).zones()
    expect(zones == ["all"], f"the zones {zones}")


@fact(f"{NLB}/load-balancer-target-groups.html#target-type")
def other_addresses(place: Place) -> None:
    """Others are refused, whatever their zone: public, loopback, link-local, multicast, broadcast, reserved ones."""
    group = place.group()
    wrong = ("8.8.8.8", "127.0.0.1", "169.254.1.1", "224.0.0.1", "0.0.0.0", "255.255.255.255", "240.0.0.1")
    for zone in (None, "all"):
        each_refused("ValidationError|InvalidTarget", lambda x, zone=zone: group.register(target(x, zone=zone)), wrong)
    group.still_has()


@fact(f"{NLB}/target-group-register-targets.html")
def families(place: Place) -> None:
    """An IPv4 group takes no IPv6 address, and an IPv6 group, which takes those of the VPC, no IPv4 address."""
    address = target(f"{place.ipv6}::9")
    group = place.group(ipv6=True)
    group.register(address)
    group.comes_to(lambda found: len(found) == 1)
    refused("ValidationError|InvalidTarget", "", group.register, target(FIRST))
    refused("ValidationError|InvalidTarget", "", place.group().register, address)


# Ports, and what is there already or not.


@fact(f"{API}/API_RegisterTargets.html")
def ports_make_targets(place: Place) -> None:
    """One address on two ports is two targets, and each is deregistered by its port."""
    group = takes(place, target(FIRST), target(FIRST, 6543), attached=True, otherwise=Differs)
    group.deregister(target(FIRST, 6543))
    gone = (None, "draining")
    group.comes_to(lambda found: found.get(f"{FIRST}:6543") in gone)
    expect(group.states().get(f"{FIRST}:{PORT}") not in gone, group.states())


@fact(f"{API}/API_DeregisterTargets.html")
def deregistered_without_its_port(place: Place) -> None:
    """To deregister a target on a port of its own without that port succeeds, and does nothing."""
    group = takes(place, target(FIRST, 6543), attached=True)
    group.deregister(target(FIRST, None))
    group.still_has(f"{FIRST}:6543")


@fact(f"{API}/API_DeregisterTargets.html")
def deregistered_without_its_zone(place: Place) -> None:
    """A target that has the zone `all` is deregistered without it, or with it."""
    for zone in (None, "all"):
        group = takes(place, target(OUTSIDE, zone="all"))
        group.deregister(target(OUTSIDE, zone=zone))
        group.comes_to(lambda found: set(found.values()) <= {"draining"})


@fact(f"{API}/API_DeregisterTargets.html")
def as_it_is(place: Place) -> None:
    """To register what is registered, or to deregister what is not, succeeds and changes nothing."""
    group = takes(place, target(FIRST))
    group.register(target(FIRST))
    group.still_has(f"{FIRST}:{PORT}")
    group.deregister(target(SECOND))
    group.still_has(f"{FIRST}:{PORT}")


# Draining.


@fact(f"{API}/API_TargetHealth.html")
def draining_is_listed(place: Place) -> None:
    """A deregistered target stays listed: `draining`, Target.DeregistrationInProgress.

    To deregister it again succeeds, and changes nothing.
    """
    group, again = deregistered(place)
    group.comes_to_be("draining", "Target.DeregistrationInProgress")
    group.deregister(again)
    group.comes_to_be("draining", "Target.DeregistrationInProgress")


@fact(f"{CONTROLLER}/blob/225f445/pkg/targetgroupbinding/resource_manager.go#L207")
def draining_is_registered_again(place: Place) -> None:
    """A draining target can be registered again, and drains no more. The controller, which is the source, goes by it."""
    group, again = deregistered(place)
    group.comes_to(lambda found: list(found.values()) == ["draining"], NotSupported)
    group.register(again)
    group.comes_to(lambda found: list(found.values()) in (["initial"], ["healthy"], ["unhealthy"]))


# Many targets.


@fact(CALLER)
def two_hundred_in_a_call(place: Place) -> str:
    """A call registers or deregisters 200 targets. What AWS makes of more is not documented."""
    group = place.group()
    group.register(*batch(200))
    group.comes_to(lambda found: len(found) == 200)
    group.deregister(*batch(200))
    group.comes_to(lambda found: set(found.values()) <= {"draining"})
    return tried("201", place.group().register, *batch(201))


@fact(f"{API}/API_RegisterTargets.html")
def one_bad_target(place: Place) -> None:
    """A call with one bad target among good ones is refused, and registers none. No source says so."""
    group = place.group()
    refused("ValidationError", "", group.register, target(FIRST), target(OUTSIDE), target(SECOND))
    group.still_has()


@fact(f"{NLB}/load-balancer-limits.html")
def a_thousand_targets(place: Place) -> None:
    """A group has 1,000 targets, all in one answer of DescribeTargetHealth; one more is refused: TooManyTargets."""
    group = place.group()
    for first in range(0, 1000, 200):
        group.register(*batch(200, first))
    group.comes_to(lambda found: len(found) == 1000)
    refused("TooManyTargets", "", group.register, target(FIRST, 9))


# Health.


@fact(f"{NLB}/load-balancer-target-groups.html#registered-targets")
def unused(place: Place) -> None:
    """A target is `unused`, Target.NotInUse, in a zone without the load balancer, or if its group has no listener."""
    for group, address in ((place.group(attached=True), SECOND), (place.group(), FIRST)):
        group.register(target(address))
        group.comes_to_be("unused", "Target.NotInUse")


@fact(f"{API}/API_TargetHealth.html")
def initial(place: Place) -> str:
    """A new target is `initial`, Elb.RegistrationInProgress or Elb.InitialHealthChecking, before it is anything else."""
    group = place.group(attached=True)
    start = time.monotonic()
    group.register(target(*place.listening))
    listed: list[dict[str, Any]] = []
    # What is seen first counts, because it may be something else soon.
    group.eventually(lambda: listed.extend(group.health().values()), lambda _: listed != [])
    reasons = ("Elb.RegistrationInProgress", "Elb.InitialHealthChecking")
    seen = listed[0]["TargetHealth"]
    expect(seen["State"] == "initial" and seen.get("Reason") in reasons, seen)
    group.comes_to(lambda found: list(found.values()) != ["initial"], NotSupported, place.initial_seconds)
    return f"for {time.monotonic() - start:.1f} s"


# Groups.


@fact(f"{API}/API_TargetGroup.html")
def kind_of_a_group(place: Place) -> None:
    """DescribeTargetGroups tells a group's type, port and family."""
    found = place.group().description()
    seen = {key: found.get(key) for key in ("TargetType", "Port", "IpAddressType")}
    expect(seen == {"TargetType": "ip", "Port": PORT, "IpAddressType": "ipv4"}, seen)


@fact(f"{API}/API_TargetGroupAttribute.html")
def attributes(place: Place) -> None:
    """A group drains for 300 s without ending connections, and proxy protocol, client IP and stickiness are off.

    A network load balancer is not cross-zone.
    """
    group = place.group(attached=True)
    (balancer,) = group.description()["LoadBalancerArns"]
    own = place.elb.describe_target_group_attributes(TargetGroupArn=group.arn)["Attributes"]
    front = place.elb.describe_load_balancer_attributes(LoadBalancerArn=balancer)["Attributes"]
    found = {x["Key"]: x["Value"] for x in front if "cross_zone" in x["Key"]}
    expect(found == {"load_balancing.cross_zone.enabled": "false"}, f"of the load balancer {found}")
    wanted = {
        "deregistration_delay.connection_termination.enabled": "false",
        "deregistration_delay.timeout_seconds": "300",
        "load_balancing.cross_zone.enabled": "use_load_balancer_configuration",
        "preserve_client_ip.enabled": "false",
        "proxy_protocol_v2.enabled": "false",
        "stickiness.enabled": "false",
    }
    found = {x["Key"]: x["Value"] for x in own if x["Key"] in wanted}
    expect(found == wanted, found)


@fact(f"{API}/API_DescribeListeners.html")
def from_a_group_to_its_listener(place: Place) -> None:
    """DescribeTargetGroups names the load balancer, and that one's listener the group. Nothing names one of no group."""
    attached = place.group(attached=True)
    (arn,) = attached.description()["LoadBalancerArns"]
    (balancer,) = place.elb.describe_load_balancers(LoadBalancerArns=[arn])["LoadBalancers"]
    expect((balancer["Type"], balancer["Scheme"]) == ("network", "internal"), balancer)
    listeners = place.elb.describe_listeners(LoadBalancerArn=arn)["Listeners"]
    expect(attached.arn in [x["DefaultActions"][0].get("TargetGroupArn") for x in listeners], listeners)
    loose = place.group().description()["LoadBalancerArns"]
    expect(loose == [], loose)


@fact(f"{API}/API_DescribeTargetHealth.html#API_DescribeTargetHealth_Errors")
def unknown_group(place: Place) -> None:
    """Each call about a group that does not exist is refused: TargetGroupNotFound."""
    arn = place.group().arn
    unknown = Group(place, arn[:-1] + ("0" if arn[-1] != "0" else "1"))
    for read in (unknown.description, unknown.health, unknown.tags):
        refused("TargetGroupNotFound", "", read)
    for write in (unknown.register, unknown.deregister):
        refused("TargetGroupNotFound", "", write, target(FIRST))
    refused("TargetGroupNotFound", "", unknown.tag, ("a", "b"))


# Tags.


@fact(f"{API}/API_Tag.html")
def what_tags_take(place: Place) -> str:
    """Letters, digits, blanks and `_.:/=+-@`: 127 in a key, 255 in a value. All else is refused, as are 129 or 257."""
    group = place.group()
    text = "Aé9 _.:/=+-@z"
    for key, value in ((text, text), ("k" * 127, "v" * 255)):
        group.tag((key, value))
        group.comes_to_be_tagged({key: value})
    wrong = [("list", f"a{x}b") for x in ",;*{}|'"]
    each_refused("ValidationError", group.tag, [*wrong, ("k" * 129, "v"), ("k", "v" * 257)])
    return tried("128 and 256", group.tag, ("k" * 128, "v" * 256))


@fact(f"{NLB}/target-group-tags.html")
def fifty_tags(place: Place) -> None:
    """A group has 50 tags; one more is refused: TooManyTags."""
    group = place.group()
    group.tag(*[(f"tag-{n}", "x") for n in range(50 - len(group.tags()))])
    group.eventually(group.tags, lambda found: len(found) == 50)
    refused("TooManyTags", "", group.tag, ("one-more", "x"))


@fact(f"{API}/API_AddTags.html")
def tags_are_overwritten(place: Place) -> None:
    """AddTags overwrites the value of a key that is there, and leaves all other tags."""
    group = place.group()
    group.tag(("first", "1"), ("second", "2"))
    group.tag(("first", "3"))
    group.comes_to_be_tagged({"first": "3", "second": "2"})


@fact(f"{API}/API_AddTags.html")
def the_same_key_twice(place: Place) -> None:
    """AddTags refuses a key that comes twice: DuplicateTagKeys."""
    refused("DuplicateTagKeys", "", place.group().tag, ("first", "1"), ("first", "2"))


@fact("https://github.com/aws/aws-sdk-go-v2/issues/2715")
def one_resource_a_call(place: Place) -> None:
    """AddTags takes one resource: ValidationError, "Only one resource can be tagged at a time"."""
    arns = [place.group().arn, place.group().arn]
    add = lambda: place.elb.add_tags(ResourceArns=arns, Tags=[{"Key": "first", "Value": "1"}])
    refused("ValidationError", "Only one resource can be tagged at a time", add)


@fact(f"{API}/API_RemoveTags.html")
def keys_that_are_not_there(place: Place) -> None:
    """RemoveTags removes a key that is there, and succeeds with one that is not."""
    group = place.group()
    group.tag(("first", "1"))
    group.untag("first", "never")
    group.eventually(group.tags, lambda found: "first" not in found)


@fact(f"{API}/API_DescribeTags.html")
def twenty_groups_a_call(place: Place) -> None:
    """DescribeTags takes 20 resources, and refuses 21."""
    arns = [place.group().arn for _ in range(21)]
    found = place.elb.describe_tags(ResourceArns=arns[:20])["TagDescriptions"]
    expect(len(found) == 20, f"{len(found)} descriptions")
    refused("ValidationError", "", lambda: place.elb.describe_tags(ResourceArns=arns))


@fact(TAGGING)
def listing_by_tag(place: Place) -> None:
    """GetResources lists a group by its tag, and no longer once the tag is removed, sooner or later."""
    group = place.group()
    key, value = "nlb-hostname-targets-listed", group.arn[-16:]
    pages = place.client("resourcegroupstaggingapi").get_paginator("get_resources")
    where = {
        "ResourceTypeFilters": ["elasticloadbalancing:targetgroup"],
        "TagFilters": [{"Key": key, "Values": [value]}],
    }
    # A page may be empty and not the last.
    listed = lambda: list(pages.paginate(**where).search("ResourceTagMappingList[].ResourceARN"))
    group.tag((key, value))
    group.eventually(listed, lambda found: found == [group.arn])
    group.untag(key)
    group.eventually(listed, lambda found: found == [])


# Metrics.


@fact(CLOUDWATCH)
def limits_of_metrics(place: Place) -> None:
    """PutMetricData takes 1,000 values in a call, and 30 dimensions of a metric.

    It refuses one more of either, a body of more than 1 MB, and a namespace that begins with `AWS/`.
    """

    def put(call: tuple[int, int, int, str]) -> None:
        # All of one name, so that they cost what one does where more are accepted than should be.
        count, dimensions, length, namespace = call
        named = [{"Name": f"Dimension{n}", "Value": "x" * length} for n in range(dimensions)]
        data = [{"MetricName": "Runs", "Value": 1, "Dimensions": named}] * count
        place.client("cloudwatch").put_metric_data(Namespace=namespace, MetricData=data)

    ours = "NlbHostnameTargetsConformance"
    for call in ((1000, 0, 0, ours), (1, 30, 1, ours), (10, 30, 1000, ours)):
        put(call)
    codes = "InvalidParameterValue|InvalidParameterValueException|ValidationError|RequestEntityTooLarge|413"
    each_refused(codes, put, [(1001, 0, 0, ours), (1, 31, 1, ours), (50, 30, 1000, ours), (1, 0, 0, "AWS/NetworkELB")])


# Last, because it leaves nothing to those after it.


@fact(THROTTLING, spends=True)
def throttling(place: Place) -> str:
    """Reads that are too many are refused with the code Throttling or ThrottlingException: "Rate exceeded"."""
    group = place.group()
    place.throttle()
    once = place.client("elbv2", attempts=1)
    for count in range(400):
        try:
            once.describe_target_health(TargetGroupArn=group.arn)
        except ClientError as error:
            found = error.response["Error"]
            expect(found["Code"] in ("Throttling", "ThrottlingException"), found)
            expect("Rate exceeded" in found["Message"], found)
            return f"after {count} reads in a row"
    raise Differs("400 reads in a row were answered")
