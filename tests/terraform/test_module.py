"""The Terraform module: of the provider's schema, and the same as the template where both say something."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hcl2
import pytest
from samcli.yamlhelper import yaml_parse

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "terraform"
EXAMPLE = MODULE / "examples/privatelink"
FOLDERS = [MODULE, EXAMPLE]
SCHEMA = json.loads((ROOT / "tests/terraform/provider.json").read_text())
TEMPLATE = yaml_parse((ROOT / "template.yaml").read_text())
RESOURCES = TEMPLATE["Resources"]

# What Terraform itself takes in every resource and data source.
META_ARGUMENTS = {"count", "depends_on", "for_each", "provider"}
META_BLOCKS = {"lifecycle"}

# Parameters without a variable: members of `bindings`, and what the caller makes, as in the example.
ELSEWHERE = {
    *("AlarmEmail", "Hostname", "Ownership", "Port", "TargetGroupArn"),
    *("AllowedPrincipals", "DatabaseSecurityGroupId", "ListenerPort", "LoadBalancerArn", "OfferService"),
    *("PrivateDnsName", "SubnetIds", "SupportedRegions"),
}
# Variables without a parameter: the code's, of which a package's template has some, and what CloudFormation does for a
# stack as a whole.
OWN = {
    "architecture",
    "bindings",
    "code_path",
    "code_s3_bucket",
    "code_s3_key",
    "code_signing_config_arn",
    "name",
    "tags",
}
OWN |= {"kms_key_arn", "permissions_boundary_arn"}
OUTPUTS = {"FunctionArn", "FunctionName", "LogGroupName", "RoleArn"}

ALARMS = {
    "found_no_healthy_target": "FoundNoHealthyTargetAlarm",
    "function_errors": "FunctionErrorsAlarm",
    "no_healthy_target": "NoHealthyTargetAlarm",
    "not_running": "NotRunningAlarm",
    "port_allocation": "PortAllocationAlarm",
}


class Block(dict[str, Any]):
    """The body of a block, which an object in an argument is not."""


def plain(value: Any) -> Any:
    """What hcl2 has parsed, without its marks: strings without quotes, expressions as ${…}."""
    if isinstance(value, dict):
        members = {plain(key): plain(member) for key, member in value.items() if not key.startswith("__")}
        return Block(members) if "__is_block__" in value else members
    if isinstance(value, list):
        return [plain(member) for member in value]
    if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == '"':
        return value[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    return value


def parsed(folder: Path, kind: str) -> dict[tuple[str, ...], Block]:
    """All blocks of a kind in a folder, by their labels."""
    found: dict[tuple[str, ...], Block] = {}
    for path in sorted(folder.glob("*.tf")):
        with path.open() as file:
            blocks = plain(hcl2.load(file)).get(kind, [])
        for block in blocks:
            labels: list[str] = []
            while not isinstance(block, Block):
                ((label, block),) = block.items()
                labels.append(label)
            found[tuple(labels)] = block
    return found


VARIABLES = {name: body for (name,), body in parsed(MODULE, "variable").items()}
DECLARED = {folder: parsed(folder, "resource") for folder in FOLDERS}
DATA = {folder: parsed(folder, "data") for folder in FOLDERS}


def is_block(value: Any) -> bool:
    """Whether this was written as one block or more."""
    return isinstance(value, list) and all(isinstance(member, Block) for member in value) and bool(value)


def nested(body: Block) -> Iterator[tuple[str, Block]]:
    """The blocks in a block, those of `dynamic` too."""
    for name, value in body.items():
        if name == "dynamic":
            for dynamic in value:
                ((label, inner),) = dynamic.items()
                assert set(inner) == {"for_each", "content"}
                (content,) = inner["content"]
                yield label, content
        elif is_block(value):
            yield from ((name, member) for member in value)


def faults(path: str, body: Block, schema: dict[str, Any], *, top: bool = False) -> Iterator[str]:
    """What the provider would refuse in a block."""
    attributes, blocks = schema["attributes"], schema["block_types"]
    arguments = {name for name, value in body.items() if name != "dynamic" and not is_block(value)}
    if top:
        arguments -= META_ARGUMENTS
    for name in arguments:
        if name not in attributes:
            yield f"{path}.{name} is {'a block' if name in blocks else 'unknown'}"
        elif set(attributes[name]) == {"type", "computed"}:
            yield f"{path}.{name} cannot be set"
    for name, attribute in attributes.items():
        if attribute.get("required") and name not in arguments:
            yield f"{path}.{name} is missing"
    counts: dict[str, int] = {}
    for name, inner in nested(body):
        if top and name in META_BLOCKS:
            continue
        if name not in blocks:
            yield f"{path}.{name} is no block"
            continue
        counts[name] = counts.get(name, 0) + 1
        yield from faults(f"{path}.{name}", inner, blocks[name]["block"])
    for name, block in blocks.items():
        if not block.get("min_items", 0) <= counts.get(name, 0) <= block.get("max_items", 99):
            yield f"{path}.{name} is there {counts.get(name, 0)} times"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_resource_and_argument_is_of_the_providers_schema(folder: Path) -> None:
    checked = 0
    for kind, found in (("resource", DECLARED[folder]), ("data", DATA[folder])):
        for (type_name, name), body in found.items():
            assert type_name in SCHEMA[kind], (
                f"{type_name} is not in provider.json: run python -m tools.provider_schema"
            )
            assert list(faults(f"{type_name}.{name}", body, SCHEMA[kind][type_name], top=True)) == []
            checked += 1
    assert checked > 5


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_reference_names_something_and_every_variable_is_used(folder: Path) -> None:
    text = "\n".join(path.read_text() for path in folder.glob("*.tf"))
    code = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    assert set(re.findall(r"\bvar\.(\w+)", code)) == {name for (name,) in parsed(folder, "variable")}
    assert set(re.findall(r"\blocal\.(\w+)", code)) == {name for body in locals_of(folder) for name in body}
    seen = 0
    for data, type_name, name, attribute in re.findall(
        r"\b(data\.)?(aws_\w+)\.(\w+)(?:\[[^\]]*\])?\.(\w+)", re.sub(r'"(resource|data)" .*', "", code)
    ):
        declared, kind = (DATA, "data") if data else (DECLARED, "resource")
        assert (type_name, name) in declared[folder], f"{type_name}.{name}"
        schema = SCHEMA[kind][type_name]
        assert attribute in {**schema["attributes"], **schema["block_types"]}, f"{type_name}.{name}.{attribute}"
        seen += 1
    assert seen > 5


def locals_of(folder: Path) -> list[dict[str, Any]]:
    """The bodies of `locals`."""
    found: list[dict[str, Any]] = []
    for path in folder.glob("*.tf"):
        with path.open() as file:
            found += plain(hcl2.load(file)).get("locals", [])
    return found


def snake(name: str) -> str:
    """The variable's name for a parameter."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def text(value: Any) -> str:
    """A value as CloudFormation takes it."""
    return "" if value == [] else str(value).lower() if isinstance(value, bool) else str(value)


