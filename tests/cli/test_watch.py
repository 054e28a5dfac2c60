"""A watched command ends with whoever started it, however that process went."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

from tests.cli.processes import gone, wait_until

# A process, and one that it has started; they print their ids and stay.
_FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""
_STARTER = f"""
import subprocess, sys
watcher = subprocess.Popen(
    [sys.executable, "-m", "jupyter_swarm.cli.watch", "--remove", sys.argv[1], "--", sys.executable, "-c", {_FAMILY!r}],
    stdin=subprocess.PIPE,
)
watcher.wait()
"""

WATCH = [sys.executable, "-m", "jupyter_swarm.cli.watch"]


def start(code: str, *arguments: str) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    starter = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pids = [int(text) for text in starter.stdout.readline().split()]
    return starter, [psutil.Process(pid) for pid in pids]


def test_everything_ends_when_the_starter_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    starter, family = start(_STARTER, str(folder))
    watcher = psutil.Process(starter.pid).children()
    starter.kill()
    starter.communicate()
    assert len(family) == 2
    assert wait_until(lambda: all(map(gone, [*family, *watcher])), 60)
    assert not folder.exists()


def test_on_request_everything_ends_and_the_folder_stays(tmp_path: Path) -> None:
    watcher = subprocess.Popen(
        [*WATCH, "--remove", str(tmp_path), "--", sys.executable, "-c", _FAMILY],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert watcher.stdout is not None
    family = [psutil.Process(int(text)) for text in watcher.stdout.readline().split()]
    watcher.communicate("stop\n", timeout=60)
    assert watcher.returncode == 0
    assert wait_until(lambda: all(map(gone, family)), 60)
    assert tmp_path.exists()


def test_the_exit_code_is_that_of_the_command() -> None:
    with subprocess.Popen(
        [*WATCH, "--", sys.executable, "-c", "raise SystemExit(7)"],
        stdin=subprocess.PIPE,
    ) as watcher:
        assert watcher.wait(60) == 7
