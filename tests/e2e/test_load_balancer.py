"""The local load balancer does what AWS's documents say of a network load balancer."""

from __future__ import annotations

import socket
import socketserver
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from local.cloud import Cloud, TargetGroup
from local.load_balancer import LoadBalancer, Target, balancing
from local.process import LOOPBACK, wait_for

FIRST, SECOND = "10.0.1.10", "10.0.2.20"
PORT = 5432
ENDS = "deregistration_delay.connection_termination.enabled"
DELAY = "deregistration_delay.timeout_seconds"
UNHEALTHY_ENDS = "target_health_state.unhealthy.connection_termination.enabled"


class Server(socketserver.ThreadingTCPServer):
    """A target: tells its address to each who connects, and repeats what it is told."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: str) -> None:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):
                    self.wfile.write(f"{address}\n".encode())
                    for line in self.rfile:
                        self.wfile.write(line)

        super().__init__((LOOPBACK, 0), Handler)


class Fleet:
    """The two targets, which can go down and come back."""

    def __init__(self) -> None:
        self.servers: dict[str, Server] = {}

    def up(self, *addresses: str) -> None:
        """From now on these accept connections."""
        for address in addresses:
            self.servers[address] = server = Server(address)
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def down(self, address: str) -> None:
        """From now on this one refuses connections; those that it has stay."""
        server = self.servers.pop(address)
        server.shutdown()
        server.socket.close()

    def reach(self, address: str, _: int) -> tuple[str, int]:
        """Where a target is; one that is down on a port that nobody has."""
        server = self.servers.get(address)
        return LOOPBACK, server.server_address[1] if server else 1


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """None is up at first."""
    fleet = Fleet()
    yield fleet
    for address in list(fleet.servers):
        fleet.down(address)


@contextmanager
def started(
    cloud: Cloud, fleet: Fleet, *addresses: str, **attributes: str
) -> Iterator[tuple[TargetGroup, LoadBalancer]]:
    """A load balancer before these targets, which checks twenty times as often as it would."""
    checks = {"HealthCheckIntervalSeconds": 5, "HealthyThresholdCount": 2, "UnhealthyThresholdCount": 2}
    group = cloud.create_target_group(f"traffic-{uuid.uuid4().hex[:8]}", PORT, **checks)
    cloud.elb.modify_target_group_attributes(
        TargetGroupArn=group.arn, Attributes=[{"Key": x, "Value": y} for x, y in attributes.items()]
    )
    register(cloud, group, *addresses)
    with balancing(cloud, group, fleet.reach, haste=20) as balancer:
        yield group, balancer


def register(cloud: Cloud, group: TargetGroup, *addresses: str) -> None:
    """RegisterTargets."""
    targets = [{"Id": x, "Port": PORT} for x in addresses]
    if targets:
        cloud.elb.register_targets(TargetGroupArn=group.arn, Targets=targets)


def deregister(cloud: Cloud, group: TargetGroup, address: str) -> None:
    """DeregisterTargets."""
    cloud.elb.deregister_targets(TargetGroupArn=group.arn, Targets=[{"Id": address, "Port": PORT}])


def becomes(cloud: Cloud, group: TargetGroup, **states: str) -> None:
    """Waits until DescribeTargetHealth says so."""
    wanted = {f"{FIRST if which == 'first' else SECOND}:{PORT}": state for which, state in states.items()}
    wait_for(f"the targets {wanted}", lambda: cloud.targets(group) == wanted or None, 15)


class Connection:
    """A connection through the load balancer."""

    def __init__(self, balancer: LoadBalancer) -> None:
        self.socket = socket.create_connection((LOOPBACK, balancer.port), timeout=10)
        self.file = self.socket.makefile("rwb")
        with suppress(ConnectionError):
            self.server = self.file.readline().decode().strip()

    def works(self) -> bool:
        """Whether the target still repeats what it is told."""
        with suppress(ConnectionError):
            self.file.write(b"hello\n")
            self.file.flush()
            return self.file.readline() == b"hello\n"
        return False


def who_answers(balancer: LoadBalancer, times: int = 20) -> set[str]:
    """Who answers new connections; nobody is the empty name."""
    return {getattr(Connection(balancer), "server", "") for _ in range(times)}


def test_a_new_target_is_initial_until_its_first_check_passes_and_gets_nothing_while_another_is_healthy(
    cloud: Cloud, fleet: Fleet
) -> None:
    fleet.up(FIRST)
    with started(cloud, fleet, FIRST) as (group, balancer):
        becomes(cloud, group, first="healthy")
        register(cloud, group, SECOND)
        becomes(cloud, group, first="healthy", second="initial")
        assert who_answers(balancer) == {FIRST}
        fleet.up(SECOND)
        becomes(cloud, group, first="healthy", second="healthy")
        assert who_answers(balancer) == {FIRST, SECOND}


def test_one_that_is_unhealthy_gets_nothing_and_its_connections_are_ended(cloud: Cloud, fleet: Fleet) -> None:
    fleet.up(FIRST, SECOND)
    with started(cloud, fleet, FIRST) as (group, balancer):
        becomes(cloud, group, first="healthy")
        held = Connection(balancer)
        register(cloud, group, SECOND)
        fleet.down(FIRST)
        becomes(cloud, group, first="unhealthy", second="healthy")
        assert not held.works()
        assert who_answers(balancer) == {SECOND}


def test_its_connections_stay_where_the_attribute_says_so(cloud: Cloud, fleet: Fleet) -> None:
    fleet.up(FIRST)
    with started(cloud, fleet, FIRST, **{UNHEALTHY_ENDS: "false"}) as (group, balancer):
        becomes(cloud, group, first="healthy")
        held = Connection(balancer)
        fleet.down(FIRST)
        becomes(cloud, group, first="unhealthy")
        assert held.works()


def test_it_fails_open_where_none_is_healthy(cloud: Cloud, fleet: Fleet) -> None:
    fleet.up(FIRST, SECOND)
    with started(cloud, fleet, FIRST, SECOND) as (group, balancer):
        balancer.fails_checks = True
        becomes(cloud, group, first="unhealthy", second="unhealthy")
        assert who_answers(balancer, 40) == {FIRST, SECOND}


def test_nobody_answers_where_nothing_is_registered_or_the_target_refuses(cloud: Cloud, fleet: Fleet) -> None:
    with started(cloud, fleet) as (group, balancer):
        assert who_answers(balancer, 3) == {""}
        register(cloud, group, FIRST)
        becomes(cloud, group, first="initial")
        assert who_answers(balancer, 3) == {""}


@pytest.mark.parametrize("ends", ["true", "false"])
def test_a_draining_target_gets_nothing_new_and_its_connections_end_after_the_delay_where_they_shall(
    cloud: Cloud, fleet: Fleet, ends: str
) -> None:
    fleet.up(FIRST, SECOND)
    with started(cloud, fleet, FIRST, **{DELAY: "2", ENDS: ends}) as (group, balancer):
        becomes(cloud, group, first="healthy")
        held = Connection(balancer)
        register(cloud, group, SECOND)
        deregister(cloud, group, FIRST)
        becomes(cloud, group, first="draining", second="healthy")
        assert who_answers(balancer) == {SECOND}
        assert held.works()
        becomes(cloud, group, second="healthy")
        assert held.works() is (ends == "false")


def test_a_draining_target_that_is_registered_again_is_in_service_again(cloud: Cloud, fleet: Fleet) -> None:
    fleet.up(FIRST)
    with started(cloud, fleet, FIRST, **{DELAY: "30", ENDS: "true"}) as (group, balancer):
        becomes(cloud, group, first="healthy")
        held = Connection(balancer)
        deregister(cloud, group, FIRST)
        becomes(cloud, group, first="draining")
        register(cloud, group, FIRST)
        becomes(cloud, group, first="healthy")
        assert who_answers(balancer, 3) == {FIRST}
        assert held.works()


def test_thresholds_are_of_checks_in_a_row(tmp_path: Path) -> None:
    group = TargetGroup("arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/a/b", PORT)
    balancer = LoadBalancer(Cloud("none", None, reports=tmp_path), group, lambda host, port: (host, port))
    balancer._settings = {"HealthyThresholdCount": 3, "UnhealthyThresholdCount": 2, UNHEALTHY_ENDS: "true"}
    target = Target(FIRST, PORT)
    # The first that passes takes a new target into service; a lapse counts for nothing once another check passed.
    for passed, state in [
        (False, "initial"),
        (True, "healthy"),
        (False, "healthy"),
        (True, "healthy"),
        (False, "healthy"),
        (False, "unhealthy"),
        (True, "unhealthy"),
        (True, "unhealthy"),
        (False, "unhealthy"),
        (True, "unhealthy"),
        (True, "unhealthy"),
        (True, "healthy"),
    ]:
        balancer.judge(target, passed)
        assert target.state == state
