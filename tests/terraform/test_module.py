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

# Parameters without a variable, and why.
ELSEWHERE = {
    "AlarmEmail": "alarm_topic_arn names a topic of one's own",
    "CreateDashboard": "no dashboard is made",
    "CreateInterfaceEndpoints": "the VPC is the caller's",
    "Hostname": "a member of bindings",
    "Port": "a member of bindings",
    "TargetGroupArn": "a member of bindings",
    "SecondDatabase": "bindings takes as many as there are",
    "ThirdDatabase": "bindings takes as many as there are",
    "Settings": "each setting is a variable",
    # Of the load balancer, which the caller makes, as in the example.
    "AcceptanceRequired": "in the example",
    "AllowedPrincipals": "in the example",
    "CreateEndpointService": "in the example",
    "DatabaseSecurityGroupId": "in the example",
    "DeletionProtection": "in the example",
    "IdleTimeoutSeconds": "in the example",
    "IpAddressType": "in the example",
    "ListenerPort": "in the example",
    "LoadBalancerArn": "in the example",
    "LoadBalancerSecurityGroupIds": "in the example",
    "SubnetIds": "in the example",
    "SupportedRegions": "in the example",
    # Settings.
    "CONNECTION_TERMINATION": "of the target group",
    "DEREGISTRATION_DELAY_SECONDS": "of the target group",
    "DEREGISTER_AFTER_SECONDS": "a member of bindings",
    "LOOKUPS": "a member of bindings",
    "OWNERSHIP": "a member of bindings",
}
# Variables that the template has no parameter for. The code is in the template of a package.
OWN = {"architecture", "bindings", "code_path", "code_s3_bucket", "code_s3_key", "name", "tags"}
OUTPUTS_ELSEWHERE = {
    *("ServiceName", "EndpointServiceId", "LoadBalancerArn", "LoadBalancerDnsName", "LoadBalancerSecurityGroupId"),
    *("TargetGroupArn", "SecondTargetGroupArn", "ThirdTargetGroupArn", "AlarmTopicArn", "DashboardName"),
}

