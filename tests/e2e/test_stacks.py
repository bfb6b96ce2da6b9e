"""The template deployed: in every combination of what it creates and what is brought, and what is in it then."""

from __future__ import annotations

import itertools
import json
import time
from fnmatch import fnmatch
from typing import Any

import pytest

from local.cloud import NAMESPACE, Cloud
from local.deployment import Deployment
from local.dns import DnsServer
from local.function import EVENTS
from local.scenario import HOSTNAME, PORT
from tests.e2e.conftest import PRINCIPALS, Deploy
from tests.e2e.stacks import (
    DATABASE,
    OUR_KEYS,
    OUR_TAGS,
    Stack,
    alarms,
    attributes,
    inventory,
    role,
    statements,
    topic,
    trust,
)

ACCOUNT = "arn:aws:iam::123456789012:root"
TAGS_ALONE = {"Hostname": "", "Port": "0", "DiscoverByTags": "true", "AllowedHostnames": "*.rds.amazonaws.com"}
EVERY_TIME = {"Function", "FunctionEventInvokeConfig", "LogGroup", "Schedule", "RdsEvents", "RdsEventsPermission"}
EVERY_TIME |= {"FunctionErrorsAlarm", "NotRunningAlarm"}
GROUP = {"TargetGroup", "Listener", "NoHealthyTargetAlarm"}

Choice = tuple[dict[str, str], set[str]]


# Combinations. What is made depends on nothing else, and a second deployment of it changes nothing.


@pytest.fixture(scope="module")
def choices(cloud: Cloud, network: dict[str, str]) -> list[dict[str, Choice]]:
    """For each thing that is created or brought, the ways to do it: the parameters, and the resources that they make."""
    group, other = (cloud.create_target_group(x, PORT) for x in ("brought", "beside"))
    ec2 = cloud.client("ec2")
    database = ec2.create_security_group(GroupName="db", Description="db", VpcId=network["VpcId"])["GroupId"]
    admitted = {"LoadBalancerSecurityGroup", "DatabaseIngress"}
    beside = {"LoadBalancerArn": other.load_balancer, "VpcId": network["VpcId"], "ListenerPort": "5433"}
    brought = {"TargetGroupArn": group.arn}
    balancer = {"LoadBalancerArn": group.load_balancer}
    return [
        {
            "created": (network, GROUP | {"LoadBalancer"}),
            "admitted": (network | {"DatabaseSecurityGroupId": database}, GROUP | {"LoadBalancer"} | admitted),
            "beside": (beside, GROUP),
            "group": (brought, {"NoHealthyTargetAlarm"}),
            "group and balancer": (brought | balancer, {"NoHealthyTargetAlarm"}),
            "tags": (TAGS_ALONE, {"FoundNoHealthyTargetAlarm"}),
        },
        {
            "no service": ({"OfferService": "none"}, set()),
            "service": ({"OfferService": "accept-all"}, {"EndpointService"}),
            "principals": ({"AllowedPrincipals": ACCOUNT}, {"EndpointService", "EndpointServicePermissions"}),
        },
        {
            "no topic": ({}, set()),
            "email": ({"AlarmEmail": "a@b.cd"}, {"AlarmTopic", "AlarmTopicPolicy", "AlarmSubscription"}),
            "own topic": ({"AlarmTopicArn": topic(cloud, "pager")}, set()),
        },
        {
            "role": ({}, {"FunctionRole", "FunctionRolePolicy"}),
            "own role": (
                {"RoleArn": role(cloud, "own", trust("lambda.amazonaws.com", "scheduler.amazonaws.com"))},
                set(),
            ),
        },
        {
            "outside": ({}, set()),
            "inside": (
                {"VpcId": network["VpcId"], "FunctionSubnetIds": ",".join(network["SubnetIds"].split(",")[:1])},
                {"FunctionSecurityGroup"},
            ),
        },
    ]


