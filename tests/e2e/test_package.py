"""`make package`, with the dev profile, and what it makes: deployed by the AWS CLI alone, and the same from each folder.

A release build takes minutes. All that makes a package what it is, but the optimisations, is in the dev profile, too:
paths, times, the order of things. `make reproduce` does the same with the release profile.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import tomlkit
from samcli.yamlhelper import yaml_parse

from local.cloud import Cloud, TargetGroup
from local.deployment import SCHEDULE_SECONDS, Deployment
from local.dns import DnsServer
from local.process import ROOT, TOOLS, wait_for
from tools.deploy import TEMPLATE
from tools.package import from_bucket, translated

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HOSTNAME = "orders.c9akciq32abc.eu-west-1.rds.amazonaws.com"
VERSION = tomlkit.parse((ROOT / "Cargo.toml").read_text())["package"]["version"]
# A build of its own takes minutes.
pytestmark = pytest.mark.nightly
ARCHIVE = f"nlb-hostname-targets-{VERSION}-x86_64.zip"


def package(root: Path, output: Path, **env: str) -> Path:
    """Packages what is in a folder."""
    command = [sys.executable, "-m", "tools.package", "--profile", "dev", "--architecture", "x86_64"]
    settings = {"SOURCE_COMMIT": COMMIT, "CARGO_LAMBDA_COMPILER": "cargo", "PATH": f"{TOOLS}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*command, "--output", str(output)],
        cwd=root,
        env={**os.environ, **settings, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return output


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a release has, built here."""
    return package(ROOT, tmp_path_factory.mktemp("package") / "dist")


def test_dist_holds_what_deploying_takes_and_no_path_of_this_machine(dist: Path) -> None:
    names = {"SHA256SUMS", ARCHIVE, "nlb-hostname-targets.cdx.json", "template.yaml"}
    assert {x.name for x in dist.iterdir()} == names
    sums = dict(reversed(line.split("  ")) for line in (dist / "SHA256SUMS").read_text().splitlines())
    assert sums == {x: hashlib.sha256((dist / x).read_bytes()).hexdigest() for x in names - {"SHA256SUMS"}}
    with zipfile.ZipFile(dist / ARCHIVE) as archive:
        (entry,) = archive.infolist()
        binary = archive.read(entry)
    assert (entry.filename, entry.external_attr >> 16, entry.date_time[0]) == ("bootstrap", 0o100755, 1980)
    for path in (str(ROOT), str(Path.home())):
        assert path.encode() not in binary
    for crate in (b"/cargo/registry/src", COMMIT.encode()):
        assert crate in binary


def test_the_list_of_crates_is_that_of_the_function(dist: Path) -> None:
    sbom = json.loads((dist / "nlb-hostname-targets.cdx.json").read_text())
    assert sbom["metadata"]["component"]["purl"] == f"pkg:cargo/nlb-hostname-targets@{VERSION}"
    found = {x["name"] for x in sbom["components"]}
    assert found > {
        "nlb-hostname-targets-core",
        "aws-sdk-elasticloadbalancingv2",
        "hickory-proto",
        "lambda_runtime",
        "ring",
        "rustls",
        "tokio",
    }
    # Of tests, of other systems, of the build.
    assert not found & {"proptest", "nlb-hostname-targets-support", "windows-sys", "serde_derive", "cc"}
    references = {sbom["metadata"]["component"]["bom-ref"], *(x["bom-ref"] for x in sbom["components"])}
    assert {x["ref"] for x in sbom["dependencies"]} == references
    assert all(set(x["dependsOn"]) <= references for x in sbom["dependencies"])
    assert all(x["licenses"] for x in sbom["components"])
    assert all(x["hashes"][0]["alg"] == "SHA-256" for x in sbom["components"] if not x["name"].startswith("nlb-"))


