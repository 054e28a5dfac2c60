"""What a history is made of: the rows that a server gives out, kept so that only newer ones are asked for."""

from __future__ import annotations

import math
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


class Rows:
    """The rows of one run so far. What is added again replaces what was there, in whatever order it comes."""

    def __init__(self) -> None:
        self._records: dict[int, RoundRecord] = {}
        self._metrics: dict[str, dict[tuple[int, str], MetricRow]] = {}
        self._events: dict[int, Event] = {}
        self._last_version = _LATE_VERSIONS - 1
        self.members: tuple[MemberRow, ...] = ()
        """As they were given last, in the order of joining."""

    def add(
        self, records: Iterable[Plain | RoundRecord] = (), metrics: Iterable[Plain] = (), events: Iterable[Plain] = ()
    ) -> None:
        """Take pages of round records, metrics, events. Raises `msgspec.ValidationError` for what is none."""
        for record in msgspec.convert(list(records), list[RoundRecord]):
            self._records[record.round] = record
        for metric in msgspec.convert(list(metrics), list[MetricRow]):
            self._metrics.setdefault(metric.name, {})[metric.version, metric.member] = metric
            self._last_version = max(self._last_version, metric.version)
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
        return self._metrics.get(name, {}).values()

    @property
    def events(self) -> list[Event]:
        """In the order in which they happened."""
        return [self._events[number] for number in sorted(self._events)]
