"""The template deployed: in every combination of what it creates and what is brought, and what is in it then."""

from __future__ import annotations

import itertools
import json
import time
from fnmatch import fnmatch
from typing import Any

import pytest

from local.cloud import NAMESPACE, Cloud
from local.deployment import SCHEDULE_SECONDS, Deployment
from local.dns import DnsServer
from local.function import EVENTS
from local.process import wait_for
from local.scenario import HOSTNAME, PORT
from tests.e2e.conftest import Deploy
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

DATABASE_ARN = "arn:aws:rds:eu-west-1:123456789012:db:orders"
ACCOUNT = "arn:aws:iam::123456789012:root"
SECOND, THIRD = "bills.example.test", "wages.example.test"


# Combinations. What is made depends on nothing else, and a second deployment of it changes nothing.

ALWAYS = {
    "Function",
    "FunctionEventInvokeConfig",
    "LogGroup",
    "Schedule",
    "FunctionErrorsAlarm",
    "FunctionThrottlesAlarm",
    "NotRunningAlarm",
    "Dashboard",
}
FOLLOWED = {"SyncFailedAlarm", "NoHealthyTargetAlarm", "RefusedAddressesAlarm"}
BALANCER = {"LoadBalancer", "TargetGroup", "Listener", "PortAllocationAlarm"}
ADMITTED = {"LoadBalancerSecurityGroup", "DatabaseIngress"}
MORE = {f"{n}{x}" for n in ("Second", "Third") for x in ("TargetGroup", "Listener", "NoHealthyTargetAlarm")}
MORE_ADMITTED = {f"{n}{x}" for n in ("Second", "Third") for x in ADMITTED}

TAGS_ALONE = {"Hostname": "", "Port": "0", "DiscoverByTags": "true"}
# Ways to go by target groups of which it is not known who has them.
UNKNOWN_BALANCER = ("group", "tags", "group and tags")

Choice = tuple[dict[str, str], set[str]]


@pytest.fixture(scope="module")
def choices(cloud: Cloud, network: dict[str, str]) -> list[dict[str, Choice]]:
    """For each thing that is created or brought, the ways to do it: the parameters, and the resources that they make."""
    ec2 = cloud.client("ec2")
    group = cloud.create_target_group("brought", PORT)
    database, own = (
        ec2.create_security_group(GroupName=x, Description=x, VpcId=network["VpcId"])["GroupId"] for x in ("db", "own")
    )
    three = {"SecondDatabase": f"{SECOND}:5432:5433", "ThirdDatabase": f"{THIRD}:3306"}
    admitted, brought = {"DatabaseSecurityGroupId": database}, {"TargetGroupArn": group.arn}
    roles = {
        "FunctionRoleArn": role(cloud, "function", trust("lambda.amazonaws.com")),
        "SchedulerRoleArn": role(cloud, "scheduler", trust("scheduler.amazonaws.com")),
    }
    inside = {"VpcId": network["VpcId"], "FunctionSubnetIds": network["SubnetIds"]}
    made_inside = {"FunctionSecurityGroup"}
    endpoint = {"LoadBalancingEndpoint", "EndpointSecurityGroup"}
    return [
        {
            "created": (network, FOLLOWED | BALANCER),
            "admitted": (network | admitted, FOLLOWED | BALANCER | ADMITTED),
            "own groups": (network | {"LoadBalancerSecurityGroupIds": own}, FOLLOWED | BALANCER),
            "three": (network | three, FOLLOWED | BALANCER | MORE),
            "three admitted": (
                network | three | admitted,
                FOLLOWED | BALANCER | MORE | ADMITTED | MORE_ADMITTED,
            ),
            "group": (brought, FOLLOWED),
            "group and balancer": (
                brought | {"LoadBalancerArn": group.load_balancer},
                FOLLOWED | {"PortAllocationAlarm"},
            ),
            "tags": (TAGS_ALONE, {"FoundNoHealthyTargetAlarm"}),
            "group and tags": (brought | {"DiscoverByTags": "true"}, FOLLOWED | {"FoundNoHealthyTargetAlarm"}),
        },
        {
            "no service": ({"CreateEndpointService": "false"}, set()),
            "service": ({}, {"EndpointService"}),
            "principals": ({"AllowedPrincipals": ACCOUNT}, {"EndpointService", "EndpointServicePermissions"}),
        },
        {
            "no topic": ({}, set()),
            "email": ({"AlarmEmail": "a@b.cd"}, {"AlarmTopic", "AlarmTopicPolicy", "AlarmSubscription"}),
            "own topic": ({"AlarmTopicArn": topic(cloud, "pager")}, set()),
        },
        {"roles": ({}, {"FunctionRole", "SchedulerRole"}), "own roles": (roles, set())},
        {
            "outside": ({}, set()),
            "inside": (inside, made_inside),
            "inside, own group": (
                inside | {"Settings": f"FUNCTION_SECURITY_GROUP_IDS={own}", "CreateInterfaceEndpoints": "true"},
                made_inside | endpoint,
            ),
        },
    ]


