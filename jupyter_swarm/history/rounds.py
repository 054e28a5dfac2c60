"""The rounds of a history, in columns: what each was, and what every peer did in it.

In a large class an object for each peer and round would take most of a kernel's memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ..protocol.records import Contributor, RoundRecord

Array = npt.NDArray[Any]

PART = np.dtype(
    [
        ("peer", "i4"), ("reason", "i4"), ("samples", "i8"), ("own", "i8"), ("loss_sum", "f8"), ("loss_count", "i8"),
        ("steps", "i8"), ("late", "i4"), ("seconds", "f8"), ("waiting", "f8"),
    ]
)  # fmt: skip
"""What one peer contributed. `peer` and `reason` (what it waited for) are places in `Names`; the others as in
`Contributor`; samples: own ones, too; late: rounds."""
_SUMS = ("samples", "own", "loss_sum", "loss_count", "steps", "seconds", "waiting")


class Names:
    """Texts that occur again and again, each by its place among those that differ."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def place(self, text: str) -> int:
        """The same for the same text."""
        return self._places.setdefault(text, len(self._places))

    @property
    def texts(self) -> list[str]:
        """By place."""
        return list(self._places)


class Round(msgspec.Struct, frozen=True, eq=False):
    """A committed round, or several that follow each other with one strategy, as one: its number is the last one's, and
    `before` that of the round before the first. parts: dtype `PART`, of a single round one for each contribution."""

    round: int
    before: int
    unix_time: float
    learning_rate: float
    inner_learning_rate: float
    strategy: str
    samples_done: int
    contributions: int
    skipped: int
    parts: Array

    @property
    def mean_loss(self) -> float:
        """Of the samples (nan without any)."""
        count = self.parts["loss_count"].sum()
        return float(self.parts["loss_sum"].sum() / count) if count else float("nan")


def round_of(record: RoundRecord, peers: Names, reasons: Names) -> Round:
    """What a history keeps of a record."""
    parts = [_part(one, record.round, peers, reasons) for one in record.contributors]
    return Round(
        record.round, record.round - 1, record.unix_time, record.learning_rate, record.inner_learning_rate,
        record.strategy, record.book.done, len(parts),
        sum(skip.range[1] - skip.range[0] for skip in record.skips), np.array(parts, PART),
    )  # fmt: skip


def _part(one: Contributor, round: int, peers: Names, reasons: Names) -> tuple[Any, ...]:
    samples = sum(stop - start for start, stop in one.leases) + one.own
    return (
        peers.place(one.peer), reasons.place(one.waited_for), samples, one.own, one.loss_sum, one.loss_count, one.steps,
        round - 1 - one.base_version, one.seconds, one.waiting,
    )  # fmt: skip


def joined(rounds: Iterable[Round], stride: int, until: int) -> list[Round]:
    """As few as possible, in the same order: rounds up to `until` whose numbers lie between the same multiples of
    `stride` become one, unless the strategy changes or one is missing between them. rounds: by number."""
    groups: list[list[Round]] = []
    for one in rounds:
        last = groups[-1][-1] if groups else None
        if (
            last is not None
            and one.round <= until
            and (one.round - 1) // stride == (last.round - 1) // stride
            and one.before == last.round
            and one.strategy == last.strategy
        ):
            groups[-1].append(one)
        else:
            groups.append([one])
    return [_together(group) if len(group) > 1 else group[0] for group in groups]


def _together(rounds: list[Round]) -> Round:
    parts = np.concatenate([one.parts for one in rounds])
    peers, places = np.unique(parts["peer"], return_inverse=True)
    sums = np.zeros(len(peers), PART)
    sums["peer"] = peers
    for name in _SUMS:
        np.add.at(sums[name], places, parts[name])
    sums["late"] = np.iinfo(np.int32).min
    np.maximum.at(sums["late"], places, parts["late"])
    # Of the reasons that of the longest wait: of what is assigned to one place, the last stays.
    order = np.argsort(parts["waiting"], kind="stable")
    sums["reason"][places[order]] = parts["reason"][order]
    return msgspec.structs.replace(
        rounds[-1], before=rounds[0].before, parts=sums, contributions=sum(one.contributions for one in rounds),
        skipped=sum(one.skipped for one in rounds),
    )  # fmt: skip
