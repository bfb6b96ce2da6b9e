"""The template: deployed in its modes and read back, and held against the code and the README."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.exceptions import ClientError
from samcli.yamlhelper import yaml_dump, yaml_parse

from local.cloud import METRICS, NAMESPACE, Cloud
from local.deployment import (
    ANY_TAG,
    LEFT_OUT,
    SCHEDULE_SECONDS,
    TEMPLATE,
    Deployment,
    with_any_tag,
    without_left_out,
)
from local.dns import DnsServer
from local.function import EVENTS
from local.process import ROOT, wait_for
from local.scenario import HOSTNAME, PORT

Deploy = Callable[..., Deployment]

# sam deploy makes a change set, which needs the first alone.
CAPABILITIES = ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]
DATABASE = {"Hostname": HOSTNAME, "Port": str(PORT)}

# The tags in which the function keeps its state.
OUR_KEYS = "nlb-hostname-targets:*"
OUR_TAGS = {"ForAllValues:StringLike": {"aws:TagKeys": OUR_KEYS}}


@pytest.fixture(scope="session")
def template() -> dict[str, Any]:
    """The template as it is in the repository, in the long form of its functions."""
    parsed: dict[str, Any] = yaml_parse(TEMPLATE.read_text())
    return parsed


@pytest.fixture(scope="session")
def uploaded(cloud: Cloud, packaged: Path) -> str:
    """The address of the built template, whose function's code lies beside it."""
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="code", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    built = yaml_parse(packaged.read_text())
    code = packaged.parent / built["Resources"]["Function"]["Properties"]["CodeUri"]
    archive = shutil.make_archive(str(packaged.parent / "function"), "zip", code)
    s3.upload_file(archive, "code", "function.zip")
    built["Resources"]["Function"]["Properties"]["CodeUri"] = "s3://code/function.zip"
    s3.put_object(Bucket="code", Key="template.yaml", Body=yaml_dump(built).encode())
    return f"{cloud.endpoint}/code/template.yaml"


@pytest.fixture(scope="session")
def network(cloud: Cloud) -> dict[str, str]:
    """The parameters of a load balancer that is created."""
    vpc, subnets = cloud.create_network()
    return {"VpcId": vpc, "SubnetIds": ",".join(subnets)}


@pytest.fixture
def deploy(cloud: Cloud, uploaded: str, request: pytest.FixtureRequest) -> Iterator[Deploy]:
    """Deploys the template with these parameters; afterwards deletes it, which must leave nothing behind."""
    formation = cloud.client("cloudformation")
    stack = re.sub("[^a-z0-9]+", "-", request.node.name.removeprefix("test_"))[:40].strip("-")
    before: set[str] = set()

    def create(**parameters: str) -> Deployment:
        before.update(inventory(cloud))
        values = [{"ParameterKey": name, "ParameterValue": value} for name, value in (DATABASE | parameters).items()]
        formation.create_stack(StackName=stack, TemplateURL=uploaded, Parameters=values, Capabilities=CAPABILITIES)
        formation.get_waiter("stack_create_complete").wait(StackName=stack, WaiterConfig={"Delay": 1})
        return Deployment(cloud, stack)

    yield create
    formation.delete_stack(StackName=stack)
    formation.get_waiter("stack_delete_complete").wait(StackName=stack, WaiterConfig={"Delay": 1})
    assert inventory(cloud) - before == set()


def inventory(cloud: Cloud) -> set[str]:
    """Everything that a stack may make, by its name."""
    clients = {name: cloud.client(name) for name in ("ec2", "lambda", "logs", "iam", "scheduler", "events", "sns")}
    cloudwatch = cloud.client("cloudwatch")
    found = [
        [x["LoadBalancerArn"] for x in cloud.elb.describe_load_balancers()["LoadBalancers"]],
        [x["TargetGroupArn"] for x in cloud.elb.describe_target_groups()["TargetGroups"]],
        [x["GroupId"] for x in clients["ec2"].describe_security_groups()["SecurityGroups"]],
        [x["VpcEndpointId"] for x in clients["ec2"].describe_vpc_endpoints()["VpcEndpoints"]],
        [x["FunctionName"] for x in clients["lambda"].list_functions()["Functions"]],
        [x["logGroupName"] for x in clients["logs"].describe_log_groups()["logGroups"]],
        [x["Arn"] for x in clients["iam"].list_roles()["Roles"]],
        [x["Arn"] for x in clients["scheduler"].list_schedules()["Schedules"]],
        [x["Arn"] for x in clients["events"].list_rules()["Rules"]],
        [x["TopicArn"] for x in clients["sns"].list_topics()["Topics"]],
        [x["SubscriptionArn"] for x in clients["sns"].list_subscriptions()["Subscriptions"]],
        [x["AlarmArn"] for x in cloudwatch.describe_alarms()["MetricAlarms"]],
        [x["DashboardName"] for x in cloudwatch.list_dashboards()["DashboardEntries"]],
    ]
    return {name for names in found for name in names}


def role(cloud: Cloud, name: str, service: str, *statements: dict[str, Any]) -> str:
    """A role of one's own, with these permissions; its ARN."""
    iam = cloud.client("iam")
    trust = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    made = iam.create_role(RoleName=name, AssumeRolePolicyDocument=policy(trust))["Role"]
    if statements:
        iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=policy(*statements))
    arn: str = made["Arn"]
    return arn


def policy(*statements: dict[str, Any]) -> str:
    """A policy document."""
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def statements(deployment: Deployment, resource: str, name: str) -> dict[str, dict[str, Any]]:
    """The statements of a role's policy, by their Sid, without what only the local AWS needs."""
    iam = deployment.cloud.client("iam")
    document = iam.get_role_policy(RoleName=deployment.resources[resource], PolicyName=name)["PolicyDocument"]
    return {statement.get("Sid", ""): statement for statement in document["Statement"] if statement != ANY_TAG}


def alarms(deployment: Deployment) -> dict[str, dict[str, Any]]:
    """The stack's alarms, by their name in the template."""
    found = deployment.cloud.client("cloudwatch").describe_alarms()["MetricAlarms"]
    named = {physical: logical for logical, physical in deployment.resources.items()}
    return {named[x["AlarmName"]]: x for x in found if x["AlarmName"] in named}


def attributes(found: list[dict[str, str]]) -> dict[str, str]:
    """Keys and values."""
    return {x["Key"]: x["Value"] for x in found}


# Its modes.


