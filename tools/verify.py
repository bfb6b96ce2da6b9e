"""`make verify`: has a function check the set-up, and shows what it found, with what the function itself can't see.

With the profile, the Region and the endpoints that the AWS CLI goes by.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

COLOURS = {"error": "31", "warning": "33", "info": "36", "ok": "32"}
# More than any check takes, which ends by itself before the function's time does; and it is not sent twice.
LONGEST_CHECK = Config(read_timeout=900, retries={"total_max_attempts": 1})
WIDTH = 110
RANKS = ("error", "warning", "info")

Client = Callable[[str], Any]
Finding = dict[str, str]


class Unverified(Exception):
    """The set-up could not be checked; the message says why and what to do."""


def main() -> int:
    """Verifies; 0 if all was looked at, and nothing that was found is an error."""
    parser = argparse.ArgumentParser(prog="make verify", description=__doc__)
    parser.add_argument("--stack", help="the stack whose function it is")
    parser.add_argument("--function", help="or the function itself, however it was deployed")
    given = parser.parse_args()
    session = boto3.Session(region_name=os.environ.get("AWS_REGION"))
    client = functools.cache(lambda service: session.client(service, config=LONGEST_CHECK))
    try:
        function = given.function or function_of(given.stack, client)
        reply = check(function, client)
        around = list(look_around(function, reply, client))
        reply["findings"] = sorted([*reply.get("findings", []), *around], key=lambda x: RANKS.index(x["severity"]))
        reply["ok"] = reply["ok"] and not any(x["severity"] == "error" for x in around)
    except Unverified as unverified:
        print(f"make verify: {unverified}", file=sys.stderr)
        return 1
    except (BotoCoreError, ClientError) as error:
        print(f"make verify: AWS: {error}", file=sys.stderr)
        return 1
    is_plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    print("\n".join(table(reply, colourless if is_plain else coloured)))
    return 0 if reply["ok"] else 1


def function_of(stack: str, client: Client) -> str:
    """The name of the stack's function."""
    try:
        (found,) = client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    except ClientError as error:
        if "does not exist" in str(error):
            raise Unverified(
                f"there is no stack {stack} in this account and Region; AWS_PROFILE and AWS_REGION name others"
            ) from None
        raise
    outputs = {x["OutputKey"]: x["OutputValue"] for x in found.get("Outputs", [])}
    if "FunctionName" not in outputs:
        raise Unverified(
            f"stack {stack} has no output FunctionName: it is not one of this template, or not complete yet"
        )
    name: str = outputs["FunctionName"]
    return name


def check(function: str, client: Client) -> dict[str, Any]:
    """What the function replies to a check."""
    done = client("lambda").invoke(FunctionName=function, Payload=json.dumps({"check": True}))
    reply: dict[str, Any] = json.loads(done["Payload"].read())
    if "FunctionError" in done:
        raise Unverified(f"the function {function} failed: {reply.get('errorMessage', reply)}")
    if "ok" not in reply:
        raise Unverified(f"the function {function} knows no check: deploy it anew")
    return reply


def look_around(function: str, reply: dict[str, Any], client: Client) -> Iterator[Finding]:
    """What invokes the function, who is told, and which endpoints wait: found by its name, and the groups it has."""
    for look in (schedules, subscriptions, endpoints):
        try:
            yield from look(function, reply, client)
        except ClientError as error:
            # Whoever verifies may lack a permission that the function does not need.
            code = error.response["Error"]["Code"]
            advice = f"Allow {error.operation_name} to whoever runs this, or look in the console."
            yield finding(
                "warning", "not-looked-at", look.__name__, f"AWS refused {error.operation_name}: {code}", advice
            )


def schedules(function: str, _: dict[str, Any], client: Client) -> Iterator[Finding]:
    """None, or one that is disabled. A rule of EventBridge may be one, too."""
    arn = client("lambda").get_function_configuration(FunctionName=function)["FunctionArn"]
    pages = client("scheduler").get_paginator("list_schedules").paginate()
    found = [x for page in pages for x in page["Schedules"] if x["Target"]["Arn"] == arn]
    names = client("events").list_rule_names_by_target(TargetArn=arn)["RuleNames"]
    rules = [client("events").describe_rule(Name=x) for x in names]
    if not found and not any("ScheduleExpression" in x for x in rules):
        yield finding("error", "no-schedule", function, "nothing invokes it every minute", "Deploy the stack anew.")
    for one in [*found, *rules]:
        if one["State"] == "DISABLED":
            is_clock = one in found or "ScheduleExpression" in one
            advice = "Enable it in the console, under Amazon EventBridge."
            message = f"it is disabled, so {'nobody follows DNS' if is_clock else 'no RDS event starts a watch'}"
            yield finding("error" if is_clock else "warning", "schedule-disabled", one["Name"], message, advice)


