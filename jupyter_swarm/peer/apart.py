"""Processes of our own beside this one: an interrupt of a cell does not reach them, and they end when this one does,
however that goes, for then their standard input is closed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import Any


def start(module: str, *arguments: str, **pipes: Any) -> subprocess.Popen[bytes]:
    """Run a module of this package, which ends when its standard input does. pipes: as for `Popen`; its output comes
    through a pipe."""
    away: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        away = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    command = [sys.executable, "-m", f"jupyter_swarm.peer.{module}", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **away, **pipes)


def end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Close its standard input; kill it if it has not ended `seconds` later, or at an interrupt."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(seconds)
    except BaseException as error:
        process.kill()
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
