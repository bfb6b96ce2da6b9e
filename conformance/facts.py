"""The facts: each is a function whose docstring says what is so, and which fails where it is not.

A check makes target groups of its own and leaves those of others alone. Reads may lag writes, so what is expected is
waited for, and what must not happen is looked for a while later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

API = "https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference"
NLB = "https://docs.aws.amazon.com/elasticloadbalancing/latest/network"
CONTROLLER = "https://github.com/kubernetes-sigs/aws-load-balancer-controller"
CLOUDWATCH = "https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html"
TAGGING = "https://docs.aws.amazon.com/resourcegroupstagging/latest/APIReference/API_GetResources.html"
QUOTAS = f"{NLB}/load-balancer-limits.html"
THROTTLING = "https://docs.aws.amazon.com/elasticloadbalancing/latest/userguide/elb-api-throttling.html"
CALLER = f"{CONTROLLER}/blob/225f445/pkg/targetgroupbinding/targets_manager.go#L20"

# Of the network that each place has: 10.0.0.0/16, with a subnet 10.0.1.0/24 in one zone and 10.0.2.0/24 in another.
FIRST = "10.0.1.9"
SECOND = "10.0.2.9"
NO_SUBNET = "10.0.200.9"
OUTSIDE = "10.1.0.9"
PORT = 5432

# Errors that tell nothing about a fact: there is no such operation here, or the caller may not, or not now.
TELLS_NOTHING = {
    *("InvalidAction", "NotImplemented", "UnknownOperation", "UnknownOperationException", "UnsupportedOperation"),
    *("AccessDenied", "AccessDeniedException", "AuthFailure", "UnauthorizedOperation"),
    *("ExpiredToken", "ExpiredTokenException", "Throttling", "ThrottlingException", "ThrottledException"),
}


class Place(Protocol):
    """Where the checks run: AWS, or what stands in for it."""

    name: str
    # Zones of the two subnets; the load balancer is in the first alone.
    zones: tuple[str, str]
    # How long a read may lag a write, in seconds, and how long a target may be `initial`.
    patience: float
    initial_seconds: float
    # How long to wait before something that must not happen is said not to have.
    settle_seconds: float
    # The first four groups of its IPv6 addresses; empty where it has none.
    ipv6: str

    def client(self, service: str) -> Any:
        """A boto3 client, which checks no parameters itself."""

    def group(self, attached: bool = False, ipv6: bool = False) -> str:
        """Makes a target group, of port 5432; its ARN. If attached, a listener of a load balancer forwards to it."""

    def listening(self) -> tuple[str, int]:
        """The address and the port, in the first subnet, of something that takes connections."""

    def throttle(self) -> None:
        """Makes sure that reads are throttled soon, where that can be chosen."""


class Differs(Exception):
    """The fact does not hold here; the message tells what was seen."""


class NotSupported(Exception):
    """It cannot be told here; the message tells why."""


@dataclass(frozen=True)
class Fact:
    """Something that is so at AWS."""

    name: str
    says: str
    source: str
    check: Callable[[Place], str | None]
    # Whether it spends what others of the account need, and so runs only where that is asked for.
    spends: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a check."""

    verdict: str
    seen: str = ""


FACTS: list[Fact] = []

Check = Callable[[Place], "str | None"]


def fact(source: str, spends: bool = False) -> Callable[[Check], Check]:
    """Adds a check to the facts."""

    def add(check: Check) -> Check:
        says = " ".join((check.__doc__ or "").split())
        FACTS.append(Fact(check.__name__.replace("_", "-"), says, source, check, spends))
        return check

    return add


def judge(fact: Fact, place: Place) -> Outcome:
    """Runs one check."""
    try:
        return Outcome("holds", fact.check(place) or "")
    except Differs as differs:
        return Outcome("differs", str(differs))
    except NotSupported as unsupported:
        return Outcome("not supported", str(unsupported))
    except ResponseParserError as error:
        return Outcome("differs", f"an unreadable reply: {error}")
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        # What is made for a check is not what it is about.
        if code in TELLS_NOTHING or error.operation_name.startswith("Create"):
            return Outcome("not supported", f"{error.operation_name}: {code}: {message}")
        return Outcome("differs", f"{error.operation_name}: {code}: {message}")
    except BotoCoreError as error:
        return Outcome("not supported", f"no reply: {error}")
    except (LookupError, TypeError, ValueError) as error:
        # It must not keep the other checks from running.
        return Outcome("differs", f"an unexpected reply: {error!r}")


