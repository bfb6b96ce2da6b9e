"""The template as it stands: what it asks, what it refuses, and what must hold of all of it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local.cloud import Cloud
from local.scenario import HOSTNAME
from tests.e2e.stacks import CAPABILITIES, DATABASE, pairs, read

# What it refuses.

GROUPS = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup"
BROUGHT = {"TargetGroupArn": f"{GROUPS}/orders/0123456789abcdef"}
BALANCER = {"LoadBalancerArn": GROUPS.replace("targetgroup", "loadbalancer") + "/net/orders/0123456789abcdef"}
CREATED = {"VpcId": "vpc-01234567", "SubnetIds": "subnet-01234567"}
ACCOUNT = {"AllowedPrincipals": "arn:aws:iam::123456789012:root"}
NOTHING = {"Hostname": "", "Port": "0", "DiscoverByTags": "true", "AllowedHostnames": "*.example.test"}
NO_SERVICE = {"OfferService": "none"}
TOPIC = {"AlarmTopicArn": "arn:aws:sns:eu-west-1:123456789012:pager"}

REFUSED = [
    ({"Hostname": ""}, "Hostname is missing"),
    (NOTHING | {"AllowedHostnames": ""}, "DiscoverByTags needs AllowedHostnames"),
    (NOTHING | BROUGHT, "need Hostname, the name to follow"),
    (NOTHING | CREATED, "need Hostname, the name to follow"),
    (NOTHING | BALANCER, "need Hostname, the name to follow"),
    ({}, "VpcId is missing"),
    (BALANCER, "VpcId is missing"),
    ({"VpcId": "vpc-01234567"}, "SubnetIds and LoadBalancerArn are missing"),
    (CREATED | {"Port": "0"}, "needs Port"),
    (BROUGHT | CREATED, "SubnetIds is for a load balancer that is created, but"),
    (BALANCER | CREATED, "SubnetIds is for a load balancer that is created, but"),
    (BROUGHT | {"DatabaseSecurityGroupId": "sg-01234567"}, "DatabaseSecurityGroupId is for"),
    (BROUGHT | {"ListenerPort": "5432"}, "ListenerPort is for"),
    (BROUGHT | {"VpcId": "vpc-01234567"}, "Give FunctionSubnetIds too"),
    (BROUGHT | {"FunctionSubnetIds": "subnet-01234567"}, "FunctionSubnetIds needs VpcId"),
    (BROUGHT | ACCOUNT, "Give LoadBalancerArn beside TargetGroupArn"),
    (CREATED | ACCOUNT | NO_SERVICE, "empty AllowedPrincipals too"),
    (CREATED | NO_SERVICE | {"SupportedRegions": "us-east-1"}, "SupportedRegions and PrivateDnsName are for"),
    (CREATED | NO_SERVICE | {"PrivateDnsName": "a.example.com"}, "SupportedRegions and PrivateDnsName are for"),
    (CREATED | {"SupportedRegions": "us-east-1,eu-west-1"}, "List other Regions only"),
    (CREATED | TOPIC | {"AlarmEmail": "a@example.com"}, "AlarmEmail or AlarmTopicArn, not both"),
    # What a parameter alone refuses.
    (CREATED | {"DatabaseArns": ",".join(["arn:aws:rds:eu-west-1:123456789012:db:orders"] * 50)}, "1,700 characters"),
]


def test_half_of_something_is_refused_with_a_reason(cloud: Cloud, uploaded: str) -> None:
    formation = cloud.client("cloudformation")
    for parameters, message in REFUSED:
        values = pairs(DATABASE | parameters)
        with pytest.raises(ClientError, match=message):
            formation.create_stack(
                StackName="refused", TemplateURL=uploaded, Parameters=values, Capabilities=CAPABILITIES
            )


def test_every_assertion_is_tested(template: dict[str, Any]) -> None:
    for rule in template["Rules"].values():
        for assertion in rule["Assertions"]:
            described = assertion["AssertDescription"]
            assert any(re.search(message, described) for _, message in REFUSED), described


CASES = [
    ("Hostname", [HOSTNAME, "a.b.", "db_1.internal", ""], ["localhost", "10.0.0.1/", "a..b", "-a.b", "a b.c"]),
    (
        "AllowedPrincipals",
        ["arn:aws:iam::123456789012:root", "arn:aws-cn:iam::123456789012:role/a/b", "firehose.amazonaws.com", ""],
        ["*", "1", "amazonaws.com", "firehose.example.com"],
    ),
    ("SupportedRegions", ["us-east-1", "us-gov-west-1", "eusc-de-east-1", ""], ["us-east", "US-EAST-1"]),
    ("RoleArn", ["arn:aws:iam::123456789012:role/team/a", ""], ["a", "arn:aws:iam::123456789012:user/a"]),
    ("AlarmEmail", ["you@example.com", ""], ["you", "a@b.c,d@e.f"]),
    (
        "DatabaseArns",
        ["arn:aws:rds:eu-west-1:123456789012:db:orders", ",".join(["arn:aws:rds:a:123456789012:cluster:b"] * 3), ""],
        [HOSTNAME, "orders", "arn:aws:rds:a:123456789012:db:a,", "arn:aws:rds:a:123456789012:db:a, x"],
    ),
    ("TargetGroupArn", ["", BROUGHT["TargetGroupArn"]], [BALANCER["LoadBalancerArn"], f"{GROUPS}/orders-*/*"]),
    ("LoadBalancerArn", ["", BALANCER["LoadBalancerArn"]], [BALANCER["LoadBalancerArn"].replace("/net/", "/app/")]),
    ("PrivateDnsName", ["", "orders.example.com", "*.example.com"], ["orders", "a_b.example.com", "10.0.0.1"]),
    ("AllowedCidrs", ["", "10.0.0.0/8,fd00::/8"], ["private", "10.0.0.0/8, 10.0.0.0/9"]),
    ("AllowedHostnames", ["", "*.rds.amazonaws.com,db.example"], ["a b", "a;b"]),
    ("DnsServers", ["", "10.0.0.2,[fd00::2]:53"], ["dns.example.test", "10.0.0.2, 10.0.0.3"]),
]


@pytest.mark.parametrize(("parameter", "good", "bad"), CASES)
def test_what_a_parameter_accepts(template: dict[str, Any], parameter: str, good: list[str], bad: list[str]) -> None:
    declared = template["Parameters"][parameter]
    is_list = declared["Type"] == "CommaDelimitedList"
    accepts = lambda value: all(
        re.search(declared["AllowedPattern"], x) for x in (value.split(",") if is_list else [value])
    )
    assert [x for x in good if not accepts(x)] == []
    assert [x for x in bad if accepts(x)] == []


@pytest.mark.parametrize("partition", ["aws", "aws-cn", "aws-us-gov", "aws-eusc", "aws-iso", "aws-iso-b"])
def test_any_partition(template: dict[str, Any], partition: str) -> None:
    arns = {
        "AlarmTopicArn": "sns:a-b-1:123456789012:pager",
        "AllowedPrincipals": "iam::123456789012:root",
        "DatabaseArns": "rds:a-b-1:123456789012:db:orders",
        "LoadBalancerArn": "elasticloadbalancing:a-b-1:123456789012:loadbalancer/net/a/0",
        "RoleArn": "iam::123456789012:role/a",
        "TargetGroupArn": "elasticloadbalancing:a-b-1:123456789012:targetgroup/a/0",
    }
    patterns = {x: y["AllowedPattern"] for x, y in template["Parameters"].items() if "arn:" in str(y)}
    patterns = {x: y for x, y in patterns.items() if "arn:" in y}
    assert patterns.keys() == arns.keys()
    for name, arn in arns.items():
        assert re.search(patterns[name], f"arn:{partition}:{arn}"), name
    assert partition in template["Mappings"]["Partitions"]


def test_the_longest_list_of_databases_fits_into_an_event_pattern(template: dict[str, Any]) -> None:
    pattern = copy.deepcopy(template["Resources"]["RdsEvents"]["Properties"]["EventPattern"])
    longest = template["Parameters"]["DatabaseArns"]["MaxLength"]
    # The more ARNs, the more quotation marks: the shortest that there can be.
    arns = ["arn:aws:rds:ap-x-1:123456789012:db:a"] * (longest // 36)
    assert len(",".join(arns)) >= longest
    pattern["$or"][0] = pattern["$or"][0]["Fn::If"][1] | {"resources": arns}
    assert len(json.dumps(pattern, separators=(",", ":"))) <= 2048


# What it is made of.


def test_every_parameter_is_grouped_and_described(template: dict[str, Any]) -> None:
    interface = template["Metadata"]["AWS::CloudFormation::Interface"]
    grouped = [name for group in interface["ParameterGroups"] for name in group["Parameters"]]
    assert sorted(grouped) == sorted(template["Parameters"])
    assert len(template["Parameters"]) <= 24
    for name, parameter in template["Parameters"].items():
        assert parameter["Description"], name
        assert "Default" in parameter, name
        limits = {"AllowedPattern", "AllowedValues", "MinValue"} & set(parameter)
        assert limits, name
        assert "AllowedValues" in limits or "ConstraintDescription" in parameter, name
    assert all(output["Description"] for output in template["Outputs"].values())
    assert len(read("template.yaml").splitlines()) <= 900


def test_conditions_use_only_what_aws_documents_for_them(template: dict[str, Any]) -> None:
    used = set(re.findall(r'"(Fn::\w+|Ref|Condition)"', json.dumps(template["Conditions"])))
    assert used == {"Condition", "Fn::And", "Fn::Equals", "Fn::Not", "Fn::Or", "Fn::Select", "Ref"}


def test_what_the_local_aws_does_not_keep(template: dict[str, Any]) -> None:
    resources = {name: x["Properties"] for name, x in template["Resources"].items()}
    enforced = resources["LoadBalancer"]["EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic"]
    assert enforced == {"Fn::If": ["CreateSecurityGroup", "off", {"Ref": "AWS::NoValue"}]}
    condition, inside, _ = resources["Function"]["VpcConfig"]["Fn::If"]
    assert (condition, inside["SubnetIds"]) == ("InVpc", {"Ref": "FunctionSubnetIds"})
    assert inside["SecurityGroupIds"] == [{"Fn::GetAtt": ["FunctionSecurityGroup", "GroupId"]}]
    # The function's to fill, and the stack's tags.
    assert "Targets" not in resources["TargetGroup"]
    assert [name for name, x in resources.items() if "Tags" in x] == []
    # `sam delete` removes all that lies under the prefix of samconfig.toml.
    assert not re.search("^s3_prefix", read("samconfig.toml"), re.MULTILINE)


def names_in(node: Any) -> Iterator[str]:
    """What a part of the template refers to."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "Ref":
                yield value
            elif key == "Fn::GetAtt":
                yield value[0]
            elif key == "Fn::Sub":
                yield from re.findall(r"\$\{(\w+)", value if isinstance(value, str) else value[0])
            elif key == "DependsOn":
                yield from [value] if isinstance(value, str) else value
            yield from names_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from names_in(value)


