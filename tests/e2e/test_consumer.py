"""What a consumer meets that writes to PostgreSQL through the load balancer, in a failover and on bad days.

Nothing that was acknowledged may be lost, and never may two instances take writes. How long it took is shown by
`pytest -rP`, and asserted nowhere.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest

from local.cloud import Cloud
from local.database import Database, database
from local.dns import DnsServer
from local.function import EVENTS, Function, serve
from local.process import Failure, in_background, wait_for
from local.scenario import AFTER, BEFORE, FAILOVER, HOSTNAME, PORT, Outage, World, bindings, world

SETTINGS = {
    "deregistration_delay.timeout_seconds": "0",
    "deregistration_delay.connection_termination.enabled": "true",
}
CHECKS = {"HealthCheckIntervalSeconds": 5, "HealthyThresholdCount": 2, "UnhealthyThresholdCount": 2}
# How many times as often it checks here.
HASTE = 10


@pytest.fixture(scope="session")
def postgres() -> Iterator[Database]:
    """A PostgreSQL with its standby, which fails over from test to test."""
    with database(HOSTNAME, (BEFORE, AFTER)) as running:
        yield running


Day = tuple[World, Function]


@pytest.fixture
def begin(cloud: Cloud, dns: DnsServer, postgres: Database, work: Path) -> Iterator[Callable[..., Day]]:
    """Lets a consumer write through a target group of its own, which the function follows; checks the rows after it."""
    with ExitStack() as stack:

        def start(keeps_what_works: bool = False) -> Day:
            group = cloud.create_target_group(f"day-{uuid.uuid4().hex[:8]}", PORT, **CHECKS)
            attributes = [{"Key": key, "Value": value} for key, value in SETTINGS.items()]
            cloud.elb.modify_target_group_attributes(TargetGroupArn=group.arn, Attributes=attributes)
            postgres.refuses.clear()
            dns.answer(HOSTNAME, postgres.writer.address)
            function = stack.enter_context(serve(cloud, dns, work, BINDINGS=bindings(group)))
            function.invoke({})
            seen = stack.enter_context(world(cloud, dns, postgres, group, keeps_what_works, HASTE))
            return seen, function

        yield start


def announce(function: Function) -> None:
    """RDS's event, which starts a watch; it ends with the function."""
    in_background(lambda: function.invoke(EVENTS / FAILOVER))


def check(seen: World, outage: Outage, since: float, changes: int = 1) -> None:
    """What holds on every day, once the old writer is cut off."""
    new, old = (f"{x.address}:{PORT}" for x in (seen.database.writer, seen.database.standby))
    gone = lambda: seen.cloud.targets(seen.group) == {new: "healthy"} or None
    wait_for(f"{new} to be the only target", gone, 30)
    print(outage)
    for at, target, what in seen.balancer.log:
        if at >= since:
            print(f"{at - since:6.1f} s {target} {what}")
    seen.check_rows()
    assert seen.check_writers() == changes
    # The new target takes writes before the old one is cut.
    registered, drained = seen.balancer.first(new, "registered", since), seen.balancer.first(old, "draining", since)
    assert registered is not None
    assert drained is not None
    assert registered <= drained
    promoted = min(x.first_on(seen.database.writer.host, since) or drained + 1 for x in seen.witnesses)
    assert promoted < drained


def test_a_failover_with_its_event(begin: Callable[..., Day]) -> None:
    seen, function = begin()
    began = time.monotonic()
    announce(function)
    check(seen, seen.fail_over(), began)


def test_a_certificate_of_the_rds_name_verifies_through_the_load_balancer(begin: Callable[..., Day]) -> None:
    """As docs/guide.md tells consumers: the database's own name, at the address of the endpoint, with verify-full."""
    seen, _ = begin()
    with psycopg.connect(seen.through) as connection:
        assert "sslmode=verify-full" in seen.through
        assert connection.pgconn.ssl_in_use
        assert connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == (True,)
    other = seen.through.replace(HOSTNAME, "vpce-0123456789abcdef0.vpce.amazonaws.com")
    with pytest.raises(psycopg.OperationalError, match="does not match host name"):
        psycopg.connect(other)


