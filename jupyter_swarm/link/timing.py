"""When to send a heartbeat, when silence means loss, when to try again: pure functions of the time they are given."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec


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