def expect(truth: bool, seen: object) -> None:
    """The fact differs unless it is true."""
    if not truth:
        raise Differs(str(seen))


def refused(codes: str, part: str, call: Callable[[], Any]) -> None:
    """The call is refused with one of these codes, in words that hold this part."""
    try:
        call()
    except ClientError as error:
        found = error.response["Error"]
        if found["Code"] in TELLS_NOTHING:
            raise NotSupported(f"{error.operation_name}: {found['Code']}") from None
        if found["Code"] not in codes.split("|"):
            raise Differs(f"{found['Code']}: {found['Message']}") from None
        expect(part.lower() in found["Message"].lower(), f"{found['Code']} in other words: {found['Message']}")
    else:
        raise Differs("accepted")


def accepted(call: Callable[[], Any]) -> None:
    """The call is not refused."""
    try:
        call()
    except ClientError as error:
        if error.response["Error"]["Code"] in TELLS_NOTHING:
            raise
        raise Differs(str(error)) from None


def eventually(place: Place, read: Callable[[], Any], wanted: Callable[[Any], bool]) -> float:
    """Waits until what is read is what is wanted; the seconds that took."""
    start = time.monotonic()
    while not wanted(found := read()):
        if time.monotonic() - start > place.patience:
            raise Differs(f"still {short(found)}")
        time.sleep(0.1)
    return time.monotonic() - start


def short(found: Any) -> str:
    """What was read, if it is much the begin of it."""
    text = "nothing" if found in ([], {}, None) else str(found)
    return text if len(text) < 200 else f"{text[:200]}…"


def target(address: str, port: int | None = PORT, zone: str | None = None) -> dict[str, Any]:
    """A target as RegisterTargets takes it."""
    fields = {"Id": address, "Port": port, "AvailabilityZone": zone}
    return {name: value for name, value in fields.items() if value is not None}


def batch(count: int, first: int = 0) -> list[dict[str, Any]]:
    """So many targets: one address on many ports."""
    return [target(FIRST, 10_000 + first + n) for n in range(count)]


def register(place: Place, group: str, *targets: dict[str, Any]) -> None:
    """RegisterTargets."""
    place.client("elbv2").register_targets(TargetGroupArn=group, Targets=list(targets))


def deregister(place: Place, group: str, *targets: dict[str, Any]) -> None:
    """DeregisterTargets."""
    place.client("elbv2").deregister_targets(TargetGroupArn=group, Targets=list(targets))


def health(place: Place, group: str) -> dict[str, dict[str, Any]]:
    """What DescribeTargetHealth tells, by ADDRESS:PORT."""
    found = place.client("elbv2").describe_target_health(TargetGroupArn=group)["TargetHealthDescriptions"]
    return {f"{x['Target']['Id']}:{x['Target'].get('Port')}": x for x in found}


def states(place: Place, group: str) -> dict[str, str]:
    """The state of each target."""
    return {name: x["TargetHealth"]["State"] for name, x in health(place, group).items()}


def has(place: Place, group: str, *wanted: str) -> None:
    """These targets come to be listed, and no others."""
    eventually(place, lambda: sorted(states(place, group)), lambda found: found == sorted(wanted))


def still_has(place: Place, group: str, *wanted: str) -> None:
    """These targets, and no others, are listed and not draining; also a while later."""
    time.sleep(place.settle_seconds)
    found = states(place, group)
    expect(set(found) == set(wanted) and "draining" not in found.values(), f"the targets {short(found)}")


@contextmanager
def set_up() -> Iterator[None]:
    """What differs here is what another fact is about, so it tells nothing about this one."""
    try:
        yield
    except Differs as differs:
        raise NotSupported(f"the set-up differs: {differs}") from None


def takes(place: Place, *targets: dict[str, Any], attached: bool = False) -> str:
    """A new group takes these targets, and comes to list them; the group."""
    group = place.group(attached)
    register(place, group, *targets)
    has(place, group, *[f"{x['Id']}:{x['Port']}" for x in targets])
    return group


def group_of(place: Place, *targets: dict[str, Any], attached: bool = False) -> str:
    """A group that has these targets."""
    with set_up():
        return takes(place, *targets, attached=attached)


