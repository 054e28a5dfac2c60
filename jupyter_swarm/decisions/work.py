"""Who computes what next: pieces of an evaluation first, then training leases, then the call to contribute."""

from __future__ import annotations

from ..protocol.messages import ContributeNow, LeaseDone, LeaseGrant
from . import evaluation, leases, steps
from .effects import Effect, Note, Tell
from .speed import weight
from .state import BY_ITSELF, Lease, Peer, State
from .steps import CONTRIBUTE_SECONDS

STRIKES = 3
"""A peer that is too slow, or whose leases fail, so many times in a row is paused, with the reason."""


def want_work(state: State, peer: Peer, version: int, now: float) -> list[Effect]:
    """A peer has nothing to compute. One whose view is old will ask again after the commits on their way to it."""
    peer.version = max(peer.version, version)
    wait(state, peer)
    return serve(state, peer, now)


def wait(state: State, peer: Peer) -> None:
    """Let the peer wait for work if it is its turn to: its view is current, and no contribution of it is under way that
    it could not go on beside."""
    free = not peer.contributions or steps.ahead(state, peer)
    if peer.synced and peer.version == state.version and free and not peer.contribute_by:
        state.waiting[peer.id] = True
    else:
        state.waiting.pop(peer.id, None)


def dispatch(state: State, now: float) -> list[Effect]:
    """Work has come back or may be given again: serve those that wait, the longest waiting first."""
    pieces = state.evaluation is not None and bool(state.evaluation.free)
    if not state.book.leases and (state.paused or not (pieces or (state.phase == "open" and enough_peers(state)))):
        return []  # all wait for the session, and nobody has anything to contribute: a class comes in
    effects: list[Effect] = []
    in_steps = state.in_steps
    for peer in [state.peers[name] for name in state.waiting]:
        # Only whoever has something in its hands can be called without being given more.
        more = pieces or (steps.to_lease(state, peer) > 0 if in_steps else state.book.free)
        if more or peer.leases:
            effects += serve(state, peer, now)
    return effects


def came_back(state: State, now: float) -> list[Effect]:
    """What somebody held may be free again: serve those that wait for such. In a round of steps nobody waits for
    samples, of which there are always fresh ones."""
    pieces = state.evaluation is not None and state.evaluation.free
    return dispatch(state, now) if pieces or not state.in_steps else []


def enough_peers(state: State) -> bool:
    """Whether so many peers are here as the settings ask for (a change of that number holds at once)."""
    return state.crowd.synced >= (state.next_settings or state.settings).minimum_peers


def serve(state: State, peer: Peer, now: float) -> list[Effect]:
    """Give a waiting peer what there is for it; it keeps waiting if that is nothing.

    Samples whose lease failed before go into a contribution of their own: if they fail again, no others do with them.
    """
    if peer.id not in state.waiting or any(lease.state == "leased" for lease in leases_of(state, peer)):
        return []
    done = done_leases(state, peer)
    held_back = bool(peer.paused) or rests(state, peer, now)
    ahead = steps.ahead(state, peer)
    if state.phase == "open" and held_back and done and not ahead:
        return _call(state, peer, now)
    if state.paused or held_back:
        return []
    if state.phase in ("open", "finishing") and state.evaluation and state.evaluation.free:
        return [_grant(state, peer, evaluation.take(state, state.evaluation, peer, now))]
    if not (ahead or state.phase == "open") or not enough_peers(state):
        return []
    if peer.own_samples and not (state.in_steps and state.settings.own_samples):
        return []
    source = steps if state.in_steps else leases
    piece = source.next_piece(state, peer, now)
    if done and (piece is None or piece.failures or any(lease.failures for lease in done)):
        return [] if ahead else _call(state, peer, now)
    if piece is None:
        return []
    _waited(state, peer, now)
    return [_grant(state, peer, source.take(state, peer, piece, now))]


def rests(state: State, peer: Peer, now: float) -> bool:
    """Whether a peer that the instructor has slowed gets nothing yet: after each lease it rests for so long that it
    works for its share of the time. The last evaluation waits for nobody's rest."""
    return bool(peer.standing.slowed) and peer.rest_until > now and state.phase == "open"


def _waited(state: State, peer: Peer, now: float) -> None:
    """The peer gets work: note how long it had none, and what took longest of that."""
    if not peer.done_at:
        return
    parts = {"its next lease": now - peer.done_at}
    if peer.accepted_at >= peer.done_at:
        closed = max(state.closed_at, peer.accepted_at)
        parts = {
            "its upload": peer.accepted_at - peer.done_at,
            state.closed_by or "other peers": closed - peer.accepted_at,
            "the commit": now - closed,
        }
    longest = max(parts, key=lambda part: parts[part])
    if 2.0 * (min(now, peer.rest_until) - peer.done_at) > now - peer.done_at:
        longest = "the instructor, who slowed it"
    if now - peer.done_at > peer.waiting:
        peer.waited_for = longest
    peer.waiting += now - peer.done_at
    peer.done_at = 0.0


def leases_of(state: State, peer: Peer) -> list[Lease]:
    """What the peer has in its hands and what of it no holder has accepted yet."""
    return [state.book.leases[lease] for lease in peer.leases]


def done_leases(state: State, peer: Peer) -> list[Lease]:
    """What the peer has computed and not announced."""
    return [lease for lease in leases_of(state, peer) if lease.state == "done"]


def _grant(state: State, peer: Peer, lease: Lease) -> Effect:
    state.waiting.pop(peer.id, None)
    attempt = state.round.attempt if lease.round == state.round.number else 1
    return Tell(
        peer.id,
        LeaseGrant(
            state.generation, lease.round, attempt, lease.id, lease.kind, lease.start, lease.stop,
            learning_rate=state.inner_learning_rate if lease.kind == "train" else 0.0, own=lease.own,
        ),
    )  # fmt: skip


