"""Where the checks run: what a place and its target groups offer them, and our own emulation as one."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from local.cloud import Cloud, ready
from local.process import LOOPBACK, ROOT, TOOLS, Failure, free_port, running

# Of the network that each place has: 10.0.0.0/16, with a subnet 10.0.1.0/24 in one zone and 10.0.2.0/24 in another.
FIRST = "10.0.1.9"
SECOND = "10.0.2.9"
NO_SUBNET = "10.0.200.9"
OUTSIDE = "10.1.0.9"
PORT = 5432

BINARY = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "debug" / "emulation"

Error = type[Exception]
Read = Callable[[], Any]
Target = dict[str, Any]
Wanted = Callable[[Any], bool]


class Differs(Exception):
    """The fact does not hold here; the message tells what was seen."""


class NotSupported(Exception):
    """It cannot be told here; the message tells why."""


def expect(truth: bool, seen: object) -> None:
    """The fact differs unless it is true."""
    if not truth:
        raise Differs(str(seen))


class Place:
    """AWS, or what stands in for it."""

    # Zones of the two subnets; the load balancer is in the first alone.
    zones = ("", "")
    # How the IPv6 addresses of the first subnet begin.
    ipv6 = "fd00:0:0:1"
    # What takes connections in the first subnet. To emulations each target is healthy in the end.
    listening = (FIRST, PORT)
    # How long a read may lag a write, in seconds, and how long a target may be `initial`.
    patience = 0.5
    initial_seconds = 5.0
    # The longest that one did.
    lag = 0.0
    # How long to wait before something that must not happen is said not to have.
    settle_seconds = 0.0

    def __init__(self, name: str, session: boto3.Session, endpoint: str | None, attempts: int = 1) -> None:
        self.name = name
        self.session = session
        self.endpoint = endpoint
        self._attempts = attempts
        self._clients: dict[tuple[str, int], Any] = {}

    def client(self, service: str, attempts: int = 0) -> Any:
        """A client that sends what is wrong, and how large it is."""
        key = service, attempts or self._attempts
        if key not in self._clients:
            config = Config(
                read_timeout=60,
                retries={"mode": "standard", "total_max_attempts": key[1]},
                parameter_validation=False,
                disable_request_compression=True,
            )
            self._clients[key] = self.session.client(service, endpoint_url=self.endpoint, config=config)
        return self._clients[key]

    @property
    def elb(self) -> Any:
        """The client of ELBv2."""
        return self.client("elbv2")

    def group(self, attached: bool = False, ipv6: bool = False) -> Group:
        """Makes a target group of port 5432. If attached, a listener of a network load balancer forwards to it."""
        raise NotImplementedError

    def throttle(self) -> None:
        """Makes sure that reads are throttled soon, where that can be chosen."""


@dataclass(frozen=True)
class Group:
    """A target group."""

    place: Place
    arn: str

    def register(self, *targets: Target) -> None:
        """RegisterTargets."""
        self.place.elb.register_targets(TargetGroupArn=self.arn, Targets=list(targets))

    def deregister(self, *targets: Target) -> None:
        """DeregisterTargets."""
        self.place.elb.deregister_targets(TargetGroupArn=self.arn, Targets=list(targets))

    def tag(self, *tags: tuple[str, str]) -> None:
        """AddTags."""
        given = [{"Key": key, "Value": value} for key, value in tags]
        self.place.elb.add_tags(ResourceArns=[self.arn], Tags=given)

    def untag(self, *keys: str) -> None:
        """RemoveTags."""
        self.place.elb.remove_tags(ResourceArns=[self.arn], TagKeys=list(keys))

    def tags(self) -> dict[str, str]:
        """What DescribeTags tells."""
        (found,) = self.place.elb.describe_tags(ResourceArns=[self.arn])["TagDescriptions"]
        return {x["Key"]: x["Value"] for x in found["Tags"]}

    def health(self) -> dict[str, dict[str, Any]]:
        """What DescribeTargetHealth tells, by ADDRESS:PORT."""
        found = self.place.elb.describe_target_health(TargetGroupArn=self.arn)["TargetHealthDescriptions"]
        return {f"{x['Target']['Id']}:{x['Target'].get('Port')}": x for x in found}

    def states(self) -> dict[str, str]:
        """The state of each target."""
        return {name: x["TargetHealth"]["State"] for name, x in self.health().items()}

    def zones(self) -> list[str | None]:
        """The zones of the targets, in the order of their addresses."""
        return [x["Target"].get("AvailabilityZone") for _, x in sorted(self.health().items())]

    def description(self) -> dict[str, Any]:
        """What DescribeTargetGroups tells."""
        (found,) = self.place.elb.describe_target_groups(TargetGroupArns=[self.arn])["TargetGroups"]
        return dict(found)

    def comes_to(self, wanted: Wanted, otherwise: Error = Differs, seconds: float = 0) -> None:
        """Waits until the states are as wanted."""
        self.eventually(self.states, wanted, otherwise, seconds)

    def comes_to_be(self, state: str, reason: str) -> None:
        """The only target comes to be shown so."""
        shown = lambda: [(x["State"], x.get("Reason")) for x in (y["TargetHealth"] for y in self.health().values())]
        self.eventually(shown, lambda found: found == [(state, reason)])

    def still_has(self, *wanted: str) -> None:
        """These targets, and no others, are listed and not draining; also a while later."""
        time.sleep(self.place.settle_seconds)
        found = self.states()
        expect(set(found) == set(wanted) and "draining" not in found.values(), f"the targets {short(found)}")

    def comes_to_be_tagged(self, wanted: dict[str, str]) -> None:
        """It comes to have these tags at least."""
        self.eventually(self.tags, lambda found: wanted.items() <= found.items())

    def eventually(self, read: Read, wanted: Wanted, otherwise: Error = Differs, seconds: float = 0) -> None:
        """Waits until what is read is what is wanted: so long, or as a read may lag a write."""
        start = time.monotonic()
        while not wanted(found := read()):
            if time.monotonic() - start > (seconds or self.place.patience):
                raise otherwise(f"still {short(found)}")
            time.sleep(0.1)
        if not seconds:
            self.place.lag = max(self.place.lag, time.monotonic() - start)


def short(found: Any) -> str:
    """What was read, if it is much the begin of it."""
    text = "nothing" if found in ([], {}, None) else str(found)
    return text if len(text) < 200 else f"{text[:200]}…"


class Emulation(Place):
    """The strict AWS of the Rust tests, as the support crate serves it."""

    zones = ("us-east-1a", "us-east-1b")
    patience = 3.0

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        super().__init__("ours", boto3.Session(region_name="us-east-1"), self._line())
        self._made = 0

    def group(self, attached: bool = False, ipv6: bool = False) -> Group:
        """Makes a target group."""
        self._made += 1
        made = {"name": f"group-{self._made}", "attached": attached, "ipv6": ipv6}
        return Group(self, self._make({"Group": made}))

    def throttle(self) -> None:
        """From now on reads have the quota that the documentation gives as an example."""
        self._make({"ReadQuota": [40, 10.0]})

    def _make(self, what: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failure(f"{BINARY.name} of the support crate ended with status {self._process.wait()}")
        return line.strip()


@contextmanager
def moto(work: Path) -> Iterator[Cloud]:
    """Runs moto's server. It does not speak the CBOR protocol in which the function sends metrics."""
    port = free_port()
    with running("moto", [str(TOOLS / "moto_server"), "-H", LOOPBACK, "-p", str(port)], work / "moto.log") as process:
        yield ready("moto", port, process)


@contextmanager
def ours() -> Iterator[Emulation]:
    """Builds and runs our emulation, which ends with its input."""
    build = ["cargo", "build", "--locked", "--package", "nlb-hostname-targets-support", "--bin", BINARY.name]
    with running("cargo build", build) as process:
        if (code := process.popen.wait()) != 0:
            raise Failure(f"cargo build ended with status {code}")
    with subprocess.Popen([BINARY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Emulation(process)
