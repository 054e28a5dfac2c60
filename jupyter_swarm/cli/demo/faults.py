"""What happens to the demo's kernels from outside: one is slowed down, one is killed. By their process ids alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

import psutil

_AIMS = 200
_SETTLE_SECONDS = 0.05


class Slowed:
    """`with Slowed(process)`: a slower computer. The process is stopped most of the time, `stopped` seconds for each
    `running` seconds that it may run."""

    def __init__(self, process: psutil.Process, running: float = 0.003, stopped: float = 0.012) -> None:
        self._process = process
        self._running = running
        self._stopped = stopped
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._alternate, name="swarm-slow", daemon=True)

    def _alternate(self) -> None:
        try:
            while not self._over.wait(self._running):
                self._process.suspend()
                self._over.wait(self._stopped)
                self._process.resume()
        except psutil.Error:
            return

    def __enter__(self) -> Slowed:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()


def kill_at_work(process: psutil.Process, works: Callable[[], bool]) -> bool:
    """SIGKILL `process` while it holds a lease; whether it did.

    works: asks the server. The process is stopped before the server is asked again, so that its answer still holds
    when the signal comes; if the process has nothing to lose just then, it goes on.
    """
    for _ in range(_AIMS):
        if not works():
            continue
        process.suspend()
        time.sleep(_SETTLE_SECONDS)  # what it had sent by then has arrived
        if works():
            process.kill()
            return True
        process.resume()
    process.kill()
    return False
