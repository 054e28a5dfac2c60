"""What a session is doing and why, in words: the line that widgets, panel and terminal show."""

from __future__ import annotations

from typing import Literal

from . import work
from .state import Peer, State

NAMED = 4
"""So many peers are named in a reason; the rest are counted."""


def explain(state: State, now: float) -> tuple[Literal["waiting", "training", "paused", "finished"], str]:
    """The state in one word for programs and the reason in words for people."""
    if state.phase == "finished":
        return "finished", f"finished after {state.version} rounds: {state.ending}"
    if state.paused:
        return "paused", f"paused: {state.paused}"
    if state.phase == "finishing":
        return "waiting", f"evaluating version {state.version}, then the session ends ({state.ending})"
    if state.phase == "placing":
        return "waiting", "handing the shards to " + _names(list(state.holders))
    here = sum(peer.synced for peer in state.peers.values())
    if not state.peers:
        return "waiting", "waiting for peers: nobody has joined yet"
    if here < state.settings.minimum_peers:
        return "waiting", f"waiting for peers: {here} of {state.settings.minimum_peers} are ready"
    if not state.active_peers():
        return "waiting", "all peers are paused: " + "; ".join(
            f"{peer.name} ({peer.paused})" for peer in list(state.peers.values())[:NAMED] if peer.paused
        )
    return "training", _of_round(state, now)


def _of_round(state: State, now: float) -> str:
    current = state.round
    name = f"round {current.number}"
    if state.phase == "preparing":
        missing = [holder for holder in state.holding() if holder not in current.prepared]
        return f"{name}: {_names(missing)} computes version {current.number}"
    if state.phase == "recording":
        return f"{name}: writing version {current.number} to disk"
    busy: dict[str, int] = {}
    for lease in state.book.leases.values():
        if lease.kind == "train" and lease.state != "claimed":
            busy[lease.peer] = busy.get(lease.peer, 0) + lease.count
    uploading = [state.peers[c.peer].name for c in current.contributions.values() if c.state == "granted"]
    parts = [f"{name}: {current.samples_in} of {current.target} samples are in"]
    if busy:
        parts.append(
            "computing: "
            + _names([f"{state.peers[peer].name} ({count} samples)" for peer, count in sorted(busy.items())])
        )
    if uploading:
        parts.append("uploading: " + _names(uploading))
    if current.queue:
        parts.append(f"{len(current.queue)} wait for a grant")
    return "; ".join(parts)


def explain_peer(state: State, peer: Peer) -> tuple[str, str]:
    """What one peer is doing: a word for programs, the reason for people."""
    if peer.paused:
        return "paused", peer.paused
    if not peer.synced:
        return "joining", "fetching the parameters"
    if peer.contribute_by:
        return "contributing", "asked to announce its contribution"
    if peer.contributions:
        number = state.round.contributions[peer.contributions[0]]
        return ("uploading", "sending its contribution") if number.state == "granted" else ("waiting", "for a grant")
    if any(lease in state.book.leases and state.book.leases[lease].state == "leased" for lease in peer.leases):
        return "training", "computing its lease"
    if peer.version != state.version:
        return "receiving", f"fetching version {state.version}"
    if state.paused:
        return "waiting", f"the session is paused: {state.paused}"
    if not work.enough_peers(state):
        return "waiting", "for more peers"
    return "waiting", "for the other peers of this round"


def _names(names: list[str]) -> str:
    if not names:
        return "nobody"
    shown = ", ".join(names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"
