"""`make deploy`: builds the function, or takes it from a package, and deploys a stack by its parameter file.

The file is the stack's own: where there is none yet, it is written, from answers for a new stack and from the stack's
values for one that exists. So no update ever asks, and none falls back to the template's defaults.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import tomlkit
from botocore.exceptions import BotoCoreError, ClientError

from tools.parameters import ROOT, TEMPLATE, Refused, known_settings, read, refusal, template, text, to_setting

# The whole provider side, and somebody who is told.
ASKED = ("Hostname", "Port", "VpcId", "SubnetIds", "DatabaseSecurityGroupId", "AllowedPrincipals", "AlarmEmail")
OPTIONAL = ("DatabaseSecurityGroupId", "AllowedPrincipals", "AlarmEmail")

STACK_POLICY = (ROOT / "tools/stack-policy.json").read_text()
NO_STACK_POLICY = '{"Statement": [{"Effect": "Allow", "Principal": "*", "Action": "Update:*", "Resource": "*"}]}'

TARGETS = {"arm64": "aarch64-unknown-linux-gnu", "x86_64": "x86_64-unknown-linux-gnu"}
# The template's own, in which `make deploy` puts what it builds for.
ARCHITECTURES = "Architectures: [x86_64]"
# Likewise, where the function is not built here.
CODE = "CodeUri: ."


def main() -> int:
    """Deploys; 0 if the stack is then as its file says."""
    parser = argparse.ArgumentParser(prog="make deploy", description=__doc__)
    parser.add_argument("stack")
    parser.add_argument("--parameters", type=Path)
    parser.add_argument("--architecture", choices=sorted(TARGETS))
    parser.add_argument("--package", type=Path, help="a folder as `make package` fills it; nothing is built then")
    parser.add_argument("--yes", action="store_true", help="do not ask before the change set is carried out")
    parser.add_argument("--unprotect", action="store_true", help="let this update replace or delete what is protected")
    given = parser.parse_args()
    try:
        deploy(given, given.parameters or Path(f"{given.stack}.json"))
    except Refused as refused:
        print(f"make deploy: {refused}", file=sys.stderr)
        return 1
    except (BotoCoreError, ClientError) as error:
        print(f"make deploy: AWS: {error}", file=sys.stderr)
        return 1
    return 0


def deploy(given: argparse.Namespace, path: Path) -> None:
    """Builds and deploys, with a parameter file that is there or is made."""
    at_hand = buildable if given.package is None else lambda x: archive(given.package, x).exists()
    architecture = given.architecture or ("arm64" if at_hand("arm64") else "x86_64")
    if not at_hand(architecture):
        missing = f"Rust cannot build for {architecture} here: rustup target add {TARGETS[architecture]}"
        raise Refused(missing if given.package is None else f"there is no {archive(given.package, architecture)}")
    session = boto3.Session(region_name=os.environ.get("AWS_REGION"))
    if session.region_name is None:
        raise Refused("name the Region: make deploy … AWS_REGION=eu-west-1, or AWS_REGION in the environment")
    formation = session.client("cloudformation")
    declared = template()["Parameters"]
    stack = describe(formation, given.stack)
    if not path.exists():
        write(path, ask(declared, given.stack) if stack is None else export(formation, stack, declared, path))
    values = read(path, declared)
    print(f"Deploying stack {given.stack} in {session.region_name} with {path}, for {architecture}", flush=True)

    built = ROOT / ".aws-sam" / "template.yaml"
    built.parent.mkdir(exist_ok=True)
    source = for_architecture(TEMPLATE.read_text(), architecture)
    options = ["--stack-name", given.stack, "--region", session.region_name, "--s3-prefix", given.stack]
    options += ["--no-confirm-changeset"] if given.yes else []
    if given.package is None:
        built.write_text(source)
        sam("build", "--template-file", str(built), "--base-dir", str(ROOT))
    else:
        built.write_text(only(source, CODE, f"CodeUri: {json.dumps(str(archive(given.package, architecture)))}"))
        options += ["--template-file", str(built)]
    if stack is not None and given.unprotect:
        formation.set_stack_policy(StackName=given.stack, StackPolicyBody=NO_STACK_POLICY)
    # In a file, because SAM takes a blank on its command line for the end of a value. It reads YAML, which JSON is.
    overrides = ROOT / ".aws-sam" / "parameters.yaml"
    overrides.write_text(json.dumps(values))
    try:
        sam("deploy", *options, "--parameter-overrides", f"file://{overrides}")
    finally:
        if describe(formation, given.stack) is not None:
            formation.set_stack_policy(StackName=given.stack, StackPolicyBody=STACK_POLICY)


def for_architecture(source: str, architecture: str) -> str:
    """The template with the one architecture that both the build and the deployment take from it."""
    return only(source, ARCHITECTURES, f"Architectures: [{architecture}]")


def only(source: str, old: str, new: str) -> str:
    """The template with the one place changed that says this."""
    if source.count(old) != 1:
        raise Refused(f"{TEMPLATE} no longer says {old!r} once")
    return source.replace(old, new)


def archive(package: Path, architecture: str) -> Path:
    """The function's zip in a package of this version, which the template here belongs to."""
    version = tomlkit.parse((ROOT / "Cargo.toml").read_text())["package"]["version"]
    return package.resolve() / f"nlb-hostname-targets-{version}-{architecture}.zip"


