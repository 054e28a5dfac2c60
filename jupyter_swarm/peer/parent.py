"""A peer that was started by another process ends when that one is gone, however it went."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import psutil

_EVERY_SECONDS = 2.0
_GRACE_SECONDS = 3.0


def end_with(parent: int, leave: Callable[[], object], end: Callable[[int], object] = os._exit) -> threading.Thread:
    """Watch process `parent`; when it is gone, call `leave`, and end this process a few seconds later at most."""
    try:
        watched: psutil.Process | None = psutil.Process(parent)
    except psutil.NoSuchProcess:
        watched = None

    def watch() -> None:
        while watched is not None and _lives(watched):
            time.sleep(_EVERY_SECONDS)
        leaving = threading.Thread(target=leave, name="swarm-leave", daemon=True)
        leaving.start()
        leaving.join(_GRACE_SECONDS)
        end(1)

    thread = threading.Thread(target=watch, name="swarm-parent", daemon=True)
    thread.start()
    return thread


def _lives(process: psutil.Process) -> bool:
    # A process id may be given to another process; psutil compares the times of their start.
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
