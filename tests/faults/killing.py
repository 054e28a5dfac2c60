"""A process that kills itself at a named point. Only test processes do: the package has no such knob."""

from __future__ import annotations

import os
import signal
import threading
import time

from jupyter_swarm.protocol import failpoints


def kill_at(moment: str) -> None:
    """SIGKILL this process when it reaches a point for the n-th time; `moment` is "POINT:n", or "" for never."""
    if not moment:
        return
    point, _, count = moment.partition(":")
    left = int(count)
    lock = threading.Lock()

    def hook(reached: str) -> None:
        nonlocal left
        with lock:
            left -= reached == point
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    failpoints.hook = hook


def end_with_parent() -> None:
    """End when the test run has ended, however it did."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
