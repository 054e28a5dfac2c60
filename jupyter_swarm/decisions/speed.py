"""How fast a peer computes, from how long its leases take.

Seconds are those from grant to done, so they hold whatever slows a peer down. They also hold a fixed cost that does
not grow with the lease (messages there and back), which makes peers with small leases look slow, their next leases
smaller, and so on until one of two equal peers has nearly all. Two things keep that from happening: speeds are means
over many leases, and shares grow with a power of the speed that is a little below one, which pulls equal peers back to
equal shares and costs little where peers really differ.
"""

from __future__ import annotations

import math

import msgspec

MEMORY = 0.9
"""The weight of a lease falls by this with each later one."""
PULL = 0.9


class Timing(msgspec.Struct):
    """Weighted sums over a peer's leases."""

    samples: float = 0.0
    seconds: float = 0.0

    def add(self, samples: int, seconds: float) -> None:
        """One more lease."""
        self.samples = MEMORY * self.samples + samples
        self.seconds = MEMORY * self.seconds + max(seconds, 1e-6)

    @property
    def speed(self) -> float:
        """Samples per second, 0.0 before the first lease."""
        return self.samples / self.seconds if self.seconds else 0.0


def weight(speed: float) -> float:
    """What a peer's share of the work is proportional to."""
    return math.pow(speed, PULL)
