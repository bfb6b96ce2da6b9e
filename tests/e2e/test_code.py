"""The template and the pages held against the code."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import botocore.session

from local.cloud import METRICS, NAMESPACE
from local.process import ROOT, SETTINGS
from tests.e2e.stacks import OUR_KEYS, read

SOURCE = "".join(x.read_text() for folder in ("core/src", "src") for x in (ROOT / folder).glob("**/*.rs"))
ENVIRONMENT = read("src", "settings", "environment.rs")


def actions_called() -> set[str]:
    """The AWS actions of the operations that the code calls, as IAM names them."""
    sdks = {
        "cloudwatch": ("cloudwatch", "cloudwatch"),
        "elasticloadbalancingv2": ("elbv2", "elasticloadbalancing"),
        "resourcegroupstagging": ("resourcegroupstaggingapi", "tag"),
    }
    used = set(re.findall(r"^aws-sdk-(\S+)", read("Cargo.toml"), re.MULTILINE))
    assert used <= set(sdks), "another SDK: give its IAM prefix above"
    methods = set(re.findall(r"\.(\w+)\(\)", SOURCE))
    loader = botocore.session.get_session()
    found = set()
    for service, prefix in (sdks[x] for x in used):
        for operation in loader.get_service_model(service).operation_names:
            if re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower() in methods:
                found.add(f"{prefix}:{operation}")
    return found


def granted(template: dict[str, Any]) -> dict[str, set[str]]:
    """The actions that the function's role allows, by the statement."""
    (policy,) = template["Resources"]["FunctionRole"]["Properties"]["Policies"]
    found: dict[str, set[str]] = {}
    for statement in policy["PolicyDocument"]["Statement"]:
        (plain,) = [x for x in statement["Fn::If"][1:] if "Sid" in x] if "Fn::If" in statement else [statement]
        actions = plain["Action"]
        found[plain["Sid"]] = {actions} if isinstance(actions, str) else set(actions)
    return found


def test_the_policy_allows_what_the_code_calls_and_no_more(template: dict[str, Any]) -> None:
    found = granted(template)
    for_lambda = found.pop("Log"), found.pop("Attach"), found.pop("AttachByLambdaOnly")
    assert {x.split(":")[0] for actions in for_lambda for x in actions} == {"logs", "ec2"}
    assert set().union(*found.values()) == actions_called()
    assert found["Change"] == found["ChangeTagged"]
    assert "elasticloadbalancing:RegisterTargets" in actions_called()


def test_the_rust_tests_saw_no_other_action() -> None:
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    seen = target / "tmp" / "aws-actions"
    assert seen.exists(), "the Rust tests have not run here: make unit"
    assert set(seen.read_text().split()) == actions_called()


def test_the_environment_is_what_the_code_reads(template: dict[str, Any]) -> None:
    known = set(re.findall(r'"([A-Z][A-Z_]+)"', ENVIRONMENT))
    given = set(template["Resources"]["Function"]["Properties"]["Environment"]["Variables"])
    assert given <= known
    # The namespace is fixed here, and the rate is the code's; the others are Lambda's and the SDK's own.
    own = {"ELB_REQUESTS_PER_SECOND", "METRICS_NAMESPACE"}
    assert known - given == own | {"AWS_LAMBDA_FUNCTION_NAME", "AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"}
    assert given <= SETTINGS


def test_the_defaults_are_the_codes(template: dict[str, Any]) -> None:
    interval = template["Parameters"]["PollIntervalSeconds"]
    assert f'"{NAMESPACE}"' in ENVIRONMENT
    assert f'"POLL_INTERVAL_SECONDS", {interval["MinValue"]}..={interval["MaxValue"]}' in ENVIRONMENT
    for destination in ("cloudwatch", "emf"):
        assert f'("{destination}", MetricsDestination::' in ENVIRONMENT


def test_the_tags_that_may_be_set_are_the_codes() -> None:
    assert f'"{OUR_KEYS.removesuffix("*")}' in SOURCE


def test_the_metrics_are_the_codes() -> None:
    code = read("src", "aws", "metrics.rs")
    assert set(re.findall(r'\("(\w+)", ', code)) == set(METRICS)
    assert 'DIMENSION: &str = "TargetGroup"' in code
