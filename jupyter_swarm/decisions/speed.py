"""How fast a peer computes, from how long its leases take.

A lease of c samples takes a + c / speed seconds: the fixed part a (messages there and back, the first touch of the
batch) would make peers with small leases look slow, their next leases smaller, and so on. So the two are told apart,
by least squares over recent leases.
"""

from __future__ import annotations

import msgspec

MEMORY = 0.9
"""The weight of a lease falls by this with each later one."""
MOST_GAIN = 4.0
"""The fixed part explains at most so much: the speed is at most so many times samples / seconds."""


class Timing(msgspec.Struct):
    """Weighted sums over a peer's leases: their number, samples c, seconds t, c², c·t."""

    leases: float = 0.0
    samples: float = 0.0
    seconds: float = 0.0
    samples_squared: float = 0.0
    samples_seconds: float = 0.0

    def add(self, samples: int, seconds: float) -> None:
        """One more lease."""
        self.leases = MEMORY * self.leases + 1.0
        self.samples = MEMORY * self.samples + samples
        self.seconds = MEMORY * self.seconds + seconds
        self.samples_squared = MEMORY * self.samples_squared + samples * samples
        self.samples_seconds = MEMORY * self.samples_seconds + samples * seconds

    @property
    def speed(self) -> float:
        """Samples per second, the fixed part left out; 0.0 before the first lease."""
        if not self.leases:
            return 0.0
        plain = self.samples / max(self.seconds, 1e-6)
        variance = self.leases * self.samples_squared - self.samples**2
        covariance = self.leases * self.samples_seconds - self.samples * self.seconds
        if variance <= 1e-9 * self.samples**2 or covariance <= 0:
            return plain
        return min(max(variance / covariance, plain), MOST_GAIN * plain)
