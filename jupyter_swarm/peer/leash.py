"""Runs a command that ends with whoever started it: `python -m jupyter_swarm.peer.leash COMMAND ARGUMENT…`.

Standard input is the leash. When it is closed, on purpose or because the process at its other end is gone, however it
went, the command is asked to end, with all that it has started, and made to a few seconds later.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading

import psutil

_GRACE_SECONDS = 3.0
NOT_FOUND = 127


def main(command: list[str]) -> int:
    """Returns the command's exit code, `NOT_FOUND` if there is no such command."""
    name, *arguments = command
    try:
        # On Windows only `which` finds what is a script, as those that npm installs.
        process = subprocess.Popen([shutil.which(name) or name, *arguments], stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"{name}: {error.strerror}", flush=True)
        return NOT_FOUND
    let_go = threading.Event()
    holding = threading.Thread(target=_hold, args=(process, let_go), daemon=True)
    holding.start()
    code = process.wait()
    if let_go.is_set():  # what the command has started may not have ended with it
        holding.join()
    return code


def _hold(process: subprocess.Popen[bytes], let_go: threading.Event) -> None:
    # Not sys.stdin, which the interpreter locks while it ends.
    while os.read(0, 1 << 10):
        pass
    let_go.set()
    started: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        started = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    for each in started:
        with contextlib.suppress(psutil.Error):
            each.terminate()
    _, left = psutil.wait_procs(started, _GRACE_SECONDS)
    for each in left:
        with contextlib.suppress(psutil.Error):
            each.kill()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
