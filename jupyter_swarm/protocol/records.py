"""The round record: the durable account of one committed round, and the sample ranges it speaks of.

A round is committed when its record is on disk, not before. The record says who contributed, in which order, with
which weight and samples, what came out (digests), and where the data set's bookkeeping stands afterwards: a restart
needs the last record and the packets, nothing else. Format version 1: a field may be added with a default, none may
change its meaning.
"""

from __future__ import annotations

import msgspec

RECORD_VERSION = 1

Range = tuple[int, int]
"""[start, stop) of sample positions, counted through all epochs: position p is sample p % n of epoch p // n, in that
epoch's order."""


class Skip(msgspec.Struct, frozen=True):
    """Samples that were given up because their lease failed twice."""

    range: Range
    reason: str


class BookState(msgspec.Struct, frozen=True):
    """Where the data set's bookkeeping stands between two rounds: all positions before `cursor` are consumed,
    skipped, or in `pool` (given back, to be leased again first). own: samples of peers' own data, which have no
    position."""

    cursor: int = 0
    pool: tuple[Range, ...] = ()
    consumed: int = 0
    skipped: int = 0
    own: int = 0

    @property
    def done(self) -> int:
        """Samples that all rounds together were made of: what schedules go by."""
        return self.consumed + self.own


class Contributor(msgspec.Struct, frozen=True):
    """One accepted contribution. `number` is its place in the merging order; norms are keyed by stream name.

    own: samples of the peer's own data (beside those of `leases`). steps: inner steps. seconds: from the grant of its
    leases until they were done; waiting: seconds since the peer's contribution before in which it had nothing to do,
    and for what, in words; bytes: of the upload.
    """

    number: int
    contribution: int
    peer: str
    weight: int
    leases: tuple[Range, ...]
    base_version: int
    loss_sum: float
    loss_count: int
    norms: dict[str, float]
    own: int = 0
    steps: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    waited_for: str = ""
    bytes: int = 0


class ShardDigest(msgspec.Struct, frozen=True):
    """What the commit did to one shard: size and SHA-256 of its packet's payloads, in the order of the chunks."""

    shard: int
    bytes: int
    sha256: str


class RoundRecord(msgspec.Struct, frozen=True):
    """One committed round: the step from version `round - 1` to version `round`. `strategy`: the name of its rule's
    strategy; `inner_learning_rate`: of its inner steps, if it is a round of steps; `up`, `down`: the gradient's codecs,
    and `codecs_because` why the session has chosen them, if it was it."""

    session: str
    generation: int
    round: int
    attempt: int
    contributors: tuple[Contributor, ...]
    samples: int
    skips: tuple[Skip, ...]
    book: BookState
    digests: tuple[ShardDigest, ...]
    learning_rate: float
    target: int
    unix_time: float
    format: int = RECORD_VERSION
    strategy: str = ""
    inner_learning_rate: float = 0.0
    up: str = ""
    down: str = ""
    codecs_because: str = ""

    @property
    def mean_loss(self) -> float:
        """Mean training loss over the round's samples (nan without any)."""
        count = sum(contributor.loss_count for contributor in self.contributors)
        return sum(contributor.loss_sum for contributor in self.contributors) / count if count else float("nan")
