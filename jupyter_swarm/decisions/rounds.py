"""Rounds open, begin again after an abort that leaves everything as it was, and end with the session. Between them
shards are handed to holders. How a round is committed stands in `commits`."""

from __future__ import annotations

from ..protocol.messages import Abort, Revert, Settings, Status, Strategy
from ..protocol.rules import StrategyChange
from . import contributions, evaluation, leases, links, steps, work
from .effects import Effect, Note, Place, Tell, TellPeers
from .state import Round, State

PLACING_SECONDS = 300.0
FINISH_SECONDS = 60.0
"""The last evaluation is given up when nobody has asked for a piece of it for so long."""


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
    if state.version == 0 and not state.round.target:
        effects = evaluation.begin(state, now)
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
    reason = links.reason_of(state, state.round.number)
    if reason and links.alike(rule, state.rule):
        state.rule = rule
        return [Note("info", f"From round {state.round.number} on {reason}.")]
    state.rule = rule
    state.recent_norms, state.usual_norm = [], 0.0
    steps.take_back(state)
    return [Note("info", f"From round {state.round.number} on the strategy is {rule.strategy}.")]


def change_strategy(state: State, changes: tuple[StrategyChange, ...], by: str) -> list[Effect]:
    """Other rules for the rounds to come."""
    state.changes = changes
    message = Strategy(state.generation, changes)
    effects: list[Effect] = [Tell(holder, message) for holder in state.holders]
    effects.append(TellPeers(message, in_order=True))
    if not by:
        return effects
    coming = [change for change in changes if change.round > state.version]
    said = ", ".join(f"{change.rule.strategy} from round {change.round} on" for change in coming)
    return [*effects, Note("info", f"{by} changed the strategy: {said or 'it stays as it is'}.")]


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
        peer.contributed = 0
        peer.contribute_by = 0.0
        work.wait(state, peer)
    return effects


def finishing(state: State, now: float) -> list[Effect]:
    """No more rounds: wait for the last evaluation, as long as somebody works on it, then end."""
    effects: list[Effect] = []
    if state.phase != "finishing":
        if state.round.target or steps.missing(state):  # the second: what was leased ahead
            effects = _void(state, state.ending)
        state.phase = "finishing"
    last = state.evaluation
    if last is None or state.paused or not state.crowd.active:
        return effects + finish(state)
    if not last.leased and last.since + FINISH_SECONDS < now:
        return effects + finish(state)
    return effects + work.dispatch(state, now)


def finish(state: State) -> list[Effect]:
    """The session is over."""
    if state.phase == "finished":
        return []
    effects = evaluation.end(state)
    state.phase = "finished"
    effects.append(TellPeers(Status(state.generation, "finished", state.ending), in_order=True))
    effects.append(Note("info", f"The session has ended after {state.version} rounds: {state.ending}."))
    return effects
