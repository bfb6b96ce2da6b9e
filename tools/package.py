"""`make package`: all that deploying takes, without SAM and without a compiler.

Two runs for one commit give the same bytes, whatever folder they are in. dist/ then holds the function's zip for each
processor, the template as SAM translates it, a list of the crates (CycloneDX), and the SHA-256 sums of all of them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import boto3
from samcli.yamlhelper import yaml_dump, yaml_parse
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

from tools.deploy import ROOT, TARGETS, TEMPLATE, buildable
from tools.sbom import sbom

NAME = "nlb-hostname-targets"
# What a download and a cold start can do without.
MOST_BYTES = 3_000_000


class Refused(Exception):
    """What the user has to put right; the message says what and how."""


def main() -> int:
    """Packages; 0 if dist/ holds all."""
    parser = argparse.ArgumentParser(prog="make package", description=__doc__)
    parser.add_argument("--architecture", choices=sorted(TARGETS))
    parser.add_argument("--profile", choices=["release", "dev"], default="release")
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    given = parser.parse_args()
    try:
        package(given.architecture, given.profile, given.output)
    except Refused as refused:
        print(f"make package: {refused}", file=sys.stderr)
        return 1
    return 0


def package(architecture: str | None, profile: str, output: Path) -> None:
    """Fills the folder anew."""
    missing = [x for x in sorted(TARGETS) if not buildable(x)]
    architectures = [architecture] if architecture else [x for x in sorted(TARGETS) if x not in missing]
    for lacking in missing:
        advice = f"Rust cannot build for {lacking} here: rustup target add {TARGETS[lacking]}"
        if lacking in architectures:
            raise Refused(advice)
        print(f"No package for {lacking}: {advice}", flush=True)
    command = ["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"]
    (crate,) = [x for x in json.loads(output_of(command))["packages"] if x["name"] == NAME]
    version = crate["version"]

    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    for name in architectures:
        compress(build(name, profile), output / f"{NAME}-{version}-{name}.zip")
    head = f"# Made from template.yaml of {NAME} {version} by `make package`.\n"
    (output / "template.yaml").write_text(
        head + yaml_dump(from_bucket(translated(yaml_parse(TEMPLATE.read_text())), version))
    )
    (output / f"{NAME}.cdx.json").write_text(json.dumps(sbom(NAME, TARGETS.values()), indent=1) + "\n")
    files = sorted(output.iterdir())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (output / "SHA256SUMS").write_text("".join(sums))
    print("".join(sums), end="")
    if profile == "release" and (large := [x.name for x in output.glob("*.zip") if x.stat().st_size > MOST_BYTES]):
        raise Refused(f"{large[0]} is larger than {MOST_BYTES:,} bytes")


def build(architecture: str, profile: str) -> Path:
    """Compiles the function; the binary."""
    folder = Path("target/package")
    cargo_home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    if " " in f"{ROOT}{cargo_home}":
        raise Refused(f"cargo takes no flags with blanks, which {ROOT} or {cargo_home} has: package in another folder")
    env = {
        **os.environ,
        # A folder of its own, because other flags would have all crates built anew.
        "CARGO_TARGET_DIR": str(ROOT / folder),
        # Messages of panics name source files.
        "RUSTFLAGS": f"--remap-path-prefix={cargo_home}=/cargo --remap-path-prefix={ROOT}=/source",
        "CARGO_INCREMENTAL": "0",
        "CARGO_PROFILE_DEV_DEBUG": "0",
        "CARGO_PROFILE_DEV_STRIP": "symbols",
    }
    option = {"arm64": "--arm64", "x86_64": "--x86-64"}[architecture]
    command = ["cargo", "lambda", "build", "--locked", "--bin", "bootstrap", option]
    command += ["--release"] if profile == "release" else []
    if subprocess.run(command, cwd=ROOT, env=env, check=False).returncode != 0:
        raise Refused(f"the function did not build for {architecture}")
    return ROOT / folder / "lambda" / "bootstrap" / "bootstrap"


def compress(binary: Path, archive: Path) -> None:
    """Makes the zip, without anything of this machine or this day."""
    entry = zipfile.ZipInfo("bootstrap", (1980, 1, 1, 0, 0, 0))
    entry.create_system = 3
    entry.external_attr = 0o100755 << 16
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(entry, binary.read_bytes(), zipfile.ZIP_DEFLATED, 9)


def translated(source: dict[str, Any], region: str = "us-east-1") -> dict[str, Any]:
    """The template as CloudFormation gets it: what AWS::Serverless stands for."""
    source["Resources"]["Function"]["Properties"]["CodeUri"] = {"Bucket": "bucket", "Key": "key"}
    # It has measured itself, and nobody asks for it.
    logging.getLogger("samtranslator.metrics.metrics").setLevel(logging.ERROR)
    translator = Translator({}, Parser(), boto_session=boto3.Session(region_name=region))
    found: dict[str, Any] = translator.translate(sam_template=source, parameter_values={})
    return found


def from_bucket(source: dict[str, Any], version: str) -> dict[str, Any]:
    """The template with the function's zip in a bucket, and for the processor that it was built for."""
    source.pop("Transform", None)
    parameters = {
        "CodeS3Bucket": {
            "Type": "String",
            "Description": "The bucket, in this Region, to which you have copied the zip of the function.",
            "AllowedPattern": r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
            "ConstraintDescription": "must be the name of a bucket",
        },
        "CodeS3Key": {
            "Type": "String",
            "Description": "Optional. The zip's key there, where it is not the name of its file.",
            "Default": "",
        },
        "Architecture": {
            "Type": "String",
            "Description": "What the function runs on, and which zip you have copied. arm64 costs a fifth less.",
            "Default": "x86_64",
            "AllowedValues": ["x86_64", "arm64"],
        },
    }
    shown = source["Metadata"]["AWS::CloudFormation::Interface"]
    shown["ParameterGroups"].insert(0, {"Label": {"default": "The function's code"}, "Parameters": list(parameters)})
    source["Parameters"] = {**parameters, **source["Parameters"]}
    source["Conditions"]["HasCodeS3Key"] = {"Fn::Not": [{"Fn::Equals": [{"Ref": "CodeS3Key"}, ""]}]}
    function = source["Resources"]["Function"]
    function.pop("Metadata", None)
    # The version is in the key, because CloudFormation does not see that what lies under a key has changed.
    file = {"Fn::Sub": f"{NAME}-{version}-${{Architecture}}.zip"}
    function["Properties"]["Code"] = {
        "S3Bucket": {"Ref": "CodeS3Bucket"},
        "S3Key": {"Fn::If": ["HasCodeS3Key", {"Ref": "CodeS3Key"}, file]},
    }
    function["Properties"]["Architectures"] = [{"Ref": "Architecture"}]
    return source


def output_of(command: list[str]) -> str:
    """What a command prints."""
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
