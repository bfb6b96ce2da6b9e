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
from local.process import ROOT, Failure, alive, descendants, wait_for
from local.scenario import Scenario

DEMO = [sys.executable, "-u", "-m", "local"]


@pytest.mark.differs("initial")
@pytest.mark.usefixtures("packaged")
def test_it_succeeds() -> None:
    done = subprocess.run(DEMO, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Everything did what it should" in done.stdout
    assert re.search(r"followed [0-2]\.\d s after DNS had moved", done.stdout), done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.usefixtures("packaged")
@pytest.mark.parametrize("moment", ["Creating a VPC", "the function watches"])
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


@pytest.mark.usefixtures("packaged")
def test_a_step_that_fails_stops_everything_and_shows_the_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(scenario: Scenario, *_: object) -> None:
        scenario.dns_failure()
        raise Failure("not what it should be")

    monkeypatch.setattr(Scenario, "failover", fails)
    before = alive(descendants(os.getpid()))
    with pytest.raises(Failure, match="(?s)not what it should be.*The last lines of the function's log.*SERVFAIL"):
        demonstrate(tmp_path)
    assert alive(descendants(os.getpid())) <= before


def test_it_says_what_is_missing() -> None:
    done = subprocess.run(DEMO, cwd=ROOT, capture_output=True, text=True, env={"PATH": ""}, timeout=60, check=False)
    assert done.returncode == 1
    assert "install Rust" in done.stderr