def covering(choices: list[dict[str, Choice]]) -> list[tuple[str, ...]]:
    """Combinations in which each two ways to do two things come together somewhere."""

    def pairs(names: tuple[str, ...]) -> set[tuple[int, str, int, str]]:
        return {(n, names[n], m, names[m]) for n, m in itertools.combinations(range(len(names)), 2)}

    possible = list(itertools.product(*choices))
    # Without a load balancer that is known there is no endpoint service, and its principals are refused.
    possible = [x for x in possible if x[0] not in ("group", "tags") or x[1] != "principals"]
    missing = set().union(*map(pairs, possible))
    picked = []
    while missing:
        picked.append(max(possible, key=lambda x: len(pairs(x) & missing)))
        missing -= pairs(picked[-1])
    return picked


@pytest.mark.nightly
def test_combinations_of_create_and_bring(cloud: Cloud, uploaded: str, choices: list[dict[str, Choice]]) -> None:
    before = inventory(cloud)
    for names in covering(choices):
        parameters, wanted = dict(DATABASE), set(EVERY_TIME)
        for ways, name in zip(choices, names, strict=True):
            more, made = ways[name]
            parameters |= more
            wanted |= made
        balancer, service, told, *_ = names
        if balancer in ("group", "tags"):
            wanted.discard("EndpointService")
        elif service != "no service":
            wanted |= {"PortAllocationAlarm"} | ({"EndpointConnections"} if told != "no topic" else set())
        elif balancer in ("created", "admitted"):
            wanted.add("PortAllocationAlarm")
        stack = Stack(cloud, uploaded, "combination")
        deployment = stack.create(parameters)
        assert set(deployment.resources) == wanted, names
        assert stack.changes() == {}, names
        # A third changes one parameter, and nothing is made anew.
        assert stack.changes(LogRetentionDays="60")["LogGroup"] == "Modify", names
        assert Deployment(cloud, stack.name).resources == deployment.resources, names
        stack.delete()
        assert inventory(cloud) == before, names


# A stack that creates all that it can, which these tests share.


def endpoint_service(cloud: Cloud, deployment: Deployment) -> dict[str, Any]:
    """The stack's endpoint service, as the API describes it."""
    (service,) = cloud.client("ec2").describe_vpc_endpoint_service_configurations(
        ServiceIds=[deployment.outputs["EndpointServiceId"]]
    )["ServiceConfigurations"]
    return service


def group_attributes(cloud: Cloud, arn: str) -> dict[str, str]:
    """The attributes of a target group."""
    return attributes(cloud.elb.describe_target_group_attributes(TargetGroupArn=arn)["Attributes"])


def bindings(deployment: Deployment) -> list[dict[str, Any]]:
    """What the function follows."""
    found: list[dict[str, Any]] = json.loads(deployment.environment["BINDINGS"])
    return found


def test_a_load_balancer_fit_for_a_database(cloud: Cloud, standing: Deployment, admitting: dict[str, str]) -> None:
    elb, outputs = cloud.elb, standing.outputs
    (balancer,) = elb.describe_load_balancers(LoadBalancerArns=[outputs["LoadBalancerArn"]])["LoadBalancers"]
    assert (balancer["Type"], balancer["Scheme"], balancer["IpAddressType"]) == ("network", "internal", "ipv4")
    of_balancer = elb.describe_load_balancer_attributes(LoadBalancerArn=outputs["LoadBalancerArn"])["Attributes"]
    assert attributes(of_balancer)["load_balancing.cross_zone.enabled"] == "true"
    (group,) = elb.describe_target_groups(TargetGroupArns=[outputs["TargetGroupArn"]])["TargetGroups"]
    assert (group["TargetType"], group["Protocol"], group["Port"]) == ("ip", "TCP", PORT)
    assert (group["HealthCheckProtocol"], group["HealthCheckPort"]) == ("TCP", "traffic-port")
    assert (group["HealthCheckIntervalSeconds"], group["HealthCheckTimeoutSeconds"]) == (10, 5)
    assert (group["HealthyThresholdCount"], group["UnhealthyThresholdCount"]) == (2, 2)
    found = group_attributes(cloud, outputs["TargetGroupArn"])
    wanted = {
        "deregistration_delay.timeout_seconds": "0",
        "deregistration_delay.connection_termination.enabled": "true",
    }
    wanted |= dict.fromkeys(("proxy_protocol_v2.enabled", "preserve_client_ip.enabled", "stickiness.enabled"), "false")
    assert found | wanted == found
    (listener,) = elb.describe_listeners(LoadBalancerArn=outputs["LoadBalancerArn"])["Listeners"]
    assert (listener["Port"], listener["DefaultActions"][0]["TargetGroupArn"]) == (15432, outputs["TargetGroupArn"])

    # The load balancer may go to databases, and nobody comes in but over PrivateLink.
    ec2 = cloud.client("ec2")
    (made,) = ec2.describe_security_groups(GroupIds=balancer["SecurityGroups"])["SecurityGroups"]
    assert outputs["LoadBalancerSecurityGroupId"] == made["GroupId"]
    assert made["IpPermissions"] == []
    (database,) = ec2.describe_security_groups(GroupIds=[admitting["DatabaseSecurityGroupId"]])["SecurityGroups"]
    rules = {x["UserIdGroupPairs"][0]["GroupId"]: (x["FromPort"], x["ToPort"]) for x in database["IpPermissions"]}
    assert rules[made["GroupId"]] == (PORT, PORT)


