"""The demo itself, smaller: to its end, interrupted, and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cli.processes import Run, command, gone, wait_until

pytestmark = pytest.mark.timeout(240)


def test_everybody_has_the_same_numbers_and_every_sample_is_accounted_for(run: Run, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = run("demo", "--rounds", "60", "--seed", "3", "--report", "report.json", seconds=200, TMPDIR=str(temporary))
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads((tmp_path / "report.json").read_text())
    assert facts["rounds"] == 60
    assert facts["held_out_accuracy"] > 0.9
    assert facts["digests_equal"]
    assert len(facts["digests"]) == 4  # three live peers and the server
    assert len(set(facts["digests"].values())) == 1
    accounting = facts["accounting"]
    assert accounting["exact"]
    assert accounting["consumed"] == 60 * 128
    assert accounting["drawn"] == accounting["consumed"] + accounting["skipped"] + accounting["waiting"]
    assert facts["killed"]["peer"] == "killed"
    assert all(facts["samples_by_peer"].values())
    leased = sum(stop - start for start, stop in facts["killed"]["leased"])
    assert sum(part["stop"] - part["start"] for part in facts["killed"]["taken"]) == leased
    assert "killed" not in {part["peer"] for part in facts["killed"]["taken"]}
    assert 0 < facts["killed"]["round"] < facts["late_joined_in_round"] <= 60
    assert (tmp_path / facts["figure"]).read_bytes().startswith(b"\x89PNG")
    assert list(temporary.iterdir()) == []


@pytest.fixture
def training(environment: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo whose kernels are in the session."""
    (tmp_path / "temporary").mkdir()
    demo = subprocess.Popen(
        command("demo"), env=environment | {"TMPDIR": str(tmp_path / "temporary")}, cwd=tmp_path,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert demo.stdout is not None
    for line in demo.stdout:
        if "joined" in line:
            break
    assert demo.poll() is None
    yield demo
    demo.kill()
    demo.stdout.close()
    demo.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither signal")
@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_nothing_is_left_when_the_demo_ends_early(training: subprocess.Popen[str], tmp_path: Path, number: str) -> None:
    family = psutil.Process(training.pid).children(recursive=True)
    assert sum("ipykernel" in " ".join(process.cmdline()) for process in family) == 4
    os.kill(training.pid, getattr(signal, number))
    assert wait_until(lambda: all(gone(process) for process in family), 10)
    assert wait_until(lambda: list((tmp_path / "temporary").iterdir()) == [], 5)
    assert training.wait(10) == (130 if number == "SIGINT" else -getattr(signal, number))
