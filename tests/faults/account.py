"""After a class has ended: is everything accounted for? From the store alone, with the session's own arithmetic."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch

from jupyter_swarm.coordinator.numbers import Numbers
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.records import Range, RoundRecord
from jupyter_swarm.protocol.rules import SGD
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.store.paths import StoreRoot

from .classroom import Classroom
from .member_process import computer_of


class Account(msgspec.Struct, frozen=True):
    """What is right is zero, or true. `relative_error`: of the way that the parameters went, against computing every
    recorded round again in one process; a contribution that was merged into some shards only would show there."""

    rounds: int
    generations: int
    digests_equal: bool
    rounds_lost: int
    rounds_torn: int
    samples_lost: int
    samples_twice: int
    samples_skipped: int
    relative_error: float

    def problems(self) -> list[str]:
        """What is wrong, in words."""
        wrong = [f"{name}: {getattr(self, name)}" for name in ("rounds_lost", "rounds_torn", "samples_lost",
                 "samples_twice") if getattr(self, name)]  # fmt: skip
        if not self.digests_equal:
            wrong.append("digests differ")
        if not self.relative_error <= 1e-4:
            wrong.append(f"relative error {self.relative_error:.2g}")
        return wrong


def account_for(room: Classroom, digests: dict[str, str], before: list[RoundRecord]) -> Account:
    """Check a class whose server has ended. `digests`: of the live peers; `before`: the records at the last crash."""
    return account_of(room, room.recorded(), digests, before)


def account_of(
    room: Classroom, records: list[RoundRecord], digests: dict[str, str], before: list[RoundRecord]
) -> Account:
    """The same, of `records`."""
    last = records[-1]
    taken = sorted(range_ for record in records for c in record.contributors for range_ in c.leases)
    skipped = sorted(skip.range for record in records for skip in record.skips)
    pool = list(last.book.pool)
    view = stored_view(room, StoreRoot(room.storage).session(room.session), last.round)
    lost, twice = _gaps_and_overlaps([*taken, *skipped, *pool], last.book.cursor)
    return Account(
        rounds=last.round,
        generations=last.generation,
        digests_equal=set(digests.values()) == {view.digest_all()},
        rounds_lost=sum(old not in records for old in before) + (last.round - len(records)),
        rounds_torn=sum(not _whole(room, record) for record in records),
        samples_lost=lost,
        samples_twice=twice,
        samples_skipped=sum(stop - start for start, stop in skipped),
        relative_error=_error_of(room, records, view),
    )


def stored_view(room: Classroom, folder: Path, version: int) -> FlatVector:
    """The parameters that a server would go on from."""
    numbers = Numbers(room.spec, room.layout, folder, 0)
    numbers.restore(version, None)
    return numbers.view()


def _gaps_and_overlaps(ranges: list[Range], cursor: int) -> tuple[int, int]:
    """How many of the positions [0, cursor) no range covers, and how many are covered again."""
    lost = twice = position = 0
    for start, stop in sorted(ranges):
        lost += max(start - position, 0)
        twice += max(min(position, stop) - start, 0)
        position = max(position, stop)
    return lost + max(cursor - position, 0), twice + max(position - cursor, 0)


def _whole(room: Classroom, record: RoundRecord) -> bool:
    """Whether a round owned exactly its target, and every trained shard took its step from all of it."""
    weights = [sum(stop - start for start, stop in c.leases) for c in record.contributors]
    shards = [digest.shard for digest in record.digests]
    return (
        weights == [c.weight for c in record.contributors]
        and sum(weights) == record.samples == record.target
        and shards == [shard.index for shard in room.layout.trained_shards]
    )


def _error_of(room: Classroom, records: list[RoundRecord], view: FlatVector) -> float:
    """‖stored − computed again‖ / ‖stored − first‖ of the parameters."""
    computer = computer_of(room.recipe, room.settings.seed, room.size.shard_elements)
    rule = room.recipe.strategy.rule(room.recipe.optimizer)
    assert isinstance(rule.optimizer, SGD)
    again = FlatVector.of(room.layout, computer.model)
    parameters = again.sections[Stream.PARAMETERS]
    first = parameters.clone()
    velocity = torch.zeros_like(first)
    for record in records:
        computer.worker.start(again)
        for contributor in record.contributors:
            for start, stop in contributor.leases:
                computer.gradient(start, stop)
        gradient = computer.worker.finish()[0].sections[Stream.PARAMETERS] / record.samples
        if rule.clip_norm:
            gradient *= min(1.0, rule.clip_norm / (float(gradient.norm()) + 1e-6))
        velocity = rule.optimizer.momentum * velocity + gradient
        parameters -= record.learning_rate * velocity
    stored = view.sections[Stream.PARAMETERS]
    return float(torch.linalg.vector_norm(stored - parameters) / torch.linalg.vector_norm(stored - first))