def covering(choices: list[dict[str, Choice]]) -> list[tuple[str, ...]]:
    """Combinations in which each two ways to do two things come together somewhere."""

    def pairs(names: tuple[str, ...]) -> set[tuple[int, str, int, str]]:
        return {(n, names[n], m, names[m]) for n, m in itertools.combinations(range(len(names)), 2)}

    possible = list(itertools.product(*choices))
    # Without a load balancer that is known there is no endpoint service, and its principals are refused.
    possible = [x for x in possible if x[0] not in UNKNOWN_BALANCER or x[1] != "principals"]
    missing = set().union(*map(pairs, possible))
    picked = []
    while missing:
        picked.append(max(possible, key=lambda x: len(pairs(x) & missing)))
        missing -= pairs(picked[-1])
    return picked


def test_combinations_of_create_and_bring(cloud: Cloud, uploaded: str, choices: list[dict[str, Choice]]) -> None:
    before = inventory(cloud)
    for names in covering(choices):
        parameters, wanted = dict(DATABASE), set(ALWAYS)
        for ways, name in zip(choices, names, strict=True):
            more, made = ways[name]
            parameters |= more
            wanted |= made
        balancer, service, told, *_ = names
        if "FoundNoHealthyTargetAlarm" in wanted and "LoadBalancingEndpoint" in wanted:
            wanted.add("TaggingEndpoint")
        if balancer in UNKNOWN_BALANCER:
            wanted.discard("EndpointService")
        elif service != "no service" and told != "no topic":
            wanted.add("EndpointConnections")
        stack = Stack(cloud, uploaded, "combination")
        deployment = stack.create(parameters)
        assert set(deployment.resources) == wanted, names
        assert stack.changes() == {}, names
        # A third changes one parameter, and nothing is made anew.
        settings = f"{parameters.get('Settings', '')} LOG_RETENTION_DAYS=60".strip()
        assert stack.changes(Settings=settings)["LogGroup"] == "Modify", names
        assert Deployment(cloud, stack.name).resources == deployment.resources, names
        assert log_group(cloud, deployment)["retentionInDays"] == 60, names
        stack.delete()
        assert inventory(cloud) == before, names


# What is in a stack.


def test_it_creates_a_load_balancer_fit_for_a_database(cloud: Cloud, deploy: Deploy, network: dict[str, str]) -> None:
    deployment = deploy(**network)
    elb, outputs = cloud.elb, deployment.outputs

    (balancer,) = elb.describe_load_balancers(LoadBalancerArns=[outputs["LoadBalancerArn"]])["LoadBalancers"]
    assert balancer["Type"] == "network"
    assert balancer["Scheme"] == "internal"
    assert balancer["IpAddressType"] == "ipv4"
    assert balancer.get("SecurityGroups", []) == []
    of_balancer = elb.describe_load_balancer_attributes(LoadBalancerArn=outputs["LoadBalancerArn"])["Attributes"]
    assert attributes(of_balancer) == {
        "load_balancing.cross_zone.enabled": "true",
        "deletion_protection.enabled": "false",
    }

    (group,) = elb.describe_target_groups(TargetGroupArns=[outputs["TargetGroupArn"]])["TargetGroups"]
    assert (group["TargetType"], group["Protocol"], group["Port"]) == ("ip", "TCP", PORT)
    assert (group["HealthCheckProtocol"], group["HealthCheckPort"]) == ("TCP", "traffic-port")
    assert (group["HealthCheckIntervalSeconds"], group["HealthCheckTimeoutSeconds"]) == (10, 5)
    assert (group["HealthyThresholdCount"], group["UnhealthyThresholdCount"]) == (2, 2)
    assert group_attributes(cloud, outputs["TargetGroupArn"]) == {
        "deregistration_delay.timeout_seconds": "0",
        "deregistration_delay.connection_termination.enabled": "true",
        "load_balancing.cross_zone.enabled": "use_load_balancer_configuration",
        "preserve_client_ip.enabled": "false",
        "proxy_protocol_v2.enabled": "false",
        "stickiness.enabled": "false",
    }
    assert listeners(cloud, deployment) == {PORT: (outputs["TargetGroupArn"], {"tcp.idle_timeout.seconds": "3600"})}


def log_group(cloud: Cloud, deployment: Deployment) -> dict[str, Any]:
    """The log group of the stack's function, as the API describes it."""
    name = deployment.outputs["LogGroupName"]
    found = cloud.client("logs").describe_log_groups(logGroupNamePrefix=name)["logGroups"]
    (group,) = [x for x in found if x["logGroupName"] == name]
    return group


