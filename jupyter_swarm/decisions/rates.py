"""How fast links are, as sums that are kept from one transfer to the next, and what a session chooses codecs by."""

from __future__ import annotations

import msgspec

from ..protocol.rules import Codec

RATE_MEMORY = 0.5
"""The weight of a transfer falls by this with each later one."""
SHARED_MEMORY = 0.9
"""What the server's link has carried is forgotten by so much with each round."""


class Rate(msgspec.Struct):
    """Weighted sums over transfers: each counts less with every later one, and more the longer it took."""

    bytes: float = 0.0
    seconds: float = 0.0

    def add(self, count: int, seconds: float) -> None:
        """One more transfer."""
        self.bytes = RATE_MEMORY * self.bytes + count
        self.seconds = RATE_MEMORY * self.seconds + max(seconds, 1e-6)

    @property
    def rate(self) -> float:
        """Bytes per second, 0.0 before the first transfer."""
        return self.bytes / self.seconds if self.seconds else 0.0


class MeasuredLink(msgspec.Struct):
    """A peer's link as the server has measured it. round_trip: seconds; 0.0: not measured."""

    up: Rate = msgspec.field(default_factory=Rate)
    down: Rate = msgspec.field(default_factory=Rate)
    round_trip: float = 0.0


class ServerLink(msgspec.Struct):
    """One direction of the server's link, which all peers share. rate: bytes per second that it has carried for them
    together, at least; 0.0 while too few moved something in one round to tell. rates, count: of the transfers of the
    round under way, their sum and their number."""

    rates: float = 0.0
    count: int = 0
    rate: float = 0.0

    def add(self, count: int, seconds: float) -> None:
        """A transfer of the round under way."""
        self.rates += count / max(seconds, 1e-6)
        self.count += 1

    def close(self, peers: int) -> None:
        """The round is over, in which so many peers took part, most of them at the same time."""
        if self.count > 1 and 2 * self.count >= peers:
            self.rate = max(peers * self.rates / self.count, SHARED_MEMORY * self.rate)
        self.rates, self.count = 0.0, 0


class Choosing(msgspec.Struct):
    """What the session chooses codecs by. strategy: whose rounds were measured; compute: seconds that a round computes;
    up, down: the server's link. wanted: what the last rounds spoke for, `times` in a row; settled: whether a choice has
    been made. words: why, as of the last round."""

    strategy: str = ""
    compute: float = 0.0
    up: ServerLink = msgspec.field(default_factory=ServerLink)
    down: ServerLink = msgspec.field(default_factory=ServerLink)
    wanted: tuple[Codec, Codec] | None = None
    times: int = 0
    settled: bool = False
    words: str = ""