def test_it_creates_a_load_balancer_fit_for_a_database(cloud: Cloud, deploy: Deploy, network: dict[str, str]) -> None:
    deployment = deploy(**network)
    elb, outputs = cloud.elb, deployment.outputs

    (balancer,) = elb.describe_load_balancers(LoadBalancerArns=[outputs["LoadBalancerArn"]])["LoadBalancers"]
    assert balancer["Type"] == "network"
    assert balancer["Scheme"] == "internal"
    assert balancer["IpAddressType"] == "ipv4"
    assert balancer.get("SecurityGroups", []) == []
    of_balancer = elb.describe_load_balancer_attributes(LoadBalancerArn=outputs["LoadBalancerArn"])["Attributes"]
    assert attributes(of_balancer)["load_balancing.cross_zone.enabled"] == "true"

    (group,) = elb.describe_target_groups(TargetGroupArns=[outputs["TargetGroupArn"]])["TargetGroups"]
    assert (group["TargetType"], group["Protocol"], group["Port"]) == ("ip", "TCP", PORT)
    assert (group["HealthCheckProtocol"], group["HealthCheckPort"]) == ("TCP", "traffic-port")
    assert (group["HealthCheckIntervalSeconds"], group["HealthCheckTimeoutSeconds"]) == (10, 5)
    assert (group["HealthyThresholdCount"], group["UnhealthyThresholdCount"]) == (2, 2)
    of_group = elb.describe_target_group_attributes(TargetGroupArn=outputs["TargetGroupArn"])["Attributes"]
    assert attributes(of_group) == {
        "deregistration_delay.timeout_seconds": "0",
        "deregistration_delay.connection_termination.enabled": "true",
        "load_balancing.cross_zone.enabled": "use_load_balancer_configuration",
        "preserve_client_ip.enabled": "false",
        "proxy_protocol_v2.enabled": "false",
        "stickiness.enabled": "false",
    }

    (listener,) = elb.describe_listeners(LoadBalancerArn=outputs["LoadBalancerArn"])["Listeners"]
    assert (listener["Protocol"], listener["Port"]) == ("TCP", PORT)
    assert [x["TargetGroupArn"] for x in listener["DefaultActions"]] == [outputs["TargetGroupArn"]]


def test_the_function_and_what_runs_it(cloud: Cloud, deploy: Deploy, network: dict[str, str]) -> None:
    deployment = deploy(**network)
    name = deployment.outputs["FunctionName"]

    functions = cloud.client("lambda")
    function = functions.get_function_configuration(FunctionName=name)
    assert (function["Runtime"], function["Handler"]) == ("provided.al2023", "bootstrap")
    assert function["Architectures"] == ["x86_64"]
    assert (function["MemorySize"], function["Timeout"]) == (128, 60)
    assert deployment.environment["POLL_INTERVAL_SECONDS"] == "0"
    assert function["LoggingConfig"]["LogFormat"] == "JSON"
    assert function["LoggingConfig"]["LogGroup"] == deployment.outputs["LogGroupName"]
    assert "VpcConfig" not in function or not function["VpcConfig"].get("SubnetIds")
    retries = functions.get_function_event_invoke_config(FunctionName=name, Qualifier="$LATEST")
    assert (retries["MaximumRetryAttempts"], retries["MaximumEventAgeInSeconds"]) == (0, 60)
    assert json.loads(deployment.environment["BINDINGS"]) == [
        {"hostname": HOSTNAME, "target_group_arn": deployment.outputs["TargetGroupArn"], "port": PORT}
    ]

    schedule = cloud.client("scheduler").get_schedule(Name=deployment.resources["Schedule"])
    assert schedule["ScheduleExpression"] == "rate(1 minute)"
    assert schedule["FlexibleTimeWindow"] == {"Mode": "OFF"}
    assert schedule["State"] == "ENABLED"
    assert schedule["Target"]["Arn"] == function["FunctionArn"]
    assert schedule["Target"]["RetryPolicy"]["MaximumRetryAttempts"] == 0
    assert "Input" not in schedule["Target"]
    assert [x for x in deployment.resources if x.startswith("FleetSchedule")] == []
    assert deployment.outputs["FunctionArn"] == function["FunctionArn"]
    assert deployment.outputs["SchedulerRoleArn"] == schedule["Target"]["RoleArn"]
    assert schedule["Target"]["RoleArn"].endswith(f"role/{deployment.resources['SchedulerRole']}")
    assert statements(deployment, "SchedulerRole", "invoke") == {
        "": {"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": function["FunctionArn"]}
    }

    (logs,) = cloud.client("logs").describe_log_groups(logGroupNamePrefix=deployment.outputs["LogGroupName"])[
        "logGroups"
    ]
    assert logs["retentionInDays"] == 30

    assert "RdsEvents" not in deployment.resources
    assert "AlarmTopic" not in deployment.resources
    assert all(alarm["AlarmActions"] == alarm["OKActions"] == [] for alarm in alarms(deployment).values())
    assert len(alarms(deployment)) == 6


def test_the_function_may_write_to_its_target_group_only(
    cloud: Cloud, dns: DnsServer, deploy: Deploy, network: dict[str, str]
) -> None:
    other = cloud.create_target_group("other", PORT)
    deployment = deploy(**network, DnsServers=dns.address)
    allowed = statements(deployment, "FunctionRole", "function")
    assert set(allowed) == {"Look", "Change", "Remember", "Measure", "Log"}
    assert allowed["Change"]["Resource"] == allowed["Remember"]["Resource"] == deployment.outputs["TargetGroupArn"]
    assert allowed["Remember"]["Action"] == ["elasticloadbalancing:AddTags", "elasticloadbalancing:RemoveTags"]
    assert allowed["Remember"]["Condition"] == OUR_TAGS
    assert allowed["Measure"]["Condition"] == {"StringEquals": {"cloudwatch:namespace": NAMESPACE}}
    assert allowed["Log"]["Resource"].endswith(f":log-group:{deployment.outputs['LogGroupName']}:*")

    # ministack enforces it, but for tags.
    dns.answer(HOSTNAME, "10.0.1.10")
    assert deployment.invoke({}).group["registered"] == [f"10.0.1.10:{PORT}"]
    dns.answer(HOSTNAME, "10.0.1.11")
    reply = deployment.invoke({}).group
    assert (reply["registered"], reply["deregistered"]) == ([f"10.0.1.11:{PORT}"], [f"10.0.1.10:{PORT}"])
    refused = deployment.invoke({"bindings": [{"hostname": HOSTNAME, "target_group_arn": other.arn}]})
    assert "AccessDenied" in str(refused.error)
    assert cloud.targets(other) == {}