def subscriptions(function: str, _: dict[str, Any], client: Client) -> Iterator[Finding]:
    """Of the topics of the function's alarms."""
    of_function = {"Namespace": "AWS/Lambda", "Dimensions": [{"Name": "FunctionName", "Value": function}]}
    metrics = ("Errors", "Invocations")
    alarms = [client("cloudwatch").describe_alarms_for_metric(MetricName=x, **of_function) for x in metrics]
    topics = {x for found in alarms for alarm in found["MetricAlarms"] for x in alarm["AlarmActions"] if ":sns:" in x}
    if not topics:
        advice = "Deploy with AlarmEmail or AlarmTopicArn."
        yield finding("warning", "nobody-told", function, "no alarm of it tells anybody", advice)
    for topic in sorted(topics):
        pages = client("sns").get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic)
        found = [x for page in pages for x in page["Subscriptions"]]
        waiting = [x["Endpoint"] for x in found if x["SubscriptionArn"] == "PendingConfirmation"]
        for endpoint in waiting:
            advice = "Open the link in AWS's message to it. After 3 days subscribe it anew."
            yield finding("error", "unconfirmed", topic, f"{endpoint} has not confirmed its subscription", advice)
        if not found:
            yield finding("warning", "nobody-told", topic, "nobody is subscribed", "Subscribe who is on call.")


def endpoints(_: str, reply: dict[str, Any], client: Client) -> Iterator[Finding]:
    """Of consumers, that wait to be accepted at the services of the load balancers that have the groups."""
    arns = [x["target_group_arn"] for x in reply["groups"]]
    # DescribeTargetGroups takes no more than 100 ARNs, and nobody offers more at once.
    groups = client("elbv2").describe_target_groups(TargetGroupArns=arns[:100])["TargetGroups"] if arns else []
    balancers = {x for group in groups for x in group["LoadBalancerArns"]}
    pages = client("ec2").get_paginator("describe_vpc_endpoint_service_configurations").paginate()
    services = [x for page in pages for x in page["ServiceConfigurations"]]
    for service in services:
        if not balancers & set(service.get("NetworkLoadBalancerArns", [])):
            continue
        name = service["ServiceId"]
        filters = [{"Name": "service-id", "Values": [name]}]
        found = client("ec2").describe_vpc_endpoint_connections(Filters=filters)["VpcEndpointConnections"]
        for one in [x for x in found if x["VpcEndpointState"] == "pendingAcceptance"]:
            endpoint = one["VpcEndpointId"]
            advice = f"aws ec2 accept-vpc-endpoint-connections --service-id {name} --vpc-endpoint-ids {endpoint}"
            message = f"the endpoint of account {one['VpcEndpointOwner']} waits to be accepted"
            yield finding("warning", "endpoint-waits", endpoint, message, advice)
        private = service.get("PrivateDnsNameConfiguration", {})
        if private.get("State", "verified") != "verified":
            advice = f"aws ec2 start-vpc-endpoint-service-private-dns-verification --service-id {name}"
            message = f"{service['PrivateDnsName']} is not verified: a TXT record {private['Name']} has to say {private['Value']}"
            yield finding("warning", "private-dns-name", name, message, advice)


def finding(severity: str, code: str, subject: str, message: str, advice: str) -> Finding:
    """As the function's reply has them."""
    return {"severity": severity, "code": code, "subject": subject, "message": message, "advice": advice}


def table(reply: dict[str, Any], paint: Callable[[str, str], str]) -> Iterator[str]:
    """The findings, for people: a line for each with what it is about, what is so and what to do below it."""
    # What is of no one target group: why others may not have been found.
    of_all = reply.get("findings", [])
    if of_all:
        yield "The function, and what is around it"
        yield from listed(of_all, paint)
    if not of_all and not reply["groups"]:
        yield "No target group is bound: none of this account and Region has a tag nlb-hostname-targets:hostname."
    for group in reply["groups"]:
        # Of tags that can't be read, there is no hostname.
        yield f"{', '.join(group['hostnames']) or 'No hostname'} in {short(group['target_group_arn'])}"
        if not group["findings"]:
            yield f"  {paint('ok', 'ok')}  {', '.join(group['resolved'])}"
        yield from listed(group["findings"], paint)
    found = [x["severity"] for findings in (of_all, *(x["findings"] for x in reply["groups"])) for x in findings]
    counts = [f"{found.count(x)} {x}{'' if found.count(x) == 1 else 's'}" for x in ("error", "warning") if x in found]
    yield ", ".join(counts) or "Nothing is wrong."


def listed(findings: list[dict[str, str]], paint: Callable[[str, str], str]) -> Iterator[str]:
    """Findings, each on some lines."""
    width = max((len(x["code"]) for x in findings), default=0)
    for finding in findings:
        severity = paint(finding["severity"], finding["severity"].ljust(7))
        yield f"  {severity}  {finding['code'].ljust(width)}  {short(finding['subject'])}"
        yield textwrap.indent(textwrap.fill(finding["message"], WIDTH, break_long_words=False), " " * 11)
        # On one line, because it may hold a command.
        yield f"           → {finding['advice']}"


def short(subject: str) -> str:
    """An ARN without what all of them have in common; any other subject as it is."""
    return subject.split(":", 5)[5] if subject.startswith("arn:") else subject


def coloured(severity: str, text: str) -> str:
    """The text in the colour of the severity."""
    return f"\033[{COLOURS[severity]}m{text}\033[0m"


def colourless(_: str, text: str) -> str:
    """The text as it is."""
    return text


if __name__ == "__main__":
    sys.exit(main())