def _call(state: State, peer: Peer, now: float) -> list[Effect]:
    state.waiting.pop(peer.id, None)
    steps.made(state, peer, now)
    peer.contribute_by = now + CONTRIBUTE_SECONDS
    return [Tell(peer.id, ContributeNow(state.generation, state.round.number, state.round.attempt))]


def lease_done(state: State, peer: Peer, message: LeaseDone, now: float) -> list[Effect]:
    """A peer has finished a lease and gets the next one. One that is no longer its own is ignored: it was given to
    another meanwhile."""
    lease = state.book.leases.get(message.lease)
    if lease is None or lease.peer != peer.id or lease.state != "leased":
        return []
    if lease.kind == "train" and 0 <= message.computed < lease.count and state.in_steps:
        return _computed_part(state, peer, lease, message, now)
    if message.failed:
        effects = _failed(state, peer, lease, message.failed, now)
        not_called_for_nothing(state, peer)
        return effects + dispatch(state, now)
    peer.failures = 0
    if lease.kind == "evaluate":
        _rest(peer, now - lease.granted_at, now)
        evaluation.add(state, lease, message, now)
    else:
        _done(state, peer, lease, now)
    wait(state, peer)
    return serve(state, peer, now)


def _done(state: State, peer: Peer, lease: Lease, now: float) -> None:
    lease.state = "done"
    lease.seconds = now - lease.granted_at
    peer.done_at = now
    peer.timing.add(lease.count, lease.seconds)
    measured(state, peer, peer.timing.speed)
    _rest(peer, lease.seconds, now)


def _rest(peer: Peer, seconds: float, now: float) -> None:
    """The peer has worked for so many seconds."""
    if peer.standing.slowed:
        peer.rest_until = now + seconds * (1.0 / peer.standing.slowed - 1.0)


def _computed_part(state: State, peer: Peer, lease: Lease, message: LeaseDone, now: float) -> list[Effect]:
    """Of a lease of steps the first ones are made. The others go back; if a step has failed, its samples as failed."""
    effects: list[Effect] = []
    rest = lease
    if message.computed:
        rest = leases.cut(state.book, peer, lease, message.computed)
        _done(state, peer, lease, now)
    if message.failed:
        batch = state.rule.inner_batch
        if rest.count > batch:
            return_lease(state, leases.cut(state.book, peer, rest, batch), now)
        effects = _failed(state, peer, rest, message.failed, now)
    else:
        peer.failures = 0
        return_lease(state, rest, now)
    not_called_for_nothing(state, peer)
    return effects + came_back(state, now) + serve(state, peer, now)


def not_called_for_nothing(state: State, peer: Peer) -> None:
    """A peer that has computed nothing need not contribute, even if it was asked to."""
    if (peer.contribute_by or peer.paused) and not peer.leases:
        peer.contribute_by = 0.0
        steps.left(state, peer)
    wait(state, peer)


def measured(state: State, peer: Peer, speed: float) -> None:
    """The peer's speed is known, or known better."""
    if peer.counted == "active":
        state.crowd.measured += not peer.speed
        state.crowd.weight += weight(speed) - weight(peer.speed)
    peer.speed = speed


def _failed(state: State, peer: Peer, lease: Lease, reason: str, now: float) -> list[Effect]:
    if lease.kind == "evaluate":
        return evaluation.fail(state, lease, reason, now)
    if not lease.failures or state.crowd.active <= 1:
        # Samples that failed on another peer before say nothing about this one.
        peer.failures += 1
    effects = fail(state, lease, reason, now)
    if peer.failures >= STRIKES and not peer.paused:
        effects.append(pause_peer(state, peer, f"its last {STRIKES} leases failed: {reason}"))
    return effects


def fail(state: State, lease: Lease, reason: str, now: float) -> list[Effect]:
    """What the peer computed for a training lease, or of it, cannot count: lease its samples again, or skip them."""
    peer = state.peers[lease.peer]
    peer.leases.remove(lease.id)
    steps.gave_back(state, peer, lease)
    skip = leases.fail(state.book, lease, reason, now, replace=not state.in_steps)
    again = "They are skipped" if skip else "They are leased again"
    text = f"{peer.name} could not compute samples {lease.start} to {lease.stop - 1}: {reason}. {again}."
    return [Note("warning", text, peer.id)]


def pause_peer(state: State, peer: Peer, reason: str) -> Effect:
    """Give a peer no more work until it or the instructor resumes it."""
    peer.stopped = reason
    state.count(peer)
    not_called_for_nothing(state, peer)
    why = f" {reason}." if reason == BY_ITSELF else f": {reason}"
    return Note("warning", f"{peer.name} is paused{why}", peer.id)


def strike(state: State, peer: Peer, reason: str) -> list[Effect]:
    """A peer was too slow, or refused; three times in a row and it is paused."""
    peer.strikes += 1
    effects: list[Effect] = [Note("warning", f"{peer.name}: {reason}", peer.id)]
    if peer.strikes >= STRIKES and not peer.paused:
        effects.append(pause_peer(state, peer, reason))
    return effects


def return_lease(state: State, lease: Lease, now: float) -> None:
    """A lease comes back: its peer is gone, too slow, or has not computed it."""
    if lease.kind == "evaluate":
        evaluation.give_back(state, lease, now, failures=lease.failures)
        return
    peer = state.peers.get(lease.peer)
    if peer is not None:
        peer.leases.remove(lease.id)
        steps.gave_back(state, peer, lease)
    leases.give_back(state.book, lease)
