"""From announcement to acceptance: grants, deadlines, checks, and dropping with a reason."""

from __future__ import annotations

import math
import statistics

from ..protocol.layout import Stream
from ..protocol.messages import Accepted, Announce, Dropped, Expect, Forget, Grant, Staged, StageFailed
from ..protocol.rules import LOSSLESS, Codec
from . import links, steps, work
from .effects import Disconnect, Effect, Tell
from .state import Contribution, Lease, Peer, State

_GRADIENT = Stream.GRADIENT.name.lower()
LEAST_UPLOAD_SECONDS = 5.0
MOST_UPLOAD_SECONDS = 3600.0
HOLDER_STRIKES = 2
REMEMBERED_NORMS = 51
NORMS_BEFORE_LIMIT = 8
"""So many accepted norms make a median that others are measured by."""
NORM_MEMORY = 0.999
"""The usual norm falls by no more than this with each accepted contribution. A model that has nearly learnt its samples
has tiny gradients on most and large ones on the few that it has not; those are what it learns from."""


def announce(state: State, peer: Peer, message: Announce, now: float) -> list[Effect]:
    """Take a contribution into the queue for grants, or refuse it with the reason."""
    current = state.round
    on_time = (message.round, message.attempt) == (current.number, current.attempt)
    if not on_time and not state.in_steps:
        # Its leases went back when that attempt ended, and the peer asks for work after the commit or abort.
        reason = f"attempt {message.attempt} at round {message.round} is over"
        return [Tell(peer.id, Dropped(state.generation, message.key, reason))]
    if message.key <= peer.key:
        return []
    if state.in_steps and state.phase in ("preparing", "recording"):
        peer.contribute_by = 0.0
        state.late[peer.id] = message
        return []
    peer.key = message.key
    owned = [state.book.leases[lease] for lease in message.leases if lease in state.book.leases]
    held = [lease for lease in owned if lease.peer == peer.id and lease.state == "done"]
    peer.contribute_by = 0.0
    if state.phase != "open":
        reason = "the shards are being handed to other holders" if state.phase == "placing" else "the session ends"
        return _refuse(state, peer, message.key, reason, now)
    if not held or len(held) != len(message.leases) or len(set(message.leases)) != len(held):
        reason = "some of its samples were given to another peer meanwhile"
        if not on_time:
            reason = f"it comes more than {state.rule.staleness} rounds late, or its round began again"
        struck = work.strike(state, peer, reason) if on_time else []
        return struck + _refuse(state, peer, message.key, reason, now)
    base = steps.base_of(held) if state.in_steps else state.version
    if message.base_version != base:
        reason = f"it starts from version {message.base_version}, the round from {base}"
        return work.strike(state, peer, reason) + _refuse(state, peer, message.key, reason, now)
    weight, own = _weight_of(state, held)
    if not weight:
        return _refuse(state, peer, message.key, "samples of its own do not count any more", now)
    reason = _bad_numbers(state, message, held) or _too_large(state, peer, held, message.norms[_GRADIENT])
    if reason:
        effects = work.strike(state, peer, f"its contribution was refused: {reason}")
        return effects + _refuse(state, peer, message.key, reason, now, failed=True)
    number = state.next_contribution
    state.next_contribution += 1
    current.contributions[number] = Contribution(
        number, message.key, peer.id, tuple(lease.id for lease in held), weight, message.base_version, message.norms,
        message.loss_sum, message.loss_count, max(message.bytes, 1), own=own, steps=max(message.steps, 0),
        seconds=sum(lease.seconds for lease in held), waiting=peer.waiting, waited_for=peer.waited_for,
    )  # fmt: skip
    peer.waiting, peer.waited_for = 0.0, ""
    for lease in held:
        lease.state = "claimed"
        lease.contribution = number
    peer.contributions.append(number)
    peer.contributed = current.number
    state.waiting.pop(peer.id, None)
    current.queue.append(number)
    if on_time:
        steps.made(state, peer, now)
    return grant(state, now)


def announce_late(state: State, now: float) -> list[Effect]:
    """The next round is open: take what was announced while the last one was merged."""
    late, state.late = state.late, {}
    return [effect for peer, message in late.items() for effect in announce(state, state.peers[peer], message, now)]