def needed(resources: dict[str, Any], name: str) -> set[str]:
    """What is made before a resource, and deleted after it."""
    found: set[str] = set()
    new = {name}
    while new:
        found |= new
        new = {x for one in new for x in names_in(resources[one]) if x in resources} - found
    return found - {name}


def test_the_order_of_creation_and_deletion(template: dict[str, Any]) -> None:
    resources = template["Resources"]
    alarms = {name for name, x in resources.items() if x["Type"] == "AWS::CloudWatch::Alarm"}
    assert len(alarms) == 5
    # Before a listener is there, no target gets healthy: nothing runs, and nothing alarms.
    assert "Listener" in needed(resources, "Schedule")
    assert all("Schedule" in needed(resources, x) for x in alarms)
    # AWS refuses to delete a service that endpoints use. What is left then has to work, and to tell whom it told.
    kept = needed(resources, "EndpointService")
    of_service = {"EndpointService", "EndpointServicePermissions", "EndpointConnections"}
    assert set(resources) - kept == of_service


def test_alarms_say_how_urgent_they_are_and_where_to_read_on(template: dict[str, Any]) -> None:
    alarms = {x: y["Properties"] for x, y in template["Resources"].items() if y["Type"] == "AWS::CloudWatch::Alarm"}
    sections = {
        "NoHealthyTargetAlarm": ("page", "no-healthy-target"),
        "FoundNoHealthyTargetAlarm": ("page", "no-healthy-target"),
        "PortAllocationAlarm": ("page", "port-allocation-errors"),
        "FunctionErrorsAlarm": ("ticket", "function-errors"),
        "NotRunningAlarm": ("ticket", "not-running"),
    }
    assert alarms.keys() == sections.keys()
    for name, (urgency, section) in sections.items():
        described = alarms[name]["AlarmDescription"]["Fn::Sub"]
        assert described.startswith(f"{urgency}: "), name
        assert f"docs/operations.md#{section} " in described, name
        # Where nothing arrives, nothing is known to be well. AWS sends its own of what did not happen, too.
        silence = "breaching" if "Healthy" in name or name == "NotRunningAlarm" else "notBreaching"
        assert alarms[name]["TreatMissingData"] == silence, name
    headings = re.findall("^#+ (.*)$", read("docs", "operations.md"), re.MULTILINE)
    anchors = {re.sub("[^a-z0-9 -]", "", x.lower()).replace(" ", "-") for x in headings}
    assert {section for _, section in sections.values()} <= anchors
    (query,) = alarms["FoundNoHealthyTargetAlarm"]["Metrics"]
    assert "FROM SCHEMA(NlbHostnameTargets, TargetGroup) GROUP BY TargetGroup" in query["Expression"]
