"""A virtual clock, and a link that many share."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

Do = Callable[..., Any]
_DONE = 1e-6
"""Bytes that are nothing: what sums of floats leave over."""


class Clock:
    """What happens later, in order; `now` in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Do, tuple[Any, ...]]] = []
        self._numbers = count()

    def after(self, seconds: float, do: Do, *arguments: Any) -> None:
        """Call `do` in so many seconds."""
        heapq.heappush(self._due, (self.now + seconds, next(self._numbers), do, arguments))

    def step(self) -> bool:
        """Let time pass until the next thing happens; False if there is none."""
        if not self._due:
            return False
        self.now, _, do, arguments = heapq.heappop(self._due)
        do(*arguments)
        return True


class Transfer:
    """Bytes on their way over a shared link. Its shared part is over when each has got `until` bytes."""

    __slots__ = ("began", "done", "link", "lost", "own", "until")

    def __init__(self, link: SharedLink, until: float, began: float, own: float, done: Do) -> None:
        self.link, self.until, self.began, self.own, self.done = link, until, began, own, done
        self.lost = False

    def __lt__(self, other: Transfer) -> bool:
        return self.until < other.until


class SharedLink:
    """One direction of the server's link: all that is under way gets the same share of `rate` (bytes a second). What a
    peer's own link takes longer for arrives as that lets it, while others already use what it leaves."""

    def __init__(self, clock: Clock, rate: float) -> None:
        self._clock, self._rate = clock, rate
        self._each = 0.0
        """Bytes that whatever is under way since the start would have got."""
        self._since = 0.0
        self._queue: list[Transfer] = []
        self._lost = 0
        self._planned = 0

    def send(self, size: float, own: float, done: Do) -> Transfer:
        """Begin to send; `done` is called when the last byte is there. own: seconds that the other end's own link
        takes at least."""
        self._advance()
        transfer = Transfer(self, self._each + size, self._clock.now, own, done)
        heapq.heappush(self._queue, transfer)
        self._plan()
        return transfer

    def lose(self, transfer: Transfer) -> None:
        """The other end is gone: the rest need not be sent."""
        if transfer.lost or transfer.until <= self._each:
            return
        self._advance()
        transfer.lost = True
        self._lost += 1
        self._plan()

    def _advance(self) -> None:
        under_way = len(self._queue) - self._lost
        if under_way:
            self._each += (self._clock.now - self._since) * self._rate / under_way
        self._since = self._clock.now

    def _plan(self) -> None:
        while self._queue and self._queue[0].lost:
            heapq.heappop(self._queue)
            self._lost -= 1
        self._planned += 1
        if self._queue:
            share = self._rate / (len(self._queue) - self._lost)
            seconds = max(self._queue[0].until - self._each, 0.0) / share
            self._clock.after(seconds, self._arrive, self._planned)

    def _arrive(self, planned: int) -> None:
        if planned != self._planned:
            return
        self._advance()
        self._each = max(self._each, self._queue[0].until)
        while self._queue and self._queue[0].until <= self._each + _DONE:
            transfer = heapq.heappop(self._queue)
            if transfer.lost:
                self._lost -= 1
                continue
            rest = transfer.began + transfer.own - self._clock.now
            if rest > 0:
                self._clock.after(rest, transfer.done)
            else:
                transfer.done()
        self._plan()
