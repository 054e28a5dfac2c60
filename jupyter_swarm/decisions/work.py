"""Who computes what next: evaluation pieces first, then training leases, then the call to contribute."""

from __future__ import annotations

from ..protocol.messages import ContributeNow, Evaluated, LeaseDone, LeaseGrant
from . import leases
from .effects import Effect, Note, Tell, TellPeers
from .state import Evaluation, Lease, Peer, State

CONTRIBUTE_SECONDS = 60.0
"""A peer that was told to contribute has so long to announce."""
STRIKES = 3
"""A peer that is too slow, or whose leases fail, so many times in a row is paused, with the reason."""


def want_work(state: State, peer: Peer, version: int, now: float) -> list[Effect]:
    """A peer has nothing to compute. One whose view is old will ask again after the commits on their way to it."""
    peer.version = version
    if version != state.version or not peer.synced or peer.contributions or peer.contribute_by:
        return []
    state.waiting[peer.id] = True
    return serve(state, peer, now)


def wait_again(state: State, peer: Peer) -> None:
    """A peer whose contribution is decided waits for work without asking."""
    if peer.version == state.version and not peer.contributions:
        state.waiting[peer.id] = True


def dispatch(state: State, now: float) -> list[Effect]:
    """Work has come back or may be given again: serve those that wait, the longest waiting first."""
    effects: list[Effect] = []
    for peer_id in list(state.waiting):
        effects += serve(state, state.peers[peer_id], now)
    return effects


def enough_peers(state: State) -> bool:
    """Whether so many peers are here as the settings ask for."""
    return sum(peer.synced for peer in state.peers.values()) >= state.settings.minimum_peers


def serve(state: State, peer: Peer, now: float) -> list[Effect]:
    """Give a waiting peer what there is for it; it keeps waiting if that is nothing."""
    if peer.id not in state.waiting:
        return []
    if state.phase == "open" and peer.paused and done_leases(state, peer):
        return _call(state, peer, now)
    if state.paused or peer.paused or any(lease.state == "leased" for lease in _leases_of(state, peer)):
        return []
    if state.phase in ("open", "finishing") and state.evaluation and state.evaluation.free:
        return _lease_evaluation(state, state.evaluation, peer, now)
    if state.phase != "open" or not enough_peers(state):
        return []
    lease = leases.take(state, peer, now)
    if lease is not None:
        return [_grant(state, peer, lease)]
    return _call(state, peer, now) if done_leases(state, peer) else []


def done_leases(state: State, peer: Peer) -> list[Lease]:
    """What the peer has computed and not announced."""
    return [lease for lease in _leases_of(state, peer) if lease.state == "done"]


def _leases_of(state: State, peer: Peer) -> list[Lease]:
    return [state.book.leases[lease] for lease in peer.leases if lease in state.book.leases]


def _grant(state: State, peer: Peer, lease: Lease) -> Effect:
    state.waiting.pop(peer.id, None)
    return Tell(
        peer.id,
        LeaseGrant(
            state.generation, state.round.number, state.round.attempt, lease.id, lease.kind, lease.start, lease.stop
        ),
    )


def _call(state: State, peer: Peer, now: float) -> list[Effect]:
    state.waiting.pop(peer.id, None)
    peer.contribute_by = now + CONTRIBUTE_SECONDS
    return [Tell(peer.id, ContributeNow(state.generation, state.round.number, state.round.attempt))]


def _lease_evaluation(state: State, evaluation: Evaluation, peer: Peer, now: float) -> list[Effect]:
    start, stop = evaluation.free.pop()
    size = leases.lease_size(state, peer, stop - start, state.held_out)
    if start + size < stop:
        evaluation.free.append((start + size, stop))
    until = leases.deadline(state, peer, size, now)
    lease = Lease(state.book.next_lease, "evaluate", peer.id, start, start + size, now, until)
    state.book.next_lease += 1
    state.book.leases[lease.id] = lease
    peer.leases.append(lease.id)
    evaluation.leased += 1
    return [_grant(state, peer, lease)]


