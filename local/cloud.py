"""The local AWS: ministack, and the load balancer that is made in it.

ministack, with what emulation.py adds to it, enforces IAM: a function that it runs may call of ELBv2 what its role's
policies give it, whoever else calls may do everything. PutMetricData it does not enforce, because the function's CBOR
protocol hides the action from it.

It is kinder than ELBv2: docs/conformance.md has what it does otherwise. The tests in tests/it emulate that.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from local.process import LOOPBACK, Failure, Process, free_port, running, wait_for

# What the template needs of ministack.
SERVICES = (
    "cloudformation",
    "cloudwatch",
    "ec2",
    "elbv2",
    "events",
    "iam",
    "lambda",
    "logs",
    "route53",
    "s3",
    "scheduler",
    "sns",
    "sts",
    "tagging",
)

NAMESPACE = "NlbHostnameTargets"
# What each run sends, and what only a run sends in which it is not 0.
STEADY_METRICS = ("RegisteredTargets", "HealthyTargets", "Failures")
METRICS = (*STEADY_METRICS, "Registrations", "Deregistrations", "WaitingTargets", "RefusedAddresses")


# https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetGroupAttribute.html
DEFAULT_ATTRIBUTES = {
    "deregistration_delay.timeout_seconds": "300",
    "deregistration_delay.connection_termination.enabled": "false",
    "target_health_state.unhealthy.connection_termination.enabled": "true",
}


def report_of(folder: Path, arn: str) -> Path:
    """The file about the targets of a group, by its ARN."""
    return folder / f"{arn.rsplit('/', 1)[1]}.json"


@dataclass(frozen=True)
class TargetGroup:
    """An IP target group behind a listener of an internal NLB."""

    arn: str
    port: int
    load_balancer: str = ""

    @property
    def dimension(self) -> str:
        """What CloudWatch calls it: targetgroup/NAME/ID."""
        return self.arn.rsplit(":", 1)[1]


class Cloud:
    """A running local AWS; without an endpoint, AWS itself."""

    def __init__(self, name: str, endpoint: str | None, attempts: int = 1, reports: Path | None = None) -> None:
        self.name = name
        self.endpoint = endpoint
        self._reports = reports
        self._attempts = attempts
        self._clients: dict[tuple[str, float], Any] = {}

    def client(self, service: str, read_seconds: float = 10) -> Any:
        """A boto3 client of the service. Locally one attempt, so that a server that is not up says so at once."""
        if (service, read_seconds) not in self._clients:
            config = Config(
                connect_timeout=2, read_timeout=read_seconds, retries={"total_max_attempts": self._attempts}
            )
            made = boto3.client(service, endpoint_url=self.endpoint, config=config)
            self._clients[service, read_seconds] = made
        return self._clients[service, read_seconds]

    @property
    def elb(self) -> Any:
        """The client of ELBv2."""
        return self.client("elbv2")

    def create_network(self) -> tuple[str, list[str]]:
        """Makes a VPC with two subnets; the ids of all three."""
        ec2 = self.client("ec2")
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        made = [
            ec2.create_subnet(VpcId=vpc, CidrBlock=cidr, AvailabilityZone=zone)
            for cidr, zone in (("10.0.1.0/24", "eu-west-1a"), ("10.0.2.0/24", "eu-west-1b"))
        ]
        return vpc, [x["Subnet"]["SubnetId"] for x in made]

    def create_target_group(self, name: str, port: int, ip_address_type: str = "ipv4", **settings: Any) -> TargetGroup:
        """Makes a VPC with two subnets, an internal NLB in it, an IP target group and a listener."""
        vpc, subnets = self.create_network()
        balancer = self.elb.create_load_balancer(Name=name, Type="network", Scheme="internal", Subnets=subnets)
        group = self.elb.create_target_group(
            Name=name,
            TargetType="ip",
            IpAddressType=ip_address_type,
            Protocol="TCP",
            Port=port,
            VpcId=vpc,
            HealthCheckProtocol="TCP",
            **settings,
        )
        arn = group["TargetGroups"][0]["TargetGroupArn"]
        load_balancer = balancer["LoadBalancers"][0]["LoadBalancerArn"]
        self.elb.create_listener(
            LoadBalancerArn=load_balancer,
            Protocol="TCP",
            Port=port,
            DefaultActions=[{"Type": "forward", "TargetGroupArn": arn}],
        )
        return TargetGroup(arn, port, load_balancer)

    def targets(self, group: TargetGroup) -> dict[str, str]:
        """The state of each target, by ADDRESS:PORT, as DescribeTargetHealth tells it."""
        health = self.elb.describe_target_health(TargetGroupArn=group.arn)["TargetHealthDescriptions"]
        return {f"{x['Target']['Id']}:{x['Target']['Port']}": x["TargetHealth"]["State"] for x in health}

    def settings(self, group: TargetGroup) -> dict[str, Any]:
        """The group's health checks and attributes, by AWS's names for them."""
        (described,) = self.elb.describe_target_groups(TargetGroupArns=[group.arn])["TargetGroups"]
        attributes = self.elb.describe_target_group_attributes(TargetGroupArn=group.arn)["Attributes"]
        return DEFAULT_ATTRIBUTES | described | {x["Key"]: x["Value"] for x in attributes}

    def health_report(self, group: TargetGroup) -> Path:
        """The file in which the group's load balancer tells the local AWS how its targets are."""
        if self._reports is None:
            raise Failure(f"{self.name} takes no reports of health")
        return report_of(self._reports, group.arn)

    def metrics(self, group: TargetGroup) -> dict[str, tuple[int, float]]:
        """Of each metric the function sent in the last hour: how many values, and their sum."""
        cloudwatch = self.client("cloudwatch")
        now = datetime.now(timezone.utc)
        found: dict[str, tuple[int, float]] = {}
        for name in METRICS:
            points = cloudwatch.get_metric_statistics(
                Namespace=NAMESPACE,
                MetricName=name,
                Dimensions=[{"Name": "TargetGroup", "Value": group.dimension}],
                StartTime=now - timedelta(hours=1),
                EndTime=now + timedelta(minutes=5),
                Period=60,
                Statistics=["SampleCount", "Sum"],
            )["Datapoints"]
            if points:
                found[name] = (int(sum(x["SampleCount"] for x in points)), sum(x["Sum"] for x in points))
        return found


