"""Child processes that are sure to be stopped, and waiting with a deadline."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = "127.0.0.1"
# The tools installed beside the running Python.
TOOLS = Path(sys.executable).parent

# The function's own environment variables.
SETTINGS = {
    "ALLOWED_CIDRS",
    "ALLOWED_HOSTNAMES",
    "BINDINGS",
    "DISCOVERY",
    "DNS_SERVERS",
    "ELB_REQUESTS_PER_SECOND",
    "METRICS",
    "METRICS_NAMESPACE",
    "POLL_INTERVAL_SECONDS",
    "RUST_LOG",
}

T = TypeVar("T")


class Failure(Exception):
    """Something did not do what it should; the message is for the user."""


def isolate() -> None:
    """Makes this process, and so its children, blind to the user's settings for AWS and for the function.

    Without this a profile, an endpoint or a proxy of the user's could send a demo's calls to a real account.
    AWS_LC_ variables are not AWS's: they configure the build of a crate.
    """
    for name in list(os.environ):
        if name in SETTINGS or name.startswith("AWS_") and not name.startswith("AWS_LC_"):
            del os.environ[name]
    os.environ.update(
        AWS_ACCESS_KEY_ID="local",
        AWS_SECRET_ACCESS_KEY="local",
        AWS_REGION="eu-west-1",
        AWS_DEFAULT_REGION="eu-west-1",
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        AWS_EC2_METADATA_DISABLED="true",
        NO_PROXY=LOOPBACK,
        no_proxy=LOOPBACK,
        PATH=f"{TOOLS}{os.pathsep}{os.environ['PATH']}",
    )


def free_port() -> int:
    """A TCP port that was free a moment ago: for servers that cannot be told to choose one themselves."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def wait_for(
    what: str, attempt: Callable[[], T | None], seconds: float, process: Process | None = None, pause: float = 0.05
) -> T:
    """Polls until `attempt` returns something; gives up at the deadline, or when `process` has ended."""
    deadline = time.monotonic() + seconds
    while True:
        result = attempt()
        if result is not None:
            return result
        if process is not None and (code := process.popen.poll()) is not None:
            raise Failure(f"{process.name} ended with status {code} while waiting for {what}{process.tail()}")
        if time.monotonic() > deadline:
            raise Failure(f"{what}: still not there after {seconds:.0f} s{process.tail() if process else ''}")
        time.sleep(pause)


def in_background(call: Callable[[], T]) -> Future[T]:
    """Begins a call whose end nobody must wait for: an executor's thread would keep an interrupted program alive."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def listening(port: int) -> bool | None:
    """True if something accepts connections there; None, for wait_for, if not yet."""
    with suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return None


class Process:
    """A program in a session of its own, so that it and what it starts can be stopped as one."""

    def __init__(
        self,
        name: str,
        command: list[str],
        log: Path | None = None,
        env: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.name = name
        self.log = log
        # Without a log the program writes where we do: to the user's terminal.
        with open(log, "wb") if log else nullcontext() as output:
            try:
                self.popen = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env={**os.environ, **(env or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT if log else None,
                    start_new_session=True,
                    **options,
                )
            except FileNotFoundError:
                raise Failure(f"{command[0]} is not installed, or not on the PATH") from None

    def tail(self, lines: int = 20) -> str:
        """The end of the log, to be put behind an error message."""
        if self.log is None or not (text := self.log.read_text(errors="replace").strip()):
            return ""
        return f"\nThe last lines of {self.name}:\n" + "\n".join(f"  | {x}" for x in text.splitlines()[-lines:])

    def stop(self) -> None:
        """Ends the program and everything below it: asked first, forced after five seconds."""
        # cargo-lambda puts its children into groups of their own, so the group alone is not everything.
        family = descendants(self.popen.pid)
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(timeout=5)
        with suppress(Failure):
            wait_for("its children to end", lambda: True if not alive(family) else None, 2)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        for pid in alive(family):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.popen.wait()


@contextmanager
def running(
    name: str, command: list[str], log: Path | None = None, env: dict[str, str] | None = None
) -> Iterator[Process]:
    """A Process for the length of a `with` block."""
    process = Process(name, command, log, env)
    try:
        yield process
    finally:
        process.stop()


def descendants(ancestor: int) -> set[int]:
    """The ids of all processes below this one."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent in (line.split() for line in table.splitlines())}
    found: set[int] = set()
    generation = {ancestor}
    while generation := {pid for pid, parent in parents.items() if parent in generation}:
        found |= generation
    return found


def alive(pids: set[int]) -> set[int]:
    """Those of the processes that have not ended; one that ended but was not yet waited for has."""
    if not pids:
        return set()
    command = ["ps", "-o", "pid=,stat=", "-p", ",".join(map(str, pids))]
    table = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return {int(pid) for pid, state in (line.split() for line in table.splitlines()) if not state.startswith("Z")}
