"""Rounds of steps: how many each peer makes, when the rest is asked for what it has, how long it is waited for.

The fastest peer makes all its steps, slower ones as many as fit into the same time. When a quorum of them is done, or
waiting has cost as much as the others still lack, the rest is told to contribute what it has computed: whoever answers
loses at most the step under way, and nobody waits for the slowest. Whoever does not answer is waited for while the
samples that the others could take meanwhile are fewer than those it holds (the adaptive grace window of Decoupled
DiLoCo, arXiv 2604.21428); what it sends later counts for the next round.
"""

from __future__ import annotations

import math

from ..protocol.messages import ContributeNow
from ..protocol.rules import lateness
from . import leases
from .effects import Effect, Tell
from .state import Lease, Peer, Piece, State

CONTRIBUTE_SECONDS = 60.0
"""A peer that was told to contribute has so long to announce."""
LEAST_GRACE = 1.0
"""Whoever was asked gets so many seconds in any case: an answer has its way to go."""


def open_round(state: State) -> None:
    """An attempt begins: take what earlier ones gave back, and see who is how fast."""
    book = state.book
    book.free, book.pool = [*book.pool, *book.free], []
    state.round.fastest = max((peer.speed for peer in state.active_peers()), default=0.0)
    for peer in state.peers.values():
        peer.leased = 0
    for lease in missing(state):
        state.peers[lease.peer].leased += lease.count
        state.round.taking.setdefault(lease.peer, False)


def ahead(state: State, peer: Peer) -> bool:
    """Whether the peer's next steps are for the round after the one under way, to which it has contributed already."""
    following = state.round.number + 1
    return (
        state.rule.overlap
        and state.phase in ("open", "preparing", "recording")
        and peer.contributed == state.round.number
        and not state.ending
        and not 0 < state.settings.rounds < following
        and state.rule_of(following) == state.rule
    )


def give_back_ahead(state: State, peer: Peer) -> None:
    """Its contribution to the round under way does not count: what it was leased for the next one goes back."""
    for lease in [state.book.leases[number] for number in peer.leases]:
        if lease.round > state.round.number:
            peer.leases.remove(lease.id)
            leases.give_back(state.book, lease)


def take_back(state: State) -> None:
    """Another rule holds from this round on: what was leased for it by the old one goes back."""
    for lease in missing(state):
        state.peers[lease.peer].leases.remove(lease.id)
        leases.give_back(state.book, lease)


def steps_for(state: State, peer: Peer) -> int:
    """How many inner steps the peer should make in the round under way."""
    fastest = state.round.fastest
    if not peer.speed or not fastest:
        return state.inner_steps
    return max(1, round(state.inner_steps * min(peer.speed / fastest, 1.0)))


def next_piece(state: State, peer: Peer, now: float) -> Piece | None:
    """The samples for the peer's next steps, None if it has had all of its round."""
    left = to_lease(state, peer)
    if left <= 0 or (state.round.closing and not ahead(state, peer)):
        return None
    if peer.own_samples:
        return Piece(peer.own_leased, peer.own_leased + left)
    piece = leases.next_piece(state, peer, now)
    if piece is None:
        piece = leases.fresh(state.book, left)
        state.book.free.append(piece)
    return piece


def take(state: State, peer: Peer, piece: Piece, now: float) -> Lease:
    """Lease samples of `piece`, which `next_piece` gave: as many as the peer's steps need."""
    left = to_lease(state, peer)
    size = piece.stop - piece.start if piece.failures else min(left, piece.stop - piece.start)
    if not peer.own_samples:
        piece.start += size
        if piece.start == piece.stop:
            state.book.free.remove(piece)
        piece = Piece(piece.start - size, piece.start, piece.failures, piece.avoid)
    lease = leases.add(state, peer, "train", piece, now)
    if peer.own_samples:
        lease.own = True
        peer.own_leased += size
    if ahead(state, peer):
        lease.round += 1
    else:
        peer.leased += size
        state.round.taking.setdefault(peer.id, False)
    return lease


def to_lease(state: State, peer: Peer) -> int:
    """Samples of the peer's steps in its round that it has not been leased."""
    wanted = steps_for(state, peer) * state.rule.inner_batch
    if not ahead(state, peer):
        return wanted - peer.leased
    held = (state.book.leases[lease] for lease in peer.leases)
    return wanted - sum(lease.count for lease in held if lease.round > state.round.number)


def made(state: State, peer: Peer, now: float) -> None:
    """The peer has made its steps of this round."""
    if state.round.taking.get(peer.id) is False:
        state.round.taking[peer.id] = True
        state.round.made_at = state.round.made_at or now
        state.round.made += 1


