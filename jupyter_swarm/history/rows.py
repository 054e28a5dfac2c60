"""What a history is made of: the rows that a server gives out, kept so that only newer ones are asked for."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ..protocol.records import RoundRecord
from ..store.rows import Event

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
    """One metric at one version: in a large class a row each would take most of the memory."""

    members: tuple[str, ...] = ()
    means: array[float] = array("d")
    counts: array[int] = array("q")

    def with_rows(self, rows: list[MetricRow], known: dict[tuple[str, ...], tuple[str, ...]]) -> _Means:
        """With these, too. known: tuples of members that are there already; most versions have the same."""
        found = dict(zip(self.members, zip(self.means, self.counts, strict=True), strict=True))
        found |= {sys.intern(row.member): (row.value, row.count) for row in rows}
        members = known.setdefault(tuple(found), tuple(found))
        means, counts = zip(*found.values(), strict=True)
        return _Means(members, array("d", means), array("q", counts))


class Rows:
    """The rows of one run so far. What is added again replaces what was there, in whatever order it comes."""

    def __init__(self) -> None:
        self._records: dict[int, RoundRecord] = {}
        self._metrics: dict[str, dict[int, _Means]] = {}
        self._crowds: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._events: dict[int, Event] = {}
        self._last_version = _LATE_VERSIONS - 1
        self.members: tuple[MemberRow, ...] = ()
        """As they were given last, in the order of joining."""

    def add(
        self, records: Iterable[Plain | RoundRecord] = (), metrics: Iterable[Plain] = (), events: Iterable[Plain] = ()
    ) -> None:
        """Take pages of round records, metrics, events. Raises `msgspec.ValidationError` for what is none."""
        for record in msgspec.convert(list(records), list[RoundRecord]):
            self._records[record.round] = _kept(record)
        pages: dict[tuple[str, int], list[MetricRow]] = {}
        for metric in msgspec.convert(list(metrics), list[MetricRow]):
            pages.setdefault((metric.name, metric.version), []).append(metric)
        for (name, version), rows in pages.items():
            versions = self._metrics.setdefault(name, {})
            versions[version] = versions.get(version, _NOTHING).with_rows(rows, self._crowds)
            self._last_version = max(self._last_version, version)
        for event in msgspec.convert(list(events), list[Event]):
            self._events[event.number] = event

    def set_members(self, members: Iterable[Plain]) -> None:
        """Who was in the session, all of them."""
        self.members = tuple(msgspec.convert(list(members), list[MemberRow]))

    @property
    def last_round(self) -> int:
        """Records after it are missing."""
        return max(self._records, default=0)

    @property
    def last_version(self) -> int:
        """Metrics of versions after it may be missing or have changed."""
        return self._last_version - _LATE_VERSIONS

    @property
    def last_event(self) -> int:
        """Events whose number is above are missing."""
        return max(self._events, default=0)

    @property
    def records(self) -> list[RoundRecord]:
        """By round."""
        return [self._records[round] for round in sorted(self._records)]

    @property
    def names(self) -> list[str]:
        """Of the metrics, sorted."""
        return sorted(self._metrics)

    def metrics(self, name: str) -> Iterable[MetricRow]:
        """Those of one name, in no order."""
        for version, one in self._metrics.get(name, {}).items():
            for member, mean, count in zip(one.members, one.means, one.counts, strict=True):
                yield MetricRow(version, member, name, None if math.isnan(mean) else mean, count)

    @property
    def events(self) -> list[Event]:
        """In the order in which they happened."""
        return [self._events[number] for number in sorted(self._events)]


_NOTHING = _Means()
_NO_NORMS: dict[str, float] = {}


def _kept(record: RoundRecord) -> RoundRecord:
    """Without what no history shows, and each peer's id once."""
    replace, same = msgspec.structs.replace, sys.intern
    return replace(
        record,
        contributors=tuple(
            replace(one, peer=same(one.peer), waited_for=same(one.waited_for), norms=_NO_NORMS)
            for one in record.contributors
        ),
    )