def test_an_existing_target_group(cloud: Cloud, dns: DnsServer, deploy: Deploy) -> None:
    group = cloud.create_target_group("existing", 3306)
    deployment = deploy(TargetGroupArn=group.arn, DnsServers=dns.address)
    assert deployment.outputs["TargetGroupArn"] == group.arn
    made = set(deployment.resources)
    assert made & {"LoadBalancer", "TargetGroup", "Listener", "FunctionSecurityGroup"} == set()
    allowed = statements(deployment, "FunctionRole", "function")
    assert allowed["Change"]["Resource"] == allowed["Remember"]["Resource"] == group.arn
    assert json.loads(deployment.environment["BINDINGS"]) == [
        {"hostname": HOSTNAME, "target_group_arn": group.arn, "port": PORT, "ownership": "shared"}
    ]
    dimensions = {name: x["Dimensions"] for name, x in alarms(deployment).items() if x["Namespace"] == NAMESPACE}
    assert len(dimensions) == 4
    assert all(x == [{"Name": "TargetGroup", "Value": group.dimension}] for x in dimensions.values())

    cloud.elb.register_targets(TargetGroupArn=group.arn, Targets=[{"Id": "10.0.9.9", "Port": PORT}])
    for address in ("10.0.1.10", "10.0.1.11"):
        dns.answer(HOSTNAME, address)
        assert deployment.invoke({}).error is None
        # Somebody else's target stays.
        assert sorted(cloud.targets(group)) == sorted([f"{address}:{PORT}", f"10.0.9.9:{PORT}"])
    (described,) = cloud.elb.describe_tags(ResourceArns=[group.arn])["TagDescriptions"]
    assert described["Tags"]
    assert all(fnmatch(tag["Key"], OUR_KEYS) for tag in described["Tags"])


def test_settings_of_the_binding(deploy: Deploy, network: dict[str, str]) -> None:
    extra = [{"hostname": "invoices.example.test", "target_group_arn": BROUGHT["TargetGroupArn"], "lookups": 2}]
    deployment = deploy(
        **network,
        DeregisterAfterSeconds="300",
        Lookups="5",
        Ownership="shared",
        ExtraBindings=json.dumps(extra),
        ExtraTargetGroupArns=BROUGHT["TargetGroupArn"],
    )
    first, *rest = json.loads(deployment.environment["BINDINGS"])
    assert first == {
        "hostname": HOSTNAME,
        "target_group_arn": deployment.outputs["TargetGroupArn"],
        "port": PORT,
        "deregister_after_seconds": 300,
        "lookups": 5,
        "ownership": "shared",
    }
    assert rest == extra


def test_an_existing_target_group_of_ones_own(deploy: Deploy) -> None:
    deployment = deploy(**BROUGHT, DeregisterAfterSeconds="0", Ownership="exclusive")
    (binding,) = json.loads(deployment.environment["BINDINGS"])
    assert (binding["deregister_after_seconds"], binding["ownership"]) == (0, "exclusive")
    assert "lookups" not in binding


def test_several_bindings(cloud: Cloud, dns: DnsServer, deploy: Deploy, network: dict[str, str]) -> None:
    groups = [cloud.create_target_group(name, 3306) for name in ("invoices", "returns")]
    extra = [
        {"hostname": f"{name}.example.test", "target_group_arn": group.arn}
        for name, group in zip(("invoices", "returns"), groups, strict=True)
    ]
    for number, binding in enumerate(extra):
        dns.answer(binding["hostname"], f"10.0.2.{number + 1}")
    dns.answer(HOSTNAME, "10.0.1.10")
    deployment = deploy(
        **network,
        DnsServers=dns.address,
        ExtraBindings=json.dumps(extra, indent=2),
        ExtraTargetGroupArns=", ".join(x.arn for x in groups),
    )
    bindings = json.loads(deployment.environment["BINDINGS"])
    assert bindings[0]["hostname"] == HOSTNAME
    assert bindings[1:] == extra
    allowed = statements(deployment, "FunctionRole", "function")
    assert set(allowed) == {"Look", "Change", "ChangeMore", "Remember", "RememberMore", "Measure", "Log"}
    for more, one in (("ChangeMore", "Change"), ("RememberMore", "Remember")):
        assert allowed[more]["Action"] == allowed[one]["Action"]
        assert allowed[more].get("Condition") == allowed[one].get("Condition")
        assert [x.strip() for x in allowed[more]["Resource"]] == [x.arn for x in groups]

    assert deployment.invoke({}).error is None
    assert [list(cloud.targets(x)) for x in groups] == [["10.0.2.1:3306"], ["10.0.2.2:3306"]]


def test_schedules_share_a_fleet(cloud: Cloud, dns: DnsServer, deploy: Deploy) -> None:
    main, loans, returns, bills = (cloud.create_target_group(f"fleet-{x}", 3306) for x in ("0", "a", "b", "c"))
    outside = cloud.create_target_group("outside", 3306)
    fleet = {x.arn: f"{number}.fleet.test" for number, x in enumerate((loans, returns, bills))}
    requests = {arn: {"bindings": [{"hostname": hostname, "target_group_arn": arn}]} for arn, hostname in fleet.items()}
    for number, hostname in enumerate((HOSTNAME, *fleet.values())):
        dns.answer(hostname, f"10.0.3.{number}")
    of_the_fleet = main.arn.partition("/")[0] + "/fleet-*/*"
    deployment = deploy(
        TargetGroupArn=main.arn,
        DnsServers=dns.address,
        FleetBindings1=json.dumps(requests[loans.arn]["bindings"], indent=2),
        FleetBindings4=json.dumps(requests[returns.arn]["bindings"]),
        ExtraTargetGroupArns=of_the_fleet,
        ElbRequestsPerSecond="2",
    )
    assert [x["target_group_arn"] for x in json.loads(deployment.environment["BINDINGS"])] == [main.arn]
    assert {x for x in deployment.resources if "Schedule" in x} - {"SchedulerRole"} == {
        "Schedule",
        "FleetSchedule1",
        "FleetSchedule4",
    }
    scheduler = cloud.client("scheduler")
    plain = scheduler.get_schedule(Name=deployment.resources["Schedule"])
    for resource, arn in (("FleetSchedule1", loans.arn), ("FleetSchedule4", returns.arn)):
        schedule = scheduler.get_schedule(Name=deployment.resources[resource])
        given = json.loads(schedule["Target"].pop("Input"))
        assert given == requests[arn]
        assert schedule["Target"] == plain["Target"]
        for setting in ("ScheduleExpression", "FlexibleTimeWindow", "State"):
            assert schedule[setting] == plain[setting]

    allowed = statements(deployment, "FunctionRole", "function")
    assert allowed["ChangeMore"]["Resource"] == allowed["RememberMore"]["Resource"] == [of_the_fleet]
    other = {"bindings": [{"hostname": HOSTNAME, "target_group_arn": outside.arn}]}
    assert "AccessDenied" in str(deployment.invoke(other).error)
    assert cloud.targets(outside) == {}

    # One of one's own, made with the outputs.
    scheduler.create_schedule(
        Name="own",
        ScheduleExpression="rate(1 minute)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={
            "Arn": deployment.outputs["FunctionArn"],
            "RoleArn": deployment.outputs["SchedulerRoleArn"],
            "Input": json.dumps(requests[bills.arn]),
        },
    )
    try:
        wanted = {x.arn: [f"10.0.3.{number}:3306"] for number, x in enumerate((loans, returns, bills), 1)}
        wanted[main.arn] = [f"10.0.3.0:{PORT}"]

        def follow() -> bool | None:
            return {x.arn: list(cloud.targets(x)) for x in (main, loans, returns, bills)} == wanted or None

        wait_for("the target groups to follow DNS", follow, SCHEDULE_SECONDS)
    finally:
        scheduler.delete_schedule(Name="own")