def in_service(place: Place) -> tuple[str, dict[str, Any], str]:
    """A new group with a healthy target: the group, the target, and its name."""
    group = place.group(attached=True)
    address, port = place.listening()
    register(place, group, target(address, port))
    name = f"{address}:{port}"
    deadline = time.monotonic() + place.initial_seconds
    while (found := states(place, group)) != {name: "healthy"}:
        if time.monotonic() > deadline:
            raise NotSupported(f"no target becomes healthy: {short(found)}")
        time.sleep(0.2)
    return group, target(address, port), name


def draining(place: Place) -> tuple[str, dict[str, Any], str]:
    """A new group whose only target is draining, likewise."""
    group, only, name = in_service(place)
    deregister(place, group, only)
    with set_up():
        eventually(place, lambda: states(place, group), lambda found: found == {name: "draining"})
    return group, only, name


def unknown(group: str) -> str:
    """The ARN of a group that does not exist."""
    return group[:-1] + ("0" if group[-1] != "0" else "1")


def tags(place: Place, group: str) -> dict[str, str]:
    """What DescribeTags tells."""
    (found,) = place.client("elbv2").describe_tags(ResourceArns=[group])["TagDescriptions"]
    return {x["Key"]: x["Value"] for x in found["Tags"]}


def pairs(*given: tuple[str, str]) -> list[dict[str, str]]:
    """Tags as AddTags takes them."""
    return [{"Key": key, "Value": value} for key, value in given]


# Addresses and zones.


@fact(f"{API}/API_TargetDescription.html")
def inside_without_a_zone(place: Place) -> None:
    """An address of a subnet is registered without a zone, and listed with that of its subnet."""
    group = takes(place, target(FIRST), target(SECOND))
    found = [health(place, group)[f"{x}:{PORT}"]["Target"].get("AvailabilityZone") for x in (FIRST, SECOND)]
    expect(found == list(place.zones), f"the zones {found}")


@fact(f"{CONTROLLER}/issues/3084")
def outside_without_a_zone(place: Place) -> None:
    """An address outside the VPC is refused without a zone: ValidationError, "outside the VPC"."""
    group = place.group()
    refused("ValidationError", "outside the VPC", lambda: register(place, group, target(OUTSIDE)))


@fact(f"{CONTROLLER}/issues/3714")
def no_subnet_without_a_zone(place: Place) -> None:
    """An address of the VPC in none of its subnets is refused without a zone: ValidationError, "not in the VPC"."""
    group = place.group()
    refused("ValidationError", "not in the VPC", lambda: register(place, group, target(NO_SUBNET)))


@fact(f"{CONTROLLER}/issues/561")
def inside_with_all_zones(place: Place) -> None:
    """An address of a subnet is refused with the zone `all`: ValidationError, "is within the VPC"."""
    group = place.group()
    refused("ValidationError", "is within the VPC", lambda: register(place, group, target(FIRST, zone="all")))


@fact(f"{API}/API_TargetDescription.html")
def outside_with_all_zones(place: Place) -> None:
    """With the zone `all`, an address outside the VPC is registered and listed so."""
    in_all_zones(place, OUTSIDE)


@fact(f"{CONTROLLER}/issues/3714")
def no_subnet_with_all_zones(place: Place) -> None:
    """So is, with the zone `all`, an address of the VPC in none of its subnets. The source only says that it needs one."""
    in_all_zones(place, NO_SUBNET)


def in_all_zones(place: Place, address: str) -> None:
    """The address is registered and listed with the zone `all`."""
    group = takes(place, target(address, zone="all"))
    (found,) = health(place, group).values()
    zone = found["Target"].get("AvailabilityZone")
    expect(zone == "all", f"the zone {zone}")


@fact(f"{NLB}/load-balancer-target-groups.html#target-type")
def private_addresses(place: Place) -> None:
    """Of 172.16.0.0/12, 192.168.0.0/16 and 100.64.0.0/10 an address is registered, with the zone `all`."""
    takes(place, *[target(x, zone="all") for x in ("172.16.0.9", "192.168.0.9", "100.64.0.9")])


@fact(f"{NLB}/load-balancer-target-groups.html#target-type")
def public_addresses(place: Place) -> None:
    """A public address is refused, whatever its zone."""
    group = place.group()
    for zone in (None, "all"):
        refused(
            "ValidationError|InvalidTarget", "", lambda zone=zone: register(place, group, target("8.8.8.8", zone=zone))
        )
    still_has(place, group)


