"""From the last contribution to the commit: holders compute the next version, its record is written, all are told."""

from __future__ import annotations

import math
import statistics

from ..protocol.layout import Stream
from ..protocol.messages import ClipBy, Commit, Install, PartialNorm, Prepare, Prepared, PrepareFailed
from ..protocol.records import Contributor, RoundRecord
from . import evaluation, leases, links, rounds, steps
from .effects import Effect, Note, Tell, TellPeers, WriteRecord
from .events import Recorded, RecordFailed
from .state import State

PREPARE_SECONDS = 300.0
"""Holders that need longer to compute a version are taken for lost."""
FAILED_ATTEMPTS = 3
"""So many attempts at a round fail in the holders' arithmetic before the session pauses and says why."""


def close_if_complete(state: State, now: float) -> list[Effect]:
    """Prepare the next version once the round has all that it waits for in accepted contributions."""
    current = state.round
    if state.phase != "open" or not current.accepted:
        return []
    if not (steps.complete(state, now) if state.in_steps else current.samples_in >= current.target):
        return []
    state.phase = "preparing"
    current.deadline = now + PREPARE_SECONDS
    _note_whom_it_waited_for(state, now)
    order = tuple((number, current.contributions[number].weight) for number in current.accepted)
    prepare = Prepare(
        state.generation, current.number, current.attempt, order, current.samples_in, state.rule.optimizer,
        state.learning_rate, state.rule.clip_norm, _scales(state),
    )  # fmt: skip
    return [Tell(holder, prepare) for holder in state.holding()]


def _scales(state: State) -> tuple[float, ...]:
    """What brings contributions that are larger than the median down to it."""
    if not state.rule.clip_to_median:
        return ()
    norms = [state.round.contributions[number].norms["gradient"] for number in state.round.accepted]
    middle = statistics.median(norms)
    return tuple(min(1.0, middle / norm) if norm else 1.0 for norm in norms)


def _note_whom_it_waited_for(state: State, now: float) -> None:
    """For those who ask what they waited for: who came last, or did not come in time."""
    late = {state.peers[lease.peer].name for lease in steps.missing(state)} if state.in_steps else set()
    last = state.peers.get(state.round.contributions[state.round.accepted[-1]].peer)
    state.closed_at = now
    state.closed_by = ", ".join(sorted(late)) or (last.name if last else "")


def partial_norm(state: State, holder: str, message: PartialNorm) -> list[Effect]:
    """Add up the merged gradient's norm over all holders for those that clip by it."""
    current = state.round
    awaited = holder in state.holding() and holder not in current.partial_norms
    if not _of_this_attempt(state, message) or not awaited:
        return []
    current.partial_norms[holder] = message.square
    if len(current.partial_norms) < len(state.holding()):
        return []
    norm = math.sqrt(sum(max(current.partial_norms[name], 0.0) for name in sorted(current.partial_norms)))
    clip = ClipBy(state.generation, current.number, current.attempt, norm)
    return [Tell(name, clip) for name in state.holding()]


def prepared(state: State, holder: str, message: Prepared, now: float) -> list[Effect]:
    """When every holder has the next version, its record can be written."""
    current = state.round
    if not _of_this_attempt(state, message) or holder not in state.holding():
        return []
    current.prepared[holder] = message.digests
    if len(current.prepared) < len(state.holding()):
        return []
    state.phase = "recording"
    current.record = _record(state, now)
    return [WriteRecord(current.record)]


def preparing(state: State) -> list[str]:
    """The holders whose answer the others wait for."""
    current = state.round
    clipping = state.rule.clip_norm > 0 and len(current.partial_norms) < len(state.holding())
    answered = current.partial_norms if clipping else current.prepared
    return [holder for holder in state.holding() if holder not in answered]


def _of_this_attempt(state: State, message: PartialNorm | Prepared | PrepareFailed) -> bool:
    current = state.round
    return state.phase == "preparing" and (message.round, message.attempt) == (current.number, current.attempt)


