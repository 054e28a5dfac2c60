"""What the two processes of a rehearsal tell each other: what the simulated students are to do, and what happens."""

from __future__ import annotations

import msgspec

from ..protocol.layout import Layout
from ..protocol.rules import RoundRule, SessionSettings, steps_of


class Pace(msgspec.Struct, frozen=True):
    """How long computing takes: `sample_seconds` as measured, cut so that a round has at most `round_seconds` of it."""

    sample_seconds: float
    round_seconds: float

    def of(self, rule: RoundRule, settings: SessionSettings, peers: int) -> tuple[float, float]:
        """Seconds of computing that each of `peers` has in a round, as measured and as it is played."""
        seconds = self.sample_seconds * samples_each(rule, settings, peers)
        return seconds, min(seconds, self.round_seconds)


def samples_each(rule: RoundRule, settings: SessionSettings, peers: int) -> float:
    """The samples that each of `peers`, all as fast, computes in a round by `rule`."""
    if rule.work == "steps":
        return float(steps_of(rule, settings) * rule.inner_batch)
    return (settings.target_batch or rule.target_batch) / peers


class Assignment(msgspec.Struct, frozen=True):
    """What the students are to do in a session of their own. owner: the headers of whoever may delete it; secret: of an
    invite for all; agreed: the recipe's SHA-256; samples: (training, held out)."""

    server: str
    session: str
    owner: dict[str, str]
    secret: str
    agreed: str
    peers: int
    layout: Layout
    samples: tuple[int, int]
    settings: SessionSettings
    pace: Pace
    join_seconds: float

    def __repr__(self) -> str:
        return f"Assignment({self.server!r}, {self.session!r}, {self.peers} peers, secrets hidden)"


class Joined(msgspec.Struct, frozen=True, tag=True):
    """One student is in after so many seconds, for which it fetched `fetched` bytes before it connected."""

    seconds: float
    fetched: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """One student could not join, or (`joined`) was put out later."""

    reason: str
    joined: bool


class Advanced(msgspec.Struct, frozen=True, tag=True):
    """The first student is at `version`, made by `strategy`; the bytes of all students until now, of which the class
    has sent `up` and received `down`; `memory` is of this process. time: of a clock that only goes forward."""

    version: int
    strategy: str
    time: float
    up: int
    down: int
    memory: int


Report = Joined | Failed | Advanced