def test_the_function_and_what_runs_it(cloud: Cloud, dns: DnsServer, standing: Deployment) -> None:
    functions, name = cloud.client("lambda"), standing.outputs["FunctionName"]
    function = functions.get_function_configuration(FunctionName=name)
    assert (function["Runtime"], function["Handler"]) == ("provided.al2023", "bootstrap")
    assert function["Architectures"] == ["x86_64"]
    assert (function["MemorySize"], function["Timeout"]) == (128, 300)
    assert function["LoggingConfig"]["LogFormat"] == "JSON"
    assert function["LoggingConfig"]["ApplicationLogLevel"] == "INFO"
    assert function["LoggingConfig"]["LogGroup"] == standing.outputs["LogGroupName"]
    retries = functions.get_function_event_invoke_config(FunctionName=name, Qualifier="$LATEST")
    assert (retries["MaximumRetryAttempts"], retries["MaximumEventAgeInSeconds"]) == (0, 60)
    assert standing.environment == {
        "ALLOWED_CIDRS": "10.0.0.0/8,fd00::/8",
        "ALLOWED_HOSTNAMES": "*.rds.amazonaws.com",
        "BINDINGS": standing.environment["BINDINGS"],
        "DISCOVERY": "off",
        "DNS_SERVERS": dns.address,
        "METRICS": "cloudwatch",
        "POLL_INTERVAL_SECONDS": "0",
    }
    group = standing.outputs["TargetGroupArn"]
    assert bindings(standing) == [
        {"hostname": HOSTNAME, "target_group_arn": group, "port": PORT, "ownership": "exclusive"}
    ]
    schedule = cloud.client("scheduler").get_schedule(Name=standing.resources["Schedule"])
    assert schedule["ScheduleExpression"] == "rate(1 minute)"
    assert schedule["FlexibleTimeWindow"] == {"Mode": "OFF"}
    assert schedule["State"] == "ENABLED"
    assert schedule["Target"]["Arn"] == function["FunctionArn"] == standing.outputs["FunctionArn"]
    assert schedule["Target"]["RetryPolicy"]["MaximumRetryAttempts"] == 0
    assert "Input" not in schedule["Target"]
    assert schedule["Target"]["RoleArn"] == standing.outputs["RoleArn"] == function["Role"]
    invoke = statements(standing, "FunctionRole", "schedule")["Invoke"]
    assert (invoke["Action"], invoke["Resource"]) == ("lambda:InvokeFunction", function["FunctionArn"])
    logs = cloud.client("logs").describe_log_groups(logGroupNamePrefix=standing.outputs["LogGroupName"])["logGroups"]
    assert [x["retentionInDays"] for x in logs] == [365]


