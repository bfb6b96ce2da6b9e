"""A consumer that writes through the load balancer, and what it meets when the database fails over."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise

from local.cloud import Cloud, TargetGroup
from local.consumer import Consumer, consuming
from local.database import Database
from local.dns import DnsServer
from local.load_balancer import LoadBalancer, balancing
from local.process import Failure, wait_for

HOSTNAME = "orders.c9akciq32abc.eu-west-1.rds.amazonaws.com"
PORT = 5432
BEFORE = "10.0.1.10"
AFTER = "10.0.2.20"

FAILOVER = "rds-instance-failover.json"
# How long after the database's own failover the name moves, unless a test says otherwise; on AWS up to minutes.
DNS_IS_LATE_SECONDS = 3.0
# Of a failover, in their order: the promotion; until the name is seen to have moved; until the target is registered;
# until the consumer, who has to connect again, writes.
PARTS = ("database", "DNS", "function", "load balancer")


def bindings(group: TargetGroup, *hostnames: str) -> str:
    """The value of BINDINGS that ties the hostnames to the group."""
    return json.dumps([{"hostname": x, "target_group_arn": group.arn} for x in hostnames or (HOSTNAME,)])


@dataclass(frozen=True)
class Outage:
    """How long the consumer could not write, whose time that was, and what it met."""

    # Seconds, in the order in which they passed.
    parts: dict[str, float]
    errors: Counter[str]

    @property
    def seconds(self) -> float:
        """The whole of it."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in self.parts.items())
        return f"no write acknowledged for {self.seconds:.1f} s ({parts})\nerrors: {self.met}"

    @property
    def met(self) -> str:
        """The errors in words."""
        return ", ".join(f"{number} {name}" for name, number in self.errors.most_common()) or "none"


@dataclass
class World:
    """A database behind a load balancer, and who writes to it."""

    cloud: Cloud
    dns: DnsServer
    database: Database
    group: TargetGroup
    balancer: LoadBalancer
    consumer: Consumer
    # How to connect through the load balancer.
    through: str
    # One past the load balancer for each instance: they tell which instance takes writes when.
    witnesses: list[Consumer]

    def move_name(self) -> float:
        """The name moves to the writer; when that can be seen."""
        return self.dns.answer(HOSTNAME, self.database.writer.address)

    def fail_over(
        self, late: float = DNS_IS_LATE_SECONDS, moved: Callable[[], object] = lambda: None, seconds: float = 90
    ) -> Outage:
        """The database fails over, and the name moves later, when `moved` is called; until the consumer writes again."""
        began = time.monotonic()
        self.database.fail_over()
        time.sleep(late)
        seen = self.move_name()
        moved()
        return self.outage(began, seen, seconds)

    def outage(self, began: float, seen: float, seconds: float = 90) -> Outage:
        """What the consumer met of a failover that began then, whose name was seen to move then, once it is over."""
        writer = self.database.writer
        first = wait_for(
            "the consumer to write to the new writer", lambda: self.consumer.first_on(writer.host, began), seconds
        )
        registered = self.balancer.first(f"{writer.address}:{PORT}", "registered", began) or first
        moments = [self.consumer.last_before(began), self.database.promoted_at, seen, registered, first]
        # What came before its time took none.
        ordered = [max(moments[: n + 1]) for n in range(len(moments))]
        parts = {part: after - before for part, (before, after) in zip(PARTS, pairwise(ordered), strict=True)}
        return Outage(parts, self.consumer.met(began))

    def check_rows(self) -> int:
        """Fails if a row was acknowledged and is not there; how many there are."""
        for consumer in (self.consumer, *self.witnesses):
            if lost := consumer.lost(self.database.writer.conninfo):
                raise Failure(f"{len(lost)} rows of {consumer.name} were acknowledged and are lost: {sorted(lost)[:9]}")
        return len(self.consumer.written)

    def check_writers(self) -> int:
        """Fails if two instances took writes at one time; how often the writer changed."""
        rows = sorted((x for y in (self.consumer, *self.witnesses) for x in y.written), key=lambda x: x.ended)
        changes = 0
        for previous, row in pairwise(rows):
            if row.server != previous.server:
                changes += 1
                if row.began < previous.ended:
                    raise Failure(f"{row.server} took a write while {previous.server} still did")
        return changes


@contextmanager
def world(
    cloud: Cloud,
    dns: DnsServer,
    database: Database,
    group: TargetGroup,
    keeps_what_works: bool = False,
    haste: float = 1,
) -> Iterator[World]:
    """A load balancer, a consumer and two witnesses, whose name points to the writer, which is registered."""
    with balancing(cloud, group, database.reach, haste) as balancer, ExitStack() as stack:
        # The name that the certificate is for, at the address of the load balancer.
        through = f"host={HOSTNAME} hostaddr=127.0.0.1 port={balancer.port} user=postgres dbname=postgres"
        through += f" sslmode=verify-full sslrootcert={database.authority}"
        consumer = stack.enter_context(consuming("consumer", through, keeps_what_works))
        witnesses = [stack.enter_context(consuming(x.address, x.conninfo)) for x in database.instances.values()]
        made = World(cloud, dns, database, group, balancer, consumer, through, witnesses)
        wait_for("the consumer's first row", lambda: consumer.written or None, 30)
        yield made