def test_the_schedules_of_a_fleet_differ_in_their_input_alone(template: dict[str, Any]) -> None:
    parameters, resources = template["Parameters"], template["Resources"]
    numbers = [x.removeprefix("FleetBindings") for x in parameters if x.startswith("FleetBindings")]
    assert numbers == ["1", "2", "3", "4"]
    plain = resources["Schedule"]["Properties"]
    for number in numbers:
        parameter = parameters[f"FleetBindings{number}"]
        for limit in ("Type", "Default", "AllowedPattern"):
            assert parameter[limit] == parameters["ExtraBindings"][limit]
        assert template["Conditions"][f"HasFleet{number}"] == {
            "Fn::Not": [{"Fn::Equals": [{"Ref": f"FleetBindings{number}"}, ""]}]
        }
        schedule = resources[f"FleetSchedule{number}"]
        assert schedule["Condition"] == f"HasFleet{number}"
        # dict, because the order of keys says nothing.
        target = {**plain["Target"], "Input": {"Fn::Sub": f'{{"bindings":${{FleetBindings{number}}}}}'}}
        assert dict(schedule["Properties"]["Target"]) == target
        assert set(schedule["Properties"]) == set(plain)
        for setting in set(plain) - {"Target", "Description"}:
            assert schedule["Properties"][setting] == plain[setting]