def test_the_service_and_who_is_told(cloud: Cloud, standing: Deployment) -> None:
    ec2, outputs = cloud.client("ec2"), standing.outputs
    found = endpoint_service(cloud, standing)
    assert found["ServiceName"] == outputs["ServiceName"]
    assert found["NetworkLoadBalancerArns"] == [outputs["LoadBalancerArn"]]
    assert found["AcceptanceRequired"] is True
    assert [x["Region"] for x in found["SupportedRegions"]] == ["eu-west-1", "us-east-1", "us-west-2"]
    assert found["PrivateDnsName"] == "orders.db.example.com"
    record = found["PrivateDnsNameConfiguration"]
    assert (record["Name"], record["Value"]) == (outputs["PrivateDnsRecordName"], outputs["PrivateDnsRecordValue"])
    allowed = ec2.describe_vpc_endpoint_service_permissions(ServiceId=found["ServiceId"])["AllowedPrincipals"]
    assert [x["Principal"] for x in allowed] == PRINCIPALS
    notifications = ec2.describe_vpc_endpoint_connection_notifications()["ConnectionNotificationSet"]
    (told,) = [x for x in notifications if x["ServiceId"] == found["ServiceId"]]
    assert told["ConnectionNotificationArn"] == outputs["AlarmTopicArn"]
    assert told["ConnectionEvents"] == ["Accept", "Connect", "Delete", "Reject"]

    sns, subject = cloud.client("sns"), outputs["AlarmTopicArn"]
    (subscription,) = sns.list_subscriptions_by_topic(TopicArn=subject)["Subscriptions"]
    assert (subscription["Protocol"], subscription["Endpoint"]) == ("email", "you@example.com")
    assert all(x["AlarmActions"] == x["OKActions"] == [subject] for x in alarms(standing).values())
    assert len(alarms(standing)) == 4
    (publish,) = json.loads(sns.get_topic_attributes(TopicArn=subject)["Attributes"]["Policy"])["Statement"]
    assert publish["Principal"] == {"Service": ["cloudwatch.amazonaws.com", "vpce.amazonaws.com"]}
    assert publish["Resource"] == subject
    assert publish["Condition"] == {"StringEquals": {"aws:SourceAccount": "000000000000"}}

    arns = [outputs[x] for x in ("LoadBalancerArn", "TargetGroupArn")]
    described = cloud.elb.describe_tags(ResourceArns=arns)["TagDescriptions"]
    assert [attributes(x["Tags"])["Application"] for x in described] == ["nlb-hostname-targets"] * 2
    assert attributes(found["Tags"])["Application"] == "nlb-hostname-targets"


def test_the_function_may_write_to_its_target_group_only(cloud: Cloud, dns: DnsServer, standing: Deployment) -> None:
    other = cloud.create_target_group("other", PORT)
    allowed = statements(standing, "FunctionRole", "function")
    assert set(allowed) == {"Look", "Change", "Measure", "Log"}
    assert allowed["Change"]["Resource"] == [standing.outputs["TargetGroupArn"]]
    assert allowed["Change"]["Condition"] == OUR_TAGS
    assert allowed["Measure"]["Condition"] == {"StringEquals": {"cloudwatch:namespace": NAMESPACE}}
    assert allowed["Log"]["Resource"].endswith(f":log-group:{standing.outputs['LogGroupName']}:*")
    # The local AWS enforces it.
    for address in ("10.0.1.20", "10.0.1.21"):
        dns.answer(HOSTNAME, address)
        assert standing.invoke({}).error is None
        assert list(cloud.targets(standing.group)) == [f"{address}:{PORT}"]
    for ownership in ("exclusive", "shared"):
        binding = {"hostname": HOSTNAME, "target_group_arn": other.arn, "ownership": ownership}
        assert "AccessDenied" in str(standing.invoke({"bindings": [binding]}).error)
    assert cloud.targets(other) == {}


def rds_rule(cloud: Cloud, deployment: Deployment) -> dict[str, Any]:
    """The rule that matches events of RDS."""
    found: dict[str, Any] = cloud.client("events").describe_rule(Name=deployment.resources["RdsEvents"])
    return found


