"""What a session is doing, as the REST interface and those who watch see it.

Its size has a bound, whatever the number of peers: those who watch get it every second, and peers may watch, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from ..decisions import links
from ..decisions.explain import explain, explain_peer
from ..decisions.state import Peer, State
from ..protocol.messages import Progress
from ..protocol.samples import Sample
from .members import Members
from .traffic import Traffic

LISTED = 200
"""So many peers are in a status one by one."""


class PeerStatus(msgspec.Struct, frozen=True):
    """One connected peer. `speed`: samples per second; `share`: of all samples accepted since the server started.

    As the server measures: `up` and `down`, bytes per second of its link, and `round_trip` in seconds (0: not yet). As
    the peer tells: `computing`, the share of the last seconds in which it computed, its `memory` in bytes, and
    `free_memory` on the device that it trains on. In a round of steps: `steps` that it got work for in this round,
    `step_seconds` that it needs for one, and `staleness`, by how many rounds what it has in hands is behind. `waiting`:
    seconds since its last contribution in which it had nothing to compute, mostly because of `waited_for`.
    `own_samples`: of data that stays with it. `paused_by`: itself, the server, the instructor, or nobody ('');
    `slowed`: to this share of its work by the instructor (0: it is not); `muted`: `name` is not its own.
    """

    id: str
    name: str
    device: str
    state: str
    reason: str
    version: int
    speed: float
    samples: int
    share: float
    computing: float
    memory: int
    bytes_sent: int
    bytes_received: int
    steps: int = 0
    staleness: int = 0
    waiting: float = 0.0
    waited_for: str = ""
    own_samples: int = 0
    paused_by: str = ""
    slowed: float = 0.0
    muted: bool = False
    up: float = 0.0
    down: float = 0.0
    round_trip: float = 0.0
    step_seconds: float = 0.0
    free_memory: int = 0


class CrowdStatus(msgspec.Struct, frozen=True):
    """All connected peers together: how many, how many in which state, their samples per second, and the bytes that
    moved between them and the server since it started, with those of peers that are gone."""

    peers: int
    states: dict[str, int]
    speed: float
    bytes: int


class NextStrategy(msgspec.Struct, frozen=True):
    """What holds from `round` on."""

    round: int
    strategy: str


class SessionStatus(msgspec.Struct, frozen=True):
    """The session. `peers` are the first `LISTED` of them, as `in_order`; `crowd` counts them all. `metrics` are the
    latest: mean training loss of a round, held-out means. `strategy` is that of the round under way, `codecs` what its
    gradient travels in and `codecs_because` why, if the session has chosen them; `sample` the last text that was
    shown."""

    session: str
    name: str
    state: str
    reason: str
    generation: int
    version: int
    rounds: int
    samples_done: int
    peers: list[PeerStatus]
    crowd: CrowdStatus
    holders: list[str]
    metrics: dict[str, float]
    strategy: str = ""
    next_strategy: NextStrategy | None = None
    sample: Sample | None = None
    codecs: str = ""
    codecs_because: str = ""


def status_of(
    state: State,
    members: Members,
    traffic: Traffic,
    name: str,
    metrics: dict[str, float],
    now: float,
    sample: Sample | None = None,
) -> SessionStatus:
    """The status of the moment."""
    word, reason = explain(state, now)
    return SessionStatus(
        session=state.session,
        name=name,
        state=word,
        reason=reason,
        generation=state.generation,
        version=state.version,
        rounds=state.settings.rounds,
        samples_done=state.samples_done,
        peers=peers_of(state, members, in_order(state.peers.values(), LISTED)[:LISTED], now),
        crowd=_crowd(state, members, traffic, now),
        holders=list(state.holders),
        metrics=dict(metrics),
        strategy=state.rule.strategy,
        next_strategy=next(
            (
                NextStrategy(one.round, one.rule.strategy)
                for one in state.changes
                if one.round > state.round.number and not one.reason
            ),
            None,
        ),
        sample=sample,
        codecs=links.codecs_text(state.rule),
        codecs_because=links.words(state),
    )


def push(kind: str, **facts: Any) -> bytes:
    """What those who watch are told, as JSON."""
    return msgspec.json.encode({"type": kind, **facts})


def in_order(peers: Collection[Peer], most: int) -> list[Peer]:
    """As they joined; of more than `most`, which are listed, those first whom somebody has paused, slowed or muted, so
    that whoever steers finds them."""
    if len(peers) <= most:
        return list(peers)
    return sorted(peers, key=lambda peer: not (peer.paused or peer.standing.slowed or peer.standing.muted))


def peers_of(state: State, members: Members, some: Iterable[Peer], now: float) -> list[PeerStatus]:
    """What some of the connected peers do."""
    total = sum(peer.samples for peer in state.peers.values()) or 1
    return [_peer(state, members, peer, total, now) for peer in some]


def _peer(state: State, members: Members, peer: Peer, total: int, now: float) -> PeerStatus:
    attached = members.connected.get(peer.id)
    doing, why = explain_peer(state, peer, now)
    return PeerStatus(
        id=peer.id,
        name=peer.name,
        device=peer.device,
        state=doing,
        reason=why,
        version=peer.version,
        speed=peer.speed,
        samples=peer.samples,
        share=peer.samples / total,
        computing=_computing(attached.progress) if attached else 0.0,
        memory=attached.progress.memory if attached else 0,
        bytes_sent=attached.connection.bytes_sent if attached else 0,
        bytes_received=attached.connection.bytes_received if attached else 0,
        steps=-(-peer.leased // state.rule.inner_batch) if state.in_steps else 0,
        staleness=_staleness(state, peer),
        waiting=peer.waiting,
        waited_for=peer.waited_for,
        own_samples=peer.own_samples,
        paused_by=peer.paused_by,
        slowed=peer.standing.slowed,
        muted=peer.standing.muted,
        up=peer.link.up.rate,
        down=peer.link.down.rate,
        round_trip=peer.link.round_trip,
        step_seconds=state.rule.inner_batch / peer.speed if state.in_steps and peer.speed else 0.0,
        free_memory=attached.progress.free_memory if attached else 0,
    )


def _crowd(state: State, members: Members, traffic: Traffic, now: float) -> CrowdStatus:
    states = Counter(explain_peer(state, peer, now)[0] for peer in state.peers.values())
    speed = sum(peer.speed for peer in state.peers.values())
    return CrowdStatus(len(state.peers), dict(states.most_common()), speed, traffic.moved(members))


def _staleness(state: State, peer: Peer) -> int:
    leases = (state.book.leases[lease] for lease in peer.leases)
    return max((state.round.number - lease.round for lease in leases if lease.kind == "train"), default=0)


def _computing(progress: Progress) -> float:
    seconds = progress.computing + progress.waiting
    return progress.computing / seconds if seconds else 0.0