def test_a_lost_row_and_a_second_writer_would_be_found(begin: Callable[..., Day]) -> None:
    seen, _ = begin()
    seen.check_rows()
    assert seen.check_writers() == 0
    row = seen.consumer.written[0]
    seen.database.writer.query(f"DELETE FROM writes WHERE consumer = '{seen.consumer.name}' AND id = {row.id}")
    with pytest.raises(Failure, match="1 rows of consumer .* were acknowledged and are lost"):
        seen.check_rows()
    seen.witnesses[0].written.append(replace(row, server="127.0.9.9"))
    with pytest.raises(Failure, match="took a write while"):
        seen.check_writers()


@pytest.mark.nightly
def test_the_new_writer_refuses_connections_for_seconds(begin: Callable[..., Day]) -> None:
    seen, function = begin()
    began = time.monotonic()
    announce(function)
    writer = seen.database.standby
    seen.database.refuses.add(writer.address)
    seen.database.fail_over()
    moved = seen.move_name()
    wait_for("its registration", lambda: seen.balancer.first(f"{writer.address}:{PORT}", "registered", began), 30)
    time.sleep(3)
    assert seen.consumer.first_on(writer.host, began) is None
    seen.database.refuses.clear()
    check(seen, seen.outage(began, moved), began)


@pytest.mark.nightly
def test_the_old_writer_answers_reads_and_refuses_writes_of_a_pool_that_keeps_what_works(
    begin: Callable[..., Day],
) -> None:
    """Such a pool is freed by the load balancer, which ends the connections of a target that has drained."""
    seen, function = begin(keeps_what_works=True)
    began = time.monotonic()
    announce(function)
    old = seen.database.writer
    seen.database.fail_over()
    wait_for(
        "an error of the consumer that keeps its connection",
        lambda: seen.consumer.met(began)["ReadOnlySqlTransaction"],
        30,
    )
    with psycopg.connect(seen.through, autocommit=True) as reader:
        server, rows = reader.execute("SELECT host(inet_server_addr()), count(*) FROM writes").fetchone() or ("", 0)
        assert server == old.host
        assert rows >= len(seen.consumer.written)
        outage = seen.outage(began, seen.move_name())
        check(seen, outage, began)
        assert seen.balancer.first(f"{old.address}:{PORT}", "cut", began) is not None
        with pytest.raises(psycopg.OperationalError):
            reader.execute("SELECT 1")


@pytest.mark.nightly
def test_dns_flaps_for_20_seconds(begin: Callable[..., Day], dns: DnsServer) -> None:
    """As seen of Aurora: https://github.com/aws/aws-mysql-jdbc/issues/377."""
    seen, function = begin()
    began = time.monotonic()
    announce(function)
    seen.database.fail_over()
    for _ in range(5):
        seen.move_name()
        time.sleep(2)
        dns.answer(HOSTNAME, seen.database.standby.address)
        time.sleep(2)
    moved = seen.move_name()
    outage = seen.outage(began, moved)
    gaps = [y.began - x.ended for x, y in pairwise(seen.consumer.written) if y.began - x.ended > 0.5]
    print("no write acknowledged for", ", ".join(f"{gap:.1f} s" for gap in gaps))
    check(seen, outage, began)


@pytest.mark.nightly
def test_health_checks_fail_for_all(begin: Callable[..., Day]) -> None:
    """The load balancer fails open: the consumer writes on, and a failover is followed all the same."""
    seen, function = begin()
    began = time.monotonic()
    seen.balancer.fails_checks = True
    old = f"{seen.database.writer.address}:{PORT}"
    unhealthy = wait_for("an unhealthy target", lambda: seen.balancer.first(old, "unhealthy", began), 30)
    wait_for("a write", lambda: seen.consumer.first_on(seen.database.writer.host, unhealthy), 30)
    reply = function.invoke({"check": True}).reply
    assert reply is not None
    assert not reply["ok"]
    assert "no-healthy-target" in {x["code"] for x in reply["groups"][0]["findings"]}
    announce(function)
    outage = seen.fail_over()
    seen.balancer.fails_checks = False
    check(seen, outage, began)


@pytest.mark.nightly
def test_the_function_is_killed_in_the_middle(begin: Callable[..., Day]) -> None:
    """Whatever it had done by then, the next run does the rest."""
    seen, function = begin()
    began = time.monotonic()
    announce(function)
    seen.database.fail_over()
    moved = seen.move_name()
    new = f"{seen.database.writer.address}:{PORT}"
    wait_for("the registration", lambda: new in seen.cloud.targets(seen.group) or None, 30, pause=0.001)
    function.kill()
    print(f"killed when the targets were {seen.cloud.targets(seen.group)}")
    function.invoke({})
    check(seen, seen.outage(began, moved), began)