def test_variables_are_the_templates_parameters() -> None:
    """With their defaults, and what they accept."""
    parameters = TEMPLATE["Parameters"]
    assert {snake(name) for name in set(parameters) - ELSEWHERE} == set(VARIABLES) - OWN

    def conditions(name: str) -> str:
        return " ".join(x["condition"] for x in VARIABLES[name]["validation"]).replace("\\\\", "\\")

    for name in set(parameters) - ELSEWHERE:
        assert text(VARIABLES[snake(name)]["default"]) == str(parameters[name]["Default"]), name
    for name in ("AlarmTopicArn", "RoleArn", "VpcId"):
        assert parameters[name]["AllowedPattern"] in conditions(snake(name)), name
    for value in parameters["LogRetentionDays"]["AllowedValues"]:
        assert re.search(rf"\b{value}\b", conditions("log_retention_days")), value
    databases = parameters["DatabaseArns"]
    assert databases["AllowedPattern"].removesuffix(r"(,(?=a)|$))*$").removeprefix("^(") in conditions("database_arns")
    assert str(databases["MaxLength"]) in conditions("database_arns")
    for name in ("TargetGroupArn", "Hostname"):
        pattern = parameters[name]["AllowedPattern"].removeprefix("^(").removesuffix(")?$")
        assert f"^{pattern}$" in conditions("bindings"), name


