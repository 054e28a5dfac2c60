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
    """`with Slowed(process)`: a slower computer. The process may run for `running` seconds, and is then stopped for
    `times` as long as it did: a busy machine may let it run longer than it was to."""

    def __init__(self, process: psutil.Process, running: float = 0.003, times: float = 7.0) -> None:
        self._process = process
        self._running = running
        self._times = times
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._alternate, name="swarm-slow", daemon=True)

    def _alternate(self) -> None:
        try:
            since = time.monotonic()
            while not self._over.wait(self._running):
                self._process.suspend()
                self._over.wait(self._times * (time.monotonic() - since))
                self._process.resume()
                since = time.monotonic()
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

    works: asks the server.
    """
    hit = any(works() and stop_at_work(process, works) for _ in range(_AIMS))
    process.kill()
    return hit


def stop_at_work(process: psutil.Process, works: Callable[[], bool]) -> bool:
    """Stop `process` if it holds a lease, which the server is asked by `works`; whether it did.

    The process is stopped before the server is asked, so that its answer still holds when something else is done to it;
    if it has nothing to lose just then, it goes on.
    """
    process.suspend()
    time.sleep(_SETTLE_SECONDS)  # what it had sent by then has arrived
    if works():
        return True
    process.resume()
    return False