def test_rds_events_of_the_region(cloud: Cloud, standing: Deployment) -> None:
    matched = {x.name for x in EVENTS.glob("rds-*") if standing.rule_matches(x.name)}
    assert matched == {"rds-blue-green-switchover.json", "rds-cluster-failover.json", "rds-instance-failover.json"}
    rule = rds_rule(cloud, standing)
    events = cloud.client("events")
    event = json.loads((EVENTS / "rds-instance-failover.json").read_text())
    for name, value in (("source", "aws.ec2"), ("detail-type", "RDS DB Snapshot Event")):
        other = json.dumps(event | {name: value})
        assert not events.test_event_pattern(EventPattern=rule["EventPattern"], Event=other)["Result"]
    (target,) = events.list_targets_by_rule(Rule=rule["Name"])["Targets"]
    assert target["Arn"] == standing.outputs["FunctionArn"]
    assert target["RetryPolicy"] == {"MaximumRetryAttempts": 5, "MaximumEventAgeInSeconds": 300}
    granted = cloud.client("lambda").get_policy(FunctionName=standing.outputs["FunctionName"])["Policy"]
    (grant,) = json.loads(granted)["Statement"]
    assert grant["Principal"] == {"Service": "events.amazonaws.com"}
    assert grant["Condition"]["ArnLike"]["AWS:SourceArn"] == rule["Arn"]


# Stacks around what exists.


@pytest.mark.differs("no-subnet-without-a-zone", "draining-is-listed")
def test_a_target_group_that_exists_and_databases_that_are_named(cloud: Cloud, dns: DnsServer, deploy: Deploy) -> None:
    group = cloud.create_target_group("existing", 3306)
    arns = [f"arn:aws:rds:eu-west-1:123456789012:{x}" for x in ("db:orders", "cluster:orders", "db-proxy:orders")]
    deployment = deploy(TargetGroupArn=group.arn, DnsServers=dns.address, DatabaseArns=",".join(arns))
    assert deployment.outputs["TargetGroupArn"] == group.arn
    assert statements(deployment, "FunctionRole", "function")["Change"]["Resource"] == [group.arn]
    assert bindings(deployment) == [
        {"hostname": HOSTNAME, "target_group_arn": group.arn, "port": PORT, "ownership": "shared"}
    ]
    found = alarms(deployment)
    # Which load balancer it has is not known, so the function's own metric has to do.
    assert found["NoHealthyTargetAlarm"]["Namespace"] == NAMESPACE
    assert found["NoHealthyTargetAlarm"]["Dimensions"] == [{"Name": "TargetGroup", "Value": group.dimension}]
    assert all(alarm["AlarmActions"] == alarm["OKActions"] == [] for alarm in found.values())

    cloud.elb.register_targets(TargetGroupArn=group.arn, Targets=[{"Id": "10.0.9.9", "Port": PORT}])
    for address in ("10.0.1.10", "10.0.1.11"):
        dns.answer(HOSTNAME, address)
        assert deployment.invoke({}).error is None
        # Somebody else's target stays.
        assert sorted(cloud.targets(group)) == sorted([f"{address}:{PORT}", f"10.0.9.9:{PORT}"])
    (described,) = cloud.elb.describe_tags(ResourceArns=[group.arn])["TagDescriptions"]
    assert described["Tags"]
    assert all(fnmatch(tag["Key"], OUR_KEYS) for tag in described["Tags"])

    # Each instance of a cluster has an ARN of its own, which is not given here.
    matched = {x.name for x in EVENTS.glob("rds-*") if deployment.rule_matches(x.name)}
    assert matched == {x.name for x in EVENTS.glob("rds-*")} - {"rds-cluster-topology.json"}
    event = json.loads((EVENTS / "rds-instance-failover.json").read_text())
    event["resources"] = ["arn:aws:rds:eu-west-1:123456789012:db:invoices"]
    pattern = rds_rule(cloud, deployment)["EventPattern"]
    assert not cloud.client("events").test_event_pattern(EventPattern=pattern, Event=json.dumps(event))["Result"]