def test_a_binding_has_the_fields_of_the_contract() -> None:
    fields = re.findall(r"(\w+) = (?:optional\()?(?:string|number)", VARIABLES["bindings"]["type"])
    of_contract = {"hostname", "target_group_arn", "port", "deregister_after_seconds", "ownership", "lookups"}
    assert set(fields) == of_contract | {"load_balancer_arn"}
    assert of_contract <= set(re.findall(r"pub (\w+): ", (ROOT / "core/src/binding.rs").read_text()))


def test_the_function_is_the_templates() -> None:
    mine = DECLARED[MODULE]["aws_lambda_function", "this"]
    theirs = RESOURCES["Function"]["Properties"]
    (environment,) = mine["environment"]
    (logging,) = mine["logging_config"]
    assert set(environment["variables"]) == set(theirs["Environment"]["Variables"])
    assert [mine["runtime"], mine["handler"]] == [theirs["Runtime"], theirs["Handler"]]
    assert logging["log_format"] == theirs["LoggingConfig"]["LogFormat"]
    assert logging["application_log_level"] == theirs["LoggingConfig"]["ApplicationLogLevel"]
    assert [mine["memory_size"], mine["timeout"]] == [theirs["MemorySize"], theirs["Timeout"]]
    retries = DECLARED[MODULE]["aws_lambda_function_event_invoke_config", "this"]
    assert retries["maximum_retry_attempts"] == theirs["EventInvokeConfig"]["MaximumRetryAttempts"]
    assert retries["maximum_event_age_in_seconds"] == theirs["EventInvokeConfig"]["MaximumEventAgeInSeconds"]


def test_the_triggers_are_the_templates() -> None:
    schedule = DECLARED[MODULE]["aws_scheduler_schedule", "this"]
    theirs = RESOURCES["Schedule"]["Properties"]
    assert schedule["schedule_expression"] == theirs["ScheduleExpression"]
    assert schedule["flexible_time_window"][0]["mode"] == theirs["FlexibleTimeWindow"]["Mode"]
    for (retry,), policy in (
        (schedule["target"][0]["retry_policy"], theirs["Target"]["RetryPolicy"]),
        (
            DECLARED[MODULE]["aws_cloudwatch_event_target", "rds_events"]["retry_policy"],
            RESOURCES["RdsEvents"]["Properties"]["Targets"][0]["RetryPolicy"],
        ),
    ):
        assert retry["maximum_retry_attempts"] == policy["MaximumRetryAttempts"]
        assert retry["maximum_event_age_in_seconds"] == policy["MaximumEventAgeInSeconds"]
    pattern = DECLARED[MODULE]["aws_cloudwatch_event_rule", "rds_events"]["event_pattern"]
    mine = re.findall(r'"((?:aws\.|RDS )[^"]*)"', pattern)
    events = RESOURCES["RdsEvents"]["Properties"]["EventPattern"]
    of_databases, of_deployments = events["$or"]
    kinds = [*of_databases["Fn::If"][1]["detail-type"], *of_deployments["detail-type"]]
    assert mine == [*events["source"], *kinds]
    categories = of_databases["Fn::If"][2]["detail"]["EventCategories"]
    assert f"EventCategories = {json.dumps(categories)}" in pattern
    permission = DECLARED[MODULE]["aws_lambda_permission", "rds_events"]
    theirs = RESOURCES["RdsEventsPermission"]["Properties"]
    assert [permission["action"], permission["principal"]] == [theirs["Action"], theirs["Principal"]]


