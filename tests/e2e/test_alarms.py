"""The alarms: what they look at, and that they fire when they should. The dashboard: what it draws."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from local.cloud import METRICS, NAMESPACE, STEADY_METRICS, Cloud
from local.deployment import Deployment
from local.dns import DnsServer
from local.process import ROOT
from local.scenario import HOSTNAME
from tests.e2e.stacks import alarms

# As CloudWatch evaluates them. The local AWS looks at neither dimensions nor missing data.

ALL_WELL = {"HealthyHostCount": 1.0, "Invocations": 1.0, "Errors": 0.0, "PortAllocationErrorCount": 0.0}
# A group without targets has no HealthyHostCount, and a function that does not run nothing at all.
SILENCE: dict[str, float] = {}
NO_RUN = {"HealthyHostCount": 1.0, "PortAllocationErrorCount": 0.0}

STATISTICS: dict[str, Callable[[list[float]], float]] = {"Maximum": max, "Minimum": min, "Sum": sum}
# The values of each metric in a minute: one, or those of all that ran.
Minute = Mapping[str, float | list[float]]


def fires(alarm: dict[str, Any], minutes: Sequence[Minute]) -> bool:
    """The state after the last minute. CloudWatch reads no more minutes than it evaluates, or hardly more."""
    periods = alarm["EvaluationPeriods"]
    assert alarm["Period"] == 60
    found = [minute.get(alarm["MetricName"], []) for minute in ([SILENCE] * periods + list(minutes))[-periods:]]
    values = [x if isinstance(x, list) else [x] for x in found]
    less = alarm["ComparisonOperator"] == "LessThanThreshold"
    assert less or alarm["ComparisonOperator"] == "GreaterThanOrEqualToThreshold"
    known = [STATISTICS[alarm["Statistic"]](x) for x in values if x]
    breaching = sum((x < alarm["Threshold"]) is less for x in known)
    assert alarm["TreatMissingData"] in ("breaching", "notBreaching")
    silent = values.count([]) if alarm["TreatMissingData"] == "breaching" else 0
    return breaching + silent >= alarm.get("DatapointsToAlarm", periods)


def test_each_alarm_fires_when_it_should_and_only_then(standing: Deployment) -> None:
    found = alarms(standing)
    failed = ALL_WELL | {"Errors": 1.0}
    unhealthy = ALL_WELL | {"HealthyHostCount": 0.0}
    # Lambda's own metrics of a watch come at its end, under its first minute.
    watched = {name: x for name, x in ALL_WELL.items() if name not in ("Invocations", "Errors")}
    well: list[Minute] = [ALL_WELL] * 10
    courses: dict[str, tuple[list[Minute], set[str]]] = {
        "all is well": (well, set()),
        "a new stack, before its first run": ([SILENCE] * 20, {"NotRunningAlarm", "NoHealthyTargetAlarm"}),
        "a new stack, whose target takes long to its first health check": (
            [SILENCE] * 2 + [unhealthy] * 2 + well,
            set(),
        ),
        "a new stack, whose database does not admit it": ([unhealthy] * 6, {"NoHealthyTargetAlarm"}),
        "a run fails now and then": ([ALL_WELL, failed] * 2 + [ALL_WELL], set()),
        "a failover": ([*well, unhealthy, unhealthy], set()),
        "a late run": ([*well, NO_RUN], set()),
        "runs at any second of a minute": (well + [NO_RUN, ALL_WELL | {"Invocations": 2.0}] * 10, set()),
        "DNS is down": (well + [failed] * 3, {"FunctionErrorsAlarm"}),
        "the database is down": (well + [unhealthy] * 5, {"NoHealthyTargetAlarm"}),
        "all targets are gone": (well + [{"Invocations": 1.0, "Errors": 0.0}] * 5, {"NoHealthyTargetAlarm"}),
        "the schedule is off, or no concurrency is left": (well + [NO_RUN] * 5, {"NotRunningAlarm"}),
        "the schedule has been off for an hour": (well + [NO_RUN] * 60, {"NotRunningAlarm"}),
        "the schedule is on again": (well + [NO_RUN] * 60 + [ALL_WELL], set()),
        "polling": ([*well, watched], set()),
        "it crashes at its start": (well + [failed] * 6, {"FunctionErrorsAlarm"}),
        "the function's own metrics do not arrive": (well, set()),
        "55,000 connections": (well + [ALL_WELL | {"PortAllocationErrorCount": 9.0}] * 3, {"PortAllocationAlarm"}),
    }
    for course, (minutes, wanted) in courses.items():
        assert {name for name, alarm in found.items() if fires(alarm, minutes)} == wanted, course


def test_alarms_name_metrics_that_are_published(cloud: Cloud, dns: DnsServer, standing: Deployment) -> None:
    dns.answer(HOSTNAME, "10.0.1.30")
    assert standing.invoke({}).error is None
    # What the function sends, under the very dimension that the alarms of groups without a known load balancer have.
    assert set(STEADY_METRICS) <= cloud.metrics(standing.group).keys() <= set(METRICS)
    balancer = standing.outputs["LoadBalancerArn"].partition("loadbalancer/")[2]
    function = {"FunctionName": standing.outputs["FunctionName"]}
    group = {"TargetGroup": standing.group.dimension, "LoadBalancer": balancer}
    found = {
        name: (x["Namespace"], x["MetricName"], {y["Name"]: y["Value"] for y in x["Dimensions"]})
        for name, x in alarms(standing).items()
    }
    assert found == {
        "NoHealthyTargetAlarm": ("AWS/NetworkELB", "HealthyHostCount", group),
        "PortAllocationAlarm": ("AWS/NetworkELB", "PortAllocationErrorCount", {"LoadBalancer": balancer}),
        "FunctionErrorsAlarm": ("AWS/Lambda", "Errors", function),
        "NotRunningAlarm": ("AWS/Lambda", "Invocations", function),
    }


def test_the_dashboard_draws_what_is_published(cloud: Cloud) -> None:
    formation = cloud.client("cloudformation")
    formation.create_stack(StackName="dashboard", TemplateBody=(ROOT / "examples/dashboard.yaml").read_text())
    formation.get_waiter("stack_create_complete").wait(StackName="dashboard", WaiterConfig={"Delay": 1})
    name = Deployment(cloud, "dashboard").outputs["DashboardName"]
    body = json.loads(cloud.client("cloudwatch").get_dashboard(DashboardName=name)["DashboardBody"])
    formation.delete_stack(StackName="dashboard")
    rows = [row[0]["expression"] for x in body["widgets"] for row in x["properties"]["metrics"]]
    queries = [re.fullmatch(r"SELECT (MAX|SUM)\((\w+)\) FROM SCHEMA\((\w+), TargetGroup\) .*", x) for x in rows]
    assert {x[2] for x in queries if x} == set(METRICS)
    assert {x[3] for x in queries if x} == {NAMESPACE}
    searched = {x.partition("MetricName=")[2].split('"')[1] for x in rows if x.startswith("SEARCH(")}
    of_services = {"ActiveConnections", "EndpointsCount", "NewConnections", "RstPacketsSent"}
    assert searched == of_services | {"PortAllocationErrorCount"}
