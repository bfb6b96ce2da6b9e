"""`make deploy`: SAM by a parameter file of all values and tags; then the stack is protected, and what consumers use."""

import contextlib
import difflib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from samcli.yamlhelper import yaml_parse

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "template.yaml"
TARGETS = {"arm64": "aarch64-unknown-linux-gnu", "x86_64": "x86_64-unknown-linux-gnu"}
WITHOUT_ARM64 = ("ap-southeast-7", "ca-west-1", "cn-north-1", "cn-northwest-1", "eusc-de-east-1", "mx-central-1")
POLICY = (ROOT / "tools/stack-policy.json").read_text()
ALL_ALLOWED = json.dumps({"Statement": json.loads(POLICY)["Statement"][1:]})


def read(path: Path) -> tuple[dict[str, str], list[str]]:
    """The parameters that a file says, or else the template's defaults, and the tags as SAM takes them."""
    try:
        found = json.loads(path.read_text())
        tags = {"Application": "nlb-hostname-targets", **found.pop("Tags", {})}
        values = {name: text(x) for name, x in found.items()}
    except (AttributeError, OSError, TypeError, ValueError):
        sys.exit(f"{path} must be a JSON object of parameters and Tags: copy examples/orders.json, and put yours in")
    declared = yaml_parse(TEMPLATE.read_text())["Parameters"]
    for name in [x for x in values if x not in declared]:
        close = "".join(f": did you mean {x}?" for x in difflib.get_close_matches(name, declared, 1))
        sys.exit(f"{path}: {name} is no parameter of the template{close}")
    values = {name: text(x["Default"]) for name, x in declared.items()} | values
    return values, [f"{name}={json.dumps(x)}" for name, x in tags.items()]


def text(value: Any) -> str:
    """A value as CloudFormation takes it: lists with commas, true and false in small letters."""
    if isinstance(value, list):
        return ",".join(map(text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def buildable(architecture: str) -> bool:
    """Whether Rust can build for it here."""
    command = ["rustc", "--print", "target-libdir", "--target", TARGETS[architecture]]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()).is_dir()


def deploy(given: dict[str, str]) -> None:
    """Builds, or takes a package, and deploys, by the variables of the Makefile; then the stack is protected."""
    (values, tags), stack, package = read(Path(given["PARAMETERS"])), given["STACK"], given["PACKAGE"]
    formation = boto3.client("cloudformation", region_name=given.get("AWS_REGION") or None)
    region = formation.meta.region_name
    zips = {x: y for x in TARGETS for y in Path(package).resolve().glob(f"nlb-hostname-targets-*-{x}.zip")}
    at_hand = zips.__contains__ if package else buildable
    architecture = given["ARCHITECTURE"] or ("arm64" if region not in WITHOUT_ARM64 and at_hand("arm64") else "x86_64")
    if not at_hand(architecture):
        sys.exit(f"nothing for {architecture}: rustup target add {TARGETS[architecture]}, or PACKAGE with its zip")
    why = ", because arm64 is not known to be there" if region in WITHOUT_ARM64 else ""
    print(f"Deploying stack {stack} in {region} for {architecture}{why}", flush=True)
    source, overrides = ROOT / ".aws-sam/template.yaml", ROOT / ".aws-sam/parameters.yaml"
    source.parent.mkdir(exist_ok=True)
    changed = TEMPLATE.read_text().replace("Architectures: [x86_64]", f"Architectures: [{architecture}]")
    source.write_text(changed.replace("CodeUri: .", f"CodeUri: {zips.get(architecture, '.')}"))
    # In a file, because SAM takes a blank on its command line for the end of a value. It reads YAML, which JSON is.
    overrides.write_text(json.dumps(values))
    if not package:
        sam("build", "--template-file", str(source), "--base-dir", str(ROOT), stdout=subprocess.DEVNULL)
        source = ROOT / ".aws-sam/build/template.yaml"
    confirm = "--no-confirm-changeset" if given["CONFIRM"] == "no" else "--confirm-changeset"
    options = ["--stack-name", stack, "--s3-prefix", stack, "--region", region, "--template-file", str(source), confirm]
    try:
        if given["PROTECT"] == "no":
            formation.set_stack_policy(StackName=stack, StackPolicyBody=ALL_ALLOWED)
        sam("deploy", *options, "--parameter-overrides", f"file://{overrides}", "--tags", *tags)
    finally:
        with contextlib.suppress(ClientError):  # Where it failed, there may be no stack.
            formation.set_stack_policy(StackName=stack, StackPolicyBody=POLICY)
    if formation.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"] == "REVIEW_IN_PROGRESS":
        return
    formation.set_stack_policy(StackName=stack, StackPolicyBody=POLICY)
    formation.update_termination_protection(StackName=stack, EnableTerminationProtection=True)
    end = f"update-termination-protection --no-enable-termination-protection --stack-name {stack}"
    print(f"The stack is protected from deletion. To end that: aws cloudformation {end}")


def sam(*command: str, **options: Any) -> None:
    """Runs SAM, which says itself what is wrong."""
    subprocess.run(["sam", *command, "--config-file", str(ROOT / "samconfig.toml")], cwd=ROOT, check=True, **options)


if __name__ == "__main__":
    try:
        deploy(dict(os.environ))
    except (OSError, subprocess.CalledProcessError, BotoCoreError, ClientError) as error:
        sys.exit(f"make deploy: {error}")
