"""`handle`: the one entrance. An event goes in, the state moves, effects come out.

The state that is passed in is the caller's to give up: it is changed in place and returned, because copying thousands
of peers for each event would cost more than all decisions. Nothing else is read or written, so the same events at the
same times give the same state and effects.
"""

from __future__ import annotations

from ..protocol import messages as m
from . import commits, contributions, evaluation, links, roster, rounds, steering, steps, work
from .effects import Effect, Note
from .events import (
    AnyEvent,
    Change,
    ChangeStrategy,
    Finish,
    Measured,
    MemberJoined,
    MemberLost,
    Pause,
    Placed,
    Recorded,
    RecordFailed,
    Resume,
    Said,
    SteerPeer,
    Tick,
)
from .state import State


def handle(state: State, event: AnyEvent, now: float) -> tuple[State, list[Effect]]:
    """Apply one event that happens at `now` (seconds). Events of an older generation or attempt change nothing."""
    effects = _apply(state, event, now) + evaluation.publish_if_done(state)
    if state.phase == "open":
        if state.in_steps:
            if steps.reopen_if_empty(state, now):
                effects += work.dispatch(state, now)
            effects += steps.call_rest(state, now)
        effects += commits.close_if_complete(state, now)
    elif state.phase == "finishing" and state.evaluation is None:
        effects += rounds.finish(state)
    return state, effects


def _apply(state: State, event: AnyEvent, now: float) -> list[Effect]:
    match event:
        case Said():
            return _said(state, event, now)
        case MemberJoined():
            return roster.joined(state, event, now)
        case MemberLost():
            return roster.lost(state, event, now)
        case Measured():
            links.measured(state, event)
            return []
        case Placed():
            return rounds.placed(state, event.number, now)
        case Recorded():
            return commits.recorded(state, event, now)
        case RecordFailed():
            return commits.record_failed(state, event, now)
        case Tick():
            return _tick(state, now)
        case _:
            return _steered(state, event, now)


def _steered(state: State, event: AnyEvent, now: float) -> list[Effect]:
    match event:
        case Pause():
            state.paused = f"by {event.by}"
            return [Note("info", f"Paused by {event.by}.")]
        case Resume():
            state.paused = ""
            return [Note("info", f"Resumed by {event.by}."), *steering.go_on(state, now)]
        case SteerPeer():
            return steering.steer(state, event, now)
        case Finish():
            return _end(state, event, now)
        case Change():
            return _change(state, event, now)
        case ChangeStrategy():
            return rounds.change_strategy(state, event.changes, event.by)
        case _:
            return []


def _change(state: State, event: Change, now: float) -> list[Effect]:
    before = state.next_settings or state.settings
    state.next_settings = event.settings
    changes = [
        f"{name} {getattr(before, name):g} → {getattr(event.settings, name):g}"
        for name in before.__struct_fields__
        if getattr(before, name) != getattr(event.settings, name)
    ]
    if not changes:
        return []
    note = Note("info", f"{event.by} changed the settings from the next round on: {', '.join(changes)}.")
    return [note, *work.dispatch(state, now)]


def _end(state: State, event: Finish, now: float) -> list[Effect]:
    if state.phase in ("finishing", "finished"):
        return []
    state.ending = f"stopped by {event.by}"
    if _stands_still(state):
        return rounds.finishing(state, now)
    return [Note("info", f"{event.by} ends the session after round {state.round.number}.")]


def _stands_still(state: State) -> bool:
    """Whether the round under way cannot go on by itself, so that a session that is to end should not wait for it."""
    stuck = bool(state.paused) or not state.crowd.active or not work.enough_peers(state)
    return state.phase == "placing" or (state.phase == "open" and stuck)


def _tick(state: State, now: float) -> list[Effect]:
    effects = contributions.overdue(state, now) + roster.overdue(state, now)
    if state.phase == "open" and state.in_steps:
        effects += steps.call_slow(state, now)
    if state.phase == "finishing" or (state.ending and _stands_still(state)):
        return effects + rounds.finishing(state, now)
    return effects + work.dispatch(state, now)


def _said(state: State, event: Said, now: float) -> list[Effect]:
    message = event.message
    if getattr(message, "generation", state.generation) != state.generation:
        return []
    if event.member in state.holders:
        return _holder_said(state, event.member, message, now)
    if event.member not in state.peers:
        return []
    peer = state.peers[event.member]
    match message:
        case m.WantSnapshot():
            return roster.syncing(state, peer, now)
        case m.Synced():
            return roster.synced(state, peer, message, now)
        case m.WantWork():
            return work.want_work(state, peer, message.version, now)
        case m.LeaseDone():
            return work.lease_done(state, peer, message, now)
        case m.Announce():
            return contributions.announce(state, peer, message, now)
        case m.Control():
            return steering.asked(state, peer, message.action, now)
        case m.Goodbye():
            return roster.lost(state, MemberLost(peer.id, message.reason or "left"), now)
        case _:
            return []


def _holder_said(state: State, holder: str, message: m.FromMember, now: float) -> list[Effect]:
    match message:
        case m.Staged():
            return contributions.staged(state, holder, message, now)
        case m.StageFailed():
            return contributions.stage_failed(state, message, now)
        case m.PartialNorm():
            return commits.partial_norm(state, holder, message)
        case m.Prepared():
            return commits.prepared(state, holder, message, now)
        case m.PrepareFailed():
            return commits.prepare_failed(state, holder, message, now)
        case m.Goodbye():
            return roster.lost(state, MemberLost(holder, message.reason or "left"), now)
        case _:
            return []
