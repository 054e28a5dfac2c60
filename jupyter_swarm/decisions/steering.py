"""Single peers that are paused, resumed or slowed: by the instructor, which holds until the instructor ends it, or by
themselves."""

from __future__ import annotations

from typing import Literal

from ..protocol.standing import Standing
from . import rounds, work
from .effects import Effect, Note
from .events import SteerPeer
from .state import BY_ITSELF, Peer, State


def asked(state: State, peer: Peer, action: Literal["pause", "resume"], now: float) -> list[Effect]:
    """The peer itself wants no more work, or work again; as long as the instructor has paused it, it gets none."""
    if action == "pause":
        return [work.pause_peer(state, peer, BY_ITSELF), *work.dispatch(state, now)]
    return _resume(state, peer, now)


def steer(state: State, event: SteerPeer, now: float) -> list[Effect]:
    """The instructor's decision about a peer."""
    _rename(state, event.old_name, event.name)
    peer = state.peers.get(event.member)
    if peer is None:
        return []
    peer.name = event.name
    before, peer.standing = peer.standing, event.standing
    if event.action == "slow":
        peer.rest_until = 0.0
    if event.action == "resume" and peer.stopped != BY_ITSELF:
        return _resume(state, peer, now)
    if before.paused != event.standing.paused:
        state.count(peer)
        work.not_called_for_nothing(state, peer)
    return [*_said(peer, before), *go_on(state, now)]


def _resume(state: State, peer: Peer, now: float) -> list[Effect]:
    peer.stopped, peer.failures, peer.strikes = "", 0, 0
    state.count(peer)
    work.wait(state, peer)
    if peer.paused:
        return []
    return [Note("info", f"{peer.name} goes on.", peer.id), *go_on(state, now)]


def _rename(state: State, old: str, name: str) -> None:
    """Whoever has waited for a peer has waited for one of this name."""
    if old == name:
        return

    def renamed(names: str) -> str:
        return ", ".join(name if one == old else one for one in names.split(", "))

    state.closed_by = renamed(state.closed_by)
    for peer in state.peers.values():
        peer.waited_for = renamed(peer.waited_for)
    for contribution in state.round.contributions.values():
        contribution.waited_for = renamed(contribution.waited_for)


def _said(peer: Peer, before: Standing) -> list[Effect]:
    after = peer.standing
    lines = []
    if after.paused and not before.paused:
        lines.append(f"{peer.name} is paused by the instructor.")
    elif before.paused and not after.paused:
        lines.append(f"{peer.name} is no longer paused by the instructor, but by itself.")
    if after.slowed != before.slowed:
        to = f"slowed to {after.slowed:.0%} of its share" if after.slowed else "no longer slowed"
        lines.append(f"{peer.name} is {to} by the instructor.")
    if after.muted != before.muted:
        to = "no longer shown" if after.muted else "shown again"
        lines.append(f"The name of {peer.name} is {to}.")
    return [Note("info", line, peer.id) for line in lines]


def go_on(state: State, now: float) -> list[Effect]:
    """Give work to those who wait for it."""
    return rounds.finishing(state, now) if state.phase == "finishing" else work.dispatch(state, now)