def test_in_a_vpc_with_endpoints(cloud: Cloud, deploy: Deploy, network: dict[str, str]) -> None:
    deployment = deploy(**network, FunctionSubnetIds=network["SubnetIds"], CreateInterfaceEndpoints="true")
    ec2 = cloud.client("ec2")
    mine = deployment.outputs["FunctionSecurityGroupId"]
    groups = ec2.describe_security_groups(GroupIds=[mine, deployment.resources["EndpointSecurityGroup"]])
    by_id = {x["GroupId"]: x for x in groups["SecurityGroups"]}
    out = {(x["IpProtocol"], x["FromPort"]) for x in by_id.pop(mine)["IpPermissionsEgress"] if "FromPort" in x}
    assert {("udp", 53), ("tcp", 53), ("tcp", 443)} <= out
    (endpoints_group,) = by_id.values()
    admitted = endpoints_group["IpPermissions"]
    assert {(x["FromPort"], x["ToPort"]) for x in admitted} == {(443, 443)}
    # What else is in the VPC comes through these endpoints, too.
    networks = {y["CidrIp"] for x in admitted for y in x["IpRanges"]}
    assert networks == {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"}

    ids = [deployment.resources[x] for x in ("LoadBalancingEndpoint", "MonitoringEndpoint")]
    endpoints = ec2.describe_vpc_endpoints(VpcEndpointIds=ids)["VpcEndpoints"]
    names = {x["ServiceName"] for x in endpoints}
    assert names == {"com.amazonaws.eu-west-1.elasticloadbalancing", "com.amazonaws.eu-west-1.monitoring"}
    assert all(x["VpcEndpointType"] == "Interface" for x in endpoints)

    allowed = statements(deployment, "FunctionRole", "function")
    assert set(allowed) == {"Look", "Change", "Remember", "Measure", "Log", "Attach", "AttachByLambdaOnly"}
    assert allowed["AttachByLambdaOnly"]["Effect"] == "Deny"
    assert allowed["AttachByLambdaOnly"]["Action"] == allowed["Attach"]["Action"]


def test_in_a_vpc_with_security_groups_and_emf(deploy: Deploy, network: dict[str, str]) -> None:
    deployment = deploy(
        **network,
        FunctionSubnetIds=network["SubnetIds"],
        FunctionSecurityGroupIds="sg-0123456789abcdef0",
        CreateInterfaceEndpoints="true",
        MetricsDestination="emf",
    )
    assert "FunctionSecurityGroup" not in deployment.resources
    assert "MonitoringEndpoint" not in deployment.resources
    assert "LoadBalancingEndpoint" in deployment.resources
    assert "Measure" not in statements(deployment, "FunctionRole", "function")
    assert deployment.environment["METRICS"] == "emf"


def test_alarms_to_an_email_address(cloud: Cloud, deploy: Deploy, network: dict[str, str]) -> None:
    deployment = deploy(**network, AlarmEmail="you@example.com")
    topic = deployment.outputs["AlarmTopicArn"]
    (subscription,) = cloud.client("sns").list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    assert (subscription["Protocol"], subscription["Endpoint"]) == ("email", "you@example.com")
    assert all(x["AlarmActions"] == x["OKActions"] == [topic] for x in alarms(deployment).values())


def test_alarms_to_a_topic(deploy: Deploy, network: dict[str, str]) -> None:
    topic = "arn:aws:sns:eu-west-1:000000000000:pager"
    deployment = deploy(**network, AlarmTopicArn=topic)
    assert "AlarmTopic" not in deployment.resources
    assert all(x["AlarmActions"] == x["OKActions"] == [topic] for x in alarms(deployment).values())


def test_roles_of_ones_own(cloud: Cloud, dns: DnsServer, deploy: Deploy, network: dict[str, str]) -> None:
    look = {"Effect": "Allow", "Action": "elasticloadbalancing:DescribeTarget*", "Resource": "*"}
    roles = {
        "FunctionRoleArn": role(cloud, "mine", "lambda.amazonaws.com", look),
        "SchedulerRoleArn": role(cloud, "clock", "scheduler.amazonaws.com"),
    }
    deployment = deploy(**network, **roles, DnsServers=dns.address)
    assert {"FunctionRole", "SchedulerRole"} & set(deployment.resources) == set()
    assert deployment.outputs["FunctionRoleArn"] == roles["FunctionRoleArn"]
    schedule = cloud.client("scheduler").get_schedule(Name=deployment.resources["Schedule"])
    assert schedule["Target"]["RoleArn"] == roles["SchedulerRoleArn"]

    # It is this role with which the function acts: what it lacks is refused.
    dns.answer(HOSTNAME, "10.0.1.10")
    error = str(deployment.invoke({}).error)
    assert "RegisterTargets" in error
    assert "AccessDenied" in error


def test_the_vpc_of_the_function(template: dict[str, Any]) -> None:
    """Only read, because ministack's CloudFormation does not keep it."""
    own = {"Fn::GetAtt": ["FunctionSecurityGroup", "GroupId"]}
    brought = {"Ref": "FunctionSecurityGroupIds"}
    groups = {"Fn::If": ["CreateFunctionSecurityGroup", [own], brought]}
    attached = {"SubnetIds": {"Ref": "FunctionSubnetIds"}, "SecurityGroupIds": groups}
    found = template["Resources"]["Function"]["Properties"]["VpcConfig"]
    assert found == {"Fn::If": ["InVpc", attached, {"Ref": "AWS::NoValue"}]}


def test_a_permissions_boundary(template: dict[str, Any]) -> None:
    """Only read, because ministack's CloudFormation does not keep it."""
    roles = [x["Properties"] for x in template["Resources"].values() if x["Type"] == "AWS::IAM::Role"]
    bounds = {"Fn::If": ["HasBoundary", {"Ref": "PermissionsBoundaryArn"}, {"Ref": "AWS::NoValue"}]}
    assert [x["PermissionsBoundary"] for x in roles] == [bounds, bounds]


def test_polling(deploy: Deploy, network: dict[str, str]) -> None:
    deployment = deploy(**network, PollIntervalSeconds="5")
    assert deployment.environment["POLL_INTERVAL_SECONDS"] == "5"
    assert timeout(deployment) == 90


def test_polling_and_a_short_watch(deploy: Deploy, network: dict[str, str]) -> None:
    database = "arn:aws:rds:eu-west-1:123456789012:db:orders"
    deployment = deploy(**network, PollIntervalSeconds="1", DatabaseArns=database, WatchSeconds="120")
    assert timeout(deployment) == 120


def timeout(deployment: Deployment) -> int:
    """The function's time-out in seconds."""
    functions = deployment.cloud.client("lambda")
    found: int = functions.get_function_configuration(FunctionName=deployment.outputs["FunctionName"])["Timeout"]
    return found


def test_the_longest_watch_is_one_that_lambda_allows(template: dict[str, Any]) -> None:
    allowed = template["Parameters"]["WatchSeconds"]["AllowedValues"]
    longest = template["Resources"]["Function"]["Properties"]["Timeout"]
    assert longest == {"Fn::If": ["HasDatabases", {"Ref": "WatchSeconds"}, {"Fn::If": ["Polls", 90, 60]}]}
    # Never less than polling needs, and no more than Lambda gives.
    assert min(allowed) > 90
    assert max(allowed) == 900


def test_rds_events(cloud: Cloud, deploy: Deploy, network: dict[str, str]) -> None:
    arns = [f"arn:aws:rds:eu-west-1:123456789012:{x}" for x in ("db:orders", "cluster:orders", "db-proxy:orders")]
    deployment = deploy(**network, DatabaseArns=",".join(arns))
    matched = {x.name for x in EVENTS.iterdir() if x.name.startswith("rds-") and deployment.rule_matches(x.name)}
    # Each instance of a cluster has an ARN of its own, which is not given here.
    assert matched == {x.name for x in EVENTS.glob("rds-*")} - {"rds-cluster-topology.json"}
    assert timeout(deployment) == 300
    events = cloud.client("events")
    rule = events.describe_rule(Name=deployment.resources["RdsEvents"])
    pattern = json.loads(rule["EventPattern"])
    assert [x.get("resources") for x in pattern["$or"]] == [arns, None]
    event = json.loads((EVENTS / "rds-instance-failover.json").read_text())
    for field, value in (("source", "aws.ec2"), ("detail-type", "RDS DB Snapshot Event")):
        other = json.dumps(event | {field: value})
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


def test_ipv6_and_security_groups(cloud: Cloud, deploy: Deploy, network: dict[str, str]) -> None:
    deployment = deploy(**network, IpAddressType="ipv6", LoadBalancerSecurityGroupIds="sg-0123456789abcdef0")
    arn = deployment.outputs["LoadBalancerArn"]
    (balancer,) = cloud.elb.describe_load_balancers(LoadBalancerArns=[arn])["LoadBalancers"]
    assert balancer["IpAddressType"] == "dualstack"
    assert balancer["SecurityGroups"] == ["sg-0123456789abcdef0"]


# What it refuses.

BROUGHT = {"TargetGroupArn": "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/orders/0123456789abcdef"}
GROUPS = BROUGHT["TargetGroupArn"].partition("/")[0]
CREATED = {"VpcId": "vpc-01234567", "SubnetIds": "subnet-01234567"}
ROLES = {
    "FunctionRoleArn": "arn:aws:iam::123456789012:role/mine",
    "SchedulerRoleArn": "arn:aws:iam::123456789012:role/clock",
}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "VpcId is missing"),
        ({"SubnetIds": "subnet-01234567"}, "VpcId is missing"),
        ({"VpcId": "vpc-01234567"}, "SubnetIds is missing"),
        (BROUGHT | CREATED, "SubnetIds is for a load balancer that is created"),
        (BROUGHT | {"SubnetIds": "subnet-01234567"}, "SubnetIds is for a load balancer that is created"),
        (BROUGHT | {"LoadBalancerSecurityGroupIds": "sg-01234567"}, "LoadBalancerSecurityGroupIds is for"),
        (BROUGHT | {"AllowedPrincipals": "arn:aws:iam::123456789012:root"}, "AllowedPrincipals is for"),
        (BROUGHT | {"VpcId": "vpc-01234567"}, "Give FunctionSubnetIds too"),
        (BROUGHT | {"FunctionSubnetIds": "subnet-01234567"}, "FunctionSubnetIds needs VpcId"),
        (CREATED | {"SupportedRegions": "us-east-1"}, "SupportedRegions is for an endpoint service"),
        (CREATED | {"WatchSeconds": "600"}, "DatabaseArns names no database"),
        (CREATED | {"ExtraBindings": '[{"hostname":"a.b"}]'}, "ExtraBindings needs ExtraTargetGroupArns"),
        (CREATED | {"FleetBindings1": '[{"hostname":"a.b"}]'}, "FleetBindings1 needs ExtraTargetGroupArns"),
        (CREATED | {"FleetBindings2": '[{"hostname":"a.b"}]'}, "FleetBindings2 needs ExtraTargetGroupArns"),
        (CREATED | {"FleetBindings3": '[{"hostname":"a.b"}]'}, "FleetBindings3 needs ExtraTargetGroupArns"),
        (CREATED | {"FleetBindings4": '[{"hostname":"a.b"}]'}, "FleetBindings4 needs ExtraTargetGroupArns"),
        (
            CREATED | {"AlarmEmail": "a@example.com", "AlarmTopicArn": "arn:aws:sns:eu-west-1:123456789012:pager"},
            "AlarmEmail or AlarmTopicArn, not both",
        ),
        (CREATED | {"FunctionSecurityGroupIds": "sg-01234567"}, "FunctionSecurityGroupIds needs FunctionSubnetIds"),
        (CREATED | {"CreateInterfaceEndpoints": "true"}, "CreateInterfaceEndpoints needs FunctionSubnetIds"),
        (CREATED | {"FunctionRoleArn": ROLES["FunctionRoleArn"]}, "SchedulerRoleArn is missing"),
        (CREATED | {"SchedulerRoleArn": ROLES["SchedulerRoleArn"]}, "FunctionRoleArn is missing"),
        (
            CREATED | ROLES | {"PermissionsBoundaryArn": "arn:aws:iam::123456789012:policy/boundary"},
            "PermissionsBoundaryArn bounds roles that are created here",
        ),
    ],
)
def test_half_of_something_is_refused_with_a_reason(
    cloud: Cloud, uploaded: str, parameters: dict[str, str], message: str
) -> None:
    values = [{"ParameterKey": name, "ParameterValue": value} for name, value in (DATABASE | parameters).items()]
    with pytest.raises(ClientError, match=message):
        cloud.client("cloudformation").create_stack(
            StackName="refused", TemplateURL=uploaded, Parameters=values, Capabilities=CAPABILITIES
        )


