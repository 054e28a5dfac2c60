"""The history of a training alone: the same Dataset, with one peer."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import xarray as xr

from ..protocol.records import BookState, Contributor, RoundRecord
from ..protocol.rules import SessionSpec
from .dataset import dataset_of
from .rows import HELD_OUT, Plain, Rows

NAME = "alone"


class Entry(msgspec.Struct, frozen=True):
    """One round. loss_sum over loss_count samples; samples: of this round, samples_done: so far; seconds: it took;
    steps: inner ones; unix_time: when it ended."""

    round: int
    loss_sum: float
    loss_count: int
    samples: int
    samples_done: int
    seconds: float
    learning_rate: float
    unix_time: float
    strategy: str = ""
    inner_learning_rate: float = 0.0
    steps: int = 0


def build_alone(
    entries: Iterable[Plain], evaluations: Iterable[Plain], spec: SessionSpec, *, source: str = "", device: str = ""
) -> xr.Dataset:
    """entries: as `Entry`. evaluations: round, count and means by name. The peer is called "alone". The time between
    two rounds (an evaluation, a pause) counts for none of them."""
    rounds = msgspec.convert(list(entries), list[Entry])
    rows = Rows()
    rows.add([_record(entry) for entry in rounds], list(_metrics(evaluations)))
    rows.set_members([{"member": NAME, "name": NAME, "device": device}])
    return dataset_of(rows, spec, source=source, seconds=[entry.seconds for entry in rounds])


def _record(entry: Entry) -> RoundRecord:
    before = entry.samples_done - entry.samples
    part = Contributor(
        1, 1, NAME, entry.samples, ((before, entry.samples_done),), entry.round - 1, entry.loss_sum, entry.loss_count,
        {}, steps=entry.steps, seconds=entry.seconds,
    )  # fmt: skip
    return RoundRecord(
        "", 1, entry.round, 1, (part,), entry.samples, (), BookState(entry.samples_done, (), entry.samples_done), (),
        entry.learning_rate, entry.samples, entry.unix_time, strategy=entry.strategy,
        inner_learning_rate=entry.inner_learning_rate,
    )  # fmt: skip


def _metrics(evaluations: Iterable[Plain]) -> Iterable[Plain]:
    for one in evaluations:
        for name, mean in one.items():
            if name not in ("round", "count"):
                row = {"version": one["round"], "member": "", "name": f"{HELD_OUT}{name}"}
                yield {**row, "mean": mean, "count": one["count"]}
