"""What only a real exchange with a DNS server shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from local.cloud import Cloud
from local.dns import DnsServer
from local.function import Function, serve


@pytest.fixture(scope="module")
def function(cloud: Cloud, dns: DnsServer, work: Path) -> Iterator[Function]:
    """The function without bindings of its own."""
    with serve(cloud, dns, work) as running:
        yield running


def request(cloud: Cloud, hostname: str) -> tuple[dict, str]:
    """A direct request for a new target group, and the group's ARN."""
    group = cloud.create_target_group(hostname.split(".")[0], 5432)
    return {"bindings": [{"hostname": hostname, "target_group_arn": group.arn}]}, group.arn


def test_a_cname_is_followed(cloud: Cloud, dns: DnsServer, function: Function) -> None:
    dns.alias("writer.example.test", "instance-1.example.test")
    dns.answer("instance-1.example.test", "10.0.1.60")
    event, _ = request(cloud, "writer.example.test")
    assert function.invoke(event).group["registered"] == ["10.0.1.60:5432"]


def test_an_answer_too_long_for_udp_comes_over_tcp(cloud: Cloud, dns: DnsServer, function: Function) -> None:
    addresses = [f"10.0.2.{n}" for n in range(1, 251)]
    dns.answer("many.example.test", *addresses)
    event, arn = request(cloud, "many.example.test")
    reply = function.invoke(event).group
    assert sorted(reply["resolved"]) == sorted(addresses)
    # More than RegisterTargets takes in one call.
    assert len(cloud.elb.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]) == 250


def test_an_answer_without_data_is_a_failure_that_names_the_hostname(
    cloud: Cloud, dns: DnsServer, function: Function
) -> None:
    dns.answer("empty.example.test")
    event, arn = request(cloud, "empty.example.test")
    error = str(function.invoke(event).error)
    assert "empty.example.test" in error
    assert arn.rsplit(":", 1)[1] in error


def test_a_public_address_is_refused(cloud: Cloud, dns: DnsServer, function: Function) -> None:
    dns.answer("public.example.test", "54.1.2.3")
    event, arn = request(cloud, "public.example.test")
    error = str(function.invoke(event).error)
    assert "54.1.2.3" in error
    assert "VPC" in error
    assert cloud.elb.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"] == []
