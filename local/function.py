"""The function's binary, under an emulation of the Lambda Runtime API."""

from __future__ import annotations

import json
import os
import queue
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from local.cloud import Cloud
from local.dns import DnsServer
from local.process import LOOPBACK, ROOT, Failure, Process, running

EVENTS = ROOT / "events"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
# As the template has it where an RDS event starts a watch.
TIMEOUT_SECONDS = 120


def build() -> Path:
    """Builds the function with the dev profile, with cargo's own progress on the terminal; the binary."""
    # Not subprocess.run, which leaves the compilers behind when it is interrupted.
    with running("cargo build", ["cargo", "build", "--locked"]) as process:
        if (code := process.popen.wait()) != 0:
            raise Failure(f"cargo build ended with status {code}")
    return TARGET / "debug" / "bootstrap"


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


class Environment:
    """An execution environment: one process, and the Runtime API that it asks for work."""

    def __init__(self, command: list[str], env: dict[str, str], log: Path) -> None:
        self._payloads: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[Invocation] = queue.SimpleQueue()
        self._server = ThreadingHTTPServer((LOOPBACK, 0), self._handler())
        self._server.daemon_threads = True
        # A process that is killed while it asks is no error.
        self._server.handle_error = lambda *_: None
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        names = {"MEMORY_SIZE": "128", "NAME": "local", "VERSION": "$LATEST"}
        env = {**env, **{f"AWS_LAMBDA_FUNCTION_{name}": value for name, value in names.items()}}
        env |= {"AWS_LAMBDA_RUNTIME_API": f"{LOOPBACK}:{self._server.server_port}"}
        self.process = Process("the function", command, log, env)

    def invoke(self, payload: str) -> Invocation:
        """Gives the process an event, and waits for what comes of it."""
        self._payloads.put(payload)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            try:
                return self._outcomes.get(timeout=0.1)
            except queue.Empty:
                if (code := self.process.popen.poll()) is not None and self._outcomes.empty():
                    raise Failure(f"the function ended with status {code}{self.process.tail()}") from None
        raise Failure(f"no reply from the function within {TIMEOUT_SECONDS} s")

    def stop(self) -> None:
        """Kills the process, at whatever it is."""
        self.process.popen.kill()
        self.process.stop()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        payloads, outcomes = self._payloads, self._outcomes

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                """The next event: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html."""
                payload = payloads.get().encode()
                deadline = int((time.time() + TIMEOUT_SECONDS) * 1000)
                headers = {"Aws-Request-Id": uuid.uuid4(), "Deadline-Ms": deadline, "Invoked-Function-Arn": "local"}
                self.send_response(200)
                for name, value in headers.items():
                    self.send_header(f"Lambda-Runtime-{name}", str(value))
                self._end(payload)

            def do_POST(self) -> None:
                """The reply, or the error, also of a start that failed."""
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                failed = self.path.endswith("/error")
                outcomes.put(Invocation(None, body["errorMessage"]) if failed else Invocation(body, None))
                self.send_response(202)
                self._end(b"")

            def _end(self, body: bytes) -> None:
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        return Handler


class Function:
    """The function as Lambda runs it: an environment that is idle is used again, and made where none is."""

    def __init__(self, command: list[str], env: dict[str, str], log: Path) -> None:
        self._command, self._env, self._log = command, env, log
        self._all: list[Environment] = []
        self._idle: list[Environment] = []
        self._lock = threading.Lock()

    def log(self) -> str:
        """The end of what the function wrote."""
        return "".join(x.process.tail() for x in self._all)

    def invoke(self, event: Path | dict[str, Any]) -> Invocation:
        """Sends an event: a file, or an object of one's own."""
        payload = event.read_text() if isinstance(event, Path) else json.dumps(event)
        with self._lock:
            environment = self._idle.pop() if self._idle else self._environment()
        invocation = environment.invoke(payload)
        with self._lock:
            if environment in self._all:
                self._idle.append(environment)
        return invocation

    def kill(self) -> None:
        """Kills all environments, with the invocations in them; the next invocation makes a new one."""
        with self._lock:
            killed, self._all, self._idle = self._all, [], []
        for environment in killed:
            environment.stop()

    def _environment(self) -> Environment:
        log = self._log.with_name(f"{self._log.name}-{uuid.uuid4().hex[:8]}.log")
        self._all.append(Environment(self._command, self._env, log))
        return self._all[-1]


@contextmanager
def serve(cloud: Cloud, dns: DnsServer, work: Path, binary: Path | None = None, **env: str) -> Iterator[Function]:
    """The function against the local cloud and DNS, with these environment variables of its own besides."""
    env = {"AWS_ENDPOINT_URL": str(cloud.endpoint), "DNS_SERVERS": dns.address, **env}
    function = Function([str(binary or TARGET / "debug" / "bootstrap")], env, work / "function")
    try:
        yield function
    except Failure as failure:
        raise Failure(f"{failure}{function.log()}") from None
    finally:
        function.kill()
