"""The template, built by `sam build` and deployed by `sam deploy` to the local AWS, where its schedule runs it.

What is not as on AWS:

- The function is built with the dev profile and the machine's own linker, because a release build takes minutes.
- ministack runs the function as a process of this machine: it has the role's permissions, but no memory limit, no
  network of a VPC, and no log level or format from LoggingConfig.
- Scheduled runs leave nothing under AWS/Lambda, and ministack's alarms look at neither dimensions nor missing data.
- Nobody but AWS may put events of the source aws.rds. What the rule would deliver is given to the function directly,
  after the local EventBridge has said that the rule's pattern matches.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from local.cloud import Cloud, TargetGroup
from local.function import EVENTS, Invocation
from local.process import ROOT, TOOLS, Failure, running

TEMPLATE = ROOT / "template.yaml"

# A minute, and the ten seconds of the local Scheduler's clock.
SCHEDULE_SECONDS = 80
# Lambda lets no invocation run longer.
LONGEST_INVOCATION_SECONDS = 900


def package(work: Path) -> Path:
    """Builds the function as `sam build` does for AWS; the built template."""
    built = work / "build"
    _sam("build", work, "--template-file", str(TEMPLATE), "--build-dir", str(built))
    return built / "template.yaml"


@contextmanager
def deployed(cloud: Cloud, work: Path, template: Path, stack: str, parameters: dict[str, str]) -> Iterator[Deployment]:
    """What `package` built, deployed with the defaults of samconfig.toml. It goes with the local AWS."""
    options = ["--config-file", str(ROOT / "samconfig.toml"), "--template-file", str(template), "--stack-name", stack]
    options += ["--no-confirm-changeset", "--no-progressbar", "--parameter-overrides"]
    options += [f"{name}={value}" for name, value in parameters.items()]
    _sam("deploy", work, *options, AWS_ENDPOINT_URL=cloud.endpoint)
    deployment = Deployment(cloud, stack)
    try:
        yield deployment
    except Failure as failure:
        raise Failure(f"{failure}{deployment.log()}") from None


def _sam(command: str, work: Path, *options: str, **env: str) -> None:
    env |= {
        "SAM_CLI_TELEMETRY": "0",
        "SAM_BUILD_MODE": "debug",
        "CARGO_LAMBDA_COMPILER": "cargo",
        # Where it keeps its own settings, instead of the home folder.
        "__SAM_CLI_APP_DIR": str(work / "sam"),
    }
    log = work / f"sam-{command}.log"
    with running(f"sam {command}", [str(TOOLS / "sam"), command, *options], log, env) as process:
        if (code := process.popen.wait()) != 0:
            raise Failure(f"sam {command} ended with status {code}{process.tail(40)}")


@dataclass(frozen=True)
class Deployment:
    """A deployed stack."""

    cloud: Cloud
    stack: str

    @cached_property
    def outputs(self) -> dict[str, str]:
        """The stack's outputs."""
        (stack,) = self.cloud.client("cloudformation").describe_stacks(StackName=self.stack)["Stacks"]
        return {x["OutputKey"]: x["OutputValue"] for x in stack["Outputs"]}

    @cached_property
    def resources(self) -> dict[str, str]:
        """The physical id of each resource, by its name in the template."""
        pages = self.cloud.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=self.stack)
        return {
            x["LogicalResourceId"]: x["PhysicalResourceId"] for page in pages for x in page["StackResourceSummaries"]
        }

    @cached_property
    def environment(self) -> dict[str, str]:
        """The function's environment variables."""
        configuration = self.cloud.client("lambda").get_function_configuration(
            FunctionName=self.outputs["FunctionName"]
        )
        variables: dict[str, str] = configuration["Environment"]["Variables"]
        return variables

    @property
    def group(self) -> TargetGroup:
        """The target group of the first binding."""
        return TargetGroup(self.outputs["TargetGroupArn"], json.loads(self.environment["BINDINGS"])[0]["port"])

    def log(self, lines: int = 20) -> str:
        """The end of the function's log, to be put behind an error message."""
        events = self.cloud.client("logs").filter_log_events(logGroupName=self.outputs["LogGroupName"])["events"]
        found = [line for event in events for line in event["message"].splitlines()]
        return "\nThe last lines of the function's log:\n" + "\n".join(f"  | {x}" for x in found[-lines:])

    def invoke(self, event: Path | dict[str, Any]) -> Invocation:
        """Gives the function an event: a file of events/, or an object of one's own."""
        payload = event.read_text() if isinstance(event, Path) else json.dumps(event)
        functions = self.cloud.client("lambda", read_seconds=LONGEST_INVOCATION_SECONDS)
        done = functions.invoke(FunctionName=self.outputs["FunctionName"], Payload=payload)
        reply = json.loads(done["Payload"].read())
        if "FunctionError" in done:
            return Invocation(None, reply["errorMessage"])
        return Invocation(reply, None)

    def rule_matches(self, event: str) -> bool:
        """Whether EventBridge would give the function this event, a file of events/."""
        events = self.cloud.client("events")
        pattern = events.describe_rule(Name=self.resources["RdsEvents"])["EventPattern"]
        matches: bool = events.test_event_pattern(EventPattern=pattern, Event=(EVENTS / event).read_text())["Result"]
        return matches