def test_every_assertion_is_tested(template: dict[str, Any]) -> None:
    cases = next(
        mark
        for mark in test_half_of_something_is_refused_with_a_reason.pytestmark  # type: ignore[attr-defined]
        if mark.name == "parametrize"
    ).args[1]
    for rule in template["Rules"].values():
        for assertion in rule["Assertions"]:
            described = assertion["AssertDescription"]
            assert any(message in described for _, message in cases), described


@pytest.mark.parametrize(
    ("parameter", "good", "bad"),
    [
        ("Hostname", [HOSTNAME, "a.b.", "db_1.internal"], ["", "localhost", "10.0.0.1/", "a..b", "-a.b", "a b.c"]),
        ("AllowedPrincipals", ["arn:aws:iam::123456789012:root", "arn:aws-cn:iam::123456789012:role/a/b"], ["*", "1"]),
        ("DeregisterAfterSeconds", ["", "0", "300", "999999"], ["00", "060", "-1", "1.5", "1000000", "null"]),
        ("Lookups", ["", "1", "9", "10", "50"], ["0", "05", "51", "100", "a"]),
        ("ExtraBindings", ['[{"a":1}]', ' [\n{"a":1},\n{"b":2}\n]\n'], ["{}", "[]", '{"a":1}', '[{"a":[1]}]']),
        ("SupportedRegions", ["us-east-1", "us-gov-west-1", ""], ["us-east", "US-EAST-1"]),
        ("FunctionRoleArn", ["arn:aws:iam::123456789012:role/team/a", ""], ["a", "arn:aws:iam::123456789012:user/a"]),
        ("AllowedCidrs", ["10.0.0.0/8, fd00::/8", ""], ["private"]),
        ("DnsServers", ["10.0.0.2,[fd00::2]:53", ""], ["dns.example.com"]),
        ("MetricsNamespace", ["Orders/Sync v1"], ["AWS/Orders", ":a", ""]),
        ("AlarmEmail", ["you@example.com", ""], ["you", "a@b.c,d@e.f"]),
        ("DatabaseArns", ["arn:aws:rds:eu-west-1:123456789012:db:orders", ""], [HOSTNAME, "orders"]),
        (
            "TargetGroupArn",
            ["", BROUGHT["TargetGroupArn"]],
            ["arn:aws:elasticloadbalancing:eu-west-1:1:loadbalancer/a", f"{GROUPS}/orders-*/*"],
        ),
        (
            "ExtraTargetGroupArns",
            ["", *(f"{GROUPS}/{x}" for x in ("orders/0123456789abcdef", "orders-*/*", "orders/*"))],
            ["*", *(f"{GROUPS}/{x}" for x in ("*", "*/*", "*-orders/*", "a*b/*", "orders-*", "orders/01*", "a**/*"))],
        ),
    ],
)
def test_patterns(template: dict[str, Any], parameter: str, good: list[str], bad: list[str]) -> None:
    pattern = template["Parameters"][parameter]["AllowedPattern"]
    assert [x for x in good if not re.search(pattern, x)] == []
    assert [x for x in bad if re.search(pattern, x)] == []


# What it is made of.


def test_the_endpoint_service(template: dict[str, Any]) -> None:
    """Only read, because ministack does not know it; cfn-lint has seen to its schema."""
    service = template["Resources"]["EndpointService"]
    assert service["Condition"] == "CreateEndpointService"
    assert service["Properties"]["NetworkLoadBalancerArns"] == [{"Ref": "LoadBalancer"}]
    assert service["Properties"]["AcceptanceRequired"] == {"Ref": "AcceptanceRequired"}
    permissions = template["Resources"]["EndpointServicePermissions"]["Properties"]
    assert permissions == {"ServiceId": {"Ref": "EndpointService"}, "AllowedPrincipals": {"Ref": "AllowedPrincipals"}}
    assert "vpce.${AWS::Region}.${EndpointService}" in str(template["Outputs"]["ServiceName"]["Value"])
    assert [x["Type"] for x in template["Resources"].values() if x["Type"] in LEFT_OUT] == list(LEFT_OUT)


def test_the_local_deployment_is_the_same_but_for_that(template: dict[str, Any]) -> None:
    local = without_left_out(template)
    assert set(template["Resources"]) - set(local["Resources"]) == {"EndpointService", "EndpointServicePermissions"}
    assert set(template["Outputs"]) - set(local["Outputs"]) == {"ServiceName", "EndpointServiceId"}
    for section, content in template.items():
        if section in ("Resources", "Outputs"):
            assert local[section].items() <= content.items()
        else:
            assert local[section] == content


def test_the_local_deployment_may_tag_anything_besides(template: dict[str, Any]) -> None:
    local = with_any_tag(template)
    (mine,) = template["Resources"]["FunctionRole"]["Properties"]["Policies"]
    (theirs,) = local["Resources"]["FunctionRole"]["Properties"]["Policies"]
    assert theirs["PolicyDocument"]["Statement"] == [*mine["PolicyDocument"]["Statement"], ANY_TAG]
    theirs["PolicyDocument"]["Statement"].pop()
    assert local == template


