"""Everything the coordinator knows about a running session, as plain data.

Only the functions of this package change it, from `reducer.handle`. It can be compared, copied and written as JSON,
so that a log of events can be replayed and the outcome checked.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ..protocol.messages import Announce
from ..protocol.records import BookState, RoundRecord, ShardDigest, Skip
from ..protocol.rules import Codec, RoundRule, SessionSettings, StrategyChange, rule_of, steps_of
from ..protocol.standing import Standing
from .rates import Choosing, MeasuredLink
from .speed import Timing, weight

Phase = Literal["placing", "open", "preparing", "recording", "finishing", "finished"]
"""placing: shards are handed to holders; open: peers compute and contribute; preparing: holders compute the next
version; recording: it is being written; finishing: the last version is being evaluated; finished."""


class Piece(msgspec.Struct):
    """Samples waiting to be leased. `failures` counts leases of them that failed; the peer `avoid`, where the last
    one did, gets them again only after `avoid_until`, so that another may try."""

    start: int
    stop: int
    failures: int = 0
    avoid: str = ""
    avoid_until: float = 0.0


class Lease(msgspec.Struct):
    """Samples in a peer's hands: leased, computed ("done"), or claimed by the contribution with that number.

    round: the one that it was leased for, so that its steps begin at version `round - 1`. own: it counts samples of the
    peer's own data, which are in no book.
    """

    id: int
    kind: Literal["train", "evaluate"]
    peer: str
    start: int
    stop: int
    granted_at: float
    deadline: float
    failures: int = 0
    failed_on: str = ""
    state: Literal["leased", "done", "claimed"] = "leased"
    contribution: int = 0
    round: int = 0
    own: bool = False
    seconds: float = 0.0

    @property
    def count(self) -> int:
        return self.stop - self.start


class Book(msgspec.Struct):
    """Who has which samples. In an open round of samples `free`, the leases and the skips are exactly what the round
    owns; a round of steps owns no number of samples. `pool`: given back by earlier rounds, not owned by this one."""

    samples: int
    cursor: int = 0
    consumed: int = 0
    skipped: int = 0
    own: int = 0
    free: list[Piece] = []
    pool: list[Piece] = []
    leases: dict[int, Lease] = {}
    skips: list[Skip] = []
    next_lease: int = 1


BY_ITSELF = "by itself"


class Peer(msgspec.Struct):
    """A member that trains. Rates are measured here: `speed` in samples per second, its `link`, and `upload_rate`, the
    bytes per second from a grant to its end, with all that a peer and its holders do meanwhile.

    stopped: why it is paused by its own wish or the server's, or ''; standing: what the instructor has decided;
    rest_until: it has been slowed, and gets no work before. strikes: how often in a row it was too slow or refused;
    failures: how many leases failed in a row; contribute_by: when its announcement is due (0: it was not asked for
    one); key: the last one it announced; contributed: the round that it has announced a contribution to. own_samples:
    of its own data (0: it takes the session's), of which `own_leased` have been leased; of the samples of its steps in
    the round under way it has made or holds `leased`. done_at, accepted_at: when it finished its last lease, when its
    last contribution was accepted; since its last announcement it had nothing to compute for `waiting` seconds, mostly
    because of `waited_for`. counted: as what it is in `State.crowd`.
    """

    id: str
    name: str
    device: str = "cpu"
    synced: bool = False
    version: int = -1
    stopped: str = ""
    standing: Standing = Standing()
    rest_until: float = 0.0
    speed: float = 0.0
    timing: Timing = msgspec.field(default_factory=Timing)
    upload_rate: float = 0.0
    link: MeasuredLink = msgspec.field(default_factory=MeasuredLink)
    codecs: tuple[int, ...] = tuple(Codec)
    strikes: int = 0
    failures: int = 0
    leases: list[int] = []
    contributions: list[int] = []
    contribute_by: float = 0.0
    key: int = -1
    contributed: int = 0
    samples: int = 0
    own_samples: int = 0
    own_leased: int = 0
    leased: int = 0
    counted: Literal["no", "synced", "active"] = "no"
    done_at: float = 0.0
    accepted_at: float = 0.0
    waiting: float = 0.0
    waited_for: str = ""

    @property
    def paused(self) -> str:
        """Why it gets no work, or ''."""
        return "by the instructor" if self.standing.paused else self.stopped

    @property
    def paused_by(self) -> Literal["", "itself", "the server", "the instructor"]:
        """Who has to resume it; the instructor may also resume whom the server has paused."""
        if self.standing.paused:
            return "the instructor"
        if self.stopped == BY_ITSELF:
            return "itself"
        return "the server" if self.stopped else ""


class Holder(msgspec.Struct):
    """A member that keeps these shards. `strikes`: how often in a row a part did not arrive at it, but at others."""

    id: str
    shards: tuple[int, ...] = ()
    strikes: int = 0


class Contribution(msgspec.Struct):
    """What a peer announced for a round, on its way to the holders."""

    number: int
    key: int
    peer: str
    leases: tuple[int, ...]
    weight: int
    base_version: int
    norms: dict[str, float]
    loss_sum: float
    loss_count: int
    bytes: int
    state: Literal["announced", "granted", "accepted"] = "announced"
    granted_at: float = 0.0
    deadline: float = 0.0
    staged: list[str] = []
    squares: dict[str, float] = {}
    own: int = 0
    steps: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    waited_for: str = ""


class Round(msgspec.Struct):
    """The attempt under way at the next version.

    Of a round of steps: `fastest` is the speed of the fastest peer at its opening; `taking` says of each peer that got
    steps whether it has made them, `made` how many have, the first at `made_at`; `closing` is when the others were
    asked for what they have (0.0: not yet).
    """

    number: int
    attempt: int = 1
    target: int = 0
    contributions: dict[int, Contribution] = {}
    queue: list[int] = []
    uploading: int = 0
    accepted: list[int] = []
    samples_in: int = 0
    deadline: float = 0.0
    partial_norms: dict[str, float] = {}
    prepared: dict[str, tuple[ShardDigest, ...]] = {}
    record: RoundRecord | None = None
    failed_attempts: int = 0
    fastest: float = 0.0
    taking: dict[str, bool] = {}
    made: int = 0
    made_at: float = 0.0
    closing: float = 0.0


class Evaluation(msgspec.Struct):
    """The held-out part measured at one version, piece by piece. `since`: when one was last leased or came back."""

    version: int
    since: float
    free: list[Piece] = []
    leased: int = 0
    sums: dict[str, float] = {}
    count: int = 0


class Crowd(msgspec.Struct):
    """Sums over the peers, kept so that a lease costs the same whatever their number: how many are synced, active
    (synced and not paused), active with a measured speed, and the sum of their weights."""

    synced: int = 0
    active: int = 0
    measured: int = 0
    weight: float = 0.0

    @property
    def usual(self) -> float:
        """The mean weight of the measured, 0.0 without any."""
        return max(self.weight, 0.0) / self.measured if self.measured else 0.0


class State(msgspec.Struct):
    """One session. `waiting` holds the peers that asked for work and got none, in the order in which they asked.

    rule: of the round under way; `first_rule` and `changes` say which one holds when. late: announcements that came
    while a round was merged without them. closed_at, closed_by: when the last round had all that it was merged of, and
    for whom it had waited. elements: how many parameters are exchanged.
    """

    session: str
    rule: RoundRule
    first_rule: RoundRule
    changes: tuple[StrategyChange, ...]
    settings: SessionSettings
    book: Book
    round: Round
    shard_count: int = 0
    held_out: int = 0
    generation: int = 1
    version: int = 0
    samples_done: int = 0
    phase: Phase = "placing"
    paused: str = ""
    ending: str = ""
    next_settings: SessionSettings | None = None
    peers: dict[str, Peer] = {}
    crowd: Crowd = msgspec.field(default_factory=Crowd)
    holders: dict[str, Holder] = {}
    placement: dict[int, str] = {}
    placing: int = 0
    placing_until: float = 0.0
    replace: bool = False
    waiting: dict[str, bool] = {}
    evaluation: Evaluation | None = None
    next_contribution: int = 1
    recent_norms: list[float] = []
    usual_norm: float = 0.0
    last_record: RoundRecord | None = None
    late: dict[str, Announce] = {}
    closed_at: float = 0.0
    closed_by: str = ""
    elements: int = 0
    choosing: Choosing = msgspec.field(default_factory=Choosing)

    @property
    def in_steps(self) -> bool:
        """Whether the round under way is one of steps."""
        return self.rule.work == "steps"

    @property
    def inner_steps(self) -> int:
        """Steps of the fastest peer in a round of steps."""
        return steps_of(self.rule, self.settings)

    @property
    def target(self) -> int:
        """Samples that a round owns; in a round of steps, those that it would take if all peers were equally fast."""
        if self.in_steps:
            return self.inner_steps * self.rule.inner_batch * max(self.crowd.active, 1)
        return self.settings.target_batch or self.rule.target_batch

    def rule_of(self, round: int) -> RoundRule:
        """The rule that holds for `round`, as things stand."""
        return rule_of(self.first_rule, self.changes, round)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the round under way."""
        optimizer = self.rule.optimizer
        chosen = self.settings.learning_rate if self.rule.inner_optimizer is None else 0.0
        return (chosen or optimizer.lr) * optimizer.schedule.factor(self.samples_done)

    @property
    def inner_learning_rate(self) -> float:
        """The learning rate of the inner steps of the round under way (0.0 in a round of samples)."""
        optimizer = self.rule.inner_optimizer
        if optimizer is None:
            return 0.0
        return (self.settings.learning_rate or optimizer.lr) * optimizer.schedule.factor(self.samples_done)

    def holding(self) -> list[str]:
        """The holders that have shards, in the order in which they came."""
        return [holder.id for holder in self.holders.values() if holder.shards]

    def active_peers(self) -> list[Peer]:
        """Peers that can take work."""
        return [peer for peer in self.peers.values() if peer.synced and not peer.paused]

    def count(self, peer: Peer) -> None:
        """Bring `crowd` up to date after the peer came, went, paused or resumed."""
        crowd = self.crowd
        synced = peer.synced and self.peers.get(peer.id) is peer
        active = synced and not peer.paused
        crowd.synced += synced - (peer.counted != "no")
        change = active - (peer.counted == "active")
        crowd.active += change
        if peer.speed > 0:
            crowd.measured += change
            crowd.weight = crowd.weight + change * weight(peer.speed) if crowd.measured else 0.0
        peer.counted = "active" if active else "synced" if synced else "no"


def new_state(
    session: str,
    rule: RoundRule,
    settings: SessionSettings,
    samples: int,
    held_out: int,
    shards: int,
    generation: int = 1,
    last_record: RoundRecord | None = None,
    changes: tuple[StrategyChange, ...] = (),
    elements: int = 0,
) -> State:
    """The state at the start of a server: a fresh session, or one that goes on after `last_record`. `rule` is that of
    the first round, `changes` say what holds later."""
    book = last_record.book if last_record else BookState()
    version = last_record.round if last_record else 0
    return State(
        session=session,
        rule=rule_of(rule, changes, version + 1),
        first_rule=rule,
        changes=changes,
        settings=settings,
        held_out=held_out,
        elements=elements,
        shard_count=shards,
        generation=generation,
        version=version,
        samples_done=book.done,
        last_record=last_record,
        round=Round(number=version + 1),
        book=Book(
            samples=samples,
            cursor=book.cursor,
            consumed=book.consumed,
            skipped=book.skipped,
            own=book.own,
            pool=[Piece(start, stop) for start, stop in book.pool],
        ),
    )
