"""The function: built by cargo, served by `cargo lambda watch`, invoked by `cargo lambda invoke`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.cloud import Cloud
from local.dns import DnsServer
from local.process import LOOPBACK, ROOT, Failure, Process, free_port, listening, running, wait_for

EVENTS = ROOT / "events"
# More than any run takes: `cargo lambda invoke` itself waits for ever for a function that ended at its start.
INVOKE_SECONDS = 90


def build() -> None:
    """Builds what `cargo lambda watch` will run, with cargo's own progress on the terminal."""
    # Not subprocess.run, which leaves the compilers behind when it is interrupted.
    with running("cargo build", ["cargo", "build", "--locked"]) as process:
        if (code := process.popen.wait()) != 0:
            raise Failure(f"cargo build ended with status {code}")


@dataclass(frozen=True)
class Invocation:
    """What came of an invocation: a reply, or the message of a function error."""

    reply: dict[str, Any] | None
    error: str | None

    @property
    def group(self) -> dict[str, Any]:
        """The reply about the first target group; most events here have one."""
        if self.reply is None:
            raise Failure(f"the invocation failed: {self.error}")
        group: dict[str, Any] = self.reply["groups"][0]
        return group


class Function:
    """The function as `cargo lambda watch` serves it."""

    def __init__(self, port: int, process: Process) -> None:
        self._port = port
        self._process = process

    def log(self) -> str:
        """The end of what the function and cargo wrote."""
        return self._process.tail()

    def invoke(self, event: Path | dict[str, Any]) -> Invocation:
        """Sends an event: a file, or an object of one's own."""
        payload = ["--data-file", str(event)] if isinstance(event, Path) else ["--data-ascii", json.dumps(event)]
        at = ["--invoke-address", LOOPBACK, "--invoke-port", str(self._port)]
        try:
            done = subprocess.run(
                ["cargo", "lambda", "invoke", "bootstrap", *at, *payload, "--output-format", "json"],
                cwd=ROOT,
                # Otherwise the message is drawn in a box, wrapped in the middle of names.
                env={**os.environ, "NO_GRAPHICS": "1"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=INVOKE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Failure(f"no reply from the function within {INVOKE_SECONDS} s") from None
        if done.returncode == 0:
            return Invocation(json.loads(done.stdout), None)
        # A function error has a type, which is shown as a code; that cargo lambda itself failed has none.
        message, code, _ = done.stderr.partition("diagnostic code:")
        if not code:
            raise Failure(f"cargo lambda invoke failed: {done.stderr.strip()}")
        message = message.strip().removeprefix("Error: ").removesuffix("Diagnostic severity: error")
        return Invocation(None, message.strip())


@contextmanager
def serve(cloud: Cloud, dns: DnsServer, work: Path, environments: int = 1, **env: str) -> Iterator[Function]:
    """Runs the function against the local cloud and DNS, with these environment variables of its own besides.

    As many invocations as there are execution environments run at the same time.
    """
    port = free_port()
    command = ["cargo", "lambda", "watch", "--ignore-changes", "--locked"]
    command += ["--invoke-address", LOOPBACK, "--invoke-port", str(port), "--concurrency", str(environments)]
    env = {"AWS_ENDPOINT_URL": cloud.endpoint, "DNS_SERVERS": dns.address, **env}
    with running("cargo lambda watch", command, work / f"function-{port}.log", env) as process:
        wait_for("cargo lambda watch to listen", lambda: listening(port), 60, process)
        try:
            yield Function(port, process)
        except Failure as failure:
            raise Failure(f"{failure}{process.tail()}") from None