def _weight_of(state: State, held: list[Lease]) -> tuple[int, int]:
    """Samples that a contribution counts, and how many of them are the peer's own: those up to the limit."""
    own = min(sum(lease.count for lease in held if lease.own), state.settings.own_samples)
    return sum(lease.count for lease in held if not lease.own) + own, own


def _bad_numbers(state: State, message: Announce, held: list[Lease]) -> str:
    """Why the announced numbers cannot count, or ''."""
    unknown = set(message.norms) - {rule.stream.name.lower() for rule in state.rule.streams}
    if unknown:
        return f"it carries {', '.join(sorted(unknown))}, which this session does not exchange"
    numbers = [*message.norms.values(), message.loss_sum]
    if _GRADIENT not in message.norms or not all(math.isfinite(number) for number in numbers):
        return "its norm or loss is not a finite number"
    if any(norm < 0 for norm in message.norms.values()) or message.loss_count < 0:
        return "it announces a negative norm or count"
    samples = sum(lease.count for lease in held)
    if max(message.loss_count, message.steps) > samples:
        return f"it announces more losses or steps than its {samples} samples"
    return ""


def _too_large(state: State, peer: Peer, held: list[Lease], norm: float) -> str:
    """Why a contribution would move the model too far beyond what is usual to count, or ''.

    Measured is what it adds to the round's mean gradient, so that few samples, whose mean varies more, may vary more.
    Samples that failed on another peer before are believed: if two compute a large gradient, the samples are the
    cause, and to give them up would keep the model from learning them.
    """
    limit, usual = state.rule.norm_limit, state.usual_norm
    if not state.in_steps:
        norm /= state.round.target
    confirmed = all(lease.failures and (lease.failed_on != peer.id or state.crowd.active <= 1) for lease in held)
    if not (limit and usual) or confirmed or len(state.recent_norms) < NORMS_BEFORE_LIMIT or norm <= limit * usual:
        return ""
    return f"its norm is {norm / usual:.0f} times the usual one ({limit:g} times are allowed)"


def _remember_norm(state: State, norm: float) -> None:
    state.recent_norms.append(norm)
    del state.recent_norms[:-REMEMBERED_NORMS]
    state.usual_norm = max(statistics.median(state.recent_norms), NORM_MEMORY * state.usual_norm)


def _refuse(state: State, peer: Peer, key: int, reason: str, now: float, failed: bool = False) -> list[Effect]:
    """The announcement does not count, and with it all that the peer has computed."""
    effects: list[Effect] = [Tell(peer.id, Dropped(state.generation, key, reason))]
    effects += _back(state, work.done_leases(state, peer), reason, now, failed)
    work.wait(state, peer)
    return effects + work.dispatch(state, now)


def _back(state: State, held: list[Lease], reason: str, now: float, failed: bool) -> list[Effect]:
    """Leases of a contribution that does not count: to others, and where its numbers are to blame, as failed."""
    effects: list[Effect] = []
    for lease in held:
        if failed:
            effects += work.fail(state, lease, reason, now)
        else:
            work.return_lease(state, lease, now)
    return effects


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
        seconds = 2.0 * contribution.bytes / links.pace(state, contribution)
        seconds = min(max(LEAST_UPLOAD_SECONDS, seconds), MOST_UPLOAD_SECONDS)
        speed = state.peers[contribution.peer].speed
        if state.rule.overlap and speed:  # it begins between two of its steps
            seconds += state.rule.inner_batch / speed
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
    if holder not in state.holding():
        return []
    contribution.staged.append(holder)
    state.holders[holder].strikes = 0
    for stream, square in message.squares.items():
        contribution.squares[stream] = contribution.squares.get(stream, 0.0) + square
    if len(contribution.staged) < len(state.holding()):
        return []
    reason = _norms_differ(state, contribution)
    return _reject(state, contribution, reason, now) if reason else _accept(state, contribution, now)


def stage_failed(state: State, message: StageFailed, now: float) -> list[Effect]:
    """A holder refused its part."""
    contribution = state.round.contributions.get(message.number)
    if contribution is None or contribution.state != "granted":
        return []
    return _reject(state, contribution, message.reason, now)


def _reject(state: State, contribution: Contribution, reason: str, now: float) -> list[Effect]:
    effects = work.strike(state, state.peers[contribution.peer], f"its contribution was refused: {reason}")
    return effects + drop(state, contribution, reason, now, failed=True)