@fact(f"{NLB}/load-balancer-target-groups.html#target-type")
def reserved_addresses(place: Place) -> None:
    """Only private addresses are allowed, so loopback, link-local, multicast, broadcast and the like are refused."""
    group = place.group()
    wrong = ("127.0.0.1", "169.254.1.1", "224.0.0.1", "0.0.0.0", "255.255.255.255", "240.0.0.1")
    accepted = []
    for address in wrong:
        try:
            refused(
                "ValidationError|InvalidTarget", "", lambda x=address: register(place, group, target(x, zone="all"))
            )
        except Differs as differs:
            accepted.append(f"{address}: {differs}")
    expect(accepted == [], "; ".join(accepted))


@fact(f"{NLB}/target-group-register-targets.html")
def families(place: Place) -> None:
    """An IPv4 group takes no IPv6 address, and an IPv6 group, which takes those of the VPC, no IPv4 address."""
    if not place.ipv6:
        raise NotSupported("a VPC has no IPv6 addresses here")
    address = f"{place.ipv6}::9"
    group = place.group(ipv6=True)
    register(place, group, target(address))
    eventually(place, lambda: states(place, group), lambda found: len(found) == 1)
    refused("ValidationError|InvalidTarget", "", lambda: register(place, group, target(FIRST)))
    refused("ValidationError|InvalidTarget", "", lambda: register(place, place.group(), target(address)))


# Ports, and what is there already or not.


@fact(f"{API}/API_TargetDescription.html")
def port_of_the_group(place: Place) -> None:
    """A target without a port gets the group's."""
    group = place.group()
    register(place, group, target(FIRST, None))
    has(place, group, f"{FIRST}:{PORT}")


@fact(f"{API}/API_RegisterTargets.html")
def ports_make_targets(place: Place) -> None:
    """One address on two ports is two targets."""
    takes(place, target(FIRST), target(FIRST, 6543))


@fact(f"{API}/API_TargetDescription.html")
def ports_out_of_range(place: Place) -> None:
    """The ports 0 and 65536 are refused."""
    group = place.group()
    for port in (0, 65_536):
        refused("ValidationError", "", lambda port=port: register(place, group, target(FIRST, port)))


@fact(f"{API}/API_DeregisterTargets.html")
def deregistered_without_its_port(place: Place) -> None:
    """To deregister a target on a port of its own without that port succeeds, and does nothing."""
    group = group_of(place, target(FIRST, 6543), attached=True)
    deregister(place, group, target(FIRST, None))
    still_has(place, group, f"{FIRST}:6543")


@fact(f"{API}/API_DeregisterTargets.html")
def deregistered_with_its_port(place: Place) -> None:
    """To deregister a target with its port leaves the same address on another port."""
    group = group_of(place, target(FIRST), target(FIRST, 6543), attached=True)
    deregister(place, group, target(FIRST, 6543))
    gone = (None, "draining")
    eventually(place, lambda: states(place, group), lambda found: found.get(f"{FIRST}:6543") in gone)
    expect(states(place, group).get(f"{FIRST}:{PORT}") not in gone, states(place, group))


@fact(f"{API}/API_DeregisterTargets.html")
def deregistered_without_its_zone(place: Place) -> None:
    """A target that has the zone `all` is deregistered without it, or with it."""
    for zone in (None, "all"):
        group = group_of(place, target(OUTSIDE, zone="all"))
        deregister(place, group, target(OUTSIDE, zone=zone))
        eventually(place, lambda x=group: states(place, x), lambda found: set(found.values()) <= {"draining"})


@fact(f"{API}/API_DeregisterTargets.html")
def deregistered_and_not_there(place: Place) -> None:
    """To deregister what is not registered succeeds."""
    group = group_of(place, target(FIRST))
    deregister(place, group, target(SECOND))
    still_has(place, group, f"{FIRST}:{PORT}")


@fact(f"{API}/API_RegisterTargets.html")
def registered_twice(place: Place) -> None:
    """To register what is registered succeeds, and makes no second target."""
    group = group_of(place, target(FIRST))
    register(place, group, target(FIRST))
    still_has(place, group, f"{FIRST}:{PORT}")


# Draining.


@fact(f"{API}/API_TargetHealth.html")
def draining_is_listed(place: Place) -> None:
    """A deregistered target stays listed: `draining`, Target.DeregistrationInProgress."""
    group, only, _ = in_service(place)
    deregister(place, group, only)
    comes_to_be(place, group, "draining", "Target.DeregistrationInProgress")


@fact(f"{CONTROLLER}/blob/225f445/pkg/targetgroupbinding/resource_manager.go#L207")
def draining_is_registered_again(place: Place) -> None:
    """A draining target can be registered again, and drains no more. The controller, which is the source, goes by it."""
    group, again, name = draining(place)
    register(place, group, again)
    back = ("initial", "healthy", "unhealthy")
    eventually(place, lambda: states(place, group), lambda found: found.get(name) in back)


