"""What a session is doing, as the REST interface and those who watch see it."""

from __future__ import annotations

import msgspec

from ..decisions import links
from ..decisions.explain import explain, explain_peer
from ..decisions.state import Peer, State
from ..protocol.messages import Progress
from ..protocol.samples import Sample
from .members import Members


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


class NextStrategy(msgspec.Struct, frozen=True):
    """What holds from `round` on."""

    round: int
    strategy: str


class SessionStatus(msgspec.Struct, frozen=True):
    """The session. `metrics` are the latest: mean training loss of a round, held-out means. `strategy` is that of the
    round under way, `codecs` what its gradient travels in and `codecs_because` why, if the session has chosen them;
    `sample` the last text that was shown."""

    session: str
    name: str
    state: str
    reason: str
    generation: int
    version: int
    rounds: int
    samples_done: int
    peers: list[PeerStatus]
    holders: list[str]
    metrics: dict[str, float]
    strategy: str = ""
    next_strategy: NextStrategy | None = None
    sample: Sample | None = None
    codecs: str = ""
    codecs_because: str = ""


def status_of(
    state: State, members: Members, name: str, metrics: dict[str, float], now: float, sample: Sample | None = None
) -> SessionStatus:
    """The status of the moment."""
    word, reason = explain(state, now)
    total = sum(peer.samples for peer in state.peers.values()) or 1
    peers = []
    for peer in state.peers.values():
        attached = members.connected.get(peer.id)
        doing, why = explain_peer(state, peer, now)
        peers.append(
            PeerStatus(
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
        )
    return SessionStatus(
        session=state.session,
        name=name,
        state=word,
        reason=reason,
        generation=state.generation,
        version=state.version,
        rounds=state.settings.rounds,
        samples_done=state.samples_done,
        peers=peers,
        holders=list(state.holders),
        metrics=dict(metrics),
        strategy=state.rule.strategy,
        next_strategy=next(
            (NextStrategy(one.round, one.rule.strategy) for one in state.changes if one.round > state.round.number),
            None,
        ),
        sample=sample,
        codecs=links.codecs_text(state.rule),
        codecs_because=links.words(state),
    )


def _staleness(state: State, peer: Peer) -> int:
    leases = (state.book.leases[lease] for lease in peer.leases)
    return max((state.round.number - lease.round for lease in leases if lease.kind == "train"), default=0)


def _computing(progress: Progress) -> float:
    seconds = progress.computing + progress.waiting
    return progress.computing / seconds if seconds else 0.0