def test_the_tags_that_may_be_set_are_the_codes(template: dict[str, Any]) -> None:
    (granted,) = template["Resources"]["FunctionRole"]["Properties"]["Policies"]
    tagging = [x for x in granted["PolicyDocument"]["Statement"] if OUR_KEYS in json.dumps(x)]
    assert len(tagging) == 2
    assert OUR_KEYS.removesuffix("*") in source("state.rs")


def test_no_target_of_its_own(template: dict[str, Any]) -> None:
    assert "Targets" not in template["Resources"]["TargetGroup"]["Properties"]


def test_security_groups_do_not_hold_for_privatelink(template: dict[str, Any]) -> None:
    enforce = template["Resources"]["LoadBalancer"]["Properties"][
        "EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic"
    ]
    assert enforce == {"Fn::If": ["HasLoadBalancerSecurityGroups", "off", {"Ref": "AWS::NoValue"}]}


def test_everything_that_can_be_is_tagged(template: dict[str, Any]) -> None:
    untaggable = {
        "AWS::EC2::VPCEndpointServicePermissions",
        "AWS::Lambda::Permission",
        "AWS::SNS::Subscription",
        "AWS::Scheduler::Schedule",
    }
    untagged = {x["Type"] for x in template["Resources"].values() if "Tags" not in x["Properties"]}
    assert untagged == untaggable


def test_every_parameter_is_grouped_labelled_and_described(template: dict[str, Any]) -> None:
    interface = template["Metadata"]["AWS::CloudFormation::Interface"]
    grouped = [name for group in interface["ParameterGroups"] for name in group["Parameters"]]
    assert sorted(grouped) == sorted(template["Parameters"])
    assert sorted(interface["ParameterLabels"]) == sorted(template["Parameters"])
    for name, parameter in template["Parameters"].items():
        assert parameter["Description"], name
        limits = {"AllowedPattern", "AllowedValues", "MinValue"} & set(parameter)
        assert limits, name
        assert "AllowedValues" in limits or "ConstraintDescription" in parameter, name
    assert all(output["Description"] for output in template["Outputs"].values())


# Held against the code.


def source(name: str) -> str:
    """A file of src/."""
    return (ROOT / "src" / name).read_text()


def actions_called() -> set[str]:
    """The AWS actions of the operations that src/ calls, as IAM names them."""
    sdks = {"cloudwatch": "cloudwatch", "elasticloadbalancingv2": "elasticloadbalancing"}
    used = set(re.findall(r"^aws-sdk-(\S+)", (ROOT / "Cargo.toml").read_text(), re.MULTILINE))
    assert used == set(sdks), "another SDK: give its IAM prefix above"
    code = "".join(x.read_text() for x in (ROOT / "src").glob("*.rs"))
    methods = set(re.findall(r"\.(\w+)\(\)", code))
    loader = botocore.session.get_session()
    found = set()
    for service, prefix in (("cloudwatch", "cloudwatch"), ("elbv2", "elasticloadbalancing")):
        for operation in loader.get_service_model(service).operation_names:
            if re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower() in methods:
                found.add(f"{prefix}:{operation}")
    return found


def test_the_policy_allows_what_the_code_calls_and_no_more(template: dict[str, Any]) -> None:
    (granted,) = template["Resources"]["FunctionRole"]["Properties"]["Policies"]
    found: dict[str, set[str]] = {}
    for statement in granted["PolicyDocument"]["Statement"]:
        plain = statement["Fn::If"][1] if "Fn::If" in statement else statement
        actions = plain["Action"]
        found[plain["Sid"]] = {actions} if isinstance(actions, str) else set(actions)
    for_lambda = found.pop("Log"), found.pop("Attach"), found.pop("AttachByLambdaOnly")
    assert {x.split(":")[0] for actions in for_lambda for x in actions} == {"logs", "ec2"}
    assert set().union(*found.values()) == actions_called()
    assert "elasticloadbalancing:RegisterTargets" in actions_called()


def test_the_rust_tests_saw_no_other_action() -> None:
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    seen = target / "tmp" / "aws-actions"
    assert seen.exists(), "the Rust tests have not run here: make unit"
    assert set(seen.read_text().split()) == actions_called()


def test_the_environment_is_what_the_code_reads(template: dict[str, Any]) -> None:
    constants = set(re.findall(r'^pub const \w+: &str = "(\w+)";', source("config.rs"), re.MULTILINE))
    given = set(template["Resources"]["Function"]["Properties"]["Environment"]["Variables"])
    # The SDK's own.
    assert constants - given == {"AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"}
    assert given <= constants
    readme = (ROOT / "README.md").read_text()
    assert [x for x in given if f"| `{x}` |" not in readme] == []


def test_the_defaults_are_the_codes(template: dict[str, Any]) -> None:
    parameters = template["Parameters"]
    assert f'DEFAULT_NAMESPACE: &str = "{parameters["MetricsNamespace"]["Default"]}"' in source("config.rs")
    assert parameters["MetricsNamespace"]["Default"] == NAMESPACE
    rate = parameters["ElbRequestsPerSecond"]
    assert f"DEFAULT_ELB_REQUESTS_PER_SECOND: u32 = {rate['Default']};" in source("config.rs")
    assert f"*rate <= {rate['MaxValue']}" in source("config.rs")
    assert f"*seconds <= {parameters['PollIntervalSeconds']['MaxValue']}" in source("config.rs")
    for destination in parameters["MetricsDestination"]["AllowedValues"]:
        assert f'"{destination}" => Ok(MetricsDestination::' in source("config.rs")


def test_the_metrics_are_the_codes() -> None:
    code = source("metrics.rs")
    published = set(re.findall(r'count\("(\w+)"', code)) | set(re.findall(r'\("(\w+)", StandardUnit', code))
    assert published == set(METRICS)
    table = (ROOT / "README.md").read_text().partition("## Metrics")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == published
    assert 'DIMENSION: &str = "TargetGroup"' in code