def endpoint_service(cloud: Cloud, deployment: Deployment) -> dict[str, Any]:
    """The stack's endpoint service, as the API describes it."""
    (service,) = cloud.client("ec2").describe_vpc_endpoint_service_configurations(
        ServiceIds=[deployment.outputs["EndpointServiceId"]]
    )["ServiceConfigurations"]
    return service


def connection_notifications(cloud: Cloud, deployment: Deployment) -> list[dict[str, Any]]:
    """Who is told of connections to the stack's endpoint service."""
    found = cloud.client("ec2").describe_vpc_endpoint_connection_notifications()["ConnectionNotificationSet"]
    return [x for x in found if x["ServiceId"] == deployment.outputs["EndpointServiceId"]]


def group_attributes(cloud: Cloud, arn: str) -> dict[str, str]:
    """The attributes of a target group."""
    return attributes(cloud.elb.describe_target_group_attributes(TargetGroupArn=arn)["Attributes"])


def listeners(cloud: Cloud, deployment: Deployment) -> dict[int, tuple[str, dict[str, str]]]:
    """The load balancer's listeners by their port: the target group, and the attributes."""
    found = cloud.elb.describe_listeners(LoadBalancerArn=deployment.outputs["LoadBalancerArn"])["Listeners"]
    assert {x["Protocol"] for x in found} == {"TCP"}
    of = {x["ListenerArn"]: cloud.elb.describe_listener_attributes(ListenerArn=x["ListenerArn"]) for x in found}
    return {
        x["Port"]: (x["DefaultActions"][0]["TargetGroupArn"], attributes(of[x["ListenerArn"]]["Attributes"]))
        for x in found
    }


def test_the_function_and_what_runs_it(cloud: Cloud, deploy: Deploy, network: dict[str, str]) -> None:
    deployment = deploy(**network)
    name = deployment.outputs["FunctionName"]

    functions = cloud.client("lambda")
    function = functions.get_function_configuration(FunctionName=name)
    assert (function["Runtime"], function["Handler"]) == ("provided.al2023", "bootstrap")
    assert function["Architectures"] == ["x86_64"]
    assert (function["MemorySize"], function["Timeout"]) == (128, 300)
    assert function["LoggingConfig"]["LogFormat"] == "JSON"
    assert function["LoggingConfig"]["ApplicationLogLevel"] == "INFO"
    assert function["LoggingConfig"]["LogGroup"] == deployment.outputs["LogGroupName"]
    assert "VpcConfig" not in function or not function["VpcConfig"].get("SubnetIds")
    retries = functions.get_function_event_invoke_config(FunctionName=name, Qualifier="$LATEST")
    assert (retries["MaximumRetryAttempts"], retries["MaximumEventAgeInSeconds"]) == (0, 60)
    assert deployment.environment == {
        "ALLOWED_CIDRS": "",
        "ALLOWED_HOSTNAMES": "",
        "BINDINGS": deployment.environment["BINDINGS"],
        "DISCOVERY": "off",
        "DNS_SERVERS": "",
        "ELB_REQUESTS_PER_SECOND": "10",
        "METRICS": "cloudwatch",
        "POLL_INTERVAL_SECONDS": "0",
    }
    assert bindings(deployment) == [
        {
            "hostname": HOSTNAME,
            "target_group_arn": deployment.outputs["TargetGroupArn"],
            "port": PORT,
            "ownership": "exclusive",
        }
    ]

    schedule = cloud.client("scheduler").get_schedule(Name=deployment.resources["Schedule"])
    assert schedule["ScheduleExpression"] == "rate(1 minute)"
    assert schedule["FlexibleTimeWindow"] == {"Mode": "OFF"}
    assert schedule["State"] == "ENABLED"
    assert schedule["Target"]["Arn"] == function["FunctionArn"] == deployment.outputs["FunctionArn"]
    assert schedule["Target"]["RetryPolicy"]["MaximumRetryAttempts"] == 0
    assert "Input" not in schedule["Target"]
    assert deployment.outputs["SchedulerRoleArn"] == schedule["Target"]["RoleArn"]
    assert schedule["Target"]["RoleArn"].endswith(f"role/{deployment.resources['SchedulerRole']}")
    invoke = statements(deployment, "SchedulerRole", "invoke")["Invoke"]
    assert (invoke["Action"], invoke["Resource"]) == ("lambda:InvokeFunction", function["FunctionArn"])

    (logs,) = cloud.client("logs").describe_log_groups(logGroupNamePrefix=deployment.outputs["LogGroupName"])[
        "logGroups"
    ]
    assert logs["retentionInDays"] == 30