def _norms_differ(state: State, contribution: Contribution) -> str:
    for rule in state.rule.streams:
        name = rule.stream.name.lower()
        seen = math.sqrt(max(contribution.squares.get(name, 0.0), 0.0))
        told = contribution.norms.get(name, 0.0)
        # With feedback it is the norm of what is sent.
        exact = rule.up in LOSSLESS or rule.feedback > 0
        tolerance = 1e-3 if exact else 1e-1 if rule.up in (Codec.INT8, Codec.INT4) else 2e-2
        if not math.isfinite(seen) or abs(seen - told) > tolerance * max(seen, told) + 1e-6:
            return f"the {name} that arrived has norm {seen:.6g}, announced was {told:.6g}"
    return ""


def _accept(state: State, contribution: Contribution, now: float) -> list[Effect]:
    current = state.round
    peer = state.peers[contribution.peer]
    contribution.state = "accepted"
    current.uploading -= contribution.bytes
    current.accepted.append(contribution.number)
    current.samples_in += contribution.weight
    links.paced(peer, contribution, now)
    peer.strikes = 0
    peer.contributions.remove(contribution.number)
    peer.leases = [lease for lease in peer.leases if lease not in contribution.leases]
    peer.accepted_at = now
    _remember_norm(state, contribution.norms[_GRADIENT] / (1 if state.in_steps else contribution.weight))
    work.wait(state, peer)
    effects: list[Effect] = [Tell(peer.id, Accepted(state.generation, contribution.key, contribution.number))]
    return effects + grant(state, now) + work.serve(state, peer, now)


def drop(state: State, contribution: Contribution, reason: str, now: float, failed: bool = False) -> list[Effect]:
    """An announced or granted contribution does not count. Its samples go to others, its peer is told why."""
    effects = withdraw(state, contribution, reason, now, failed)
    work.wait(state, state.peers[contribution.peer])
    return effects + grant(state, now) + work.dispatch(state, now)


def withdraw(state: State, contribution: Contribution, reason: str, now: float, failed: bool = False) -> list[Effect]:
    """Take a contribution that is not accepted out of the round. What that makes possible is up to the caller."""
    current = state.round
    del current.contributions[contribution.number]
    if contribution.state == "granted":
        current.uploading -= contribution.bytes
    else:
        current.queue.remove(contribution.number)
    effects: list[Effect] = [Tell(holder, Forget(state.generation, contribution.number)) for holder in state.holding()]
    effects += _back(state, [state.book.leases[lease] for lease in contribution.leases], reason, now, failed)
    peer = state.peers.get(contribution.peer)
    if peer is not None:
        peer.contributions.remove(contribution.number)
        peer.contributed = 0
        steps.give_back_ahead(state, peer)
        effects.append(Tell(peer.id, Dropped(state.generation, contribution.key, reason)))
    return effects


def overdue(state: State, now: float) -> list[Effect]:
    """Drop the uploads whose time is over. The next one of that peer gets twice the time."""
    effects: list[Effect] = []
    late = [c for c in state.round.contributions.values() if c.state == "granted" and c.deadline < now]
    silent: set[str] = set()
    for contribution in late:
        if contribution.staged:
            silent.update(set(state.holding()) - set(contribution.staged))
        peer = state.peers[contribution.peer]
        peer.upload_rate = contribution.bytes / (now - contribution.granted_at)
        reason = f"its upload took longer than {now - contribution.granted_at:.0f} s"
        effects += work.strike(state, peer, reason)
        effects += drop(state, contribution, reason, now)
    return effects + _silent_holders(state, silent)


def _silent_holders(state: State, names: set[str]) -> list[Effect]:
    """It may be the peer that is slow or the holder: one that gets nothing twice in a row goes (not the server's own,
    which is the first), before a peer is paused for it. What peers were struck for until then may be its doing."""
    effects: list[Effect] = []
    for number, holder in enumerate(state.holders.values()):
        if holder.id in names:
            holder.strikes += 1
            if number and holder.strikes >= HOLDER_STRIKES:
                effects.append(Disconnect(holder.id, "contributions did not arrive at it in time"))
                for peer in state.peers.values():
                    peer.strikes = 0
    return effects
