"""How fast this peer is, for those who watch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psutil

from ..protocol.messages import Progress

_EVERY_SECONDS = 2.0


class Done(NamedTuple):
    """What was done in some time: samples whose gradients were computed, seconds computing, seconds."""

    samples: int = 0
    computing: float = 0.0
    seconds: float = 0.0

    @property
    def waiting(self) -> float:
        """Seconds in which nothing was computed."""
        return max(self.seconds - self.computing, 0.0)

    def minus(self, other: Done) -> Done:
        return Done(self.samples - other.samples, self.computing - other.computing, self.seconds - other.seconds)


class Stopwatch:
    """Adds up what this peer does. `computing` goes around computations, `count` takes what they made. free_memory: how
    many bytes are free where it computes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, free_memory: Callable[[], int] = lambda: 0) -> None:
        self._free_memory = free_memory
        self._clock = clock
        self._start = clock()
        self._samples = 0
        self._computing = 0.0
        self._since: float | None = None
        self._reported = Done()

    @property
    def done(self) -> Done:
        """All since the beginning; of a computation under way what `count` was told."""
        now = self._clock()
        computing = self._computing + (0.0 if self._since is None else now - self._since)
        return Done(self._samples, computing, now - self._start)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Around a computation."""
        self._since = start = self._clock()
        try:
            yield
        finally:
            self._computing += self._clock() - start
            self._since = None

    def count(self, samples: int) -> None:
        """So many samples more."""
        self._samples += samples

    def report(self) -> Progress | None:
        """What happened since the last report; None if that was less than two seconds ago."""
        done = self.done
        since = done.minus(self._reported)
        if since.seconds < _EVERY_SECONDS:
            return None
        self._reported = done
        memory = psutil.Process().memory_info().rss
        return Progress(since.samples / since.seconds, since.computing, since.waiting, memory, self._free_memory())
