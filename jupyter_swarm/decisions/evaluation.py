"""The held-out part measured at one version, in pieces that peers lease like other work, so that the curve does not
depend on one peer. A piece that comes back goes to another one; one that fails twice is left out."""

from __future__ import annotations

import math

from ..protocol.messages import Evaluated, LeaseDone
from . import leases
from .effects import Effect, Note, TellPeers
from .state import Evaluation, Lease, Peer, Piece, State


def begin(state: State, now: float) -> list[Effect]:
    """Measure the held-out part, if there is one, at the current version."""
    if not state.held_out:
        return []
    effects = end(state)
    state.evaluation = Evaluation(state.version, now, [Piece(0, state.held_out)])
    return effects


def begin_if_due(state: State, now: float) -> list[Effect]:
    """After a commit: begin the evaluation that is due; of an earlier one only what is being computed counts."""
    settings = state.next_settings or state.settings
    last = bool(settings.rounds and state.version >= settings.rounds) or bool(state.ending)
    every = settings.evaluate_every
    if last or (every and state.version % every == 0):
        return begin(state, now)
    if state.evaluation is not None:
        state.evaluation.free = []
    return []


def end(state: State) -> list[Effect]:
    """Publish what is measured, and give up what is still out or left of the evaluation under way."""
    if state.evaluation is None:
        return []
    for lease in [lease for lease in state.book.leases.values() if lease.kind == "evaluate"]:
        del state.book.leases[lease.id]
        state.peers[lease.peer].leases.remove(lease.id)
    state.evaluation.free = []
    state.evaluation.leased = 0
    return publish_if_done(state)


def publish_if_done(state: State) -> list[Effect]:
    """Publish the evaluation once no piece of it is out or left."""
    evaluation = state.evaluation
    if evaluation is None or evaluation.leased or evaluation.free:
        return []
    state.evaluation = None
    means = {name: value / evaluation.count for name, value in evaluation.sums.items() if evaluation.count}
    means = {name: mean for name, mean in means.items() if math.isfinite(mean)}
    if not means:
        return []
    return [TellPeers(Evaluated(state.generation, evaluation.version, means, evaluation.count))]


def take(state: State, evaluation: Evaluation, peer: Peer, now: float) -> Lease:
    """Lease a piece to `peer`: all of it if it failed before, else as much as suits its speed."""
    piece = evaluation.free.pop()
    size = leases.lease_size(state, peer, piece.stop - piece.start, state.held_out)
    if piece.start + size < piece.stop and not piece.failures:
        evaluation.free.append(Piece(piece.start + size, piece.stop))
        piece.stop = piece.start + size
    evaluation.leased += 1
    evaluation.since = now
    return leases.add(state, peer, "evaluate", piece, now)


def add(state: State, lease: Lease, message: LeaseDone, now: float) -> None:
    """A piece is measured."""
    evaluation = _returned(state, lease, now)
    for name, value in message.sums.items():
        evaluation.sums[name] = evaluation.sums.get(name, 0.0) + value
    evaluation.count += max(0, min(message.count, lease.count))


def fail(state: State, lease: Lease, reason: str, now: float) -> list[Effect]:
    """A piece could not be measured. Its peer is not to blame: the recipe may fail on these samples everywhere."""
    peer = state.peers[lease.peer]
    given_up = " They are left out." if lease.failures else ""
    give_back(state, lease, now, failures=lease.failures + 1)
    text = f"{peer.name} could not evaluate samples {lease.start} to {lease.stop - 1}: {reason}.{given_up}"
    return [Note("warning", text, peer.id)]


def give_back(state: State, lease: Lease, now: float, failures: int) -> None:
    """A piece is to be leased again; last in line, so that another peer may get it. Not so if it has failed twice, or
    if the version that it is of is no longer the current one."""
    evaluation = _returned(state, lease, now)
    if evaluation.version == state.version and failures < 2:
        evaluation.free.insert(0, Piece(lease.start, lease.stop, failures))


def _returned(state: State, lease: Lease, now: float) -> Evaluation:
    del state.book.leases[lease.id]
    if lease.peer in state.peers:
        state.peers[lease.peer].leases.remove(lease.id)
    assert state.evaluation is not None, "it lasts as long as pieces of it are out"
    state.evaluation.leased -= 1
    state.evaluation.since = now
    return state.evaluation
