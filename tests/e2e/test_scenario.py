"""The steps of `make run`, which check themselves, against two emulations of AWS."""

from __future__ import annotations

from pathlib import Path

import pytest

from local.cloud import Cloud, moto
from local.dns import DnsServer
from local.function import serve
from local.scenario import HOSTNAME, PORT, Scenario, bindings


@pytest.mark.differs("initial")
def test_the_steps_of_make_run_hold_on_ministack(cloud: Cloud, dns: DnsServer, work: Path) -> None:
    group = cloud.create_target_group("scenario", 5432)
    with serve(cloud, dns, work, BINDINGS=bindings(group)) as function:
        scenario = Scenario(cloud, dns, group, function)
        scenario.first_sync()
        scenario.second_sync()
        scenario.failover()
        scenario.dns_failure()
        scenario.metrics()


@pytest.mark.differs("initial")
def test_elbv2_holds_on_moto_too(dns: DnsServer, work: Path) -> None:
    """Without metrics: moto's server does not speak the CBOR protocol. And without a second watch, which takes long."""
    with moto(work) as cloud:
        group = cloud.create_target_group("scenario", 5432)
        with serve(cloud, dns, work, BINDINGS=bindings(group), METRICS="off") as function:
            scenario = Scenario(cloud, dns, group, function)
            scenario.first_sync()
            scenario.second_sync()
            scenario.move()
            for code in ("SERVFAIL", "NXDOMAIN", "REFUSED"):
                scenario.dns_failure(code)


@pytest.mark.differs("families")
def test_an_ipv6_group_gets_the_aaaa_records(dns: DnsServer, work: Path) -> None:
    """On moto: ministack does not tell the family of a target group."""
    with moto(work) as cloud:
        group = cloud.create_target_group("ipv6", 5432, "ipv6")
        dns.answer(HOSTNAME, "10.0.1.10", "fd00::10")
        with serve(cloud, dns, work, BINDINGS=bindings(group), METRICS="emf") as function:
            assert function.invoke({}).group["resolved"] == ["fd00::10"]
        assert list(cloud.targets(group)) == [f"fd00::10:{PORT}"]