def gave_back(state: State, peer: Peer, lease: Lease) -> None:
    """What the peer was leased will not count: it may take other samples for its steps of this round."""
    if state.in_steps and lease.round == state.round.number:
        peer.leased -= lease.count


def left(state: State, peer: Peer) -> None:
    """The peer has nothing in its hands, or is gone: should it take part in this round again, it begins anew."""
    state.round.made -= bool(state.round.taking.pop(peer.id, False))
    peer.leased = 0


def call_rest(state: State, now: float) -> list[Effect]:
    """Once a quorum has made its steps, ask the others for what they have."""
    current = state.round
    if current.closing or not current.made or current.made < math.ceil(state.rule.quorum * len(current.taking)):
        return []
    return _call_rest(state, now)


def call_slow(state: State, now: float) -> list[Effect]:
    """Before a quorum has: ask as soon as those who are done could have taken what the others still lack."""
    current = state.round
    if current.closing or not current.made or len(current.taking) == current.made:
        return []
    idle = sum(state.peers[name].speed for name, done in current.taking.items() if done)
    lacking = sum(_lacking(state, lease, now) for lease in missing(state))
    return _call_rest(state, now) if idle * (now - current.made_at) >= lacking else []


def _lacking(state: State, lease: Lease, now: float) -> float:
    """Samples of a lease that its peer should still have to compute."""
    if lease.state != "leased":
        return 0.0
    return max(lease.count - state.peers[lease.peer].speed * (now - lease.granted_at), 0.0)


def _call_rest(state: State, now: float) -> list[Effect]:
    current = state.round
    current.closing = now
    effects: list[Effect] = []
    for name in dict.fromkeys(lease.peer for lease in missing(state)):
        peer = state.peers[name]
        if not peer.contribute_by:
            peer.contribute_by = now + CONTRIBUTE_SECONDS
            state.waiting.pop(peer.id, None)
            effects.append(Tell(peer.id, ContributeNow(state.generation, current.number, current.attempt)))
    return effects


def reopen_if_empty(state: State, now: float) -> bool:
    """Where nothing that was made could count, and no more is waited for, peers make steps again; whether it is so."""
    current = state.round
    if not current.closing or current.contributions or _worth_waiting(state, now):
        return False
    current.closing, current.made, current.made_at = 0.0, 0, 0.0
    current.taking = {lease.peer: False for lease in missing(state)}
    open_round(state)
    return True


def grace_until(state: State) -> float:
    """How long a closing round waits: until the samples that those who are done could take are as many as the missing
    ones."""
    current, out = state.round, missing(state)
    absent = {lease.peer for lease in out}
    held = sum(lease.count for lease in out)
    idle = sum(state.peers[name].speed for name in current.taking if name not in absent)
    seconds = held / idle if idle else state.rule.grace
    worth_it_until = current.made_at + min(seconds, state.rule.grace)
    return max(current.closing + LEAST_GRACE, worth_it_until)


def _worth_waiting(state: State, now: float) -> bool:
    """Whether something of a closing round is missing that it still waits for."""
    if not any(_is_missing(state, lease) for lease in state.book.leases.values()):
        return False
    return now < state.round.closing + LEAST_GRACE or now < grace_until(state)


def missing(state: State) -> list[Lease]:
    """The training leases of this round that no contribution has claimed."""
    return [lease for lease in state.book.leases.values() if _is_missing(state, lease)]


def _is_missing(state: State, lease: Lease) -> bool:
    return lease.kind == "train" and lease.state != "claimed" and lease.round == state.round.number


def complete(state: State, now: float) -> bool:
    """Whether the round has all that it is worth waiting for. Uploads have deadlines of their own."""
    current = state.round
    if not current.closing or len(current.accepted) < len(current.contributions):
        return False
    return not _worth_waiting(state, now)


def base_of(held: list[Lease]) -> int:
    """The version at which the steps on these leases began."""
    return min(lease.round for lease in held) - 1


def expire(state: State) -> None:
    """After a commit: take back the leases whose contribution would now be too late."""
    rule = state.rule_of(state.version + 1)
    for lease in [lease for lease in state.book.leases.values() if lease.kind == "train"]:
        if state.version - (lease.round - 1) > lateness(state.rule_of(lease.round), rule):
            peer = state.peers[lease.peer]
            peer.leases.remove(lease.id)
            peer.contribute_by = 0.0
            leases.give_back(state.book, lease)