@fact(f"{API}/API_DeregisterTargets.html")
def draining_is_deregistered_again(place: Place) -> None:
    """To deregister a draining target succeeds."""
    group, again, _ = draining(place)
    accepted(lambda: deregister(place, group, again))


# Many targets.


@fact(CALLER)
def two_hundred_in_a_call(place: Place) -> str:
    """A call registers or deregisters 200 targets. What AWS makes of more is not documented."""
    group = place.group()
    register(place, group, *batch(200))
    eventually(place, lambda: len(states(place, group)), lambda found: found == 200)
    deregister(place, group, *batch(200))
    eventually(place, lambda: set(states(place, group).values()), lambda found: found <= {"draining"})
    try:
        register(place, place.group(), *batch(201))
    except ClientError as error:
        return f"201 are refused: {error.response['Error']['Code']}"
    return "201 are accepted, too"


@fact(f"{API}/API_RegisterTargets.html")
def one_bad_target(place: Place) -> None:
    """A call with one bad target among good ones is refused, and registers none. No source says so."""
    group = place.group()
    refused("ValidationError", "", lambda: register(place, group, target(FIRST), target(OUTSIDE), target(SECOND)))
    still_has(place, group)


@fact(QUOTAS)
def a_thousand_targets(place: Place) -> None:
    """A group has 1,000 targets, all in one answer of DescribeTargetHealth; one more is refused: TooManyTargets."""
    group = place.group()
    for first in range(0, 1000, 200):
        register(place, group, *batch(200, first))
    eventually(place, lambda: len(states(place, group)), lambda found: found == 1000)
    refused("TooManyTargets", "", lambda: register(place, group, target(FIRST, 9)))


# Health.


@fact(f"{API}/API_TargetHealth.html")
def not_attached(place: Place) -> None:
    """The targets of a group that no listener forwards to are `unused`: Target.NotInUse."""
    unused(place, place.group(), FIRST)


@fact(f"{NLB}/load-balancer-target-groups.html#registered-targets")
def zone_not_enabled(place: Place) -> None:
    """A target in a zone that the load balancer is not in is `unused`: Target.NotInUse."""
    unused(place, place.group(attached=True), SECOND)


def unused(place: Place, group: str, address: str) -> None:
    """The address, once it is registered, comes to be unused."""
    register(place, group, target(address))
    comes_to_be(place, group, "unused", "Target.NotInUse")


def comes_to_be(place: Place, group: str, state: str, reason: str) -> None:
    """The only target of the group comes to be shown so."""
    wanted = {"State": state, "Reason": reason}
    eventually(
        place,
        lambda: [x["TargetHealth"] for x in health(place, group).values()],
        lambda found: [{key: x.get(key) for key in wanted} for x in found] == [wanted],
    )


@fact(f"{API}/API_TargetHealth.html")
def initial(place: Place) -> str:
    """A new target is `initial`, Elb.RegistrationInProgress or Elb.InitialHealthChecking, before it is anything else."""
    group = place.group(attached=True)
    address, port = place.listening()
    start = time.monotonic()
    register(place, group, target(address, port))
    listed: list[dict[str, Any]] = []
    # What is seen first counts, because it may be something else soon.
    eventually(place, lambda: listed.extend(health(place, group).values()), lambda _: listed != [])
    reasons = ("Elb.RegistrationInProgress", "Elb.InitialHealthChecking")
    seen = listed[0]["TargetHealth"]
    expect(seen["State"] == "initial" and seen.get("Reason") in reasons, seen)
    while states(place, group) == {f"{address}:{port}": "initial"}:
        if time.monotonic() - start > place.initial_seconds:
            return f"still initial after {place.initial_seconds:.0f} s"
        time.sleep(0.2)
    return f"for {time.monotonic() - start:.1f} s, then {next(iter(states(place, group).values()))}"


@fact(f"{NLB}/target-group-register-targets.html")
def lag_of_targets(place: Place) -> str:
    """DescribeTargetHealth shows what was registered or deregistered sooner or later."""
    group, only, _ = in_service(place)
    register(place, group, target(SECOND))
    listed = eventually(place, lambda: states(place, group), lambda found: len(found) == 2)
    deregister(place, group, only, target(SECOND))
    gone = eventually(place, lambda: set(states(place, group).values()), lambda found: found <= {"draining"})
    return f"registered after {listed:.1f} s, deregistered after {gone:.1f} s"


