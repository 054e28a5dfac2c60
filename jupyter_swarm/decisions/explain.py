"""What a session is doing and why, in words: the line that widgets, panel and terminal show."""

from __future__ import annotations

from typing import Literal

from . import commits, steps, work
from .state import Peer, State

NAMED = 4
"""So many peers are named in a reason; the rest are counted."""


def explain(state: State, now: float) -> tuple[Literal["waiting", "training", "paused", "finished"], str]:
    """The state in one word for programs and the reason in words for people."""
    if state.phase == "finished":
        return "finished", f"finished after {state.version} rounds: {state.ending}"
    if state.phase in ("preparing", "recording"):
        return "training", _of_commit(state)
    if state.paused:
        return "paused", f"paused: {state.paused}"
    if state.phase == "finishing":
        return "waiting", f"{_evaluating(state)}, then the session ends ({state.ending})"
    if state.phase == "placing":
        holders = "handing the shards to " + _names(list(state.holders))
        return "waiting", holders if state.holders else "waiting for a holder to keep the parameters: none is here"
    if not state.peers:
        return "waiting", "waiting for peers: nobody has joined yet"
    if not work.enough_peers(state):
        wanted = (state.next_settings or state.settings).minimum_peers
        joining = [peer.name for peer in state.peers.values() if not peer.synced]
        fetching = f"; fetching the parameters: {_names(joining)}" if joining else ""
        return "waiting", f"waiting for peers: {state.crowd.synced} of {wanted} are ready{fetching}"
    if not state.crowd.active and not state.round.contributions:
        paused = [f"{peer.name} ({peer.paused})" for peer in state.peers.values() if peer.synced]
        return "waiting", f"all peers are paused: {_names(paused)}"
    return "training", _of_round(state, now)


def _of_commit(state: State) -> str:
    current = state.round
    if state.phase == "recording":
        return f"round {current.number}: writing version {current.number} to disk"
    return f"round {current.number}: {_names(commits.preparing(state))} computes version {current.number}"


def _evaluating(state: State) -> str:
    at_it = [state.peers[lease.peer].name for lease in state.book.leases.values() if lease.kind == "evaluate"]
    doing = _names(list(dict.fromkeys(at_it))) if at_it else "waiting for a peer to ask for work"
    return f"evaluating version {state.version}: {doing}"


def _of_round(state: State, now: float) -> str:
    """Whom the round waits for, by what they do."""
    current = state.round
    counts: dict[str, dict[str, int]] = {"computing": {}, "asked to contribute": {}, "evaluating": {}}
    for lease in state.book.leases.values():
        if lease.state == "claimed" or lease.round > current.number:
            continue
        called = lease.state == "done" and state.peers[lease.peer].contribute_by
        doing = "evaluating" if lease.kind == "evaluate" else "asked to contribute" if called else "computing"
        name = state.peers[lease.peer].name
        counts[doing][name] = counts[doing].get(name, 0) + lease.count
    parts = [
        f"{doing}: " + _names([f"{name} ({count} samples)" for name, count in sorted(peers.items())])
        for doing, peers in counts.items()
        if peers
    ]
    uploading = [
        f"{state.peers[c.peer].name} ({max(c.deadline - now, 0.0):.0f} s left)"
        for c in current.contributions.values()
        if c.state == "granted"
    ]
    queued = [state.peers[current.contributions[number].peer].name for number in current.queue]
    if uploading:
        parts.append("uploading: " + _names(uploading))
    if queued:
        parts.append("waiting for a grant: " + _names(queued))
    return "; ".join([f"round {current.number}: {_progress(state, now)}", *(parts or [_of_idle(state, now)])])


def _of_idle(state: State, now: float) -> str:
    """Why nobody does anything for the round."""
    active = state.active_peers()
    left = {peer.name: peer.rest_until - now for peer in active if work.rests(state, peer, now)}
    if left:
        resting = [f"{name} ({seconds:.0f} s left)" for name, seconds in left.items()]
        return f"resting, slowed by the instructor: {_names(resting)}"
    return f"waiting until a peer asks for work: {_names([peer.name for peer in active])}"


def _progress(state: State, now: float) -> str:
    current = state.round
    if not state.in_steps:
        return f"{current.samples_in} of {current.target} samples are in"
    done = f"{current.made} of {len(current.taking)} peers have made their steps"
    absent = sorted({state.peers[lease.peer].name for lease in steps.missing(state)})
    if not current.closing or not absent:
        return done
    left = max(steps.grace_until(state) - now, 0.0)
    return f"{done}, waiting for {_names(absent)}: {left:.1f} s of grace left"


def of_pause(peer: Peer) -> str:
    """Who has paused a peer, or why."""
    return f"paused: {peer.stopped}" if peer.paused_by == "the server" else f"paused by {peer.paused_by}"


def explain_peer(state: State, peer: Peer, now: float) -> tuple[str, str]:
    """What one peer is doing: a word for programs, the reason for people."""
    if state.phase == "finished":
        return "finished", "the session has ended"
    if peer.paused:
        return "paused", of_pause(peer)
    if not peer.synced:
        return "joining", "fetching the parameters"
    if peer.contribute_by:
        return "contributing", "asked to announce its contribution"
    for lease in work.leases_of(state, peer):
        if lease.state == "leased":
            return "training", f"{'evaluating' if lease.kind == 'evaluate' else 'computing'} {lease.count} samples"
    if peer.contributions:
        number = state.round.contributions[peer.contributions[0]]
        return ("uploading", "sending its contribution") if number.state == "granted" else ("waiting", "for a grant")
    if peer.version != state.version:
        return "receiving", f"fetching version {state.version}"
    if state.paused:
        return "waiting", f"the session is paused: {state.paused}"
    if not work.enough_peers(state):
        return "waiting", "for more peers"
    if work.rests(state, peer, now):
        left = peer.rest_until - now
        return "waiting", f"slowed to {peer.standing.slowed:.0%} by the instructor: {left:.0f} s of rest left"
    return "waiting", "for the other peers of this round"


def _names(names: list[str]) -> str:
    if not names:
        return "nobody"
    shown = ", ".join(names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"
