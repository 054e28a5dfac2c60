"""From announcement to acceptance: grants, deadlines, checks, and dropping with a reason."""

from __future__ import annotations

import math
import statistics

from ..protocol.layout import Stream
from ..protocol.messages import Accepted, Announce, Dropped, Expect, Forget, Grant, Staged
from ..protocol.rules import LOSSLESS, Codec
from . import leases, work
from .effects import Effect, Note, Tell
from .state import Contribution, Peer, State

LEAST_UPLOAD_SECONDS = 5.0
ASSUMED_UPLOAD_RATE = 1e6
"""Bytes per second that a peer's first upload is assumed to reach (8 Mbit/s)."""
REMEMBERED_NORMS = 51
NORMS_BEFORE_LIMIT = 8
"""So many accepted norms make a median that others are measured by."""


def announce(state: State, peer: Peer, message: Announce, now: float) -> list[Effect]:
    """Take a contribution into the queue for grants, or refuse it with the reason."""
    current = state.round
    peer.contribute_by = 0.0
    if state.phase != "open" or (message.round, message.attempt) != (current.number, current.attempt):
        return _refuse(state, peer, message, f"round {message.round} is over", now)
    owned = [state.book.leases.get(lease) for lease in dict.fromkeys(message.leases)]
    held = [lease for lease in owned if lease is not None and lease.peer == peer.id and lease.state == "done"]
    if not held or len(held) != len(message.leases):
        return _refuse(state, peer, message, "some of its samples were given to another peer meanwhile", now)
    if message.base_version != state.version:
        return _refuse(state, peer, message, f"it starts from version {message.base_version}", now)
    weight = sum(lease.count for lease in held)
    reason = _bad_numbers(state, message, weight)
    if reason:
        return _refuse(state, peer, message, reason, now, failed=True)
    number = state.next_contribution
    state.next_contribution += 1
    current.contributions[number] = Contribution(
        number, message.key, peer.id, tuple(lease.id for lease in held), weight, message.base_version, message.norms,
        message.loss_sum, message.loss_count, max(message.bytes, 1),
    )  # fmt: skip
    for lease in held:
        lease.state = "claimed"
        lease.contribution = number
    peer.contributions.append(number)
    current.queue.append(number)
    return grant(state, now)


def _bad_numbers(state: State, message: Announce, weight: int) -> str:
    """Why the announced numbers cannot count, or ''."""
    gradient = Stream.GRADIENT.name.lower()
    numbers = [*message.norms.values(), message.loss_sum]
    if gradient not in message.norms or not all(math.isfinite(number) for number in numbers):
        return "its norm or loss is not a finite number"
    if any(norm < 0 for norm in message.norms.values()):
        return "it announces a negative norm"
    usual = state.recent_norms.get(gradient, [])
    limit = state.rule.norm_limit
    if limit and len(usual) >= NORMS_BEFORE_LIMIT:
        median = statistics.median(usual)
        norm = message.norms[gradient] / weight
        if median > 0 and norm > limit * median:
            return f"its norm is {norm / median:.0f} times the usual one ({limit:g} times are allowed)"
    return ""


def _refuse(state: State, peer: Peer, message: Announce, reason: str, now: float, failed: bool = False) -> list[Effect]:
    """The announcement does not count; the samples that it held go to others (or are given up the second time)."""
    effects: list[Effect] = [Tell(peer.id, Dropped(state.generation, message.key, reason))]
    for number in dict.fromkeys(message.leases):
        lease = state.book.leases.get(number)
        if lease is None or lease.peer != peer.id or lease.state != "done":
            continue
        if failed:
            peer.leases.remove(lease.id)
            leases.fail(state.book, lease, reason)
        else:
            work.return_lease(state, lease)
    if failed:
        effects.append(Note("warning", f"A contribution of {peer.name} was refused: {reason}.", peer.id))
        effects += work.strike(state, peer, f"its contribution was refused: {reason}")
    work.wait_again(state, peer)
    return effects + work.dispatch(state, now)


