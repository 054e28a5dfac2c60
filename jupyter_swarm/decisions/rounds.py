"""A round from opening to commit, or to an abort that leaves everything as it was."""

from __future__ import annotations

from ..protocol.messages import (
    Abort,
    ClipBy,
    Commit,
    Install,
    PartialNorm,
    Prepare,
    Prepared,
    PrepareFailed,
    Revert,
    Settings,
    Status,
    Strategy,
)
from ..protocol.records import Contributor, RoundRecord
from ..protocol.rules import StrategyChange
from . import contributions, leases, steps, work
from .effects import Effect, Note, Place, Tell, TellPeers, WriteRecord
from .events import Recorded, RecordFailed
from .state import Round, State

PREPARE_SECONDS = 300.0
"""Holders that need longer to compute a version are taken for lost."""
PLACING_SECONDS = 300.0
FINISH_SECONDS = 60.0
"""The last evaluation is given up when nobody has asked for a piece of it for so long."""
FAILED_ATTEMPTS = 3
"""So many attempts at a round fail in the holders' arithmetic before the session pauses and says why."""


def place(state: State, now: float) -> list[Effect]:
    """Hand the trained shards to the holders, in contiguous runs; rounds wait until they have them."""
    state.replace = False
    state.phase = "placing"
    state.placing += 1
    state.placing_until = now + PLACING_SECONDS
    names = list(state.holders)
    if not names:
        state.placement = {}
        return []
    state.placement = {shard: names[shard * len(names) // state.shard_count] for shard in range(state.shard_count)}
    for holder in state.holders.values():
        holder.shards = tuple(shard for shard, name in state.placement.items() if name == holder.id)
    return [Place(state.placing, dict(state.placement))]


def placed(state: State, number: int, now: float) -> list[Effect]:
    """The holders are ready."""
    if state.phase != "placing" or number != state.placing:
        return []
    effects: list[Effect] = []
    if state.version == 0 and not state.round.target and state.held_out:
        effects = work.start_evaluation(state, now)
    return effects + open_round(state, now)


def open_round(state: State, now: float) -> list[Effect]:
    """Open the attempt at the next version, or end the session if this was the last one."""
    effects: list[Effect] = []
    if state.round.number == state.version:
        state.round = Round(number=state.version + 1)
    new = not state.round.target
    if new and state.next_settings is not None:
        state.settings, state.next_settings = state.next_settings, None
        effects.append(TellPeers(Settings(state.generation, state.settings)))
    if not state.ending and state.settings.rounds and state.version >= state.settings.rounds:
        state.ending = f"all {state.settings.rounds} rounds are done"
    if state.ending:
        return effects + finishing(state, now)
    if state.replace:
        return effects + place(state, now)
    state.phase = "open"
    if new:
        effects += _follow_rule(state)
        state.round.target = state.target
        if state.in_steps:
            steps.open_round(state)
        else:
            leases.draw(state.book, state.target)
    return effects + contributions.announce_late(state, now) + work.dispatch(state, now)


def _follow_rule(state: State) -> list[Effect]:
    """The rule that holds for the round that opens, and a line for people if it is another one."""
    rule = state.rule_of(state.round.number)
    if rule == state.rule:
        return []
    state.rule = rule
    state.recent_norms, state.usual_norm = [], 0.0
    return [Note("info", f"From round {state.round.number} on the strategy is {rule.strategy}.")]


def change_strategy(state: State, changes: tuple[StrategyChange, ...], by: str) -> list[Effect]:
    """Other rules for the rounds to come."""
    state.changes = changes
    message = Strategy(state.generation, changes)
    effects: list[Effect] = [Tell(holder, message) for holder in state.holders]
    effects.append(TellPeers(message, in_order=True))
    coming = [change for change in changes if change.round > state.version]
    said = ", ".join(f"{change.rule.strategy} from round {change.round} on" for change in coming)
    return [*effects, Note("info", f"{by} changed the strategy: {said or 'it stays as it is'}.")]


def close_if_complete(state: State, now: float) -> list[Effect]:
    """Prepare the next version once all samples of the round are in accepted contributions."""
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
        state.learning_rate, state.rule.clip_norm,
    )  # fmt: skip
    return [Tell(holder, prepare) for holder in state.holding()]


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
    norm = sum(current.partial_norms[name] for name in sorted(current.partial_norms)) ** 0.5
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
    own = _own_samples(state)
    contributors = []
    for place_, number in enumerate(current.accepted, start=1):
        c = current.contributions[number]
        held = [state.book.leases[lease] for lease in c.leases]
        ranges = tuple((lease.start, lease.stop) for lease in held if not lease.own)
        contributors.append(
            Contributor(
                place_, number, c.peer, c.weight, ranges, c.base_version, c.loss_sum, c.loss_count, c.norms,
                c.own, c.steps, c.seconds, c.waiting, c.waited_for, c.bytes,
            )
        )  # fmt: skip
    digests = sorted((digest for part in current.prepared.values() for digest in part), key=lambda d: d.shard)
    return RoundRecord(
        session=state.session,
        generation=state.generation,
        round=current.number,
        attempt=current.attempt,
        contributors=tuple(contributors),
        samples=current.samples_in,
        skips=tuple(state.book.skips),
        book=leases.after_commit(state.book, current.samples_in - own, own),
        digests=tuple(digests),
        learning_rate=state.learning_rate,
        target=current.target,
        unix_time=now,
        strategy=state.rule.strategy,
        inner_learning_rate=state.inner_learning_rate,
    )


def _own_samples(state: State) -> int:
    """Samples of peers' own data that are in the round."""
    return sum(state.round.contributions[number].own for number in state.round.accepted)


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
    own = _own_samples(state)
    leases.consume(state.book, current.samples_in - own, own, len(record.skips))
    state.version = current.number
    steps.expire(state)
    state.samples_done += current.samples_in
    state.last_record = record
    state.waiting.clear()
    for contributor in record.contributors:
        if contributor.peer in state.peers:
            state.peers[contributor.peer].samples += contributor.weight
    install = Install(state.generation, current.number, current.attempt)
    effects: list[Effect] = [Tell(holder, install) for holder in state.holding()]
    effects.append(TellPeers(_commit(state, record), in_order=True))
    return effects + _evaluate(state, now) + open_round(state, now)


def _evaluate(state: State, now: float) -> list[Effect]:
    """After a commit: begin the evaluation that is due; of an earlier one only what is being computed counts."""
    settings = state.next_settings or state.settings
    last = bool(settings.rounds and state.version >= settings.rounds) or bool(state.ending)
    every = settings.evaluate_every
    if state.held_out and (last or (every and state.version % every == 0)):
        return work.start_evaluation(state, now)
    if state.evaluation is not None:
        state.evaluation.free = []
    return []


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
        return abort(state, event.reason, now)
    state.paused = event.reason
    return [Note("error", event.reason), *abort(state, f"it could not be stored: {event.reason}", now)]


def prepare_failed(state: State, holder: str, message: PrepareFailed, now: float) -> list[Effect]:
    """A holder could not compute the next version (its numbers are not finite, say)."""
    if not _of_this_attempt(state, message):
        return []
    effects: list[Effect] = [Note("warning", f"{holder} could not compute round {message.round}: {message.reason}")]
    state.round.failed_attempts += 1
    if state.round.failed_attempts >= FAILED_ATTEMPTS:
        state.round.failed_attempts = 0
        state.paused = f"round {message.round} failed {FAILED_ATTEMPTS} times: {message.reason}"
    return effects + abort(state, message.reason, now)


def abort(state: State, reason: str, now: float) -> list[Effect]:
    """This attempt is void: the old state stays, all its samples are free again, the next attempt begins."""
    effects = _void(state, reason)
    effects.append(Note("warning", f"Round {state.round.number} starts again: {reason}."))
    state.phase = "open"
    if state.in_steps:
        steps.open_round(state)
    if state.replace:
        return effects + place(state, now)
    return effects + contributions.announce_late(state, now) + work.dispatch(state, now)


def _void(state: State, reason: str) -> list[Effect]:
    """Give back all that was leased and contributed in this attempt; evaluation goes on."""
    current = state.round
    old = (state.generation, current.number, current.attempt)
    effects: list[Effect] = [Tell(holder, Revert(*old)) for holder in state.holding()]
    effects.append(TellPeers(Abort(*old, reason)))
    leases.give_all_back(state.book)
    state.round = Round(
        number=current.number,
        attempt=current.attempt + 1,
        target=current.target,
        failed_attempts=current.failed_attempts,
    )
    for peer in state.peers.values():
        peer.leases = [lease for lease in peer.leases if lease in state.book.leases]
        peer.contributions = []
        peer.contribute_by = 0.0
        work.wait(state, peer)
    return effects


def finishing(state: State, now: float) -> list[Effect]:
    """No more rounds: wait for the last evaluation, as long as somebody works on it, then end."""
    effects: list[Effect] = []
    if state.phase != "finishing":
        if state.round.target:
            effects = _void(state, state.ending)
        state.phase = "finishing"
    evaluation = state.evaluation
    if evaluation is None or state.paused or not state.crowd.active:
        return effects + finish(state)
    if not evaluation.leased and evaluation.since + FINISH_SECONDS < now:
        return effects + finish(state)
    return effects + work.dispatch(state, now)


def finish(state: State) -> list[Effect]:
    """The session is over."""
    if state.phase == "finished":
        return []
    effects = work.end_evaluation(state)
    state.phase = "finished"
    effects.append(TellPeers(Status(state.generation, "finished", state.ending), in_order=True))
    effects.append(Note("info", f"The session has ended after {state.version} rounds: {state.ending}."))
    return effects