def bindings(deployment: Deployment) -> list[dict[str, Any]]:
    """What the function follows."""
    found: list[dict[str, Any]] = json.loads(deployment.environment["BINDINGS"])
    return found


def test_all_settings(cloud: Cloud, deploy: Deploy, network: dict[str, str]) -> None:
    deployment = deploy(
        **network,
        Settings="WATCH_SECONDS=600 MEMORY_SIZE=256 LOG_LEVEL=DEBUG LOG_RETENTION_DAYS=365 POLL_INTERVAL_SECONDS=5 "
        "ALLOWED_CIDRS=10.0.1.0/24,fd00::/8 ALLOWED_HOSTNAMES=*.rds.amazonaws.com,db.example "
        "DNS_SERVERS=10.0.0.2,[fd00::2]:53 ELB_REQUESTS_PER_SECOND=2 DEREGISTER_AFTER_SECONDS=300 LOOKUPS=5 "
        "OWNERSHIP=shared DEREGISTRATION_DELAY_SECONDS=60 CONNECTION_TERMINATION=false",
    )
    assert bindings(deployment) == [
        {
            "hostname": HOSTNAME,
            "target_group_arn": deployment.outputs["TargetGroupArn"],
            "port": PORT,
            "deregister_after_seconds": 300,
            "lookups": 5,
            "ownership": "shared",
        }
    ]
    found = deployment.environment
    assert found["POLL_INTERVAL_SECONDS"] == "5"
    assert found["ALLOWED_CIDRS"] == "10.0.1.0/24,fd00::/8"
    assert found["ALLOWED_HOSTNAMES"] == "*.rds.amazonaws.com,db.example"
    assert found["DNS_SERVERS"] == "10.0.0.2,[fd00::2]:53"
    assert found["ELB_REQUESTS_PER_SECOND"] == "2"
    function = cloud.client("lambda").get_function_configuration(FunctionName=deployment.outputs["FunctionName"])
    assert (function["MemorySize"], function["Timeout"]) == (256, 600)
    assert function["LoggingConfig"]["ApplicationLogLevel"] == "DEBUG"
    (logs,) = cloud.client("logs").describe_log_groups(logGroupNamePrefix=deployment.outputs["LogGroupName"])[
        "logGroups"
    ]
    assert logs["retentionInDays"] == 365
    group = group_attributes(cloud, deployment.outputs["TargetGroupArn"])
    assert group["deregistration_delay.timeout_seconds"] == "60"
    assert group["deregistration_delay.connection_termination.enabled"] == "false"