# Groups.


@fact(f"{API}/API_TargetGroup.html")
def kind_of_a_group(place: Place) -> None:
    """DescribeTargetGroups tells a group's type, port and family."""
    (found,) = describe_groups(place, place.group())
    seen = {key: found.get(key) for key in ("TargetType", "Port", "IpAddressType")}
    expect(seen == {"TargetType": "ip", "Port": PORT, "IpAddressType": "ipv4"}, seen)


@fact(f"{API}/API_CreateTargetGroup.html")
def health_check_defaults(place: Place) -> None:
    """A TCP group's health check by default: every 30 s, 10 s long, healthy after 5, unhealthy after 2."""
    (found,) = describe_groups(place, place.group())
    kinds = ("IntervalSeconds", "TimeoutSeconds")
    seen = [found.get(f"HealthCheck{x}") for x in kinds] + [
        found.get(f"{x}ThresholdCount") for x in ("Healthy", "Unhealthy")
    ]
    expect(seen == [30, 10, 5, 2], seen)


@fact(f"{API}/API_TargetGroupAttribute.html")
def attributes_of_a_group(place: Place) -> None:
    """A group drains for 300 s without ending connections, and proxy protocol, client IP and stickiness are off."""
    found = place.client("elbv2").describe_target_group_attributes(TargetGroupArn=place.group())["Attributes"]
    compare(
        found,
        {
            "deregistration_delay.connection_termination.enabled": "false",
            "deregistration_delay.timeout_seconds": "300",
            "load_balancing.cross_zone.enabled": "use_load_balancer_configuration",
            "preserve_client_ip.enabled": "false",
            "proxy_protocol_v2.enabled": "false",
            "stickiness.enabled": "false",
        },
    )


@fact(f"{API}/API_LoadBalancerAttribute.html")
def attributes_of_a_load_balancer(place: Place) -> None:
    """A network load balancer is not cross-zone, and not protected from deletion."""
    (group,) = describe_groups(place, place.group(attached=True))
    (arn,) = group["LoadBalancerArns"]
    found = place.client("elbv2").describe_load_balancer_attributes(LoadBalancerArn=arn)["Attributes"]
    compare(found, {"deletion_protection.enabled": "false", "load_balancing.cross_zone.enabled": "false"})


def compare(found: list[dict[str, str]], wanted: dict[str, str]) -> None:
    """These attributes have these values."""
    values = {x["Key"]: x["Value"] for x in found}
    other = [f"{key}={values.get(key, '(missing)')}" for key, value in wanted.items() if values.get(key) != value]
    expect(other == [], ", ".join(other))


@fact(f"{API}/API_DescribeListeners.html")
def from_a_group_to_its_listener(place: Place) -> None:
    """DescribeTargetGroups names the load balancer, and that one's listener the group. Nothing names one of no group."""
    elb = place.client("elbv2")
    attached = place.group(attached=True)
    (group,) = describe_groups(place, attached)
    (arn,) = group["LoadBalancerArns"]
    (balancer,) = elb.describe_load_balancers(LoadBalancerArns=[arn])["LoadBalancers"]
    expect((balancer["Type"], balancer["Scheme"]) == ("network", "internal"), balancer)
    listeners = elb.describe_listeners(LoadBalancerArn=arn)["Listeners"]
    expect(attached in [x["DefaultActions"][0].get("TargetGroupArn") for x in listeners], listeners)
    (loose,) = describe_groups(place, place.group())
    expect(loose["LoadBalancerArns"] == [], loose["LoadBalancerArns"])


def describe_groups(place: Place, *groups: str) -> list[dict[str, Any]]:
    """DescribeTargetGroups."""
    found: list[dict[str, Any]] = place.client("elbv2").describe_target_groups(TargetGroupArns=list(groups))[
        "TargetGroups"
    ]
    return found


@fact(f"{API}/API_DescribeTargetHealth.html#API_DescribeTargetHealth_Errors")
def unknown_group(place: Place) -> None:
    """Each call about a group that does not exist is refused: TargetGroupNotFound."""
    elb = place.client("elbv2")
    arn = unknown(place.group())
    for call in (
        lambda: elb.describe_target_groups(TargetGroupArns=[arn]),
        lambda: elb.describe_target_health(TargetGroupArn=arn),
        lambda: elb.describe_tags(ResourceArns=[arn]),
        lambda: register(place, arn, target(FIRST)),
        lambda: deregister(place, arn, target(FIRST)),
        lambda: elb.add_tags(ResourceArns=[arn], Tags=pairs(("a", "b"))),
    ):
        refused("TargetGroupNotFound", "", call)