ALARMS = {
    "found_no_healthy_target": "FoundNoHealthyTargetAlarm",
    "function_errors": "FunctionErrorsAlarm",
    "function_throttles": "FunctionThrottlesAlarm",
    "no_healthy_target": "NoHealthyTargetAlarm",
    "not_running": "NotRunningAlarm",
    "port_allocation": "PortAllocationAlarm",
    "refused_addresses": "RefusedAddressesAlarm",
    "sync_failed": "SyncFailedAlarm",
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


def test_the_check_of_the_schema_finds_what_is_wrong() -> None:
    text = """resource "aws_lb_listener" "x" {
      prot = "TCP"
      arn = "x"
      default_action = []
      mutual_authentication {
        mode = "off"
        mod = "off"
      }
      mutual_authentication {}
    }"""
    ((labels,),) = (plain(hcl2.loads(text))["resource"],)
    body = labels["aws_lb_listener"]["x"]
    assert sorted(faults("x", body, SCHEMA["resource"]["aws_lb_listener"], top=True)) == [
        "x.arn cannot be set",
        "x.default_action is a block",
        "x.default_action is there 0 times",
        "x.load_balancer_arn is missing",
        "x.mutual_authentication is there 2 times",
        "x.mutual_authentication.mod is unknown",
        "x.mutual_authentication.mode is missing",
        "x.prot is unknown",
    ]


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
    """The variable's name for a parameter or a setting."""
    return name.lower() if name.isupper() or "_" in name else re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def settings() -> dict[str, str]:
    """The pattern of each setting's value."""
    pattern = TEMPLATE["Parameters"]["Settings"]["AllowedPattern"]
    names = re.findall(r"[(|]([A-Z_]+)=", pattern)
    values = re.split(r"[(|][A-Z_]+=", pattern.removesuffix(")( |$))*$"))[1:]
    return dict(zip(names, values, strict=True))


def test_every_parameter_and_setting_is_a_variable_or_has_a_reason_to_be_none() -> None:
    offered = {*TEMPLATE["Parameters"], *settings()}
    assert set(ELSEWHERE) <= offered
    assert {snake(name) for name in offered - set(ELSEWHERE)} == set(VARIABLES) - OWN


def test_defaults_are_the_templates() -> None:
    defaults = {
        name: text(VARIABLES[snake(name)]["default"]) for name in TEMPLATE["Parameters"] if name not in ELSEWHERE
    }
    assert defaults == {name: str(TEMPLATE["Parameters"][name]["Default"]) for name in defaults}
    assert len(defaults) > 8
    for name in settings().keys() - ELSEWHERE.keys():
        theirs = setting_default(name)
        # Where the template makes a security group, the module does.
        assert text(VARIABLES[snake(name)]["default"]) == ("" if theirs.startswith("${") else theirs), name


def text(value: Any) -> str:
    """A value as CloudFormation takes it."""
    return "" if value == [] else str(value).lower() if isinstance(value, bool) else str(value)


def test_what_is_accepted_is_what_the_template_accepts() -> None:
    def conditions(name: str) -> str:
        return " ".join(x["condition"] for x in VARIABLES[name]["validation"]).replace("\\\\", "\\")

    compared = 0
    for name, parameter in TEMPLATE["Parameters"].items():
        if name in ELSEWHERE or parameter["Type"] == "CommaDelimitedList" or "AllowedPattern" not in parameter:
            continue
        if name == "DatabaseArns":
            one = parameter["AllowedPattern"].removesuffix(r"(,(?=a)|$))*$").removeprefix("^(")
            assert one in conditions("database_arns")
            assert str(parameter["MaxLength"]) in conditions("database_arns")
        else:
            assert parameter["AllowedPattern"] in conditions(snake(name)), name
        compared += 1
    for name, pattern in settings().items():
        if name in ELSEWHERE:
            continue
        listed = re.fullmatch(r"\((\w+(?:\|\w+)*)\)", pattern)
        if listed and name not in ("POLL_INTERVAL_SECONDS",):
            for value in listed[1].split("|"):
                assert re.search(rf"\b{value}\b", conditions(name.lower())), (name, value)
        elif name in ("ELB_REQUESTS_PER_SECOND", "POLL_INTERVAL_SECONDS"):
            assert f"^{pattern}$" in conditions(name.lower())
        compared += 1
    bindings = conditions("bindings")
    for name in ("DEREGISTER_AFTER_SECONDS", "LOOKUPS"):
        assert f"^{settings()[name]}$" in bindings
    arn = TEMPLATE["Parameters"]["TargetGroupArn"]["AllowedPattern"].removeprefix("^(").removesuffix(")?$")
    assert f"^{arn}$" in bindings
    hostname = TEMPLATE["Parameters"]["Hostname"]["AllowedPattern"].removeprefix("^(").removesuffix(")?$")
    assert f"^{hostname}$" in bindings
    assert compared > 12


def test_a_binding_has_the_fields_of_the_contract() -> None:
    fields = re.findall(r"(\w+) = (?:optional\()?(?:string|number)", VARIABLES["bindings"]["type"])
    assert set(fields) <= set(re.findall(r"pub (\w+): ", (ROOT / "core/src/binding.rs").read_text()))
    assert set(fields) == {
        *("hostname", "target_group_arn", "port"),
        *("deregister_after_seconds", "ownership", "lookups"),
    }


def test_the_function_is_the_templates() -> None:
    mine = DECLARED[MODULE]["aws_lambda_function", "this"]
    theirs = RESOURCES["Function"]["Properties"]
    (environment,) = mine["environment"]
    (logging,) = mine["logging_config"]
    assert set(environment["variables"]) == set(theirs["Environment"]["Variables"])
    assert [mine["runtime"], mine["handler"]] == [theirs["Runtime"], theirs["Handler"]]
    assert logging["log_format"] == theirs["LoggingConfig"]["LogFormat"]
    assert logging["system_log_level"] == theirs["LoggingConfig"]["SystemLogLevel"]
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
    kinds = [kind for either in events["$or"] for kind in either["detail-type"]]
    assert mine == [*events["source"], *kinds]
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
    # One for each database of the template is the first's, in for_each.
    theirs = {name for name, x in RESOURCES.items() if x["Type"] == "AWS::CloudWatch::Alarm"}
    assert theirs == {*ALARMS.values(), "SecondNoHealthyTargetAlarm", "ThirdNoHealthyTargetAlarm"}
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
            assert alarm.get(argument) == properties.get(key), (name, argument)
        keys = {x["Name"] for x in properties.get("Dimensions", [])}
        if keys and "dimensions[" not in str(alarm["dimensions"]):
            assert set(alarm["dimensions"]) == keys, name
        for query, metric in zip(alarm.get("metric_query", []), properties.get("Metrics", []), strict=True):
            assert query["id"] == metric["Id"]
            assert query.get("expression") == metric.get("Expression")
            assert query["return_data"] == metric["ReturnData"]
            for inner in query.get("metric", []):
                stat = metric["MetricStat"]
                assert [inner["period"], inner["stat"]] == [stat["Period"], stat["Stat"]]
                assert inner["namespace"] == stat["Metric"]["Namespace"]
                # Where nothing is bound but by tags, another one.
                _, *either = stat["Metric"]["MetricName"]["Fn::If"]
                assert re.findall('"(.*?)"', inner["metric_name"]) == either


@pytest.mark.parametrize(("document", "role"), [("function", "FunctionRole"), ("scheduler", "SchedulerRole")])
def test_the_roles_may_do_what_the_templates_may(document: str, role: str) -> None:
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
        for _, statement in nested(DATA[MODULE]["aws_iam_policy_document", document])
    }
    theirs = {}
    (policy,) = RESOURCES[role]["Properties"]["Policies"]
    for entry in policy["PolicyDocument"]["Statement"]:
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