def test_three_databases_behind_one_endpoint_service(
    cloud: Cloud, dns: DnsServer, deploy: Deploy, network: dict[str, str]
) -> None:
    ec2 = cloud.client("ec2")
    database = ec2.create_security_group(GroupName="three", Description="three", VpcId=network["VpcId"])["GroupId"]
    deployment = deploy(
        **network,
        ListenerPort="15432",
        IdleTimeoutSeconds="900",
        DatabaseSecurityGroupId=database,
        # The same port as the first's, and another.
        SecondDatabase=f"{SECOND}:{PORT}:15433",
        ThirdDatabase=f"{THIRD}:3306",
        AllowedPrincipals=f"{ACCOUNT},firehose.amazonaws.com",
        SupportedRegions="us-east-1,us-west-2",
        AlarmEmail="you@example.com",
        Settings=f"DNS_SERVERS={dns.address}",
    )
    outputs = deployment.outputs
    groups = [outputs[f"{x}TargetGroupArn"] for x in ("", "Second", "Third")]
    idle = {"tcp.idle_timeout.seconds": "900"}
    assert listeners(cloud, deployment) == {
        15432: (groups[0], idle),
        15433: (groups[1], idle),
        3306: (groups[2], idle),
    }
    assert [(x["hostname"], x["target_group_arn"], x["port"]) for x in bindings(deployment)] == [
        (HOSTNAME, groups[0], PORT),
        (SECOND, groups[1], PORT),
        (THIRD, groups[2], 3306),
    ]
    assert all(group_attributes(cloud, x) == group_attributes(cloud, groups[0]) for x in groups)

    # The load balancer may go to each database's port, and nobody comes in but over PrivateLink.
    (balancer,) = cloud.elb.describe_load_balancers(LoadBalancerArns=[outputs["LoadBalancerArn"]])["LoadBalancers"]
    made = ec2.describe_security_groups(GroupIds=balancer["SecurityGroups"])["SecurityGroups"]
    assert outputs["LoadBalancerSecurityGroupId"] == balancer["SecurityGroups"][0]
    assert [x["IpPermissions"] for x in made] == [[], [], []]
    ways_out = {x["GroupId"]: [(y["FromPort"], y["ToPort"]) for y in x["IpPermissionsEgress"]] for x in made}
    assert sorted(ways_out.values()) == [[(3306, 3306)], [(PORT, PORT)], [(PORT, PORT)]]
    (admitting,) = ec2.describe_security_groups(GroupIds=[database])["SecurityGroups"]
    admitted = {x["UserIdGroupPairs"][0]["GroupId"]: [(x["FromPort"], x["ToPort"])] for x in admitting["IpPermissions"]}
    assert admitted == ways_out

    # One service, for those whom it is for, and somebody is told of them.
    service = outputs["EndpointServiceId"]
    found = endpoint_service(cloud, deployment)
    assert found["ServiceName"] == outputs["ServiceName"]
    assert found["NetworkLoadBalancerArns"] == [outputs["LoadBalancerArn"]]
    assert found["AcceptanceRequired"] is True
    assert [x["Region"] for x in found["SupportedRegions"]] == ["eu-west-1", "us-east-1", "us-west-2"]
    allowed = ec2.describe_vpc_endpoint_service_permissions(ServiceId=service)["AllowedPrincipals"]
    assert [x["Principal"] for x in allowed] == [ACCOUNT, "firehose.amazonaws.com"]
    (told,) = connection_notifications(cloud, deployment)
    assert told["ConnectionNotificationArn"] == outputs["AlarmTopicArn"]
    assert told["ConnectionEvents"] == ["Accept", "Connect", "Delete", "Reject"]

    # Each has an alarm that wakes somebody up.
    dimensions = [x["Dimensions"][0]["Value"] for name, x in alarms(deployment).items() if "NoHealthy" in name]
    assert sorted(dimensions) == sorted(x.rpartition(":")[2] for x in groups)

    # And each is followed.
    for number, hostname in enumerate((HOSTNAME, SECOND, THIRD), 1):
        dns.answer(hostname, f"10.0.1.{number}")
    assert deployment.invoke({}).error is None
    targets = [list(cloud.elb.describe_target_health(TargetGroupArn=x)["TargetHealthDescriptions"]) for x in groups]
    assert [[(y["Target"]["Id"], y["Target"]["Port"]) for y in x] for x in targets] == [
        [("10.0.1.1", PORT)],
        [("10.0.1.2", PORT)],
        [("10.0.1.3", 3306)],
    ]


def test_the_endpoint_service_stays_when_principals_go(cloud: Cloud, uploaded: str, network: dict[str, str]) -> None:
    stack = Stack(cloud, uploaded, "principals")
    try:
        service = stack.create(DATABASE | network | {"AllowedPrincipals": ACCOUNT}).outputs["EndpointServiceId"]
        assert set(stack.changes(AllowedPrincipals="")) == {"EndpointServicePermissions"}
        assert Deployment(cloud, stack.name).outputs["EndpointServiceId"] == service
        permissions = cloud.client("ec2").describe_vpc_endpoint_service_permissions(ServiceId=service)
        assert permissions["AllowedPrincipals"] == []
        assert set(stack.changes(AllowedPrincipals="firehose.amazonaws.com")) == {"EndpointServicePermissions"}
        assert Deployment(cloud, stack.name).outputs["EndpointServiceId"] == service
    finally:
        stack.delete()


def test_an_endpoint_service_for_a_load_balancer_that_exists(cloud: Cloud, deploy: Deploy) -> None:
    group = cloud.create_target_group("offered", 3306)
    deployment = deploy(TargetGroupArn=group.arn, LoadBalancerArn=group.load_balancer, Port="0")
    service = deployment.outputs["EndpointServiceId"]
    (found,) = cloud.client("ec2").describe_vpc_endpoint_service_configurations(ServiceIds=[service])[
        "ServiceConfigurations"
    ]
    assert found["NetworkLoadBalancerArns"] == [group.load_balancer] == [deployment.outputs["LoadBalancerArn"]]
    assert alarms(deployment)["PortAllocationAlarm"]["Dimensions"] == [
        {"Name": "LoadBalancer", "Value": group.load_balancer.partition("loadbalancer/")[2]}
    ]
    # The port is then the target group's own.
    assert "port" not in bindings(deployment)[0]


@pytest.mark.differs("no-subnet-without-a-zone", "draining-is-listed")
def test_an_existing_target_group(cloud: Cloud, dns: DnsServer, deploy: Deploy) -> None:
    group = cloud.create_target_group("existing", 3306)
    deployment = deploy(TargetGroupArn=group.arn, Settings=f"DNS_SERVERS={dns.address}")
    assert deployment.outputs["TargetGroupArn"] == group.arn
    assert statements(deployment, "FunctionRole", "function")["Change"]["Resource"] == [group.arn]
    assert bindings(deployment) == [
        {"hostname": HOSTNAME, "target_group_arn": group.arn, "port": PORT, "ownership": "shared"}
    ]
    found = alarms(deployment)
    dimensions = {name: x["Dimensions"] for name, x in found.items() if x["Namespace"] == NAMESPACE}
    assert len(dimensions) == 3
    assert all(x == [{"Name": "TargetGroup", "Value": group.dimension}] for x in dimensions.values())
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