def test_the_alarms_are_the_templates() -> None:
    mine = {
        name: body
        for folder in FOLDERS
        for (kind, name), body in DECLARED[folder].items()
        if kind == "aws_cloudwatch_metric_alarm"
    }
    assert set(mine) == set(ALARMS)
    assert {name for name, x in RESOURCES.items() if x["Type"] == "AWS::CloudWatch::Alarm"} == set(ALARMS.values())
    for name, logical in ALARMS.items():
        alarm, properties = mine[name], RESOURCES[logical]["Properties"]
        for argument, key in (
            ("namespace", "Namespace"),
            ("metric_name", "MetricName"),
            ("statistic", "Statistic"),
            ("period", "Period"),
            ("evaluation_periods", "EvaluationPeriods"),
            ("datapoints_to_alarm", "DatapointsToAlarm"),
            ("comparison_operator", "ComparisonOperator"),
            ("threshold", "Threshold"),
            ("treat_missing_data", "TreatMissingData"),
        ):
            theirs = properties.get(key)
            if isinstance(theirs, dict):
                # One of two metrics, by whether the load balancer is known.
                assert re.findall(r'\? "(.*)" : "(.*)"', alarm[argument]) == [tuple(reversed(theirs["Fn::If"][1:]))]
            else:
                assert alarm.get(argument) == theirs, (name, argument)
        urgency = properties["AlarmDescription"]["Fn::Sub"].split(":")[0]
        assert alarm["alarm_description"].startswith(f"{urgency}: "), name
        assert re.search(r"#[a-z-]+", properties["AlarmDescription"]["Fn::Sub"])[0] in alarm["alarm_description"], name
        for query, metric in zip(alarm.get("metric_query", []), properties.get("Metrics", []), strict=True):
            assert [query["id"], query["expression"]] == [metric["Id"], metric["Expression"]]


