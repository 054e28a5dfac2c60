"""How fast the rounds of a session were and how many bytes they took, strategy by strategy."""

from __future__ import annotations

import math
from itertools import groupby

import msgspec

from .findings import Stored


class Rate(msgspec.Struct, frozen=True):
    """Rounds `first` to `last` by the clock on the wall, evaluations between them included. tokens: predictions."""

    first: int
    last: int
    seconds: float
    samples: int
    tokens: int

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else math.nan


class Phase(msgspec.Struct, frozen=True):
    """Rounds in a row of one strategy. rate: but for the session's first round, whose beginning nobody recorded. bytes:
    up and down, of all peers, counted on the server's sockets. inner_steps: of each peer, round by round."""

    strategy: str
    first: int
    last: int
    rate: Rate
    tokens: int
    bytes: int
    inner_steps: dict[str, list[int]]

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / self.tokens if self.tokens else math.nan


def rate(stored: Stored, first: int, last: int) -> Rate:
    """Of rounds `first` to `last`; the round before must be on record."""
    by_round = {record.round: record for record in stored.records}
    samples = sum(by_round[number].samples for number in range(first, last + 1))
    seconds = by_round[last].unix_time - by_round[first - 1].unix_time if last >= first else 0.0
    return Rate(first, last, seconds, samples, samples * stored.predictions)


def phases(stored: Stored) -> list[Phase]:
    """In the order of the rounds."""
    moved: dict[int, float] = {}
    for metric in stored.metrics:
        if metric.name in ("bytes_up", "bytes_down"):
            moved[metric.version] = moved.get(metric.version, 0.0) + metric.sum
    found = []
    for strategy, group in groupby(stored.records, lambda record: record.strategy):
        records = list(group)
        first, last = records[0].round, records[-1].round
        steps: dict[str, list[int]] = {name: [0] * len(records) for name in stored.names.values()}
        for row, record in enumerate(records):
            for part in record.contributors:
                steps[stored.names[part.peer]][row] += part.steps
        found.append(
            Phase(
                strategy=strategy,
                first=first,
                last=last,
                rate=rate(stored, max(first, 2), last),
                tokens=sum(record.samples for record in records) * stored.predictions,
                bytes=round(sum(moved.get(record.round, 0.0) for record in records)),
                inner_steps={name: made for name, made in steps.items() if any(made)},
            )
        )
    return found