def test_the_template_is_the_source_translated(dist: Path) -> None:
    """For all values of its parameters and in all Regions, which the translation must not look at."""
    made = yaml_parse((dist / "template.yaml").read_text())
    source = yaml_parse(TEMPLATE.read_text())
    assert made == from_bucket(translated(copy.deepcopy(source), "cn-north-1"), VERSION)
    assert not [x["Type"] for x in made["Resources"].values() if "Serverless" in x["Type"]]
    own = {"CodeS3Bucket", "CodeS3Key", "Architecture"}
    assert made["Parameters"].keys() - own == source["Parameters"].keys()
    assert made["Rules"] == source["Rules"]
    assert made["Outputs"] == source["Outputs"]
    for name, resource in source["Resources"].items():
        if resource["Type"] != "AWS::Serverless::Function":
            assert made["Resources"][name] == resource
    function = made["Resources"]["Function"]["Properties"]
    theirs = source["Resources"]["Function"]["Properties"]
    for key in ("Environment", "Handler", "LoggingConfig", "MemorySize", "Role", "Runtime", "Timeout", "VpcConfig"):
        assert function[key] == theirs[key]
    for parameter in source["Parameters"].values():
        parameter["Default"] = "another"
    again = from_bucket(translated(source), VERSION)
    assert {**again, "Parameters": made["Parameters"]} == made
    command = [str(TOOLS / "cfn-lint"), "--regions", "ALL_REGIONS", "--template", str(dist / "template.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def aws(cloud: Cloud, tmp_path: Path) -> Callable[..., str]:
    """The AWS CLI in an empty folder, without anything else on the PATH."""
    alone = tmp_path / "bin"
    alone.mkdir()
    (alone / "aws").symlink_to(TOOLS / "aws")
    env = {x: os.environ[x] for x in os.environ if x.startswith("AWS_")}
    env |= {"PATH": str(alone), "AWS_ENDPOINT_URL": cloud.endpoint, "AWS_PAGER": "", "HOME": str(tmp_path)}
    assert shutil.which("cargo", path=env["PATH"]) is None

    def run(folder: Path, *arguments: str) -> str:
        done = subprocess.run(["aws", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.differs("initial")
def test_it_is_deployed_from_dist_by_the_aws_cli_and_its_schedule_runs_it(
    dist: Path, cloud: Cloud, dns: DnsServer, aws: Callable[..., str], tmp_path: Path
) -> None:
    folder = tmp_path / "download"
    shutil.copytree(dist, folder)
    vpc, subnets = cloud.create_network()
    dns.answer(HOSTNAME, "10.0.1.10")
    parameters = {
        "CodeS3Bucket": "releases",
        "Hostname": HOSTNAME,
        "Port": "5432",
        "VpcId": vpc,
        "SubnetIds": ",".join(subnets),
        "AllowedPrincipals": "arn:aws:iam::123456789012:root",
        "DnsServers": dns.address,
    }

    aws(folder, "s3", "mb", "s3://releases")
    aws(folder, "s3", "cp", ARCHIVE, "s3://releases/")
    options = ["--template-file", "template.yaml", "--stack-name", "packaged", "--s3-bucket", "releases"]
    overrides = [f"{name}={value}" for name, value in parameters.items()]
    aws(
        folder,
        *("cloudformation", "deploy", *options, "--capabilities", "CAPABILITY_IAM"),
        *("--parameter-overrides", *overrides),
    )

    stack = Deployment(cloud, "packaged")
    group = TargetGroup(stack.outputs["TargetGroupArn"], 5432)
    followed = {"10.0.1.10:5432"}
    wait_for(
        "the schedule to run it", lambda: True if set(cloud.targets(group)) == followed else None, SCHEDULE_SECONDS
    )
    reply = stack.invoke({}).reply
    assert (reply["version"], reply["groups"][0]["outcome"]) == (VERSION, "in_sync")
    assert COMMIT in stack.log(200)
    assert stack.outputs["ServiceName"].startswith("com.amazonaws.vpce.")


def test_make_deploy_takes_the_function_from_a_package(
    dist: Path, cloud: Cloud, dns: DnsServer, tmp_path: Path
) -> None:
    vpc, subnets = cloud.create_network()
    parameters = tmp_path / "from-package.json"
    values = {"Hostname": HOSTNAME, "Port": 5432, "VpcId": vpc, "SubnetIds": subnets}
    parameters.write_text(json.dumps({**values, "DnsServers": dns.address}))
    forbidden = tmp_path / "bin"
    forbidden.mkdir()
    for name in ("cargo", "rustc"):
        (forbidden / name).write_text("#!/bin/sh\necho nothing is to be built >&2\nexit 1\n")
        (forbidden / name).chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{forbidden}:{os.environ['PATH']}",
        "AWS_ENDPOINT_URL": cloud.endpoint,
        "__SAM_CLI_APP_DIR": str(tmp_path / "sam"),
    }
    command = ["make", "--silent", "deploy", "STACK=from-package", f"PARAMETERS={parameters}", "CONFIRM=no"]
    for package, code, said in ((dist, 0, "for x86_64"), (tmp_path, 2, "nothing for x86_64")):
        done = subprocess.run(
            [*command, f"PACKAGE={package}"], cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert said in done.stdout + done.stderr
    assert Deployment(cloud, "from-package").invoke({"dry_run": True}).reply["version"] == VERSION
