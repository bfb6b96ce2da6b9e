"""The template as it stands: what it asks, what it refuses, and what must hold of all of it."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local.cloud import Cloud
from local.scenario import HOSTNAME
from tests.e2e.stacks import CAPABILITIES, DATABASE, pairs, read
from tools.parameters import known_settings, refusal

# What it refuses.

BROUGHT = {"TargetGroupArn": "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/orders/0123456789abcdef"}
GROUPS = BROUGHT["TargetGroupArn"].partition("/")[0]
BALANCER = GROUPS.replace("targetgroup", "loadbalancer") + "/net/orders/0123456789abcdef"
CREATED = {"VpcId": "vpc-01234567", "SubnetIds": "subnet-01234567"}
ACCOUNT = {"AllowedPrincipals": "arn:aws:iam::123456789012:root"}
ROLES = {
    "FunctionRoleArn": "arn:aws:iam::123456789012:role/mine",
    "SchedulerRoleArn": "arn:aws:iam::123456789012:role/clock",
}
NOTHING = {"Hostname": "", "Port": "0", "DiscoverByTags": "true"}

REFUSED = [
    ({"Hostname": ""}, "Hostname is missing"),
    (NOTHING | BROUGHT, "TargetGroupArn needs Hostname"),
    (NOTHING | CREATED, "SubnetIds is for a load balancer that is created, which needs Hostname"),
    ({}, "VpcId is missing"),
    ({"SubnetIds": "subnet-01234567"}, "VpcId is missing"),
    ({"VpcId": "vpc-01234567"}, "SubnetIds is missing"),
    (CREATED | {"Port": "0"}, "needs Port"),
    (CREATED | {"LoadBalancerArn": BALANCER}, "LoadBalancerArn needs TargetGroupArn"),
    (
        CREATED | {"DatabaseSecurityGroupId": "sg-01234567", "LoadBalancerSecurityGroupIds": "sg-01234567"},
        "DatabaseSecurityGroupId or LoadBalancerSecurityGroupIds, not both",
    ),
    (BROUGHT | CREATED, "SubnetIds is for a load balancer that is created, but"),
    (BROUGHT | {"SubnetIds": "subnet-01234567"}, "SubnetIds is for a load balancer that is created, but"),
    (BROUGHT | {"DatabaseSecurityGroupId": "sg-01234567"}, "DatabaseSecurityGroupId is for"),
    (BROUGHT | {"LoadBalancerSecurityGroupIds": "sg-01234567"}, "LoadBalancerSecurityGroupIds is for"),
    (BROUGHT | {"ListenerPort": "5432"}, "ListenerPort is for"),
    (BROUGHT | {"DeletionProtection": "true"}, "DeletionProtection is for"),
    (BROUGHT | {"SecondDatabase": "a.b:1"}, "SecondDatabase is for"),
    (BROUGHT | {"SecondDatabase": "a.b:1", "ThirdDatabase": "a.b:1"}, "ThirdDatabase is for|SecondDatabase is for"),
    (BROUGHT | {"ThirdDatabase": "a.b:1"}, "ThirdDatabase is for"),
    (CREATED | {"ThirdDatabase": "a.b:1"}, "Give the second first"),
    (BROUGHT | {"VpcId": "vpc-01234567"}, "Give FunctionSubnetIds too"),
    (BROUGHT | {"FunctionSubnetIds": "subnet-01234567"}, "FunctionSubnetIds needs VpcId"),
    (BROUGHT | ACCOUNT, "Give LoadBalancerArn beside TargetGroupArn"),
    (CREATED | ACCOUNT | {"CreateEndpointService": "false"}, "empty AllowedPrincipals too"),
    (
        CREATED | {"SupportedRegions": "us-east-1", "CreateEndpointService": "false"},
        "SupportedRegions is for an endpoint service",
    ),
    (CREATED | {"SupportedRegions": "us-east-1,eu-west-1"}, "List other Regions only"),
    (
        CREATED | {"AlarmEmail": "a@example.com", "AlarmTopicArn": "arn:aws:sns:eu-west-1:123456789012:pager"},
        "AlarmEmail or AlarmTopicArn, not both",
    ),
    (CREATED | {"CreateInterfaceEndpoints": "true"}, "CreateInterfaceEndpoints needs FunctionSubnetIds"),
    (CREATED | {"FunctionRoleArn": ROLES["FunctionRoleArn"]}, "SchedulerRoleArn is missing"),
    (CREATED | {"SchedulerRoleArn": ROLES["SchedulerRoleArn"]}, "FunctionRoleArn is missing"),
    (
        CREATED | ROLES | {"PermissionsBoundaryArn": "arn:aws:iam::123456789012:policy/boundary"},
        "PermissionsBoundaryArn bounds roles that are created here",
    ),
    # What a parameter alone refuses.
    (CREATED | {"Settings": "POLL_INTERVAL=5"}, "Known are ALLOWED_CIDRS"),
    (CREATED | {"DatabaseArns": ",".join(["arn:aws:rds:eu-west-1:123456789012:db:orders"] * 50)}, "1,700 characters"),
]


@pytest.mark.parametrize(("parameters", "message"), REFUSED)
def test_half_of_something_is_refused_with_a_reason(
    cloud: Cloud, uploaded: str, parameters: dict[str, str], message: str
) -> None:
    with pytest.raises(ClientError, match=message):
        cloud.client("cloudformation").create_stack(
            StackName="refused",
            TemplateURL=uploaded,
            Parameters=pairs(DATABASE | parameters),
            Capabilities=CAPABILITIES,
        )


def test_every_assertion_is_tested(template: dict[str, Any]) -> None:
    for rule in template["Rules"].values():
        for assertion in rule["Assertions"]:
            described = assertion["AssertDescription"]
            assert any(re.search(message, described) for _, message in REFUSED), described


@pytest.mark.parametrize(
    ("parameter", "good", "bad"),
    [
        ("Hostname", [HOSTNAME, "a.b.", "db_1.internal", ""], ["localhost", "10.0.0.1/", "a..b", "-a.b", "a b.c"]),
        (
            "SecondDatabase",
            ["a.b:1", "a.b:5432:65535", ""],
            ["a.b", "a:1", "a.b:", "a.b:0", "a.b:1:2:3", "a.b:1,a.c:2"],
        ),
        (
            "AllowedPrincipals",
            ["arn:aws:iam::123456789012:root", "arn:aws-cn:iam::123456789012:role/a/b", "firehose.amazonaws.com", ""],
            ["*", "1", "amazonaws.com", "firehose.example.com"],
        ),
        (
            "SupportedRegions",
            ["us-east-1", "us-gov-west-1", "us-isob-east-1", "eusc-de-east-1", ""],
            ["us-east", "US-EAST-1"],
        ),
        ("FunctionRoleArn", ["arn:aws:iam::123456789012:role/team/a", ""], ["a", "arn:aws:iam::123456789012:user/a"]),
        ("AlarmEmail", ["you@example.com", ""], ["you", "a@b.c,d@e.f"]),
        (
            "DatabaseArns",
            [
                "arn:aws:rds:eu-west-1:123456789012:db:orders",
                ",".join(["arn:aws:rds:a:123456789012:cluster:b"] * 3),
                "",
            ],
            [HOSTNAME, "orders", "arn:aws:rds:a:123456789012:db:a,", "arn:aws:rds:a:123456789012:db:a, x"],
        ),
        ("TargetGroupArn", ["", BROUGHT["TargetGroupArn"]], [BALANCER, f"{GROUPS}/orders-*/*"]),
        ("LoadBalancerArn", ["", BALANCER], [BROUGHT["TargetGroupArn"], BALANCER.replace("/net/", "/app/")]),
        (
            "Settings",
            ["", "LOOKUPS=5", "LOOKUPS=5 OWNERSHIP=shared", "DNS_SERVERS=10.0.0.2,[fd00::2]:53"],
            ["lookups=5", "LOOKUPS=51", "LOOKUPS=0", "LOOKUPS=5  OWNERSHIP=shared", "LOOKUPS=5,OWNERSHIP=shared", "a"],
        ),
        ("Settings", ["ALLOWED_CIDRS=10.0.0.0/8,fd00::/8"], ["ALLOWED_CIDRS=private", "ALLOWED_CIDRS=10.0.0.0/8, b"]),
        (
            "Settings",
            [f"DEREGISTER_AFTER_SECONDS={x}" for x in ("0", "300", "999999")],
            [f"DEREGISTER_AFTER_SECONDS={x}" for x in ("00", "060", "-1", "1.5", "1000000", "null", "")],
        ),
        (
            "Settings",
            [f"{name}={x}" for name, x in (("MEMORY_SIZE", 128), ("MEMORY_SIZE", 1769), ("POLL_INTERVAL_SECONDS", 60))],
            [f"{name}={x}" for name, x in (("MEMORY_SIZE", 127), ("MEMORY_SIZE", 1770), ("POLL_INTERVAL_SECONDS", 61))],
        ),
        (
            "Settings",
            [f"{name}={x}" for name, x in (("DEREGISTRATION_DELAY_SECONDS", 3600), ("ELB_REQUESTS_PER_SECOND", 1000))],
            [f"{name}={x}" for name, x in (("DEREGISTRATION_DELAY_SECONDS", 3601), ("ELB_REQUESTS_PER_SECOND", 1001))],
        ),
    ],
)
def test_what_a_parameter_accepts(template: dict[str, Any], parameter: str, good: list[str], bad: list[str]) -> None:
    declared = template["Parameters"][parameter]
    assert [x for x in good if refusal(declared, x)] == []
    assert [x for x in bad if not refusal(declared, x)] == []


@pytest.mark.parametrize(
    "partition", ["aws", "aws-cn", "aws-us-gov", "aws-eusc", "aws-iso", "aws-iso-b", "aws-iso-e", "aws-iso-f"]
)
def test_any_partition(template: dict[str, Any], partition: str) -> None:
    arns = {
        "AlarmTopicArn": "sns:a-b-1:123456789012:pager",
        "AllowedPrincipals": "iam::123456789012:root",
        "DatabaseArns": "rds:a-b-1:123456789012:db:orders",
        "FunctionRoleArn": "iam::123456789012:role/a",
        "KmsKeyArn": "kms:a-b-1:123456789012:key/01234567-89ab",
        "LoadBalancerArn": "elasticloadbalancing:a-b-1:123456789012:loadbalancer/net/a/0",
        "PermissionsBoundaryArn": "iam::aws:policy/a",
        "SchedulerRoleArn": "iam::123456789012:role/a",
        "TargetGroupArn": "elasticloadbalancing:a-b-1:123456789012:targetgroup/a/0",
    }
    assert {x for x, y in template["Parameters"].items() if "arn:" in y.get("AllowedPattern", "")} == set(arns)
    for name, arn in arns.items():
        assert refusal(template["Parameters"][name], f"arn:{partition}:{arn}") is None, name
    assert partition in template["Mappings"]["Partitions"]


def test_the_longest_list_of_databases_fits_into_an_event_pattern(template: dict[str, Any]) -> None:
    pattern = copy.deepcopy(template["Resources"]["RdsEvents"]["Properties"]["EventPattern"])
    longest = template["Parameters"]["DatabaseArns"]["MaxLength"]
    # The more ARNs, the more quotation marks: the shortest that there can be.
    arns = ["arn:aws:rds:ap-x-1:123456789012:db:a"] * (longest // 36)
    assert len(",".join(arns)) >= longest
    pattern["$or"][0]["resources"] = arns
    assert len(json.dumps(pattern, separators=(",", ":"))) <= 2048


def test_the_longest_names_fit_into_the_environment(template: dict[str, Any]) -> None:
    """Lambda takes 4 KB; the settings that have no length of their own are refused by Lambda then, before a change."""
    arn = BROUGHT["TargetGroupArn"].replace("orders", "x" * 32)
    binding = {"hostname": "x" * 253, "target_group_arn": arn, "port": 65535, "ownership": "exclusive"}
    assert len(json.dumps([binding | {"deregister_after_seconds": 999999, "lookups": 50}] * 3)) < 1800


# What it is made of.


def test_every_parameter_is_grouped_labelled_and_described(template: dict[str, Any]) -> None:
    interface = template["Metadata"]["AWS::CloudFormation::Interface"]
    grouped = [name for group in interface["ParameterGroups"] for name in group["Parameters"]]
    assert sorted(grouped) == sorted(template["Parameters"])
    assert sorted(interface["ParameterLabels"]) == sorted(template["Parameters"])
    assert len(template["Parameters"]) <= 30
    for name, parameter in template["Parameters"].items():
        assert parameter["Description"], name
        assert "Default" in parameter, name
        limits = {"AllowedPattern", "AllowedValues", "MinValue"} & set(parameter)
        assert limits, name
        assert "AllowedValues" in limits or "ConstraintDescription" in parameter, name
    assert all(output["Description"] for output in template["Outputs"].values())


def test_every_setting_is_used_and_named_where_it_is_refused(template: dict[str, Any]) -> None:
    names = known_settings(template["Parameters"])
    assert names == sorted(names)
    used = set(re.findall(r"\$\{Settings\} ([A-Z_]+)=", json.dumps(template["Resources"])))
    assert used == set(names)
    described = template["Parameters"]["Settings"]["ConstraintDescription"]
    assert [x for x in names if x not in described] == []


def test_each_setting_is_found_by_the_name_by_which_it_is_looked_for(template: dict[str, Any]) -> None:
    """It is split at " NAME=", and its default is put behind: one name more and it would be another's value."""
    for name, split in looked_up(template["Resources"]):
        separator, source = split
        text = source["Fn::Sub"] if isinstance(source["Fn::Sub"], str) else source["Fn::Sub"][0]
        assert separator == f" {name}="
        assert re.fullmatch(rf" \$\{{Settings\}} {name}=[^ ]* ", text), text


