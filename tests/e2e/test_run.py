"""`make run` as a user sees it: its exit status, and that it leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from local.__main__ import demonstrate
from local.deployment import SCHEDULE_SECONDS
from local.process import ROOT, Failure, alive, descendants, wait_for
from local.scenario import HOSTNAME, World

DEMO = [sys.executable, "-u", "-m", "local"]


# What a failover brings is held by test_consumer.py each time.
@pytest.mark.nightly
@pytest.mark.usefixtures("packaged")
def test_it_succeeds_on_two_screens() -> None:
    done = subprocess.run(DEMO, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Everything did what it should" in done.stdout
    assert re.search(r"All \d{3,} acknowledged rows are there", done.stdout), done.stdout
    lines = done.stdout.splitlines()
    assert len(lines) <= 100
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("the function watches", signal.SIGINT),
        pytest.param("Creating a VPC", signal.SIGTERM, marks=pytest.mark.nightly),
        pytest.param("Failover back", signal.SIGHUP, marks=pytest.mark.nightly),
    ],
)
@pytest.mark.usefixtures("packaged")
def test_an_interruption_at_any_moment_leaves_no_process_behind(moment: str, number: signal.Signals) -> None:
    with subprocess.Popen(DEMO, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if moment in line:
                break
        family = descendants(demo.pid)
        demo.send_signal(number)
        _, errors = demo.communicate(timeout=30)
    assert demo.returncode == 128 + number, errors
    assert "Interrupted" in errors
    assert family
    wait_for("the children to end", lambda: True if not alive(family) else None, 5)


@pytest.mark.nightly
@pytest.mark.usefixtures("packaged")
def test_a_step_that_fails_stops_everything_and_shows_the_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(seen: World) -> None:
        seen.dns.fail(HOSTNAME, "SERVFAIL")
        wait_for("a run that fails", lambda: seen.cloud.metrics(seen.group)["Failures"][1] or None, SCHEDULE_SECONDS)
        raise Failure("not what it should be")

    monkeypatch.setattr(World, "fail_over", fails)
    before = alive(descendants(os.getpid()))
    with pytest.raises(Failure, match="(?s)not what it should be.*The last lines of the function's log.*SERVFAIL"):
        demonstrate(tmp_path)
    assert alive(descendants(os.getpid())) <= before


def test_it_says_what_is_missing() -> None:
    done = subprocess.run(DEMO, cwd=ROOT, capture_output=True, text=True, env={"PATH": ""}, timeout=60, check=False)
    assert done.returncode == 1
    assert "install Rust" in done.stderr
