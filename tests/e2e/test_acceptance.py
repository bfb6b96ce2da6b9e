"""`make acceptance-aws` on ministack: all that it has, and the rest is not supported."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from dnslib import DNSRecord
from dnslib.server import DNSHandler
from samcli.yamlhelper import yaml_dump, yaml_parse

from conformance import acceptance
from conformance.network import TEMPLATE as NETWORK
from conformance.network import Network, remove
from conformance.scenario import Scenario, Step
from local.cloud import Cloud
from local.deployment import TEMPLATE
from local.dns import DnsServer
from local.process import ROOT, free_port, in_background, listening, running, wait_for
from local.scenario import AFTER, PORT
from tests.e2e.test_conformance import there_is
from tools.package import from_bucket, translated


class Resolver(DnsServer):
    """What the resolver of the VPC is on AWS: it knows the records of the private hosted zone."""

    def __init__(self, cloud: Cloud) -> None:
        self._route53 = cloud.client("route53")
        super().__init__()

    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord:
        """Answers with what the zone says now."""
        self._answers.clear()
        for zone in self._route53.list_hosted_zones()["HostedZones"]:
            for x in self._route53.list_resource_record_sets(HostedZoneId=zone["Id"])["ResourceRecordSets"]:
                if x["Type"] == "A":
                    self.answer(x["Name"].rstrip("."), *(y["Value"] for y in x["ResourceRecords"]))
        return super().resolve(request, handler)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make package` makes, but for the build, which takes minutes."""
    folder = tmp_path_factory.mktemp("dist")
    built = tmp_path_factory.mktemp("built")
    shutil.copy(ROOT / "target" / "debug" / "bootstrap", built)
    shutil.make_archive(str(folder / "nlb-hostname-targets-0.0.0-x86_64"), "zip", built)
    source = from_bucket(translated(yaml_parse(TEMPLATE.read_text())), "0.0.0")
    (folder / "template.yaml").write_text(yaml_dump(source))
    return folder


@pytest.fixture
def servers(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Those that the function asks; afterwards nothing is left of whatever was made, but a report."""
    monkeypatch.setattr(acceptance, "REPORT", tmp_path / "acceptance.md")
    before = there_is(cloud)
    with closing(Resolver(cloud)) as resolver:
        yield resolver.address
    assert there_is(cloud) == before


def place_of(cloud: Cloud) -> Network:
    """A place where ministack is in place of AWS."""
    return Network("emulation", boto3.Session(), cloud.endpoint)


@pytest.mark.nightly
@pytest.mark.differs("initial")
def test_a_stack_from_a_package_through_its_failovers(cloud: Cloud, package: Path, servers: str) -> None:
    status = acceptance.main(place_of(cloud), package, DnsServers=servers)
    told = acceptance.REPORT.read_text()
    assert status == 0, told
    found = {cells[1].strip(): cells[2] for row in told.splitlines() if len(cells := row.split("|")) > 3}
    assert {what for what, seen in found.items() if "not supported" in seen} == {
        "RegisterTargets",
        "the first connection on the new target",
        "the last connection on the old target",
        "the end of a connection held on the old target",
        "CloudWatch has the metrics of these runs",
        "what becomes of a subnet that is removed from SubnetIds",
        "another port: the stack policy keeps the target group",
    }
    assert len(found) >= 18


@pytest.mark.nightly
@pytest.mark.parametrize("error", [RuntimeError("on purpose"), KeyboardInterrupt(signal.SIGINT)], ids=type)
@pytest.mark.parametrize("step", ["first_sync", "scheduled", "verified"])
def test_wherever_it_fails_nothing_is_left(
    cloud: Cloud, package: Path, servers: str, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    breaks(monkeypatch, step, error)
    with pytest.raises(type(error)):
        acceptance.main(place_of(cloud), package, DnsServers=servers)


def breaks(monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException) -> None:
    """Lets this step of the scenario end so, and the failover take no time."""

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Scenario, "failover", lambda _: Step({}, {}, None))
    monkeypatch.setattr(Scenario, step, fail)


@pytest.mark.nightly
def test_what_a_killed_run_left_is_swept(
    cloud: Cloud, package: Path, servers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks(monkeypatch, "second_sync", RuntimeError("on purpose"))
    with monkeypatch.context() as killed:
        killed.setattr(acceptance, "removing", lambda *_: nullcontext())
        with pytest.raises(RuntimeError, match="on purpose"):
            acceptance.main(place_of(cloud), package, DnsServers=servers)
    told: list[str] = []
    remove(place_of(cloud), told.append, of_all=True)
    assert [x.split()[1].split("-")[0] for x in told if x.startswith(" ")] == ["acceptance", "network"]


# What ministack has not is tried by itself: the programs of the surroundings, and what is made of what they tell.


class Relay:
    """A load balancer of one target; when that changes, the connections to the old one end."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: list[socket.socket] = []
        self.target = "127.0.0.2"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((self.target, self._port))
                self._open += [client, server]
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(4096):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def turn(self, target: str) -> None:
        """From now on the target is another."""
        self.target = target
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stops."""
        self._listener.close()


def program(*path: str) -> str:
    """A program in the template of the surroundings."""
    found = yaml_parse(NETWORK.read_text())["Resources"]
    for key in path:
        found = found[key]
    return found


def test_the_client_sees_which_target_takes_connections_and_when_one_that_it_holds_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    port = free_port()
    server = tmp_path / "server.py"
    server.write_text(program("FirstServer", "Properties", "UserData", "Fn::Base64").replace("5432", str(port)))
    # On each loopback address; it tells to which one a connection came.
    with running("server", [sys.executable, str(server)]), closing(Relay(port)) as relay:
        wait_for("the server", lambda: listening(port), 10)
        code = tmp_path / "client.py"
        code.write_text(program("Client", "Properties", "Code", "ZipFile").replace("5432", str(relay.port)))
        client = runpy.run_path(str(code))
        seeing = in_background(lambda: client["handler"]({"host": "127.0.0.1", "seconds": 3}, None))
        time.sleep(1)
        changed = time.time()
        relay.turn("127.0.0.3")
        seen = seeing.result()
        assert client["handler"]({"host": "127.0.0.1", "seconds": 0}, None)["changes"][0][1] == "127.0.0.3"
    assert [who for _, who in seen["changes"] if who.startswith("127")] == ["127.0.0.2", "127.0.0.3"], seen

    monkeypatch.setattr(acceptance, "BEFORE", "127.0.0.2")
    monkeypatch.setattr(acceptance, "AFTER", "127.0.0.3")
    report = acceptance.Report(Network("AWS", boto3.Session()))
    acceptance.connections(report, lambda: seen, changed)
    for outcome in report.outcomes.values():
        assert outcome.verdict == "holds", report.outcomes
        assert re.search(r"\b[01]\.\d s after the record's change", outcome.seen), outcome

    # It must not be said that something ended, or began, which did not.
    never = {**seen, "changes": seen["changes"][:1], "ended": None}
    acceptance.connections(report, lambda: never, changed)
    assert [x.verdict for x in report.outcomes.values()] == ["differs", "differs", "holds"]
    assert list(report.outcomes.values())[-1].seen == "it did not end"


def test_the_log_has_what_is_looked_for_when_a_target_is_registered() -> None:
    said = [x for x in (ROOT / "docs" / "reference.md").read_text().splitlines() if '"message":"registered"' in x]
    assert f"{AFTER}:{PORT}" in [json.loads(x)["fields"]["target"] for x in said]
