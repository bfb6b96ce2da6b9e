"""`make acceptance-aws` on ministack: all that it has, and the rest is not supported."""

from __future__ import annotations

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
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import boto3
import pytest
from dnslib import DNSRecord
from dnslib.server import DNSHandler
from samcli.yamlhelper import yaml_dump, yaml_parse

from conformance import acceptance
from conformance.network import Network, remove
from local.cloud import Cloud
from local.dns import DnsServer
from local.process import ROOT, Failure, free_port, in_background, listening, running, wait_for
from local.scenario import AFTER, BEFORE, PORT, Scenario, Step
from tests.e2e.stacks import inventory
from tests.e2e.test_conformance import there_is
from tools.deploy import archive
from tools.package import from_bucket, translated
from tools.parameters import template


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
    code = archive(folder, "x86_64")
    shutil.make_archive(str(code.with_suffix("")), "zip", built)
    version = code.name.removeprefix("nlb-hostname-targets-").removesuffix("-x86_64.zip")
    (folder / "template.yaml").write_text(yaml_dump(from_bucket(translated(template()), version)))
    return folder


@pytest.fixture
def settings(cloud: Cloud) -> Iterator[str]:
    """Those by which the function asks the resolver; afterwards nothing is left of whatever was made."""
    before = everything(cloud)
    with closing(Resolver(cloud)) as resolver:
        yield f"DNS_SERVERS={resolver.address}"
    assert everything(cloud) == before


def everything(cloud: Cloud) -> set[str]:
    """All that a stack or its surroundings make."""
    buckets = [x["Name"] for x in cloud.client("s3").list_buckets()["Buckets"]]
    zones = [x["Id"] for x in cloud.client("route53").list_hosted_zones()["HostedZones"]]
    return {*inventory(cloud), *there_is(cloud), *buckets, *zones}


@pytest.fixture(autouse=True)
def report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the report is written, apart from a user's own."""
    path = tmp_path / "acceptance.md"
    monkeypatch.setattr(acceptance, "REPORT", path)
    return path


def place_of(cloud: Cloud) -> Network:
    """A place where ministack is in place of AWS."""
    return Network("emulation", boto3.Session(), cloud.endpoint)


@pytest.mark.differs("initial")
def test_a_stack_from_a_package_through_its_failovers(cloud: Cloud, package: Path, settings: str, report: Path) -> None:
    status = acceptance.main(place_of(cloud), package, settings)
    told = report.read_text()
    assert status == 0, told
    found = {cells[1].strip(): cells[2].strip() for row in told.splitlines() if len(cells := row.split("|")) > 4}
    unsupported = {what for what, verdict in found.items() if verdict == "not supported"}
    assert unsupported == {
        "RegisterTargets",
        "the first connection on the new target",
        "the last connection on the old target",
        "the end of a connection held on the old target",
        "CloudWatch has the metrics of these runs",
        "a subnet is removed from SubnetIds",
        "the address family changes: the stack policy refuses it",
    }
    assert len(found) - len(unsupported) >= 12


@pytest.mark.parametrize("error", [RuntimeError("on purpose"), KeyboardInterrupt(signal.SIGINT)], ids=type)
@pytest.mark.parametrize("step", ["first_sync", "scheduled", "verified"])
def test_wherever_it_fails_nothing_is_left(
    cloud: Cloud,
    package: Path,
    settings: str,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    error: BaseException,
) -> None:
    breaks(monkeypatch, step, error)
    with pytest.raises(type(error)):
        acceptance.main(place_of(cloud), package, settings)


def breaks(monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException) -> None:
    """Lets this step of the scenario end so, and the failover take no time."""

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Scenario, "failover", lambda _: Step({}, {}, None))
    monkeypatch.setattr(Scenario, step, fail)


def test_what_a_killed_run_left_is_swept(
    cloud: Cloud, package: Path, settings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptance, "removing", lambda *_: nullcontext())
    breaks(monkeypatch, "second_sync", RuntimeError("on purpose"))
    before = everything(cloud)
    with pytest.raises(RuntimeError, match="on purpose"):
        acceptance.main(place_of(cloud), package, settings)
    assert len([x for x in everything(cloud) - before if x.startswith(("acceptance-", "surroundings-"))]) >= 2
    told: list[str] = []
    remove(place_of(cloud), told.append, of_all=True)
    assert [x.split()[1].split("-")[0] for x in told if x.startswith(" ")] == ["acceptance", "surroundings"]


def test_it_says_that_there_is_no_package(cloud: Cloud, tmp_path: Path) -> None:
    with pytest.raises(Failure, match="`make package` makes one"):
        acceptance.main(place_of(cloud), tmp_path)


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
    found = yaml_parse(acceptance.SURROUNDINGS.read_text())["Resources"]
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
    acceptance.connections(report, seen, changed)
    for _, outcome in report.rows:
        assert outcome.verdict == "measured", report.rows
        assert re.search(r"\b[01]\.\d s after the record's change", outcome.seen), outcome

    # It must not be said that something ended, or began, which did not.
    never = acceptance.Report(Network("AWS", boto3.Session()))
    acceptance.connections(never, {**seen, "changes": seen["changes"][:1], "ended": None}, changed)
    assert [outcome.verdict for _, outcome in never.rows] == ["differs", "differs", "measured"]
    assert never.rows[-1][1].seen == "it did not end"


def test_the_log_tells_when_a_target_was_registered() -> None:
    said = [x for x in (ROOT / "docs" / "reference.md").read_text().splitlines() if '"message":"registered"' in x]
    times = [acceptance.registered_at(x, f"{AFTER}:{PORT}") for x in said]
    assert datetime(2026, 11, 22, 9, 1, 0, 123456, timezone.utc).timestamp() in times
    assert [acceptance.registered_at(x, f"{BEFORE}:{PORT}") for x in said] == [None] * len(said)
    assert acceptance.registered_at("END RequestId: 1", f"{AFTER}:{PORT}") is None
