"""`make bench`: the size of the release binary, how fast it starts, and what a run takes of memory and processor time.

The template's memory and time-out follow from this. TLS is not in it: the local AWS speaks plain HTTP.
"""

from __future__ import annotations

import json
import os
import platform
import queue
import statistics
import subprocess
import tempfile
import threading
import time
import zipfile
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from io import BytesIO
from itertools import pairwise
from pathlib import Path

from local.cloud import ministack
from local.dns import DnsServer
from local.process import LOOPBACK, ROOT, isolate

BINARY = ROOT / "target" / "lambda" / "bootstrap" / "bootstrap"
STARTS = 50
RUNS = 5
GROUPS = (1, 20, 100)


class Poll(BaseHTTPRequestHandler):
    """A Lambda Runtime API that notes when work is asked for, and has none."""

    polled = threading.Event()

    def do_GET(self) -> None:
        """The long poll: the process is ended while it waits."""
        Poll.polled.set()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


class Runtime(BaseHTTPRequestHandler):
    """A Lambda Runtime API that invokes once for every token in `wanted`, and puts one into `ready` at every poll."""

    protocol_version = "HTTP/1.1"
    wanted: queue.Queue[None]
    ready: queue.Queue[None]

    def do_GET(self) -> None:
        """The long poll."""
        self.ready.put(None)
        self.wanted.get()
        self.send_response(200)
        self.send_header("Lambda-Runtime-Aws-Request-Id", "bench")
        self.send_header("Lambda-Runtime-Deadline-Ms", str(int((time.time() + 30) * 1000)))
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:eu-west-1:000000000000:function:bench")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_POST(self) -> None:
        """The reply."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def runs(binary: Path, groups: int) -> tuple[list[float], list[float], float]:
    """Of RUNS runs with that many target groups: milliseconds of processor time, seconds that each lasted, most MB."""

    class Api(Runtime):
        wanted, ready = queue.Queue(), queue.Queue()

    with tempfile.TemporaryDirectory() as work, ministack(Path(work)) as cloud, closing(DnsServer()) as dns:
        bindings = []
        for number in range(groups):
            hostname = f"db-{number}.example.test"
            dns.answer(hostname, "10.0.1.10")
            group = cloud.create_target_group(f"bench-{number}", 5432)
            bindings.append({"hostname": hostname, "target_group_arn": group.arn})
        server = ThreadingHTTPServer((LOOPBACK, 0), Api)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = environment(server.server_port) | {
            "AWS_ENDPOINT_URL": cloud.endpoint,
            "BINDINGS": json.dumps(bindings),
            "DNS_SERVERS": dns.address,
        }
        process = subprocess.Popen([binary], env=env, stdout=subprocess.DEVNULL)
        Api.ready.get(timeout=10)
        spent = [processor_ms(process.pid)]
        lasted = []
        for _ in range(RUNS):
            began = time.perf_counter()
            Api.wanted.put(None)
            Api.ready.get(timeout=40)
            lasted.append(time.perf_counter() - began)
            spent.append(processor_ms(process.pid))
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.kill()
        process.wait()
        server.shutdown()
    most = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return [after - before for before, after in pairwise(spent)], lasted, most / 1000


def processor_ms(pid: int) -> float:
    """What all threads of the process have used; Linux only."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e6


def environment(port: int) -> dict[str, str]:
    """What Lambda sets, with a Runtime API on that port."""
    return {
        **os.environ,
        "AWS_LAMBDA_RUNTIME_API": f"{LOOPBACK}:{port}",
        "AWS_LAMBDA_FUNCTION_NAME": "bench",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        "AWS_LAMBDA_FUNCTION_VERSION": "1",
    }


def starts(binary: Path) -> list[float]:
    """Milliseconds from the start of the process to its first poll, for each of STARTS starts."""
    server = HTTPServer((LOOPBACK, 0), Poll)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = environment(server.server_port) | {"DNS_SERVERS": LOOPBACK}
    took = []
    for _ in range(STARTS):
        Poll.polled.clear()
        started = time.perf_counter()
        process = subprocess.Popen([binary], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if not Poll.polled.wait(10):
            raise SystemExit("the function did not ask for work within 10 s")
        took.append((time.perf_counter() - started) * 1000)
        process.kill()
        process.wait()
    server.shutdown()
    return took


def main() -> None:
    """Measures, and prints a table."""
    isolate()
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.write(BINARY, "bootstrap")
    took = sorted(starts(BINARY))
    print(f"machine                {platform.machine()}, {os.cpu_count()} CPUs, {time.strftime('%Y-%m-%d')}")
    print(f"binary                 {BINARY.stat().st_size / 1e6:.2f} MB")
    print(f"zip                    {len(packed.getvalue()) / 1e6:.2f} MB")
    print(
        f"start to first poll    median {statistics.median(took):.1f} ms,"
        f" best {took[0]:.1f} ms, worst {took[-1]:.1f} ms, {STARTS} starts"
    )
    for groups in GROUPS:
        (first, *rest), (first_lasted, *rest_lasted), most = runs(BINARY, groups)
        print(
            f"run, {groups:3} groups        {first:.1f} ms of processor time, then {statistics.median(rest):.1f} ms;"
            f" {most:.1f} MB at most; {first_lasted:.2f} s long, then {statistics.median(rest_lasted):.2f} s"
        )


if __name__ == "__main__":
    main()