def test_a_second_database_behind_the_same_load_balancer(
    cloud: Cloud, dns: DnsServer, standing: Deployment, deploy: Deploy, network: dict[str, str]
) -> None:
    balancer = standing.outputs["LoadBalancerArn"]
    second = deploy(
        Hostname="bills.example.test",
        VpcId=network["VpcId"],
        LoadBalancerArn=balancer,
        ListenerPort="15433",
        OfferService="none",
        DnsServers=dns.address,
    )
    found = cloud.elb.describe_listeners(LoadBalancerArn=balancer)["Listeners"]
    groups = {x["Port"]: x["DefaultActions"][0]["TargetGroupArn"] for x in found}
    assert groups == {15432: standing.outputs["TargetGroupArn"], 15433: second.outputs["TargetGroupArn"]}
    assert group_attributes(cloud, groups[15433]) == group_attributes(cloud, groups[15432])
    dns.answer("bills.example.test", "10.0.1.7")
    assert second.invoke({}).error is None
    assert list(cloud.targets(second.group)) == [f"10.0.1.7:{PORT}"]
    # By the load balancer's metric, of its own group; and of the load balancer itself the first stack tells.
    dimensions = attributes_of(alarms(second)["NoHealthyTargetAlarm"]["Dimensions"])
    assert dimensions == {
        "LoadBalancer": balancer.partition("loadbalancer/")[2],
        "TargetGroup": second.outputs["TargetGroupArn"].rpartition(":")[2],
    }
    assert "PortAllocationAlarm" not in second.resources


def attributes_of(dimensions: list[dict[str, str]]) -> dict[str, str]:
    """Names and values."""
    return {x["Name"]: x["Value"] for x in dimensions}


@pytest.mark.nightly
def test_an_endpoint_service_for_a_load_balancer_that_exists(cloud: Cloud, deploy: Deploy) -> None:
    group = cloud.create_target_group("offered", 3306)
    deployment = deploy(
        TargetGroupArn=group.arn, LoadBalancerArn=group.load_balancer, Port="0", OfferService="accept-all"
    )
    found = endpoint_service(cloud, deployment)
    assert found["NetworkLoadBalancerArns"] == [group.load_balancer] == [deployment.outputs["LoadBalancerArn"]]
    assert found["AcceptanceRequired"] is False
    assert attributes_of(alarms(deployment)["PortAllocationAlarm"]["Dimensions"]) == {
        "LoadBalancer": group.load_balancer.partition("loadbalancer/")[2]
    }
    # The port is then the target group's own.
    assert "port" not in bindings(deployment)[0]


def test_target_groups_that_are_tagged_are_followed(cloud: Cloud, dns: DnsServer, deploy: Deploy) -> None:
    """And not to every name."""
    group, evil, bare = (cloud.create_target_group(x, PORT) for x in ("tagged", "evil", "bare"))
    dns.answer(HOSTNAME, "10.0.1.10")
    dns.answer("evil.example.test", "10.0.6.6")
    tag = "nlb-hostname-targets:hostname"
    for one, name in ((group, HOSTNAME), (evil, "evil.example.test")):
        cloud.elb.add_tags(ResourceArns=[one.arn], Tags=[{"Key": tag, "Value": name}])
    deployment = deploy(**TAGS_ALONE, DnsServers=dns.address)
    assert (deployment.environment["DISCOVERY"], deployment.environment["BINDINGS"]) == ("tags", "")
    allowed = statements(deployment, "FunctionRole", "function")
    assert set(allowed) == {"Look", "Discover", "ChangeTagged", "Measure", "Log"}
    assert "`evil.example.test` is outside ALLOWED_HOSTNAMES" in str(deployment.invoke({}).error)
    assert list(cloud.targets(group)) == [f"10.0.1.10:{PORT}"]
    check = deployment.invoke({"check": True}).reply
    assert check is not None
    of = {
        x["target_group_arn"]: [y["code"] for y in x["findings"] if y["severity"] == "error"] for x in check["groups"]
    }
    assert of == {group.arn: [], evil.arn: ["failed"]}
    # A role of tags may write to tagged groups only, whatever the input of somebody's own schedule says.
    request = [{"hostname": HOSTNAME, "target_group_arn": bare.arn}]
    assert "AccessDenied" in str(deployment.invoke({"bindings": request}).error)
    assert cloud.targets(evil) == cloud.targets(bare) == {}
    cloud.elb.remove_tags(ResourceArns=[group.arn, evil.arn], TagKeys=[tag])