def buildable(architecture: str) -> bool:
    """Whether the standard library of that target is installed."""
    command = ["rustc", "--print", "target-libdir", "--target", TARGETS[architecture]]
    if shutil.which(command[0]) is None:
        raise Refused("Rust is missing: https://rustup.rs")
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()).is_dir()


def sam(command: str, *options: str) -> None:
    """Runs SAM, which tells the user what there is to tell; at the end of a build that is to deploy with --guided."""
    done = subprocess.run(
        ["sam", command, "--config-file", str(ROOT / "samconfig.toml"), *options],
        cwd=ROOT,
        stdout=subprocess.DEVNULL if command == "build" else None,
        check=False,
    )
    if done.returncode != 0:
        raise Refused(f"sam {command} failed")


def describe(formation: Any, name: str) -> dict[str, Any] | None:
    """The stack, if there is one."""
    try:
        (stack,) = formation.describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise
    found: dict[str, Any] = stack
    # A change set that was never carried out is no stack yet.
    return None if found["StackStatus"] == "REVIEW_IN_PROGRESS" else found


def write(path: Path, values: Mapping[str, str]) -> None:
    """Makes the parameter file."""
    path.write_text(json.dumps(values, indent=2) + "\n")
    print(f"Wrote {path}: keep it, and change the stack by changing it.\n", flush=True)


def ask(declared: Mapping[str, Any], stack: str) -> dict[str, str]:
    """The answers for a new stack."""
    if not sys.stdin.isatty():
        raise Refused(
            f"there is no stack {stack} and no parameter file: copy examples/orders.json, or run in a terminal"
        )
    print(f"There is no stack {stack} yet, and no parameter file. What makes it:\n")
    values: dict[str, str] = {}
    for name in ASKED:
        print(textwrap.fill(declared[name]["Description"], 100, initial_indent="  ", subsequent_indent="  "))
        while True:
            try:
                answer = input(f"{name}: ").strip()
            except EOFError:
                raise Refused("no answer") from None
            empty = not answer or answer == "0"
            why = ("is required" if name not in OPTIONAL else None) if empty else refusal(declared[name], answer)
            if why is None:
                break
            print(f"  {name} {why}")
        if answer:
            values[name] = answer
        print()
    return values


def export(formation: Any, stack: Mapping[str, Any], declared: Mapping[str, Any], path: Path) -> dict[str, str]:
    """The values of a stack that differ from its template's defaults, those that went to Settings there."""
    summary = formation.get_template_summary(StackName=stack["StackName"])["Parameters"]
    defaults = {x["ParameterKey"]: x.get("DefaultValue") for x in summary}
    found = {x["ParameterKey"]: x["ParameterValue"] for x in stack.get("Parameters", [])}
    own = {name: value for name, value in found.items() if value != defaults.get(name)}
    values = {name: value for name, value in own.items() if name in declared}
    moved = {name for name in own if name not in declared and to_setting(name) in known_settings(declared)}
    settings = [f"{to_setting(name)}={own[name].replace(' ', '')}" for name in sorted(moved)]
    if settings:
        values["Settings"] = " ".join([*filter(None, [values.get("Settings")]), *settings])
    if lost := {name: value for name, value in own.items() if name not in values and name not in moved}:
        write(path, values)
        gone = "\n  ".join(f"{name}={text(value)}" for name, value in lost.items())
        raise Refused(
            f"{path} has the stack's values but these, which are no parameters any more:\n  {gone}\n"
            "docs/migration.md tells what takes their place. Complete the file, then deploy again."
        )
    return values


if __name__ == "__main__":
    sys.exit(main())
