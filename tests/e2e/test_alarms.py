"""The alarms and the dashboard: what they look at, and that they fire when they should."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from local.cloud import METRICS, NAMESPACE, STEADY_METRICS, Cloud
from local.deployment import Deployment
from local.dns import DnsServer
from local.scenario import HOSTNAME
from tests.e2e.conftest import Deploy
from tests.e2e.stacks import alarms

# As CloudWatch evaluates them. The local AWS looks at neither dimensions nor missing data.

ALL_WELL = {
    "Failures": 0.0,
    "HealthyTargets": 1.0,
    "Invocations": 1.0,
    "Errors": 0.0,
    "Throttles": 0.0,
    "PortAllocationErrorCount": 0.0,
}
SILENCE: dict[str, float] = {}
OF_LAMBDA = ("Invocations", "Errors", "Throttles", "Duration")

STATISTICS: dict[str, Callable[[list[float]], float]] = {
    "Maximum": max,
    "Minimum": min,
    "Sum": sum,
}
# The values of each metric in a minute: one, or those of all that ran.
Minute = Mapping[str, float | list[float]]


def series(metric: str, statistic: str, minutes: Sequence[Minute]) -> list[float | None]:
    """The statistic of each minute, or nothing where the metric has no data."""
    found = [minute.get(metric, []) for minute in minutes]
    values = [x if isinstance(x, list) else [x] for x in found]
    return [STATISTICS[statistic](x) if x else None for x in values]


def fires(alarm: dict[str, Any], minutes: Sequence[Minute]) -> bool:
    """Whether the alarm is on after these minutes, minute by minute from a new one."""
    on = False
    for end in range(1, len(minutes) + 1):
        on = state(alarm, minutes[:end], on)
    return on


def state(alarm: dict[str, Any], minutes: Sequence[Minute], before: bool) -> bool:
    """The state after the last minute. CloudWatch reads no more minutes than it evaluates, or hardly more."""
    periods = alarm["EvaluationPeriods"]
    window = [SILENCE] * periods + list(minutes)
    assert alarm["Period"] == 60
    values = series(alarm["MetricName"], alarm["Statistic"], window[-periods:])

    def breaches(value: float) -> bool:
        if alarm["ComparisonOperator"] == "LessThanThreshold":
            return value < alarm["Threshold"]
        assert alarm["ComparisonOperator"] == "GreaterThanOrEqualToThreshold"
        return value >= alarm["Threshold"]

    known = [breaches(x) for x in values if x is not None]
    missing = alarm["TreatMissingData"]
    if missing == "ignore" and not known:
        return before
    assert missing in ("breaching", "ignore", "notBreaching")
    silent = values.count(None) if missing == "breaching" else 0
    return sum(known) + silent >= alarm["DatapointsToAlarm"]


def test_each_alarm_fires_when_it_should_and_only_then(deploy: Deploy, network: dict[str, str]) -> None:
    found = alarms(deploy(**network))
    failed = ALL_WELL | {"Failures": 1.0, "Errors": 1.0}
    throttled = {"Throttles": 1.0}
    # A watch reports once a minute, too, and Lambda's own metrics of it come at its end, under its first minute.
    of_lambda = {name: value for name, value in ALL_WELL.items() if name in OF_LAMBDA}
    beside_watch = {name: [value, value] for name, value in ALL_WELL.items()} | of_lambda
    watch_failed = beside_watch | {"Failures": [0.0, 1.0]}
    both_failed = beside_watch | {"Failures": [1.0, 1.0], "Errors": 1.0}
    polling = {name: value for name, value in ALL_WELL.items() if name not in OF_LAMBDA}
    crashed = {"Invocations": 1.0, "Errors": 1.0}
    unhealthy = ALL_WELL | {"HealthyTargets": 0.0}
    two_runs = {name: [value, value] for name, value in ALL_WELL.items()}
    well: list[Minute] = [ALL_WELL] * 10
    courses: dict[str, tuple[list[Minute], set[str]]] = {
        "all is well": (well, set()),
        "a new stack, before its first run": ([SILENCE] * 20, {"NotRunningAlarm"}),
        "a new stack, which has run once": ([*[SILENCE] * 3, ALL_WELL], set()),
        "a new stack, whose target takes long to its first health check": ([SILENCE] * 2 + [unhealthy] * 4, set()),
        "a new stack, well in the end": ([SILENCE] * 2 + [unhealthy] * 4 + [ALL_WELL] * 4, set()),
        "a new stack, whose database does not admit it": ([SILENCE] + [unhealthy] * 6, {"NoHealthyTargetAlarm"}),
        "a run fails now and then": ([ALL_WELL, failed] * 2 + [ALL_WELL], set()),
        "a failover": ([*well, unhealthy, unhealthy], set()),
        "a late run": ([*well, SILENCE], set()),
        "runs at any second of a minute": (well + [SILENCE, two_runs] * 10, set()),
        "DNS is down": (well + [failed] * 3, {"SyncFailedAlarm", "FunctionErrorsAlarm"}),
        "the database is down": (well + [unhealthy] * 5, {"NoHealthyTargetAlarm"}),
        "the schedule is off": (well + [SILENCE] * 5, {"NotRunningAlarm"}),
        "the schedule has been off for an hour": (well + [SILENCE] * 60, {"NotRunningAlarm"}),
        "the schedule is on again": (well + [SILENCE] * 60 + [ALL_WELL], set()),
        "a watch": ([ALL_WELL] + [beside_watch] * 4, set()),
        "a watch fails where runs do not": ([ALL_WELL] + [watch_failed] * 4 + [watch_failed | {"Errors": 1.0}], set()),
        "DNS is down during a watch": ([ALL_WELL] * 2 + [both_failed] * 3, {"SyncFailedAlarm", "FunctionErrorsAlarm"}),
        "another database's bindings fail": (well + [ALL_WELL | {"Errors": 1.0}] * 3, {"FunctionErrorsAlarm"}),
        "polling": ([*well, polling], set()),
        "DNS is down while polling": (
            [*well, *[failed] * 4, polling | {"Failures": 1.0}],
            {"SyncFailedAlarm", "FunctionErrorsAlarm"},
        ),
        "no concurrency is left": (well + [throttled] * 6, {"NotRunningAlarm", "FunctionThrottlesAlarm"}),
        "it crashes at its start": (well + [crashed] * 6, {"FunctionErrorsAlarm"}),
        "a new stack, whose function crashes at its start": ([crashed] * 3, {"FunctionErrorsAlarm"}),
        "metrics do not arrive": (well + [of_lambda] * 6, set()),
        "some addresses are public": (well + [ALL_WELL | {"RefusedAddresses": 1.0}] * 3, {"RefusedAddressesAlarm"}),
        "55,000 connections": (well + [ALL_WELL | {"PortAllocationErrorCount": 9.0}] * 3, {"PortAllocationAlarm"}),
    }
    for course, (minutes, wanted) in courses.items():
        assert {name for name, alarm in found.items() if fires(alarm, minutes)} == wanted, course


def test_alarms_of_target_groups_that_are_found_by_their_tags(
    template: dict[str, Any], cloud: Cloud, dns: DnsServer, deploy: Deploy
) -> None:
    resources = template["Resources"]
    # Of all groups the one that has fewest; the schema is what the function publishes.
    healthy = resources["FoundNoHealthyTargetAlarm"]["Properties"]
    (query,) = healthy["Metrics"]
    schema = f"FROM SCHEMA({NAMESPACE}, TargetGroup)"
    assert query["Expression"] == f"SELECT MIN(HealthyTargets) {schema}"
    plain = healthy | {"Period": query["Period"], "MetricName": "HealthyTargets", "Statistic": "Minimum"}
    del plain["Metrics"]
    one_is_down: Minute = {"HealthyTargets": [2.0, 0.0, 1.0]}
    assert fires(plain, [{"HealthyTargets": [2.0, 1.0, 1.0]}] * 5 + [one_is_down] * 4) is False
    assert fires(plain, [one_is_down] * 5) is True

    deployment = deploy(Hostname="", Port="0", DiscoverByTags="true", Settings=f"DNS_SERVERS={dns.address}")
    body = json.loads(dashboard(cloud, deployment))
    assert set(metrics_drawn(body)) == {
        ("AWS/Lambda", x, "FunctionName", deployment.outputs["FunctionName"]) for x in OF_LAMBDA
    }
    rows = [row[0] for x in body["widgets"] for row in x["properties"].get("metrics", [])]
    queries = [x["expression"] for x in rows if isinstance(x, dict)]
    assert all(schema in x for x in queries)
    drawn = {x.partition("(")[2].partition(")")[0] for x in queries}
    assert drawn == set(METRICS) - {"RegisteredTargets"}
    arns = [x for widget in body["widgets"] for x in widget["properties"].get("alarms", [])]
    assert sorted(arns) == sorted(x["AlarmArn"] for x in alarms(deployment).values())


def test_alarms_and_dashboard_name_metrics_that_are_published(
    cloud: Cloud, dns: DnsServer, deploy: Deploy, network: dict[str, str]
) -> None:
    deployment = deploy(**network, SecondDatabase="bills.example.test:3306", Settings=f"DNS_SERVERS={dns.address}")
    dns.answer(HOSTNAME, "10.0.1.10")
    dns.answer("bills.example.test", "10.0.1.11")
    assert deployment.invoke({}).error is None
    # What there is under these very dimensions after a first run, and what AWS itself publishes.
    group = deployment.group.dimension
    assert cloud.metrics(deployment.group).keys() == {*STEADY_METRICS, "Registrations"}
    mine = {(NAMESPACE, name, "TargetGroup", group) for name in METRICS}
    second = deployment.outputs["SecondTargetGroupArn"].rpartition(":")[2]
    function = deployment.outputs["FunctionName"]
    of_balancer = ("ActiveFlowCount", "NewFlowCount", "PortAllocationErrorCount", "ProcessedBytes")
    of_balancer += ("TCP_Client_Reset_Count", "TCP_Target_Reset_Count", "TCP_ELB_Reset_Count")
    balancer = deployment.outputs["LoadBalancerArn"].partition("loadbalancer/")[2]
    published = mine | {("AWS/Lambda", name, "FunctionName", function) for name in OF_LAMBDA}
    published |= {("AWS/NetworkELB", name, "LoadBalancer", balancer) for name in of_balancer}
    published |= {(NAMESPACE, "HealthyTargets", "TargetGroup", second)}

    for name, alarm in alarms(deployment).items():
        (dimension,) = alarm["Dimensions"]
        assert (alarm["Namespace"], alarm["MetricName"], dimension["Name"], dimension["Value"]) in published, name

    body = dashboard(cloud, deployment)
    drawn = list(metrics_drawn(json.loads(body)))
    assert set(drawn) - published == set()
    assert {name for namespace, name, *_ in drawn if namespace == NAMESPACE} == set(METRICS)
    assert (NAMESPACE, "HealthyTargets", "TargetGroup", second) in drawn
    assert body.count(f'TargetGroup=\\"{group}\\"') == 2
    arns = [x for widget in json.loads(body)["widgets"] for x in widget["properties"].get("alarms", [])]
    assert sorted(arns) == sorted(x["AlarmArn"] for x in alarms(deployment).values())


def test_the_dashboard_around_what_exists(cloud: Cloud, deploy: Deploy) -> None:
    group = cloud.create_target_group("drawn", 3306)
    deployment = deploy(TargetGroupArn=group.arn, LoadBalancerArn=group.load_balancer)
    drawn = set(metrics_drawn(json.loads(dashboard(cloud, deployment))))
    balancer = group.load_balancer.partition("loadbalancer/")[2]
    assert ("AWS/NetworkELB", "NewFlowCount", "LoadBalancer", balancer) in drawn


def dashboard(cloud: Cloud, deployment: Deployment) -> str:
    """What is drawn."""
    found = cloud.client("cloudwatch").get_dashboard(DashboardName=deployment.outputs["DashboardName"])
    body: str = found["DashboardBody"]
    return body


def metrics_drawn(body: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Namespace, name and dimension of each metric, with the dots spelt out."""
    for widget in body["widgets"]:
        above: list[str] = []
        for row in widget["properties"].get("metrics", []):
            if isinstance(row[0], dict):
                assert row[0]["expression"].startswith(("SEARCH(", "SELECT "))
                continue
            plain = [x for x in row if isinstance(x, str)]
            above = [above[n] if x == "." else x for n, x in enumerate(plain)]
            yield tuple(above)
