"""Our own emulation, ministack and moto as places for the checks."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from conformance.facts import FIRST, PORT, Place
from conformance.network import UNCHECKED, Network, network
from local.cloud import ministack, moto
from local.process import ROOT, Failure, running

BINARY = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "emulation"


class Emulation:
    """The strict AWS of the Rust tests, as the support crate serves it."""

    name = "ours"
    zones = ("us-east-1a", "us-east-1b")
    patience = 3.0
    initial_seconds = 5.0
    settle_seconds = 0.0
    ipv6 = "fd00:0:0:1"

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._endpoint = self._line()
        self._clients: dict[str, Any] = {}
        self._made = 0

    def client(self, service: str) -> Any:
        """A client that checks no values."""
        if service not in self._clients:
            config = Config(retries={"total_max_attempts": 1}, **UNCHECKED)
            name = service.removesuffix("-once")
            self._clients[service] = boto3.client(
                name, endpoint_url=self._endpoint, region_name="us-east-1", config=config
            )
        return self._clients[service]

    def group(self, attached: bool = False, ipv6: bool = False) -> str:
        """Makes a target group."""
        self._made += 1
        return self._make({"Group": {"name": f"group-{self._made}", "attached": attached, "ipv6": ipv6}})

    def listening(self) -> tuple[str, int]:
        """To the emulation each target is healthy in the end."""
        return FIRST, PORT

    def throttle(self) -> None:
        """From now on reads have the quota that the documentation gives as an example."""
        self._make({"ReadQuota": [40, 10.0]})

    def _make(self, what: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failure(f"{BINARY.name} of the support crate ended with status {self._process.wait()}")
        return line.strip()


@contextmanager
def ours() -> Iterator[Place]:
    """Builds and runs our emulation, which ends with its input."""
    build = ["cargo", "build", "--locked", "--package", "nlb-hostname-targets-support", "--bin", BINARY.name]
    with running("cargo build", build) as process:
        if (code := process.popen.wait()) != 0:
            raise Failure(f"cargo build ended with status {code}")
    with subprocess.Popen([BINARY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Emulation(process)


@contextmanager
def of_others(name: str, work: Path) -> Iterator[Place]:
    """Runs ministack or moto, with a network in it."""
    run = {"ministack": ministack, "moto": moto}[name]
    with run(work) as cloud, network(Network(name, boto3.Session(), cloud.endpoint), lambda _: None) as place:
        yield place


@contextmanager
def opened(name: str, work: Path) -> Iterator[Place]:
    """A place by its name."""
    with ours() if name == "ours" else of_others(name, work) as place:
        yield place


NAMES = ("ours", "ministack", "moto")
