"""How fast this peer is, as it reports to those who watch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from ..protocol.messages import Progress

_EVERY_SECONDS = 2.0


class Stopwatch:
    """Seconds spent computing and waiting. `samples` counts all samples whose gradients were computed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.samples = 0
        self._clock = clock
        self._since = clock()
        self._samples_before = 0
        self._computing = 0.0

    @contextmanager
    def computing(self, samples: int) -> Iterator[None]:
        """Around the computation of `samples` samples."""
        start = self._clock()
        try:
            yield
            self.samples += samples
        finally:
            self._computing += self._clock() - start

    def report(self) -> Progress | None:
        """What happened since the last report; None if that was less than two seconds ago."""
        seconds = self._clock() - self._since
        if seconds < _EVERY_SECONDS:
            return None
        report = Progress(
            samples_per_second=(self.samples - self._samples_before) / seconds,
            computing=self._computing,
            waiting=max(seconds - self._computing, 0.0),
            memory=psutil.Process().memory_info().rss,
        )
        self._since += seconds
        self._samples_before = self.samples
        self._computing = 0.0
        return report
