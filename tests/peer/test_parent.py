"""A peer that was started as a child does not outlive its parent."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from jupyter_swarm.peer.parent import end_with

CHILD = """
import os, sys, time
from jupyter_swarm.peer.parent import end_with
end_with(int(sys.argv[1]), lambda: time.sleep(600))
print("ready", flush=True)
time.sleep(600)
"""
PARENT = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}, str(os.getpid())], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


def test_when_the_parent_is_killed_the_child_ends_even_if_leaving_hangs() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    _, alive = psutil.wait_procs([child], timeout=60)
    for process in alive:
        if process.status() != psutil.STATUS_ZOMBIE:
            process.kill()
            pytest.fail("the child still ran a minute after its parent was killed")


def test_a_parent_that_is_gone_already_ends_it_at_once() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    ended: list[int] = []
    left: list[bool] = []
    end_with(gone.pid, lambda: left.append(True), ended.append).join(10)
    assert (left, ended) == ([True], [1])
