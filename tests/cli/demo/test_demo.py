"""The demo itself, smaller: to its end, interrupted, and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jupyter_swarm.history import open_history
from jupyter_swarm.peer.checkpoints import open_checkpoint
from tests.cli.processes import Run, command, gone, wait_until


def check(facts: dict[str, Any], output: Path, temporary: Path) -> None:
    """What holds for every demo."""
    assert facts["digests_equal"]
    assert len(facts["digests"]) == 4  # three live peers and the server
    assert len(set(facts["digests"].values())) == 1
    accounting = facts["accounting"]
    assert accounting["exact"]
    assert accounting["drawn"] == accounting["consumed"] + accounting["skipped"] + accounting["waiting"]
    assert all(facts["samples_by_peer"].values())
    assert facts["killed"]["peer"] == "killed"
    assert "killed" not in {part["peer"] for part in facts["killed"]["taken"]}
    assert (output / "demo.png").read_bytes().startswith(b"\x89PNG")
    history = open_history(output / "history.nc")
    assert history.sizes["round"] >= facts["rounds"]
    assert set(history.peer.values) == {"host", "slow", "killed", "late"}
    checkpoint = open_checkpoint(output / "checkpoint")
    assert checkpoint.version == facts["rounds"]
    assert facts["kept"]["verified"]
    assert {checkpoint.manifest.view_digest} == set(facts["digests"].values())
    assert list(temporary.iterdir()) == []


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


def test_everybody_has_the_same_numbers_and_every_sample_is_accounted_for(
    run: Run, tmp_path: Path, temporary: Path
) -> None:
    arguments = ["--recipe", "digits", "--rounds", "60", "--seed", "3", "--report", "report.json", "--output", "kept"]
    done = run("demo", *arguments, seconds=200, TMPDIR=str(temporary))
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads((tmp_path / "report.json").read_text())
    check(facts, tmp_path / "kept", temporary)
    assert facts["rounds"] == 60
    assert facts["held_out"]["accuracy"] > 0.9
    assert facts["accounting"]["consumed"] == 60 * 128
    assert facts["alone"] is None
    leased = sum(stop - start for start, stop in facts["killed"]["leased"])
    assert sum(part["stop"] - part["start"] for part in facts["killed"]["taken"]) == leased
    assert 0 < facts["killed"]["round"] < facts["late_joined_in_round"] <= 60


def test_a_language_model_begins_together_goes_local_and_writes(run: Run, tmp_path: Path, temporary: Path) -> None:
    constants = {"SIZE": "tiny", "TEXT": "python", "WARM_ROUNDS": 20, "LOCAL_ROUNDS": 16, "LOCAL_STEPS": 40}
    setting = [word for name, value in constants.items() for word in ("--set", f"{name}={value}")]
    older = tmp_path / "demo-output" / "checkpoint"
    older.mkdir(parents=True)
    (older / "manifest.json").write_text("{}")
    done = run("demo", *setting, seconds=200, TMPDIR=str(temporary), COLUMNS="130")
    assert done.returncode == 0, done.stdout + done.stderr
    output = tmp_path / "demo-output"
    facts = json.loads((output / "report.json").read_text())
    check(facts, output, temporary)
    together, apart = facts["phases"]
    assert (together["strategy"], apart["strategy"]) == ("EveryStep", "LocalUpdates")
    assert (together["last"], apart["first"], apart["last"]) == (20, 21, 36)
    assert facts["bytes_per_token"][0] > 5 * facts["bytes_per_token"][1] > 0
    assert set(apart["inner_steps"]) == {"host", "slow", "killed", "late"}
    assert facts["alone"] > 0
    assert facts["alone_threads"] == 1
    assert facts["late_joined_in_round"] >= 21
    assert facts["goal_met"] is None
    assert facts["held_out"]["loss"] < 3.5
    assert facts["before"] != facts["after"]
    for text in (facts["before"], facts["after"]):
        assert text.startswith("The ")
        assert text in (output / "sample.txt").read_text()
    assert "after 36 rounds" in done.stdout
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= {path.name for path in older.iterdir()}


def test_nothing_of_the_users_is_overwritten(run: Run, tmp_path: Path) -> None:
    mine = tmp_path / "demo-output" / "checkpoint" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    done = run("demo")
    assert done.returncode == 2
    assert "--output" in done.stderr
    assert mine.read_text() == "mine"


@pytest.fixture
def training(environment: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo whose kernels are in the session."""
    (tmp_path / "temporary").mkdir()
    demo = subprocess.Popen(
        command("demo", "--recipe", "digits"), env=environment | {"TMPDIR": str(tmp_path / "temporary")}, cwd=tmp_path,
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
@pytest.mark.parametrize(
    "number", ["SIGINT", *(pytest.param(other, marks=pytest.mark.long) for other in ("SIGKILL", "SIGTERM"))]
)
def test_nothing_is_left_when_the_demo_ends_early(training: subprocess.Popen[str], tmp_path: Path, number: str) -> None:
    family = psutil.Process(training.pid).children(recursive=True)
    assert sum("ipykernel" in " ".join(process.cmdline()) for process in family) == 4
    os.kill(training.pid, getattr(signal, number))
    assert wait_until(lambda: all(gone(process) for process in family), 60)
    assert wait_until(lambda: list((tmp_path / "temporary").iterdir()) == [], 60)
    assert training.wait(60) == (130 if number == "SIGINT" else -getattr(signal, number))