def grant(state: State, now: float) -> list[Effect]:
    """Grant uploads in the order of announcement while the bytes under way fit the budget (one always may)."""
    effects: list[Effect] = []
    current = state.round
    while current.queue and state.phase == "open":
        contribution = current.contributions[current.queue[0]]
        if current.uploading and current.uploading + contribution.bytes > state.settings.upload_bytes:
            break
        current.queue.pop(0)
        current.uploading += contribution.bytes
        rate = state.peers[contribution.peer].upload_rate or ASSUMED_UPLOAD_RATE
        seconds = max(LEAST_UPLOAD_SECONDS, 2.0 * contribution.bytes / rate)
        contribution.state = "granted"
        contribution.granted_at = now
        contribution.deadline = now + seconds
        expect = Expect(state.generation, current.number, contribution.number)
        effects += [Tell(holder, expect) for holder in state.holding()]
        effects.append(
            Tell(
                contribution.peer,
                Grant(
                    state.generation, current.number, current.attempt, contribution.key, contribution.number, seconds
                ),
            )
        )
    return effects


def staged(state: State, holder: str, message: Staged, now: float) -> list[Effect]:
    """A holder has its part; when the last one has, the contribution is checked, numbered and accepted."""
    contribution = state.round.contributions.get(message.number)
    if contribution is None or contribution.state != "granted" or holder in contribution.staged:
        return []
    contribution.staged.append(holder)
    for stream, square in message.squares.items():
        contribution.squares[stream] = contribution.squares.get(stream, 0.0) + square
    if set(contribution.staged) != set(state.holding()):
        return []
    reason = _norms_differ(state, contribution)
    peer = state.peers[contribution.peer]
    if reason:
        return drop(state, contribution, reason, now) + work.strike(state, peer, reason)
    return _accept(state, contribution, peer, now)


def _norms_differ(state: State, contribution: Contribution) -> str:
    for rule in state.rule.streams:
        name = rule.stream.name.lower()
        if name not in contribution.norms:
            continue
        seen = math.sqrt(max(contribution.squares.get(name, 0.0), 0.0))
        told = contribution.norms[name]
        tolerance = 1e-3 if rule.up in LOSSLESS else 2e-2 if rule.up != Codec.INT8 else 1e-1
        if not math.isfinite(seen) or abs(seen - told) > tolerance * max(seen, told) + 1e-6:
            return f"the {name} that arrived has norm {seen:.6g}, announced was {told:.6g}"
    return ""


def _accept(state: State, contribution: Contribution, peer: Peer, now: float) -> list[Effect]:
    current = state.round
    contribution.state = "accepted"
    current.uploading -= contribution.bytes
    current.accepted.append(contribution.number)
    current.samples_in += contribution.weight
    seconds = max(now - contribution.granted_at, 1e-3)
    peer.upload_rate = contribution.bytes / seconds
    peer.strikes = 0
    peer.samples += contribution.weight
    peer.contributions.remove(contribution.number)
    peer.leases = [lease for lease in peer.leases if lease not in contribution.leases]
    for name, norm in contribution.norms.items():
        norms = state.recent_norms.setdefault(name, [])
        norms.append(norm / contribution.weight)
        del norms[:-REMEMBERED_NORMS]
    work.wait_again(state, peer)
    effects: list[Effect] = [Tell(peer.id, Accepted(state.generation, contribution.key, contribution.number))]
    return effects + grant(state, now) + work.serve(state, peer, now)


def drop(state: State, contribution: Contribution, reason: str, now: float) -> list[Effect]:
    """An announced or granted contribution does not count. Its samples go to others, its peer is told why."""
    current = state.round
    del current.contributions[contribution.number]
    if contribution.state == "granted":
        current.uploading -= contribution.bytes
    elif contribution.number in current.queue:
        current.queue.remove(contribution.number)
    forget = Forget(state.generation, contribution.number)
    effects: list[Effect] = [Tell(holder, forget) for holder in state.holding()]
    for number in contribution.leases:
        work.return_lease(state, state.book.leases[number])
    peer = state.peers.get(contribution.peer)
    if peer is not None:
        peer.contributions.remove(contribution.number)
        effects.append(Tell(peer.id, Dropped(state.generation, contribution.key, reason)))
        work.wait_again(state, peer)
    return effects + grant(state, now) + work.dispatch(state, now)


def overdue(state: State, now: float) -> list[Effect]:
    """Drop the uploads whose time is over. The next one of that peer gets twice the time."""
    effects: list[Effect] = []
    late = [c for c in state.round.contributions.values() if c.state == "granted" and c.deadline < now]
    for contribution in late:
        peer = state.peers[contribution.peer]
        peer.upload_rate = (peer.upload_rate or ASSUMED_UPLOAD_RATE) / 2
        reason = f"its upload took longer than {now - contribution.granted_at:.0f} s"
        effects += work.strike(state, peer, reason)
        effects += drop(state, contribution, reason, now)
    return effects
