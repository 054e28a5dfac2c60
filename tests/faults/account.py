"""After a class has ended: is everything accounted for? From the store alone, with the session's own arithmetic."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch

from jupyter_swarm.coordinator.numbers import Numbers
from jupyter_swarm.peer.compute import Computer
from jupyter_swarm.protocol.errors import SwarmError
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.manifest import read_manifest
from jupyter_swarm.protocol.records import Contributor, Range, RoundRecord
from jupyter_swarm.protocol.rules import SGD, RoundRule
from jupyter_swarm.shards.gradients import GradientSum
from jupyter_swarm.shards.pseudo_gradient import PseudoGradient
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.store.blobs import Blobs
from jupyter_swarm.store.paths import StoreRoot
from jupyter_swarm.store.rows import StoredCheckpoint

from .classroom import Classroom
from .member_process import computer_of


class Account(msgspec.Struct, frozen=True):
    """What is right is zero, or true. `relative_error`: of the way that the parameters went, against computing every
    recorded round again in one process; a contribution that was merged into some shards only would show there. None
    where peers keep what they do not send, which no record has. `late`: how many contributions counted for a later
    round than the one that they began with."""

    rounds: int
    generations: int
    digests_equal: bool
    rounds_lost: int
    rounds_torn: int
    samples_lost: int
    samples_twice: int
    samples_skipped: int
    relative_error: float | None
    checkpoints_torn: int
    late: int = 0

    def problems(self) -> list[str]:
        """What is wrong, in words."""
        wrong = [f"{name}: {getattr(self, name)}" for name in ("rounds_lost", "rounds_torn", "samples_lost",
                 "samples_twice", "checkpoints_torn") if getattr(self, name)]  # fmt: skip
        if not self.digests_equal:
            wrong.append("digests differ")
        if self.relative_error is not None and not self.relative_error <= 1e-4:
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
        late=sum(c.base_version < record.round - 1 for record in records for c in record.contributors),
        samples_lost=lost,
        samples_twice=twice,
        samples_skipped=sum(stop - start for start, stop in skipped),
        relative_error=_error_of(room, records, view),
        checkpoints_torn=sum(not _complete(room, checkpoint) for checkpoint in room.checkpoints()),
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
    """Whether a round owned exactly its target, or the samples of the steps that were made for it, and every trained
    shard took its step from all of it."""
    rule = room.spec.rule_of(record.round)
    weights = [sum(stop - start for start, stop in c.leases) for c in record.contributors]
    shards = [digest.shard for digest in record.digests]
    if rule.work == "steps":
        fits = all(_fits(record, c, rule) for c in record.contributors)
    else:
        fits = sum(weights) == record.target
    return (
        fits
        and weights == [c.weight for c in record.contributors]
        and sum(weights) == record.samples
        and shards == [shard.index for shard in room.layout.trained_shards]
    )


def _complete(room: Classroom, checkpoint: StoredCheckpoint) -> bool:
    """Whether all files of a checkpoint are there, as its manifest has them."""
    blobs = Blobs(StoreRoot(room.storage).blobs)
    try:
        for entry in read_manifest(blobs.read(checkpoint.manifest)).files:
            blobs.read(entry.sha256)
    except SwarmError:
        return False
    return True


def _fits(record: RoundRecord, contributor: Contributor, rule: RoundRule) -> bool:
    """Whether a contribution has the steps that its leases are made in, and is no later than it may be."""
    made = sum(-(-(stop - start) // rule.inner_batch) for start, stop in contributor.leases)
    late = record.round - 1 - contributor.base_version
    return contributor.steps == made and 0 <= late <= rule.staleness


def _error_of(room: Classroom, records: list[RoundRecord], view: FlatVector) -> float | None:
    """‖stored − computed again‖ / ‖stored − first‖ of the parameters."""
    if any(stream.feedback for record in records for stream in room.spec.rule_of(record.round).streams):
        return None
    computer = computer_of(room.recipe, room.settings.seed, room.size.shard_elements)
    again = FlatVector.of(room.layout, computer.model)
    versions = [again.sections[Stream.PARAMETERS].clone()]
    rates = [record.inner_learning_rate for record in records]
    velocity = torch.zeros_like(versions[0])
    for record in records:
        rule = room.spec.rule_of(record.round)
        assert isinstance(rule.optimizer, SGD)
        computer.follow(rule, record.round)
        if rule.work == "steps":
            gradient = _steps_again(computer, again, record, versions, rates)
        else:
            gradient = _gradient_again(computer, again, record, versions)
        if rule.clip_norm:
            gradient *= min(1.0, rule.clip_norm / (float(gradient.norm()) + 1e-6))
        velocity = rule.optimizer.momentum * velocity + gradient
        versions.append(versions[-1] - record.learning_rate * velocity)
    stored = view.sections[Stream.PARAMETERS]
    return float(torch.linalg.vector_norm(stored - versions[-1]) / torch.linalg.vector_norm(stored - versions[0]))


def _gradient_again(
    computer: Computer, view: FlatVector, record: RoundRecord, versions: list[torch.Tensor]
) -> torch.Tensor:
    """The mean gradient of a round of samples."""
    work = computer.worker
    assert isinstance(work, GradientSum)
    view.sections[Stream.PARAMETERS].copy_(versions[record.round - 1])
    work.start(view)
    for contributor in record.contributors:
        for start, stop in contributor.leases:
            computer.gradient(start, stop)
    return work.finish()[0].sections[Stream.PARAMETERS] / record.samples


def _steps_again(
    computer: Computer, view: FlatVector, record: RoundRecord, versions: list[torch.Tensor], rates: list[float]
) -> torch.Tensor:
    """The mean of a round's pseudo-gradients: the steps that every contributor made on its leases, in their order, from
    the version that it began with."""
    work = computer.worker
    assert isinstance(work, PseudoGradient)
    mean = torch.zeros_like(versions[0])
    for contributor in record.contributors:
        view.sections[Stream.PARAMETERS].copy_(versions[contributor.base_version])
        work.start(view)
        for start, stop in contributor.leases:
            for _ in computer.steps(start, stop, rates[contributor.base_version]):
                pass
        mean += contributor.weight / record.samples * work.finish(view)[0].sections[Stream.PARAMETERS]
    return mean
