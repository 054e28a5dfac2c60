"""How fast a peer computes, from how long its leases take.

A lease of c samples takes a + c / speed seconds: the fixed part a (messages there and back, the first touch of the
batch) would make peers with small leases look slow, their next leases smaller, and so on. So the two are told apart,
by least squares over recent leases, with the usual time for a sample as prior: where messages take so long that a
peer's own speed cannot be seen, all get equal shares.
"""

from __future__ import annotations

import msgspec

MEMORY = 0.97
"""The weight of a lease falls by this with each later one."""
PRIOR = 0.1
"""The prior weighs as much as a tenth of a lease whose size differs from the mean by the mean."""
MOST = 4.0
"""A peer is at most so many times as fast as usual, or as it certainly is, until its leases show more."""


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

    def speed(self, usual: float) -> float:
        """Samples per second, the fixed part left out; `usual` is what the others reach (0.0: unknown).

        0.0 before the first lease.
        """
        if not self.leases:
            return 0.0
        certain = self.samples / max(self.seconds, 1e-6)
        mean = self.samples / self.leases
        prior = PRIOR * mean * mean
        variance = self.samples_squared - self.samples * mean + prior
        covariance = self.samples_seconds - self.seconds * mean + prior / (usual or certain)
        most = MOST * max(usual, certain)
        return min(max(variance / covariance, certain), most) if covariance > 0 else most