@contextmanager
def ministack(work: Path) -> Iterator[Cloud]:
    """Runs ministack, with what is needed of it and nothing else."""
    port = free_port()
    env = {
        "BIND_HOST": LOOPBACK,
        "GATEWAY_PORT": str(port),
        "SERVICES": ",".join(SERVICES),
        "MINISTACK_REGION": os.environ["AWS_REGION"],
        "AUTH": "true",
        "LOG_LEVEL": "WARNING",
        # It hands this on to the functions that it runs.
        "AWS_ENDPOINT_URL": f"http://{LOOPBACK}:{port}",
        # Where emulation.py finds what load balancers report of their targets.
        "HEALTH_REPORTS": str(work),
        # It would open a fixed port for MQTT, and write its process id into the common temporary directory.
        "IOT_MTLS_ENABLED": "0",
        "TMPDIR": str(work),
        # It would remove the containers of other ministacks.
        "DOCKER_HOST": f"unix://{work}/no-docker",
    }
    command = [sys.executable, "-m", "local.emulation"]
    with running("ministack", command, work / "ministack.log", env) as process:
        yield ready("ministack", port, process, work)


def ready(name: str, port: int, process: Process, reports: Path | None = None) -> Cloud:
    """The local AWS, once it answers."""
    cloud = Cloud(name, f"http://{LOOPBACK}:{port}", reports=reports)

    def answers() -> bool | None:
        try:
            cloud.elb.describe_load_balancers()
        except (BotoCoreError, ClientError):
            return None
        return True

    wait_for(f"{name} to answer", answers, 60, process)
    return cloud
