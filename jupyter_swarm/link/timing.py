"""When to send a heartbeat, when silence means loss, when to try again: pure functions of the time they are given."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec

Measured = Literal["up", "down", "round trip"]
_TRIPS = 5
_NUMBER_BITS = 53
"""What JSON carries exactly."""


class Timing(msgspec.Struct, frozen=True):
    """Seconds. heartbeat: between two of them. silence: nothing heard for so long is a lost connection. handshake:
    longest for TCP, TLS and HTTP together. farewell: longest that closing waits for the other side. first_delay,
    longest_delay: bounds of the wait before the next try. connect: a server that was never reached is given up then.
    """

    heartbeat: float = 20.0
    silence: float = 60.0
    handshake: float = 20.0
    farewell: float = 2.0
    first_delay: float = 0.5
    longest_delay: float = 30.0
    connect: float = 60.0


class Pulse:
    """The heartbeat of one end of a connection. `now` is any clock that only goes forward, in seconds."""

    def __init__(self, timing: Timing, now: float) -> None:
        self._timing = timing
        self._heard = now
        self._next = now + timing.heartbeat

    def heard(self, now: float) -> None:
        """Bytes came from the other end."""
        self._heard = now

    def silent(self, now: float) -> bool:
        """Whether nothing was heard for so long that the other end must be gone."""
        return now - self._heard >= self._timing.silence

    def due(self, now: float) -> bool:
        """Whether to send a heartbeat now; says so once for each."""
        if now < self._next:
            return False
        self._next = now + self._timing.heartbeat
        return True

    def rest(self, now: float) -> float:
        """Seconds until the next heartbeat is due."""
        return max(0.0, self._next - now)


class Found(NamedTuple):
    """What was measured: so many bytes took so many seconds (a round trip: no bytes)."""

    what: Measured
    bytes: int
    seconds: float


class _Question(NamedTuple):
    number: int
    bytes: int
    since: float


class Questions:
    """What one end asks the other to answer at once, to measure the link between them, by its own clock alone.

    An answer repeats a number that was drawn: nobody can give it before the question, and all that was sent ahead of
    it, has arrived. So a link can be made to look slower than it is, but not faster. Of each kind one is under way.
    """

    def __init__(self, draw: Callable[[], int] = lambda: secrets.randbits(_NUMBER_BITS)) -> None:
        self._draw = draw
        self._asked: dict[Measured, _Question] = {}
        self._trips: list[float] = []

    @property
    def round_trip(self) -> float:
        """The shortest of the last few: the others waited behind something. Seconds; 0.0: none is measured."""
        return min(self._trips, default=0.0)

    def ask(self, what: Measured, count: int, since: float) -> int:
        """The number of a question whose answer says that `count` bytes which began to move at `since` are there; 0
        where one of that kind has no answer yet."""
        # A round trip that is lost must not end the measuring of later ones.
        if what in self._asked and what != "round trip":
            return 0
        number = self._draw() or 1
        self._asked[what] = _Question(number, count, since)
        return number

    def answered(self, number: int, count: int, now: float) -> Found | None:
        """What the answer to question `number` tells, which brought `count` bytes; None if nothing was asked so, or
        less was brought than was asked for."""
        what = next((what for what, question in self._asked.items() if question.number == number), None)
        if what is None:
            return None
        question = self._asked.pop(what)
        elapsed = max(now - question.since, 1e-6)
        if what == "round trip":
            self._trips = [*self._trips, elapsed][-_TRIPS:]
            return Found(what, 0, self.round_trip)
        if what == "up" and count < question.bytes:
            return None
        # At most half of it: whoever answers other questions late shall not seem faster for that.
        return Found(what, question.bytes, max(elapsed - self.round_trip, elapsed / 2))


class Backoff:
    """Waits between tries: doubling from `first_delay` to `longest_delay`, each cut by up to a half at random, so
    that a class that lost its server does not come back in one instant."""

    def __init__(self, timing: Timing, draw: Callable[[], float] = random.random) -> None:
        self._timing = timing
        self._draw = draw
        self._tries = 0

    def next(self) -> float:
        """Seconds to wait now."""
        # Any larger exponent only meets the upper bound.
        delay = min(self._timing.longest_delay, self._timing.first_delay * 2.0 ** min(self._tries, 32))
        self._tries += 1
        return delay * (1.0 - 0.5 * self._draw())

    def reset(self) -> None:
        """The connection works: begin again with the shortest wait."""
        self._tries = 0
