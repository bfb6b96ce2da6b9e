"""`make verify`: has the function of a stack check the set-up, and shows what it found.

With the profile, the Region and the endpoints that the AWS CLI goes by.
"""

from __future__ import annotations

import argparse
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


class Unverified(Exception):
    """The set-up could not be checked; the message says why and what to do."""


def main() -> int:
    """Verifies; 0 if all was looked at, and nothing that was found is an error."""
    parser = argparse.ArgumentParser(prog="make verify", description=__doc__)
    parser.add_argument("stack")
    stack = parser.parse_args().stack
    session = boto3.Session(region_name=os.environ.get("AWS_REGION"))
    try:
        reply = check(stack, lambda service: session.client(service, config=LONGEST_CHECK))
    except Unverified as unverified:
        print(f"make verify: {unverified}", file=sys.stderr)
        return 1
    except (BotoCoreError, ClientError) as error:
        print(f"make verify: AWS: {error}", file=sys.stderr)
        return 1
    is_plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    print("\n".join(table(reply, colourless if is_plain else coloured)))
    return 0 if reply["ok"] else 1


def check(stack: str, client: Callable[[str], Any]) -> dict[str, Any]:
    """What the stack's function replies to a check."""
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
    done = client("lambda").invoke(FunctionName=outputs["FunctionName"], Payload=json.dumps({"check": True}))
    reply = json.loads(done["Payload"].read())
    if "FunctionError" in done:
        raise Unverified(f"the function {outputs['FunctionName']} failed: {reply.get('errorMessage', reply)}")
    if "ok" not in reply:
        raise Unverified(f"the function {outputs['FunctionName']} knows no check: deploy the stack anew")
    return reply


def table(reply: dict[str, Any], paint: Callable[[str, str], str]) -> Iterator[str]:
    """The findings, for people: a line for each with what it is about, what is so and what to do below it."""
    # What is of no one target group: why others may not have been found.
    of_all = reply.get("findings", [])
    if of_all:
        yield "Target groups that are bound by their tags"
        yield from listed(of_all, paint)
    elif not reply["groups"]:
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