# Tags.


@fact(f"{API}/API_Tag.html")
def characters_of_tags(place: Place) -> None:
    """Tags take letters, digits, blanks and `_.:/=+-@`, and nothing else."""
    add = adding(place, group := place.group())
    text = "Aé9 _.:/=+-@z"
    add((text, text))
    eventually(place, lambda: tags(place, group), lambda found: found.get(text) == text)
    accepted = []
    for wrong in ",;*{}|'":
        try:
            refused("ValidationError", "", lambda x=wrong: add(("list", f"a{x}b")))
        except Differs as differs:
            accepted.append(f"{wrong}: {differs}")
    expect(accepted == [], "; ".join(accepted))


@fact(f"{API}/API_Tag.html")
def length_of_tags(place: Place) -> str:
    """A key has 127 characters or a value 255. 129 and 257 are too many."""
    add = adding(place, group := place.group())
    add(("k" * 127, "v" * 255))
    eventually(place, lambda: tags(place, group), lambda found: found.get("k" * 127) == "v" * 255)
    for wrong in (("k" * 129, "v"), ("k", "v" * 257)):
        refused("ValidationError", "", lambda x=wrong: add(x))
    try:
        add(("k" * 128, "v" * 256))
    except ClientError as error:
        return f"128 and 256 are refused: {error.response['Error']['Code']}"
    return "128 and 256 are accepted, too"


@fact(f"{NLB}/target-group-tags.html")
def fifty_tags(place: Place) -> None:
    """A group has 50 tags; one more is refused: TooManyTags."""
    add = adding(place, group := place.group())
    add(*[(f"tag-{n}", "x") for n in range(50 - len(tags(place, group)))])
    eventually(place, lambda: len(tags(place, group)), lambda found: found == 50)
    refused("TooManyTags", "", lambda: add(("one-more", "x")))


@fact(f"{API}/API_AddTags.html")
def tags_are_overwritten(place: Place) -> None:
    """AddTags overwrites the value of a key that is there, and leaves all other tags."""
    add = adding(place, group := place.group())
    add(("first", "1"), ("second", "2"))
    add(("first", "3"))
    wanted = {"first": "3", "second": "2"}
    eventually(place, lambda: tags(place, group), lambda found: wanted.items() <= found.items())


@fact(f"{API}/API_AddTags.html")
def the_same_key_twice(place: Place) -> None:
    """AddTags refuses a key that comes twice: DuplicateTagKeys."""
    add = adding(place, place.group())
    refused("DuplicateTagKeys", "", lambda: add(("first", "1"), ("first", "2")))


@fact(f"{NLB}/target-group-tags.html")
def keys_of_aws(place: Place) -> None:
    """AddTags refuses a key that begins with `aws:`."""
    add = adding(place, place.group())
    refused("ValidationError|InvalidParameterValue", "", lambda: add(("aws:own", "1")))


@fact("https://github.com/aws/aws-sdk-go-v2/issues/2715")
def one_resource_a_call(place: Place) -> None:
    """AddTags takes one resource: ValidationError, "Only one resource can be tagged at a time"."""
    elb = place.client("elbv2")
    arns = [place.group(), place.group()]
    text = "Only one resource can be tagged at a time"
    refused("ValidationError", text, lambda: elb.add_tags(ResourceArns=arns, Tags=pairs(("first", "1"))))


@fact(f"{API}/API_RemoveTags.html")
def keys_that_are_not_there(place: Place) -> None:
    """RemoveTags removes a key that is there, and succeeds with one that is not."""
    add = adding(place, group := place.group())
    add(("first", "1"))
    place.client("elbv2").remove_tags(ResourceArns=[group], TagKeys=["first", "never"])
    eventually(place, lambda: tags(place, group), lambda found: "first" not in found)


@fact(f"{API}/API_DescribeTags.html")
def twenty_groups_a_call(place: Place) -> None:
    """DescribeTags takes 20 resources, and refuses 21."""
    elb = place.client("elbv2")
    arns = [place.group() for _ in range(21)]
    found = elb.describe_tags(ResourceArns=arns[:20])["TagDescriptions"]
    expect(len(found) == 20, f"{len(found)} descriptions")
    refused("ValidationError", "", lambda: elb.describe_tags(ResourceArns=arns))


