"""`make bench`: the size of the release binary, and how long it takes from its start to its first poll for work."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path

from local.process import LOOPBACK, ROOT, isolate

BINARY = ROOT / "target" / "lambda" / "bootstrap" / "bootstrap"
STARTS = 50


class Poll(BaseHTTPRequestHandler):
    """A Lambda Runtime API that notes when work is asked for, and has none."""

    polled = threading.Event()

    def do_GET(self) -> None:
        """The long poll: the process is ended while it waits."""
        Poll.polled.set()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def starts(binary: Path) -> list[float]:
    """Milliseconds from the start of the process to its first poll, for each of STARTS starts."""
    server = HTTPServer((LOOPBACK, 0), Poll)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {
        **os.environ,
        "AWS_LAMBDA_RUNTIME_API": f"{LOOPBACK}:{server.server_port}",
        "AWS_LAMBDA_FUNCTION_NAME": "bench",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        "AWS_LAMBDA_FUNCTION_VERSION": "1",
        "DNS_SERVERS": LOOPBACK,
    }
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


if __name__ == "__main__":
    main()
