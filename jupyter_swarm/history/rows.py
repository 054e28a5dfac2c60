"""What a history is made of: the rows that a server gives out, kept so that only newer ones are asked for."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ..protocol.records import RoundRecord
from ..store.rows import Event
from .rounds import Names, Round, joined, round_of

HELD_OUT = "held_out_"
"""How the names of the held-out metrics begin."""
_LATE_VERSIONS = 10
"""An evaluation of a version may be reported while the rounds after it go on: so many versions are asked for again."""

Plain = Mapping[str, Any]


class MetricRow(msgspec.Struct, frozen=True):
    """A mean over `count` samples at a version, of one member or of all (member ''). None: it is not a number."""

    version: int
    member: str
    name: str
    mean: float | None
    count: int

    @property
    def value(self) -> float:
        return math.nan if self.mean is None else self.mean


class MemberRow(msgspec.Struct, frozen=True):
    """Somebody who was in the session; `device` as far as it is known. Times: seconds since 1970, 0 if unknown. muted:
    the instructor wants no curve of it to be seen; `name` is then not its own."""

    member: str
    name: str
    role: str = "peer"
    joined: float = 0.0
    last_seen: float = 0.0
    device: str = ""
    muted: bool = False


class _Means(msgspec.Struct):
    """One metric at one version, of the members at these places."""

    members: tuple[int, ...] = ()
    means: array[float] = array("d")
    counts: array[int] = array("q")

    def items(self) -> Iterable[tuple[int, tuple[float, int]]]:
        """Member -> mean and count."""
        return zip(self.members, zip(self.means, self.counts, strict=True), strict=True)


class Rows:
    """The rows of one run so far. What is added again replaces what was there, in whatever order it comes."""

    def __init__(self) -> None:
        self.peers = Names()
        """The ids of all who contributed or are in a metric ('': all together), by their places in the rounds."""
        self.reasons = Names()
        self._rounds: dict[int, Round] = {}
        self._metrics: dict[str, dict[int, _Means]] = {}
        self._crowds: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._events: dict[int, Event] = {}
        self._last_version = _LATE_VERSIONS - 1
        self._stride, self._thinned = 1, 0
        self.members: tuple[MemberRow, ...] = ()
        """As they were given last, in the order of joining."""

    def add(
        self, records: Iterable[Plain | RoundRecord] = (), metrics: Iterable[Plain] = (), events: Iterable[Plain] = ()
    ) -> None:
        """Take pages of round records, metrics, events. Raises `msgspec.ValidationError` for what is none."""
        for record in msgspec.convert(list(records), list[RoundRecord]):
            if record.round > self._thinned:
                self._rounds[record.round] = round_of(record, self.peers, self.reasons)
        pages: dict[tuple[str, int], dict[int, tuple[float, int]]] = {}
        for row in msgspec.convert(list(metrics), list[MetricRow]):
            if row.version > self._thinned or not row.version:
                pages.setdefault((row.name, row.version), {})[self.peers.place(row.member)] = (row.value, row.count)
        for (name, version), found in pages.items():
            versions = self._metrics.setdefault(name, {})
            versions[version] = self._means({**dict(versions.get(version, _NOTHING).items()), **found})
            self._last_version = max(self._last_version, version)
        for event in msgspec.convert(list(events), list[Event]):
            self._events[event.number] = event

    def set_members(self, members: Iterable[Plain]) -> None:
        """Who was in the session, all of them."""
        self.members = tuple(msgspec.convert(list(members), list[MemberRow]))

    def thin(self, most: int) -> None:
        """Have about `most` rounds at most: older ones are counted together with those beside them, as evenly as can
        be. An evaluation is then one of the last round of them."""
        if len(self._rounds) <= most:
            return
        self._thinned = max(self.last_round - _LATE_VERSIONS, 0)
        while len(self._rounds) > most and self._stride <= self.last_round:
            self._rounds = {one.round: one for one in joined(self.rounds, self._stride, self._thinned)}
            if len(self._rounds) > 3 * most // 4:
                self._stride *= 2
        ends = sorted(self._rounds)
        for name, versions in self._metrics.items():
            self._metrics[name] = self._gathered(versions, ends, add=not name.startswith(HELD_OUT))

    def _gathered(self, versions: dict[int, _Means], ends: list[int], *, add: bool) -> dict[int, _Means]:
        """At the rounds that are left: sums, or of several evaluations the last."""
        found: dict[int, _Means] = {}
        for version in sorted(versions):
            end = ends[bisect_left(ends, version)] if 0 < version <= self._thinned else version
            found[end] = self._sum(found[end], versions[version]) if add and end in found else versions[version]
        return found

    def _sum(self, one: _Means, other: _Means) -> _Means:
        sums = dict(one.items())
        for member, (mean, count) in other.items():
            before, counted = sums.get(member, (0.0, 0))
            total = counted + count
            sums[member] = ((before * counted + mean * count) / total if total else mean, total)
        return self._means(sums)

    def _means(self, found: dict[int, tuple[float, int]]) -> _Means:
        # Most versions have the same members.
        members = self._crowds.setdefault(tuple(found), tuple(found))
        means, counts = zip(*found.values(), strict=True)
        return _Means(members, array("d", means), array("q", counts))

    @property
    def last_round(self) -> int:
        """Records after it are missing."""
        return max(self._rounds, default=0)

    @property
    def last_version(self) -> int:
        """Metrics of versions after it may be missing or have changed."""
        return self._last_version - _LATE_VERSIONS

    @property
    def last_event(self) -> int:
        """Events whose number is above are missing."""
        return max(self._events, default=0)

    @property
    def rounds(self) -> list[Round]:
        """By number."""
        return [self._rounds[round] for round in sorted(self._rounds)]

    @property
    def names(self) -> list[str]:
        """Of the metrics, sorted."""
        return sorted(self._metrics)

    def metrics(self, name: str) -> Iterable[MetricRow]:
        """Those of one name, in no order."""
        peers = self.peers.texts
        for version, one in self._metrics.get(name, {}).items():
            for member, (mean, count) in one.items():
                yield MetricRow(version, peers[member], name, None if math.isnan(mean) else mean, count)

    @property
    def events(self) -> list[Event]:
        """In the order in which they happened."""
        return [self._events[number] for number in sorted(self._events)]


_NOTHING = _Means()