def lease_done(state: State, peer: Peer, message: LeaseDone, now: float) -> list[Effect]:
    """A peer has finished a lease. One that is no longer its own is ignored: it was given to another meanwhile."""
    lease = state.book.leases.get(message.lease)
    if lease is None or lease.peer != peer.id or lease.state != "leased":
        return []
    if message.failed:
        return _failed(state, peer, lease, message.failed, now)
    peer.failures = 0
    seconds = max(now - lease.granted_at, 1e-6)
    if lease.kind == "evaluate":
        return _evaluated(state, peer, lease, message)
    peer.speed = lease.count / seconds if not peer.speed else 0.5 * peer.speed + 0.5 * lease.count / seconds
    lease.state = "done"
    return []


def _failed(state: State, peer: Peer, lease: Lease, reason: str, now: float) -> list[Effect]:
    effects: list[Effect] = []
    peer.leases.remove(lease.id)
    peer.failures += 1
    if lease.kind == "evaluate":
        _give_back_evaluation(state, lease)
    else:
        skip = leases.fail(state.book, lease, reason)
        text = f"{peer.name} could not compute samples {lease.start} to {lease.stop - 1}: {reason}"
        effects.append(Note("warning", text + (" They are skipped." if skip else ""), peer.id))
    if peer.failures >= STRIKES:
        effects.append(pause_peer(state, peer, f"its last {STRIKES} leases failed: {reason}"))
    return effects + dispatch(state, now)


def pause_peer(state: State, peer: Peer, reason: str) -> Effect:
    """Give a peer no more work until it or the instructor resumes it."""
    peer.paused = reason
    return Note("warning", f"{peer.name} is paused: {reason}", peer.id)


def strike(state: State, peer: Peer, reason: str) -> list[Effect]:
    """A peer was too slow; three times in a row and it is paused."""
    peer.strikes += 1
    effects: list[Effect] = [Note("warning", f"{peer.name}: {reason}", peer.id)]
    if peer.strikes >= STRIKES and not peer.paused:
        effects.append(pause_peer(state, peer, reason))
    return effects


def start_evaluation(state: State) -> None:
    """Measure the held-out part at the current version. What is left of an earlier one is given up."""
    state.evaluation = Evaluation(state.version, [(0, state.held_out)]) if state.held_out else None


def _evaluated(state: State, peer: Peer, lease: Lease, message: LeaseDone) -> list[Effect]:
    peer.leases.remove(lease.id)
    del state.book.leases[lease.id]
    evaluation = state.evaluation
    if evaluation is None:
        return []
    evaluation.leased -= 1
    for name, value in message.sums.items():
        evaluation.sums[name] = evaluation.sums.get(name, 0.0) + value
    evaluation.count += min(message.count, lease.count)
    return finish_evaluation(state)


def finish_evaluation(state: State) -> list[Effect]:
    """Publish the evaluation once no piece of it is out or left."""
    evaluation = state.evaluation
    if evaluation is None or evaluation.leased or evaluation.free:
        return []
    state.evaluation = None
    if not evaluation.count:
        return []
    means = {name: value / evaluation.count for name, value in evaluation.sums.items()}
    return [TellPeers(Evaluated(state.generation, evaluation.version, means, evaluation.count))]


def _give_back_evaluation(state: State, lease: Lease) -> None:
    del state.book.leases[lease.id]
    evaluation = state.evaluation
    if evaluation is not None:
        evaluation.leased -= 1
        if evaluation.version == state.version:
            evaluation.free.append((lease.start, lease.stop))


def return_lease(state: State, lease: Lease) -> None:
    """A lease comes back because its peer is gone or too slow."""
    peer = state.peers.get(lease.peer)
    if peer is not None and lease.id in peer.leases:
        peer.leases.remove(lease.id)
    if lease.kind == "evaluate":
        _give_back_evaluation(state, lease)
    else:
        leases.give_back(state.book, lease)
