"""`python -m jupyter_swarm.cli.watch [--remove DIR] -- COMMAND …`: a command that cannot outlive whoever started it.

Standard input is a pipe from the process that started this one. When it closes, however that process went, the command
and everything it has started end within seconds. An operating system closes the pipe also after a SIGKILL, and gives
it to nobody else, which a process id may be. A line on the pipe asks for the same end and leaves DIR; without one DIR
is removed, because nobody is left to do it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import psutil

_POLL_SECONDS = 0.5
_GRACE_SECONDS = 5.0
_ASKED_SECONDS = 8.0
_KILL_SECONDS = 2.0


def main() -> int:
    """Run the command; returns its exit code, or 0 if it was made to end."""
    parser = argparse.ArgumentParser(prog="watch")
    parser.add_argument("--remove", type=Path)
    parser.add_argument("command", nargs="+")
    chosen = parser.parse_args()
    released: list[str] = []
    over = threading.Event()

    def listen() -> None:
        released.append(sys.stdin.readline())
        over.set()

    threading.Thread(target=listen, daemon=True).start()
    child = psutil.Popen(chosen.command, stdin=subprocess.DEVNULL)
    family = {child.pid: psutil.Process(child.pid)}
    while child.poll() is None and not over.is_set():
        remember(family)
        over.wait(_POLL_SECONDS)
    end(family, _ASKED_SECONDS if released not in ([], [""]) else _GRACE_SECONDS)
    if chosen.remove and released == [""]:
        shutil.rmtree(chosen.remove, ignore_errors=True)
    return 0 if over.is_set() else int(child.returncode)


def remember(family: dict[int, psutil.Process]) -> None:
    """Add the descendants of all in `family`: those of a process that is gone can no longer be asked for."""
    for process in list(family.values()):
        try:
            family.update({descendant.pid: descendant for descendant in process.children(recursive=True)})
        except psutil.Error:
            continue


def end(family: dict[int, psutil.Process], grace: float) -> None:
    """Ask the first to end, with what it has started; kill what is left `grace` seconds later."""
    remember(family)
    first = next(iter(family.values()))
    try:
        first.terminate()
        first.wait(grace)
    except psutil.Error:
        pass
    remember(family)
    left = [process for process in family.values() if process.is_running()]
    for process in left:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(left, _KILL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