def test_the_function_may_write_to_its_target_groups_only(
    cloud: Cloud, dns: DnsServer, deploy: Deploy, network: dict[str, str]
) -> None:
    other = cloud.create_target_group("other", PORT)
    deployment = deploy(**network, SecondDatabase=f"{SECOND}:3306", Settings=f"DNS_SERVERS={dns.address}")
    allowed = statements(deployment, "FunctionRole", "function")
    assert set(allowed) == {"Look", "Change", "Measure", "Log"}
    assert allowed["Change"]["Resource"] == [deployment.outputs[f"{x}TargetGroupArn"] for x in ("", "Second")]
    assert allowed["Change"]["Condition"] == OUR_TAGS
    assert allowed["Measure"]["Condition"] == {"StringEquals": {"cloudwatch:namespace": NAMESPACE}}
    assert allowed["Log"]["Resource"].endswith(f":log-group:{deployment.outputs['LogGroupName']}:*")

    # The local AWS enforces it.
    dns.answer(SECOND, "10.0.1.5")
    dns.answer(HOSTNAME, "10.0.1.10")
    assert deployment.invoke({}).group["registered"] == [f"10.0.1.10:{PORT}"]
    dns.answer(HOSTNAME, "10.0.1.11")
    reply = deployment.invoke({}).group
    assert (reply["registered"], reply["deregistered"]) == ([f"10.0.1.11:{PORT}"], [f"10.0.1.10:{PORT}"])
    for ownership in ("exclusive", "shared"):
        binding = {"hostname": HOSTNAME, "target_group_arn": other.arn, "ownership": ownership}
        assert "AccessDenied" in str(deployment.invoke({"bindings": [binding]}).error)
    assert cloud.targets(other) == {}


def test_a_role_of_tags_may_write_to_tagged_target_groups_only(cloud: Cloud, dns: DnsServer, deploy: Deploy) -> None:
    """Which is what schedules of one's own need, with bindings in their input."""
    tagged, bare = (cloud.create_target_group(x, PORT) for x in ("tagged", "bare"))
    tag = {"Key": "nlb-hostname-targets:hostname", "Value": HOSTNAME}
    cloud.elb.add_tags(ResourceArns=[tagged.arn], Tags=[tag])
    deployment = deploy(**TAGS_ALONE, Settings=f"DNS_SERVERS={dns.address}")
    assert deployment.environment["DISCOVERY"] == "tags"
    assert deployment.environment["BINDINGS"] == ""
    assert set(statements(deployment, "FunctionRole", "function")) == {
        "Look",
        "Discover",
        "ChangeTagged",
        "Measure",
        "Log",
    }
    dns.answer(HOSTNAME, "10.0.1.10")
    for ownership in ("exclusive", "shared"):
        request = [{"hostname": HOSTNAME, "target_group_arn": x.arn, "ownership": ownership} for x in (tagged, bare)]
        assert deployment.invoke({"bindings": request[:1]}).error is None
        assert "AccessDenied" in str(deployment.invoke({"bindings": request[1:]}).error)
    assert list(cloud.targets(tagged)) == [f"10.0.1.10:{PORT}"]
    assert cloud.targets(bare) == {}

    # A schedule of one's own, made with the outputs.
    scheduler = cloud.client("scheduler")
    scheduler.create_schedule(
        Name="own",
        ScheduleExpression="rate(1 minute)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={
            "Arn": deployment.outputs["FunctionArn"],
            "RoleArn": deployment.outputs["SchedulerRoleArn"],
            "Input": json.dumps({"bindings": request[:1]}),
        },
    )
    try:
        dns.answer(HOSTNAME, "10.0.1.11")
        target = f"10.0.1.11:{PORT}"
        wait_for("the schedule", lambda: target in cloud.targets(tagged) or None, SCHEDULE_SECONDS)
    finally:
        scheduler.delete_schedule(Name="own")
        cloud.elb.remove_tags(ResourceArns=[tagged.arn], TagKeys=[tag["Key"]])
        # Lambda makes the log group of a run anew that ends after the log group was deleted.
        time.sleep(2)