def _record(state: State, now: float) -> RoundRecord:
    current = state.round
    accepted = [current.contributions[number] for number in current.accepted]
    contributors = []
    for place, c in enumerate(accepted, start=1):
        held = [state.book.leases[lease] for lease in c.leases]
        ranges = tuple((lease.start, lease.stop) for lease in held if not lease.own)
        contributors.append(
            Contributor(
                place, c.number, c.peer, c.weight, ranges, c.base_version, c.loss_sum, c.loss_count, c.norms,
                c.own, c.steps, c.seconds, c.waiting, c.waited_for, c.bytes,
            )
        )  # fmt: skip
    digests = sorted((digest for part in current.prepared.values() for digest in part), key=lambda d: d.shard)
    gradient = state.rule.stream(Stream.GRADIENT)
    return RoundRecord(
        session=state.session,
        generation=state.generation,
        round=current.number,
        attempt=current.attempt,
        contributors=tuple(contributors),
        samples=current.samples_in,
        skips=tuple(state.book.skips),
        book=leases.after_commit(state.book, current.samples_in, own=sum(c.own for c in accepted)),
        digests=tuple(digests),
        learning_rate=state.learning_rate,
        target=current.target,
        unix_time=now,
        strategy=state.rule.strategy,
        inner_learning_rate=state.inner_learning_rate,
        up=gradient.up.name.lower(),
        down=gradient.down.name.lower(),
        codecs_because=links.reason_of(state, current.number),
    )


def recorded(state: State, event: Recorded, now: float) -> list[Effect]:
    """The record is durable: this is the commit. Tell everybody, then go on."""
    current = state.round
    record = current.record
    if (
        record is None
        or state.phase != "recording"
        or (event.round, event.attempt) != (current.number, current.attempt)
    ):
        return []
    leases.consume(state.book, record)
    state.version = current.number
    steps.expire(state)
    state.samples_done = record.book.done
    state.last_record = record
    state.waiting.clear()
    for contributor in record.contributors:
        if contributor.peer in state.peers:
            state.peers[contributor.peer].samples += contributor.weight
    install = Install(state.generation, current.number, current.attempt)
    effects: list[Effect] = [Tell(holder, install) for holder in state.holding()]
    effects.append(TellPeers(_commit(state, record), in_order=True))
    effects += links.after_commit(state, record)
    return effects + evaluation.begin_if_due(state, now) + rounds.open_round(state, now)


def _commit(state: State, record: RoundRecord) -> Commit:
    counted = any(contributor.loss_count for contributor in record.contributors)
    return Commit(
        state.generation, record.round, record.attempt, state.samples_done, len(record.contributors),
        record.mean_loss if counted else None, record.learning_rate, record.round % max(state.shard_count, 1),
    )  # fmt: skip


def record_failed(state: State, event: RecordFailed, now: float) -> list[Effect]:
    """Nothing of the round is stored: back to the old state. Where the disk is full, trying again at once would not
    help: pause."""
    if state.phase != "recording" or (event.round, event.attempt) != (state.round.number, state.round.attempt):
        return []
    if event.again:
        return rounds.abort(state, event.reason, now)
    state.paused = event.reason
    return [Note("error", event.reason), *rounds.abort(state, f"it could not be stored: {event.reason}", now)]


def prepare_failed(state: State, holder: str, message: PrepareFailed, now: float) -> list[Effect]:
    """A holder could not compute the next version (its numbers are not finite, say)."""
    if not _of_this_attempt(state, message):
        return []
    effects: list[Effect] = [Note("warning", f"{holder} could not compute round {message.round}: {message.reason}")]
    state.round.failed_attempts += 1
    if state.round.failed_attempts >= FAILED_ATTEMPTS:
        state.round.failed_attempts = 0
        state.paused = f"round {message.round} failed {FAILED_ATTEMPTS} times: {message.reason}"
    return effects + rounds.abort(state, message.reason, now)
