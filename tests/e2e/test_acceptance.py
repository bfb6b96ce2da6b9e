"""`make acceptance-aws` on ministack: all that it has, and the rest is not supported."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import boto3
import pytest
from dnslib import DNSRecord
from dnslib.server import DNSHandler
from samcli.yamlhelper import yaml_dump

from conformance import acceptance
from conformance.network import Network, remove
from local.cloud import Cloud
from local.dns import DnsServer
from local.process import ROOT, Failure
from local.scenario import Scenario
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


def test_a_stack_from_a_package_through_its_failovers(cloud: Cloud, package: Path, settings: str, report: Path) -> None:
    status = acceptance.main(place_of(cloud), package, settings)
    told = report.read_text()
    assert status == 0, told
    found = {cells[1].strip(): cells[2].strip() for row in told.splitlines() if len(cells := row.split("|")) > 4}
    unsupported = {what for what, verdict in found.items() if verdict == "not supported"}
    assert unsupported == {
        "the first connection on the new target",
        "the last one on the old",
        "one held on the old",
        "CloudWatch has the metrics of these runs",
        "a subnet is removed from SubnetIds",
        "the address family changes: the stack policy refuses it",
    }
    assert found["RegisterTargets"] == "measured"
    assert len(found) - len(unsupported) >= 13


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

    monkeypatch.setattr(Scenario, "failover", lambda _: None)
    monkeypatch.setattr(acceptance, "registered_at", lambda *_: 0)
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
    assert [x.split()[1].split("-")[0] for x in told] == ["acceptance", "surroundings"]


def test_it_says_that_there_is_no_package(cloud: Cloud, tmp_path: Path) -> None:
    with pytest.raises(Failure, match="`make package` makes one"):
        acceptance.main(place_of(cloud), tmp_path)