def test_alarms_and_dashboard_name_metrics_that_are_published(
    cloud: Cloud, dns: DnsServer, deploy: Deploy, network: dict[str, str]
) -> None:
    deployment = deploy(**network, DnsServers=dns.address)
    dns.answer(HOSTNAME, "10.0.1.10")
    assert deployment.invoke({}).error is None
    # What there is under these very dimensions after a run, and what AWS itself publishes.
    group = deployment.group.dimension
    mine = {(NAMESPACE, name, "TargetGroup", group) for name in cloud.metrics(deployment.group)}
    function = deployment.outputs["FunctionName"]
    of_lambda = ("Invocations", "Errors", "Throttles", "Duration")
    of_balancer = ("ActiveFlowCount", "NewFlowCount", "PortAllocationErrorCount", "ProcessedBytes")
    of_balancer += ("TCP_Client_Reset_Count", "TCP_Target_Reset_Count", "TCP_ELB_Reset_Count")
    # ministack makes the full name of an application load balancer.
    balancer = deployment.outputs["LoadBalancerArn"].partition("loadbalancer/")[2]
    published = mine | {("AWS/Lambda", name, "FunctionName", function) for name in of_lambda}
    published |= {("AWS/NetworkELB", name, "LoadBalancer", balancer) for name in of_balancer}
    assert len(mine) == len(METRICS)

    for name, alarm in alarms(deployment).items():
        (dimension,) = alarm["Dimensions"]
        assert (alarm["Namespace"], alarm["MetricName"], dimension["Name"], dimension["Value"]) in published, name

    body = cloud.client("cloudwatch").get_dashboard(DashboardName=deployment.outputs["DashboardName"])["DashboardBody"]
    drawn = list(metrics_drawn(json.loads(body)))
    assert set(drawn) - published == set()
    assert {name for namespace, name, *_ in drawn if namespace == NAMESPACE} == set(METRICS)
    assert body.count(f'TargetGroup=\\"{group}\\"') == 2
    arns = [x for widget in json.loads(body)["widgets"] for x in widget["properties"].get("alarms", [])]
    assert sorted(arns) == sorted(x["AlarmArn"] for x in alarms(deployment).values())


def metrics_drawn(dashboard: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Namespace, name and dimension of each metric, with the dots spelt out."""
    for widget in dashboard["widgets"]:
        above: list[str] = []
        for row in widget["properties"].get("metrics", []):
            if isinstance(row[0], dict):
                assert row[0]["expression"].startswith("SEARCH(")
                continue
            plain = [x for x in row if isinstance(x, str)]
            above = [above[n] if x == "." else x for n, x in enumerate(plain)]
            yield tuple(above)


# The alarms fire, as CloudWatch evaluates them; ministack looks at neither dimensions nor missing data.

ALL_WELL = {"Failures": 0.0, "HealthyTargets": 1.0, "RefusedAddresses": 0.0, "Errors": 0.0, "Throttles": 0.0}
SILENCE: dict[str, float] = {}


STATISTICS: dict[str, Callable[[list[float]], float]] = {
    "Maximum": max,
    "Minimum": min,
    "SampleCount": len,
    "Sum": sum,
}
# The values of each metric in a minute: one, or those of all that ran.
Minute = Mapping[str, float | list[float]]


def fires(alarm: dict[str, Any], minutes: Sequence[Minute]) -> bool:
    """Whether the alarm is on after these minutes."""

    def breaches(minute: Minute) -> bool | None:
        found = minute.get(alarm["MetricName"], [])
        values = found if isinstance(found, list) else [found]
        value = STATISTICS[alarm["Statistic"]](values) if values else None
        if value is None:
            return {"breaching": True, "notBreaching": False}.get(alarm["TreatMissingData"])
        if alarm["ComparisonOperator"] == "LessThanThreshold":
            return value < alarm["Threshold"]
        assert alarm["ComparisonOperator"] == "GreaterThanOrEqualToThreshold"
        return value >= alarm["Threshold"]

    assert alarm["Period"] == 60
    window = [breaches(x) for x in minutes[-alarm["EvaluationPeriods"] :]]
    return sum(x is True for x in window) >= alarm.get("DatapointsToAlarm", alarm["EvaluationPeriods"])


def test_each_alarm_fires_when_it_should_and_only_then(deploy: Deploy, network: dict[str, str]) -> None:
    found = alarms(deploy(**network))
    failed = ALL_WELL | {"Failures": 1.0, "Errors": 1.0}
    throttled = {"Throttles": 1.0}
    # A watch reports once a minute, too, and Lambda's own metrics of it come at its end, under its first minute.
    beside_watch = {name: [value, value] for name, value in ALL_WELL.items() if name not in ("Errors", "Throttles")}
    beside_watch |= {"Errors": 0.0, "Throttles": 0.0}
    watch_failed = beside_watch | {"Failures": [0.0, 1.0]}
    both_failed = beside_watch | {"Failures": [1.0, 1.0], "Errors": 1.0}
    polling = {name: value for name, value in ALL_WELL.items() if name not in ("Errors", "Throttles")}
    courses: dict[str, tuple[list[Minute], set[str]]] = {
        "all is well": ([ALL_WELL] * 6, set()),
        "a run fails now and then": ([ALL_WELL, failed] * 2 + [ALL_WELL], set()),
        "a failover": ([ALL_WELL] * 4 + [ALL_WELL | {"HealthyTargets": 0.0}] * 2, set()),
        "a late run": ([ALL_WELL] * 5 + [SILENCE], set()),
        "DNS is down": ([ALL_WELL] * 3 + [failed] * 3, {"SyncFailedAlarm", "FunctionErrorsAlarm"}),
        "the database is down": ([ALL_WELL | {"HealthyTargets": 0.0}] * 3, {"NoHealthyTargetAlarm"}),
        "the schedule is off": ([ALL_WELL] + [SILENCE] * 5, {"NotRunningAlarm"}),
        "a watch": ([ALL_WELL] + [beside_watch] * 4, set()),
        "a watch fails where runs do not": ([ALL_WELL] + [watch_failed] * 4 + [watch_failed | {"Errors": 1.0}], set()),
        "DNS is down during a watch": ([ALL_WELL] * 2 + [both_failed] * 3, {"SyncFailedAlarm", "FunctionErrorsAlarm"}),
        "bindings of another schedule fail": ([ALL_WELL | {"Errors": 1.0}] * 3, {"FunctionErrorsAlarm"}),
        "polling": ([ALL_WELL] * 4 + [polling], set()),
        "DNS is down while polling": (
            [failed] * 4 + [polling | {"Failures": 1.0}],
            {"SyncFailedAlarm", "FunctionErrorsAlarm"},
        ),
        "no concurrency is left": ([throttled] * 5, {"NotRunningAlarm", "FunctionThrottlesAlarm"}),
        "it crashes at its start": ([{"Errors": 1.0}] * 5, {"NotRunningAlarm", "FunctionErrorsAlarm"}),
        "metrics do not arrive": ([{"Errors": 0.0, "Throttles": 0.0}] * 5, {"NotRunningAlarm"}),
        "some addresses are public": ([ALL_WELL | {"RefusedAddresses": 1.0}] * 3, {"RefusedAddressesAlarm"}),
    }
    for course, (minutes, wanted) in courses.items():
        assert {name for name, alarm in found.items() if fires(alarm, minutes)} == wanted, course