def test_who_may_take_the_roles() -> None:
    for document, role in (("function_trust", "FunctionRole"), ("scheduler_trust", "SchedulerRole")):
        (statement,) = DATA[MODULE]["aws_iam_policy_document", document]["statement"]
        (theirs,) = RESOURCES[role]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        (principal,) = statement["principals"]
        assert principal == {"type": "Service", "identifiers": [theirs["Principal"]["Service"]]}
        keys = [x["variable"] for x in statement.get("condition", [])]
        assert keys == [key for test in theirs.get("Condition", {}).values() for key in test]


def test_the_security_group_lets_out_what_the_templates_does() -> None:
    mine = DECLARED[MODULE]["aws_security_group", "function"]["egress"]
    theirs = RESOURCES["FunctionSecurityGroup"]["Properties"]["SecurityGroupEgress"]
    assert [(x["protocol"], x["from_port"], x["to_port"], *x["cidr_blocks"]) for x in mine] == [
        (x["IpProtocol"], x["FromPort"], x["ToPort"], x["CidrIp"]) for x in theirs
    ]


def test_the_outputs_are_the_templates() -> None:
    mine = {name for (name,) in parsed(MODULE, "output")}
    assert mine == {snake(name) for name in TEMPLATE["Outputs"] if name not in OUTPUTS_ELSEWHERE}
    assert set(TEMPLATE["Outputs"]) >= OUTPUTS_ELSEWHERE


def test_the_examples_target_group_is_the_templates() -> None:
    group = DECLARED[EXAMPLE]["aws_lb_target_group", "database"]
    theirs = RESOURCES["TargetGroup"]["Properties"]
    assert [group["target_type"], group["protocol"]] == [theirs["TargetType"], theirs["Protocol"]]
    (check,) = group["health_check"]
    assert check == {
        "protocol": theirs["HealthCheckProtocol"],
        "port": theirs["HealthCheckPort"],
        "interval": theirs["HealthCheckIntervalSeconds"],
        "timeout": theirs["HealthCheckTimeoutSeconds"],
        "healthy_threshold": theirs["HealthyThresholdCount"],
        "unhealthy_threshold": theirs["UnhealthyThresholdCount"],
    }
    attributes = {x["Key"]: x["Value"] for x in theirs["TargetGroupAttributes"]}
    assert str(group["deregistration_delay"]) == setting_default("DEREGISTRATION_DELAY_SECONDS")
    assert str(group["connection_termination"]).lower() == setting_default("CONNECTION_TERMINATION")
    assert group["load_balancing_cross_zone_enabled"] == attributes["load_balancing.cross_zone.enabled"]
    assert str(group["proxy_protocol_v2"]).lower() == attributes["proxy_protocol_v2.enabled"]
    assert str(group["preserve_client_ip"]).lower() == attributes["preserve_client_ip.enabled"]
    listener = DECLARED[EXAMPLE]["aws_lb_listener", "database"]
    assert listener["tcp_idle_timeout_seconds"] == TEMPLATE["Parameters"]["IdleTimeoutSeconds"]["Default"]
    balancer = DECLARED[EXAMPLE]["aws_lb", "database"]
    key = "EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic"
    enforced = RESOURCES["LoadBalancer"]["Properties"][key]["Fn::If"][1]
    assert balancer["enforce_security_group_inbound_rules_on_private_link_traffic"] == enforced
    assert balancer["enable_cross_zone_load_balancing"] is True


def setting_default(name: str) -> str:
    """What a setting is where Settings does not name it."""
    (default,) = set(re.findall(rf"\$\{{Settings\}} {name}=([^ ]*) ", (ROOT / "template.yaml").read_text()))
    return str(default)


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
