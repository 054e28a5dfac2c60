"""Who is here: peers and holders that come and go."""

from __future__ import annotations

from ..protocol.messages import Status, Synced
from . import commits, contributions, rounds, steps, work
from .effects import Disconnect, Effect, Note, Tell
from .events import MemberJoined, MemberLost
from .speed import Timing
from .state import Holder, Peer, State


def joined(state: State, event: MemberJoined, now: float) -> list[Effect]:
    """A member is on a new connection; whatever was known of an older one of it is void."""
    effects: list[Effect] = []
    # A peer that fetches a snapshot does so through the link that it had before.
    link = state.peers[event.member].link if event.member in state.peers else None
    if event.member in state.peers or event.member in state.holders:
        effects += lost(state, MemberLost(event.member, "it connected again"), now)
    if event.role == "holder":
        return effects + _holder_joined(state, event, now)
    name = event.name or event.member
    state.peers[event.member] = Peer(
        event.member, name, event.device, own_samples=event.own_samples, standing=event.standing, codecs=event.codecs
    )
    if link is not None:
        state.peers[event.member].link = link
    effects.append(Note("info", f"{event.name or event.member} joined ({event.device}).", event.member))
    if state.phase == "finished":
        effects.append(Tell(event.member, Status(state.generation, "finished", state.ending)))
    return effects


def _holder_joined(state: State, event: MemberJoined, now: float) -> list[Effect]:
    state.holders[event.member] = Holder(event.member)
    called = any(peer.contribute_by for peer in state.peers.values())
    untouched = state.phase == "open" and not state.round.contributions and not called
    if state.phase == "placing" or untouched:
        return rounds.place(state, now)
    state.replace = state.phase in ("open", "preparing", "recording")
    return []


def syncing(state: State, peer: Peer, now: float) -> list[Effect]:
    """A peer fetches the parameters. What it had before, it has forgotten."""
    peer.synced = False
    peer.version = -1
    peer.contribute_by = 0.0
    state.count(peer)
    state.waiting.pop(peer.id, None)
    effects = _take_back(state, peer, f"{peer.name} fetches the parameters again", now)
    return effects + contributions.grant(state, now) + work.came_back(state, now)


def synced(state: State, peer: Peer, message: Synced, now: float) -> list[Effect]:
    """A peer has a whole view; it can work once it has caught up with the commits since then, and then waits for it.

    Its `WantWork` may have come before the driver had sent it those commits and said this.
    """
    others_wait = not work.enough_peers(state)
    peer.synced = True
    peer.version = max(peer.version, message.version)
    state.count(peer)
    work.wait(state, peer)
    return work.dispatch(state, now) if others_wait else work.serve(state, peer, now)


def lost(state: State, event: MemberLost, now: float) -> list[Effect]:
    """A member is gone. What it had is given to others; what was accepted from it counts."""
    if event.member in state.holders:
        return _holder_lost(state, event, now)
    peer = state.peers.pop(event.member, None)
    if peer is None:
        return []
    state.waiting.pop(peer.id, None)
    state.count(peer)
    held = [lease for number in peer.leases if (lease := state.book.leases[number]).kind == "train" and not lease.own]
    samples = sum(lease.count for lease in held)
    ranges = ", ".join(f"{lease.start} to {lease.stop - 1}" for lease in held)
    effects = _take_back(state, peer, f"{peer.name} is gone", now)
    returned = f"; its {samples} leased samples ({ranges}) go to others" if samples else ""
    effects.append(Note("info", f"{peer.name} is gone ({event.reason}){returned}.", peer.id))
    if state.phase == "finishing":
        return effects + rounds.finishing(state, now)
    return effects + contributions.grant(state, now) + work.came_back(state, now)


def _take_back(state: State, peer: Peer, reason: str, now: float) -> list[Effect]:
    """Everything that the peer holds and no holder has accepted goes back."""
    effects: list[Effect] = []
    state.late.pop(peer.id, None)
    for number in list(peer.contributions):
        effects += contributions.withdraw(state, state.round.contributions[number], reason, now)
    for number in list(peer.leases):
        if number in state.book.leases:
            work.return_lease(state, state.book.leases[number], now)
    steps.left(state, peer)
    return effects


def _holder_lost(state: State, event: MemberLost, now: float) -> list[Effect]:
    holder = state.holders.pop(event.member)
    effects: list[Effect] = [Note("warning", f"Holder {holder.id} is gone ({event.reason}).", holder.id)]
    if state.phase in ("finishing", "finished") or not holder.shards:
        return effects
    if state.phase == "placing":
        return effects + rounds.place(state, now)
    state.replace = True
    if state.phase == "recording":
        return effects
    return effects + rounds.abort(state, f"holder {holder.id} is gone", now)


def overdue(state: State, now: float) -> list[Effect]:
    """Take back what was given too long ago."""
    effects: list[Effect] = []
    for lease in [lease for lease in state.book.leases.values() if lease.state == "leased" and lease.deadline < now]:
        peer = state.peers[lease.peer]
        work.return_lease(state, lease, now)
        if lease.kind == "train":
            # So slow, whatever it was before: its next lease is smaller, or has more time.
            peer.timing = Timing()
            peer.timing.add(lease.count, now - lease.granted_at)
            work.measured(state, peer, peer.timing.speed)
            work.not_called_for_nothing(state, peer)
        effects += work.strike(state, peer, f"it did not finish {lease.count} samples in time")
    for peer in [peer for peer in state.peers.values() if peer.contribute_by and peer.contribute_by < now]:
        peer.contribute_by = 0.0
        for lease in work.done_leases(state, peer):
            work.return_lease(state, lease, now)
        work.wait(state, peer)
        effects += work.strike(state, peer, "it did not announce its contribution in time")
    return effects + _holders_overdue(state, now)


def _holders_overdue(state: State, now: float) -> list[Effect]:
    """Holders other than the first (the server's own) that are too slow are disconnected, and count as lost."""
    current = state.round
    late: list[str] = []
    if state.phase == "preparing" and current.deadline < now:
        late = commits.preparing(state)
        current.deadline = now + commits.PREPARE_SECONDS
    elif state.phase == "placing" and state.placing_until < now:
        late = state.holding()
        state.placing_until = now + rounds.PLACING_SECONDS
    first = next(iter(state.holders), "")
    return [Disconnect(name, "it did not answer in time") for name in late if name != first]