@pytest.mark.nightly
def test_in_a_vpc(cloud: Cloud, deploy: Deploy, network: dict[str, str]) -> None:
    deployment = deploy(**network, FunctionSubnetIds=network["SubnetIds"])
    ec2 = cloud.client("ec2")
    (mine,) = ec2.describe_security_groups(GroupIds=[deployment.resources["FunctionSecurityGroup"]])["SecurityGroups"]
    out = {(x["IpProtocol"], x["FromPort"]) for x in mine["IpPermissionsEgress"] if "FromPort" in x}
    assert out == {("udp", 53), ("tcp", 53), ("tcp", 443)}
    # Metrics need neither an endpoint nor a permission there.
    assert deployment.environment["METRICS"] == "emf"
    allowed = statements(deployment, "FunctionRole", "function")
    assert set(allowed) == {"Look", "Change", "Log", "Attach", "AttachByLambdaOnly"}
    assert (allowed["AttachByLambdaOnly"]["Effect"], allowed["AttachByLambdaOnly"]["Action"]) == ("Deny", "ec2:*")


# Updates. What each parameter does to which resource; docs/operations.md tells it.

UPDATES = [
    ({"Hostname": "bills.example.test"}, "Function"),
    ({"DatabaseArns": "arn:aws:rds:eu-west-1:123456789012:db:orders"}, "RdsEvents"),
    ({"Ownership": "shared"}, "Function"),
    ({"AllowedCidrs": "10.0.0.0/8"}, "Function"),
    ({"PollIntervalSeconds": "5"}, "Function"),
    ({"DnsServers": "10.0.0.2"}, "Function"),
    ({"LogRetentionDays": "7"}, "LogGroup"),
    ({"ListenerPort": "5433"}, "Listener"),
    ({"AllowedPrincipals": "firehose.amazonaws.com"}, "EndpointServicePermissions"),
    ({"AllowedPrincipals": ""}, "EndpointServicePermissions"),
    ({"OfferService": "accept-all"}, "EndpointService"),
    ({"SupportedRegions": "us-east-1"}, "EndpointService"),
    ({"PrivateDnsName": "orders.db.example.com"}, "EndpointService"),
    ({"AlarmEmail": "a@example.com"}, "AlarmSubscription"),
    ({"DiscoverByTags": "true", "AllowedHostnames": "*.example.test"}, "Function"),
    ({"Port": "3306"}, "TargetGroup"),
]


@pytest.mark.nightly
def test_what_an_update_of_each_parameter_does(cloud: Cloud, uploaded: str, network: dict[str, str]) -> None:
    stack = Stack(cloud, uploaded, "updates")
    try:
        before = stack.create(DATABASE | network | {"AllowedPrincipals": ACCOUNT}).resources
        for parameters, changed in UPDATES:
            assert changed in stack.changes(**parameters), parameters
            after = Deployment(cloud, stack.name).resources
            # Only another port makes a target group anew, which the stack policy refuses.
            anew = {x for x in before if x in after and after[x] != before[x]}
            kept = {"EndpointService", "LoadBalancer", "Function", "LogGroup", "Schedule"}
            kept |= set() if "Port" in parameters else {"TargetGroup", "Listener"}
            assert not anew & kept, (parameters, anew)
            before = after
    finally:
        stack.delete()
        # Lambda makes the log group of a run anew that ends after the log group was deleted.
        time.sleep(2)