def test_the_role_may_do_what_the_templates_may() -> None:
    def conditions(statement: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
        found: dict[str, dict[str, list[str]]] = {}
        for condition in statement.get("condition", []):
            assert len(condition["values"]) == 1
            (value,) = condition["values"]
            found.setdefault(condition["test"], {})[condition["variable"]] = re.sub(r"\$\{.*?\}", "*", value)
        return found

    def listed(value: Any) -> list[str]:
        return value if isinstance(value, list) else [value]

    mine = {
        statement["sid"]: (
            statement.get("effect", "Allow"),
            sorted(statement["actions"]),
            conditions(statement),
            statement["resources"] == ["*"],
        )
        for document in ("function", "schedule")
        for _, statement in nested(DATA[MODULE]["aws_iam_policy_document", document])
    }
    theirs = {}
    (of_function,) = RESOURCES["FunctionRole"]["Properties"]["Policies"]
    of_schedule = RESOURCES["FunctionRolePolicy"]["Properties"]
    for entry in [x for policy in (of_function, of_schedule) for x in policy["PolicyDocument"]["Statement"]]:
        (statement,) = [x for x in entry["Fn::If"][1:] if "Sid" in x] if "Fn::If" in entry else [entry]
        theirs[statement["Sid"]] = (
            statement["Effect"],
            sorted(listed(statement["Action"])),
            {
                test: {
                    key: re.sub(r"\$\{.*?\}", "*", value["Fn::Sub"] if isinstance(value, dict) else value)
                    for key, value in keys.items()
                }
                for test, keys in statement.get("Condition", {}).items()
            },
            statement["Resource"] == "*",
        )
    assert mine == theirs


def test_who_may_take_the_role() -> None:
    mine = DATA[MODULE]["aws_iam_policy_document", "function_trust"]["statement"]
    theirs = RESOURCES["FunctionRole"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    for statement, wanted in zip(mine, theirs, strict=True):
        (principal,) = statement["principals"]
        assert principal == {"type": "Service", "identifiers": [wanted["Principal"]["Service"]]}
        keys = [x["variable"] for x in statement.get("condition", [])]
        assert keys == [key for test in wanted.get("Condition", {}).values() for key in test]


def test_the_security_group_lets_out_what_the_templates_does() -> None:
    mine = DECLARED[MODULE]["aws_security_group", "function"]["egress"]
    theirs = RESOURCES["FunctionSecurityGroup"]["Properties"]["SecurityGroupEgress"]
    assert [(x["protocol"], x["from_port"], x["to_port"], *x["cidr_blocks"]) for x in mine] == [
        (x["IpProtocol"], x["FromPort"], x["ToPort"], x["CidrIp"]) for x in theirs
    ]


def test_the_outputs_are_the_templates() -> None:
    mine = {name for (name,) in parsed(MODULE, "output")}
    assert mine == {snake(name) for name in OUTPUTS}
    assert set(TEMPLATE["Outputs"]) >= OUTPUTS


def test_the_examples_target_group_is_the_templates() -> None:
    group = DECLARED[EXAMPLE]["aws_lb_target_group", "database"]
    theirs = RESOURCES["TargetGroup"]["Properties"]
    assert [group["target_type"], group["protocol"]] == [theirs["TargetType"], theirs["Protocol"]]
    (check,) = group["health_check"]
    numbers = {"interval": "Interval", "timeout": "Timeout"}
    assert check["protocol"] == theirs["HealthCheckProtocol"]
    assert all(check[x] == theirs[f"HealthCheck{y}Seconds"] for x, y in numbers.items())
    thresholds = [theirs["HealthyThresholdCount"], theirs["UnhealthyThresholdCount"]]
    assert [check["healthy_threshold"], check["unhealthy_threshold"]] == thresholds
    attributes = {x["Key"]: x["Value"] for x in theirs["TargetGroupAttributes"]}
    for argument, key in (
        ("deregistration_delay", "deregistration_delay.timeout_seconds"),
        ("connection_termination", "deregistration_delay.connection_termination.enabled"),
        ("proxy_protocol_v2", "proxy_protocol_v2.enabled"),
        ("preserve_client_ip", "preserve_client_ip.enabled"),
    ):
        assert text(group[argument]) == attributes[key], argument
    # Its name is unique in a Region, and what replaces it is there before it goes.
    assert group["name_prefix"] == "${substr(var.name, 0, 6)}"
    assert group["lifecycle"][0]["create_before_destroy"] is True
    balancer = DECLARED[EXAMPLE]["aws_lb", "database"]
    key = "EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic"
    enforced = RESOURCES["LoadBalancer"]["Properties"][key]["Fn::If"][1]
    assert balancer["enforce_security_group_inbound_rules_on_private_link_traffic"] == enforced
    assert balancer["enable_cross_zone_load_balancing"] is True


def test_terraform_leaves_the_functions_tags_alone() -> None:
    """The function's state is in tags of the target group, which Terraform would remove."""
    (lifecycle,) = DECLARED[EXAMPLE]["aws_lb_target_group", "database"]["lifecycle"]
    assert lifecycle["ignore_changes"] == ["tags", "tags_all"]
    assert "ignore_changes = [tags, tags_all]" in (MODULE / "README.md").read_text()


def test_the_readme_lists_inputs_and_outputs() -> None:
    """As terraform-docs does; the expected rows are in the failure, to be put into the README."""
    rows = ["| Name | Description | Type | Default | Required |", "|------|-------------|------|---------|:--------:|"]
    for name, body in sorted(VARIABLES.items()):
        kind = re.sub(r"^\$\{(.*)\}$", r"\1", body["type"])
        kind = "map(object({…}))" if name == "bindings" else kind
        default = f"`{json.dumps(body['default'])}`" if "default" in body else "n/a"
        text = body["description"]
        if text.startswith("<<-EOT"):
            text = text.split("\n\n")[0].removeprefix("<<-EOT\n")
        text = " ".join(text.split())
        rows.append(f"| {name} | {text} | `{kind}` | {default} | {'no' if 'default' in body else 'yes'} |")
    rows += ["", "| Name | Description |", "|------|-------------|"]
    rows += [f"| {name} | {body['description']} |" for (name,), body in sorted(parsed(MODULE, "output").items())]
    readme = (MODULE / "README.md").read_text()
    missing = [row for row in rows if row not in readme.splitlines()]
    assert missing == [], "\n".join(rows)