@fact(f"{API}/API_DescribeTags.html")
def lag_of_tags(place: Place) -> str:
    """DescribeTags shows a tag that was added sooner or later."""
    adding(place, group := place.group())(("first", "1"))
    return f"after {eventually(place, lambda: tags(place, group), lambda found: found.get('first') == '1'):.1f} s"


@fact(TAGGING)
def lag_of_the_listing(place: Place) -> str:
    """GetResources lists a group by its tag, and no longer once the tag is removed, sooner or later."""
    group = place.group()
    mine = {"Key": "nlb-hostname-targets-listed", "Values": [group[-16:]]}
    listing = {"ResourceTypeFilters": ["elasticloadbalancing:targetgroup"], "TagFilters": [mine]}

    def listed() -> list[str]:
        # A page may be empty and not the last.
        pages = place.client("resourcegroupstaggingapi").get_paginator("get_resources").paginate(**listing)
        return [x["ResourceARN"] for page in pages for x in page["ResourceTagMappingList"]]

    adding(place, group)((mine["Key"], group[-16:]))
    there = eventually(place, listed, lambda found: found == [group])
    place.client("elbv2").remove_tags(ResourceArns=[group], TagKeys=[mine["Key"]])
    gone = eventually(place, listed, lambda found: found == [])
    return f"listed after {there:.1f} s, no longer after {gone:.1f} s"


def adding(place: Place, group: str) -> Callable[..., Any]:
    """AddTags to the group."""
    return lambda *given: place.client("elbv2").add_tags(ResourceArns=[group], Tags=pairs(*given))


# Metrics.

NAMESPACE = "NlbHostnameTargetsConformance"


@fact(CLOUDWATCH)
def a_thousand_metrics(place: Place) -> None:
    """PutMetricData takes 1,000 values in a call, and refuses 1,001."""
    # Of one name, so that they cost what one metric does.
    put(place, [{"MetricName": "Runs", "Value": 1}] * 1000)
    refused(WRONG, "", lambda: put(place, [{"MetricName": "Runs", "Value": 1}] * 1001))


@fact(CLOUDWATCH)
def thirty_dimensions(place: Place) -> None:
    """PutMetricData takes 30 dimensions of a metric, and refuses 31."""
    dimensions = [{"Name": f"Dimension{n}", "Value": "x"} for n in range(31)]
    put(place, [{"MetricName": "Runs", "Value": 1, "Dimensions": dimensions[:30]}])
    refused(WRONG, "", lambda: put(place, [{"MetricName": "Runs", "Value": 1, "Dimensions": dimensions}]))


@fact(CLOUDWATCH)
def a_megabyte_of_metrics(place: Place) -> None:
    """PutMetricData refuses a body of more than 1 MB."""
    # Of one metric, so that there is no more than one to pay for where it is accepted.
    dimensions = [{"Name": f"Dimension{n}", "Value": "x" * 1000} for n in range(30)]
    datum = {"MetricName": "Runs", "Value": 1, "Dimensions": dimensions}
    put(place, [datum] * 10)
    refused(f"{WRONG}|RequestEntityTooLarge|413", "", lambda: put(place, [datum] * 50))


@fact(CLOUDWATCH)
def namespace_of_aws(place: Place) -> None:
    """PutMetricData refuses a namespace that begins with `AWS/`."""
    refused(WRONG, "", lambda: put(place, [{"MetricName": "Runs", "Value": 1}], "AWS/NetworkELB"))


WRONG = "InvalidParameterValue|InvalidParameterValueException|ValidationError"


def put(place: Place, data: list[dict[str, Any]], namespace: str = NAMESPACE) -> None:
    """PutMetricData."""
    place.client("cloudwatch").put_metric_data(Namespace=namespace, MetricData=data)


# Last, because it leaves nothing to those after it.


@fact(THROTTLING, spends=True)
def throttling(place: Place) -> str:
    """Reads that are too many are refused with the code Throttling or ThrottlingException: "Rate exceeded"."""
    group = place.group()
    place.throttle()
    for count in range(400):
        try:
            place.client("elbv2-once").describe_target_health(TargetGroupArn=group)
        except ClientError as error:
            found = error.response["Error"]
            expect(found["Code"] in ("Throttling", "ThrottlingException"), found)
            expect("Rate exceeded" in found["Message"], found)
            return f"after {count} reads in a row"
    raise Differs("400 reads in a row were answered")
