"""Runs a command that ends with whoever started it: `python -m jupyter_swarm.peer.leash COMMAND ARGUMENT…`.

Standard input is the leash. When it is closed, on purpose or because the process at its other end is gone, however it
went, the command is asked to end, with all that it has started, and made to a few seconds later.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import psutil

_GRACE_SECONDS = 3.0
NOT_FOUND = 127


def main(command: list[str]) -> int:
    """Returns the command's exit code, `NOT_FOUND` if there is no such command."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", flush=True)
        return NOT_FOUND
    threading.Thread(target=_hold, args=(process,), daemon=True).start()
    return process.wait()


def _hold(process: subprocess.Popen[bytes]) -> None:
    # Not sys.stdin, which the interpreter locks while it ends.
    while os.read(0, 1 << 10):
        pass
    try:
        started = psutil.Process(process.pid)
        family = [started, *started.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for each in family:
        _tell(each, psutil.Process.terminate)
    _, left = psutil.wait_procs(family[1:], _GRACE_SECONDS)
    for each in left:
        _tell(each, psutil.Process.kill)
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _tell(process: psutil.Process, what: object) -> None:
    try:
        what(process)  # type: ignore[operator]
    except psutil.NoSuchProcess:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