def looked_up(node: Any) -> Iterator[tuple[str, list[Any]]]:
    """Each place where a setting is looked up."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "Fn::Split" and isinstance(value[0], str) and re.fullmatch(" [A-Z_]+=", value[0]):
                yield value[0].strip(" ="), value
            yield from looked_up(value)
    elif isinstance(node, list):
        for value in node:
            yield from looked_up(value)


def test_conditions_use_only_what_aws_documents_for_them(template: dict[str, Any]) -> None:
    used = set(re.findall(r'"(Fn::\w+|Ref|Condition)"', json.dumps(template["Conditions"])))
    assert used == {"Condition", "Fn::And", "Fn::Equals", "Fn::Not", "Fn::Or", "Fn::Select", "Ref"}


def test_the_second_and_the_third_are_as_the_first(template: dict[str, Any]) -> None:
    resources = template["Resources"]
    for name, other in itertools.product(("TargetGroup", "Listener", "NoHealthyTargetAlarm"), ("Second", "Third")):
        first, more = (copy.deepcopy(resources[x]["Properties"]) for x in (name, f"{other}{name}"))
        for differs in ("Port", "DefaultActions", "Dimensions", "AlarmDescription"):
            first.pop(differs, None)
            more.pop(differs, None)
        assert first == more, f"{other}{name}"
    for name in ("TargetGroup", "Listener", "LoadBalancerSecurityGroup", "DatabaseIngress", "NoHealthyTargetAlarm"):
        second, third = (json.dumps(resources[f"{x}{name}"]) for x in ("Second", "Third"))
        assert re.sub("second(?!s)", "third", re.sub("Second(?!s)", "Third", second)) == third


def test_no_target_of_its_own(template: dict[str, Any]) -> None:
    groups = [x for x in template["Resources"].values() if x["Type"].endswith("::TargetGroup")]
    assert len(groups) == 3
    assert all("Targets" not in x["Properties"] for x in groups)


def test_security_groups_do_not_hold_for_privatelink(template: dict[str, Any]) -> None:
    """Only read, because the local AWS does not keep it."""
    enforce = template["Resources"]["LoadBalancer"]["Properties"][
        "EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic"
    ]
    assert enforce == {"Fn::If": ["HasSecurityGroups", "off", {"Ref": "AWS::NoValue"}]}


def test_the_vpc_of_the_function(template: dict[str, Any]) -> None:
    """Only read, because the local AWS does not keep it."""
    found = template["Resources"]["Function"]["Properties"]["VpcConfig"]["Fn::If"]
    assert found[0] == "InVpc"
    assert found[1]["SubnetIds"] == {"Ref": "FunctionSubnetIds"}
    groups = json.dumps(found[1]["SecurityGroupIds"])
    assert "${Settings} FUNCTION_SECURITY_GROUP_IDS=${FunctionSecurityGroup.GroupId} " in groups


def test_a_permissions_boundary(template: dict[str, Any]) -> None:
    """Only read, because the local AWS does not keep it."""
    roles = [x["Properties"] for x in template["Resources"].values() if x["Type"] == "AWS::IAM::Role"]
    bounds = {"Fn::If": ["HasBoundary", {"Ref": "PermissionsBoundaryArn"}, {"Ref": "AWS::NoValue"}]}
    assert [x["PermissionsBoundary"] for x in roles] == [bounds, bounds]


def test_the_key_of_the_topic(template: dict[str, Any]) -> None:
    """Only read, because the local AWS does not keep it."""
    key = {"Fn::If": ["HasKey", {"Ref": "KmsKeyArn"}, {"Ref": "AWS::NoValue"}]}
    assert template["Resources"]["AlarmTopic"]["Properties"]["KmsMasterKeyId"] == key


def test_tags_are_the_stacks(template: dict[str, Any]) -> None:
    assert [name for name, x in template["Resources"].items() if "Tags" in x["Properties"]] == []
    assert 'tags = "Application=nlb-hostname-targets"' in read("samconfig.toml")


def test_nothing_runs_or_alarms_before_the_listeners_are_there(template: dict[str, Any]) -> None:
    resources = template["Resources"]
    waits = resources["Schedule"]["Properties"]["Target"]["Arn"]["Fn::Select"]
    assert waits[0] == 0
    assert waits[1][0] == {"Fn::GetAtt": ["Function", "Arn"]}
    assert [x["Fn::If"][1] for x in waits[1][1:]] == [{"Ref": f"{x}Listener"} for x in ("", "Second", "Third")]
    alarms = [x for x in resources.values() if x["Type"] == "AWS::CloudWatch::Alarm"]
    assert len(alarms) == 10
    assert {x["DependsOn"] for x in alarms} == {"Schedule"}


def test_packages_of_a_stack_lie_apart() -> None:
    """`sam delete` removes all that lies under the prefix of samconfig.toml."""
    assert not re.search("^s3_prefix", read("samconfig.toml"), re.MULTILINE)