def test_a_target_group_that_is_tagged_while_the_function_runs_is_followed(
    cloud: Cloud, dns: DnsServer, deploy: Deploy
) -> None:
    """By the schedule alone, and not to every name. When the tag is taken away, it is left as it is."""
    group, evil = (cloud.create_target_group(x, PORT) for x in ("tagged-later", "evil"))
    deployment = deploy(**TAGS_ALONE, Settings=f"DNS_SERVERS={dns.address} ALLOWED_HOSTNAMES=*.rds.amazonaws.com")
    dns.answer(HOSTNAME, "10.0.1.10")
    dns.answer("evil.example.test", "10.0.6.6")
    reply = deployment.invoke({}).reply
    assert reply is not None
    assert reply["groups"] == []
    tag = "nlb-hostname-targets:hostname"
    for one, name in ((group, HOSTNAME), (evil, "evil.example.test")):
        cloud.elb.add_tags(ResourceArns=[one.arn], Tags=[{"Key": tag, "Value": name}])
    # Tags are read once in a minute of an execution environment.
    target = f"10.0.1.10:{PORT}"
    wait_for("the schedule", lambda: target in cloud.targets(group) or None, 60 + SCHEDULE_SECONDS)
    check = deployment.invoke({"check": True}).reply
    assert check is not None
    of = {
        x["target_group_arn"]: [y["code"] for y in x["findings"] if y["severity"] == "error"] for x in check["groups"]
    }
    assert of == {group.arn: [], evil.arn: ["failed"]}
    assert "`evil.example.test` is outside ALLOWED_HOSTNAMES" in str(deployment.invoke({}).error)
    assert cloud.targets(evil) == {}

    cloud.elb.remove_tags(ResourceArns=[group.arn, evil.arn], TagKeys=[tag])
    dns.answer(HOSTNAME, "10.0.1.11")
    wait_for("the tags to be gone", lambda: deployment.invoke({}).error is None or None, 60 + SCHEDULE_SECONDS)
    assert deployment.invoke({"check": True}).reply == check | {"ok": True, "groups": []}
    # What the runs did until they saw it is right, too.
    (last,) = cloud.targets(group)
    dns.answer(HOSTNAME, "10.0.1.12")
    assert deployment.invoke({}).error is None
    assert list(cloud.targets(group)) == [last]


def test_in_a_vpc_with_an_endpoint(cloud: Cloud, deploy: Deploy, network: dict[str, str]) -> None:
    deployment = deploy(**network, FunctionSubnetIds=network["SubnetIds"], CreateInterfaceEndpoints="true")
    ec2 = cloud.client("ec2")
    mine = deployment.outputs["FunctionSecurityGroupId"]
    groups = ec2.describe_security_groups(GroupIds=[mine, deployment.resources["EndpointSecurityGroup"]])
    by_id = {x["GroupId"]: x for x in groups["SecurityGroups"]}
    out = {(x["IpProtocol"], x["FromPort"]) for x in by_id.pop(mine)["IpPermissionsEgress"] if "FromPort" in x}
    assert out == {("udp", 53), ("tcp", 53), ("tcp", 443)}
    (endpoints_group,) = by_id.values()
    # What else is in the VPC, whatever its ranges, comes through this endpoint, too.
    (admitted,) = endpoints_group["IpPermissions"]
    assert (admitted["FromPort"], admitted["ToPort"]) == (443, 443)
    assert [x["CidrIp"] for x in admitted["IpRanges"]] == ["0.0.0.0/0"]

    (endpoint,) = ec2.describe_vpc_endpoints(VpcEndpointIds=[deployment.resources["LoadBalancingEndpoint"]])[
        "VpcEndpoints"
    ]
    assert endpoint["ServiceName"] == "com.amazonaws.eu-west-1.elasticloadbalancing"
    assert endpoint["VpcEndpointType"] == "Interface"

    # Metrics need neither an endpoint nor a permission there.
    assert deployment.environment["METRICS"] == "emf"
    allowed = statements(deployment, "FunctionRole", "function")
    assert set(allowed) == {"Look", "Change", "Log", "Attach", "AttachByLambdaOnly"}
    assert allowed["AttachByLambdaOnly"]["Effect"] == "Deny"
    assert allowed["AttachByLambdaOnly"]["Action"] == allowed["Attach"]["Action"]


def test_somebody_is_told(cloud: Cloud, deploy: Deploy, network: dict[str, str]) -> None:
    deployment = deploy(**network, AlarmEmail="you@example.com")
    sns = cloud.client("sns")
    topic = deployment.outputs["AlarmTopicArn"]
    (subscription,) = sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    assert (subscription["Protocol"], subscription["Endpoint"]) == ("email", "you@example.com")
    assert all(x["AlarmActions"] == x["OKActions"] == [topic] for x in alarms(deployment).values())
    assert len(alarms(deployment)) == 7
    (publish,) = json.loads(sns.get_topic_attributes(TopicArn=topic)["Attributes"]["Policy"])["Statement"]
    assert publish["Principal"] == {"Service": ["cloudwatch.amazonaws.com", "vpce.amazonaws.com"]}
    assert publish["Resource"] == topic
    assert publish["Condition"] == {"StringEquals": {"aws:SourceAccount": "000000000000"}}


def test_a_topic_of_ones_own(cloud: Cloud, deploy: Deploy, network: dict[str, str]) -> None:
    pager = topic(cloud, "own")
    deployment = deploy(**network, AlarmTopicArn=pager)
    assert all(x["AlarmActions"] == x["OKActions"] == [pager] for x in alarms(deployment).values())
    (told,) = connection_notifications(cloud, deployment)
    assert told["ConnectionNotificationArn"] == pager


def test_rds_events(cloud: Cloud, deploy: Deploy, network: dict[str, str]) -> None:
    arns = [f"arn:aws:rds:eu-west-1:123456789012:{x}" for x in ("db:orders", "cluster:orders", "db-proxy:orders")]
    deployment = deploy(**network, DatabaseArns=",".join(arns))
    matched = {x.name for x in EVENTS.iterdir() if x.name.startswith("rds-") and deployment.rule_matches(x.name)}
    # Each instance of a cluster has an ARN of its own, which is not given here.
    assert matched == {x.name for x in EVENTS.glob("rds-*")} - {"rds-cluster-topology.json"}
    events = cloud.client("events")
    rule = events.describe_rule(Name=deployment.resources["RdsEvents"])
    pattern = json.loads(rule["EventPattern"])
    assert [x.get("resources") for x in pattern["$or"]] == [arns, None]
    event = json.loads((EVENTS / "rds-instance-failover.json").read_text())
    for name, value in (("source", "aws.ec2"), ("detail-type", "RDS DB Snapshot Event")):
        other = json.dumps(event | {name: value})
        assert not events.test_event_pattern(EventPattern=rule["EventPattern"], Event=other)["Result"]
    event["resources"] = ["arn:aws:rds:eu-west-1:123456789012:db:invoices"]
    assert not events.test_event_pattern(EventPattern=rule["EventPattern"], Event=json.dumps(event))["Result"]

    (target,) = events.list_targets_by_rule(Rule=rule["Name"])["Targets"]
    function = cloud.client("lambda").get_function(FunctionName=deployment.outputs["FunctionName"])
    assert target["Arn"] == function["Configuration"]["FunctionArn"]
    assert target["RetryPolicy"] == {"MaximumRetryAttempts": 5, "MaximumEventAgeInSeconds": 300}
    granted = json.loads(cloud.client("lambda").get_policy(FunctionName=deployment.outputs["FunctionName"])["Policy"])
    (grant,) = granted["Statement"]
    assert grant["Principal"] == {"Service": "events.amazonaws.com"}
    assert grant["Condition"]["ArnLike"]["AWS:SourceArn"] == rule["Arn"]


def test_ipv6_and_security_groups_of_ones_own(cloud: Cloud, deploy: Deploy, network: dict[str, str]) -> None:
    own = "sg-0123456789abcdef0"
    deployment = deploy(**network, IpAddressType="ipv6", LoadBalancerSecurityGroupIds=own, DeletionProtection="true")
    arn = deployment.outputs["LoadBalancerArn"]
    (balancer,) = cloud.elb.describe_load_balancers(LoadBalancerArns=[arn])["LoadBalancers"]
    assert balancer["IpAddressType"] == "dualstack"
    assert balancer["SecurityGroups"] == [own]
    of_balancer = cloud.elb.describe_load_balancer_attributes(LoadBalancerArn=arn)["Attributes"]
    assert attributes(of_balancer)["deletion_protection.enabled"] == "true"
    assert endpoint_service(cloud, deployment)["SupportedIpAddressTypes"] == ["ipv4", "ipv6"]


def test_a_key_of_ones_own(cloud: Cloud, deploy: Deploy, network: dict[str, str]) -> None:
    key = "arn:aws:kms:eu-west-1:000000000000:key/01234567-89ab-cdef-0123-456789abcdef"
    deployment = deploy(**network, KmsKeyArn=key)
    assert log_group(cloud, deployment)["kmsKeyId"] == key


def test_stack_tags_reach_what_can_have_tags(cloud: Cloud, deploy: Deploy, network: dict[str, str]) -> None:
    deployment = deploy(**network)
    arns = [deployment.outputs[x] for x in ("LoadBalancerArn", "TargetGroupArn")]
    described = cloud.elb.describe_tags(ResourceArns=arns)["TagDescriptions"]
    assert [attributes(x["Tags"])["Application"] for x in described] == ["nlb-hostname-targets"] * 2
    service = endpoint_service(cloud, deployment)
    assert attributes(service["Tags"])["Application"] == "nlb-hostname-targets"
