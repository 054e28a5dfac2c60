"""What a session is told to do, as plain data: the `RoundRule`, the optimizer's settings, the session's settings.

A strategy compiles to a `RoundRule`; the decisions see nothing else of it. Fields that a rule does not use keep
their defaults. Format version 1: a field may be added with a default, none may change its meaning.
"""

from __future__ import annotations

import enum
import math
from typing import Literal

import msgspec

from .layout import Stream

RULE_VERSION = 1


class Codec(enum.IntEnum):
    """How a shard's numbers are written as bytes. INT8 and INT4 are blockwise with an fp32 scale for each block; TOPK
    is the 64 largest of each 4,096 numbers, in two bits each and their place."""

    FP32 = 1
    FP16 = 2
    BF16 = 3
    INT8 = 4
    INT64 = 5
    INT4 = 6
    TOPK = 7


LOSSLESS = frozenset({Codec.FP32, Codec.INT64})
"""Codecs that carry values. With these a holder's master copy and the peers' view are one."""

FIRST_CODECS = tuple(int(codec) for codec in Codec if codec <= Codec.INT64)
"""What every package knows, also one that does not say what it knows."""


class Schedule(msgspec.Struct, frozen=True):
    """The factor on the learning rate after so many samples of the session (all peers together).

    Linear warm-up over `warmup_samples`, then constant, or down to `floor` at `total_samples` (linear or cosine).
    """

    shape: Literal["constant", "linear", "cosine"] = "constant"
    warmup_samples: int = 0
    total_samples: int = 0
    floor: float = 0.0

    def factor(self, samples: int) -> float:
        """The factor for the step that begins when `samples` samples have been consumed."""
        if samples < self.warmup_samples:
            return (samples + 1) / (self.warmup_samples + 1)
        if self.shape == "constant" or self.total_samples <= self.warmup_samples:
            return 1.0
        done = min((samples - self.warmup_samples) / (self.total_samples - self.warmup_samples), 1.0)
        rest = 1.0 - done if self.shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        return self.floor + (1.0 - self.floor) * rest


class SGD(msgspec.Struct, frozen=True, tag="sgd"):
    """Stochastic gradient descent with momentum, as `torch.optim.SGD` (dampening 0). Nesterov when asked for."""

    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: Schedule = Schedule()


class AdamW(msgspec.Struct, frozen=True, tag="adamw"):
    """AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), as `torch.optim.AdamW`."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    schedule: Schedule = Schedule()


class Sophia(msgspec.Struct, frozen=True, tag="sophia"):
    """Sophia (Liu et al., arXiv 2305.14342, algorithm 3): momentum, divided by a diagonal Hessian estimate and clipped.

        m = β1 m + (1 - β1) g;  every `hessian_every` steps  h = β2 h + (1 - β2) ĥ
        θ = θ - lr·λ·θ;  θ = θ - lr · clip(m / max(ρ h, ε), 1)

    estimator: "gnb" (Gauss-Newton-Bartlett, algorithm 2: ĥ = B·ĝ⊙ĝ, where ĝ is the gradient of the mean loss with B
    labels sampled from the model's own predictions) or "hutchinson" (algorithm 1: ĥ = u⊙∇⟨∇L, u⟩, u normal). There is
    no bias correction: h needs hessian_every/(1 - β2) steps to fill, so runs below 1,000 steps do better with betas
    (0.9, 0.95) and hessian_every 5 than with the paper's (0.965, 0.99) and 10, which are the defaults.
    """

    lr: float
    betas: tuple[float, float] = (0.965, 0.99)
    rho: float = 0.04
    eps: float = 1e-15
    weight_decay: float = 0.1
    estimator: Literal["gnb", "hutchinson"] = "gnb"
    hessian_every: int = 10
    schedule: Schedule = Schedule()


OptimizerRule = SGD | AdamW | Sophia


def Nesterov(  # noqa: N802  a name of the field, used like the classes beside it
    lr: float, momentum: float = 0.9, weight_decay: float = 0.0, schedule: Schedule = Schedule()
) -> SGD:
    """SGD with Nesterov momentum: the outer optimizer of DiLoCo (arXiv 2311.08105) with lr 0.7, momentum 0.9."""
    return SGD(lr=lr, momentum=momentum, nesterov=True, weight_decay=weight_decay, schedule=schedule)


class StreamRule(msgspec.Struct, frozen=True):
    """How one stream travels up and down and how the peers' parts of it become one.

    merge: "sum" divides the sum of contributions by the round's samples (gradients, Hessian estimates); "mean" weighs
    each contribution by its samples (pseudo-gradients, buffers); "maximum" takes the largest (counters). feedback: how
    much of what a lossy `up` has lost a peer adds to its next contribution (0: it is lost).
    """

    stream: Stream
    up: Codec = Codec.FP32
    down: Codec = Codec.FP32
    merge: Literal["sum", "mean", "maximum"] = "sum"
    feedback: float = 0.0


DEFAULT_STREAMS = (
    StreamRule(Stream.GRADIENT),
    StreamRule(Stream.BUFFER, merge="mean"),
    StreamRule(Stream.COUNTER, up=Codec.INT64, down=Codec.INT64, merge="maximum"),
)


class RoundRule(msgspec.Struct, frozen=True):
    """Everything that decides how a round goes: what it owns, when it closes, how it is merged, what then happens.

    optimizer: what the holders run on the merged contribution (for rounds of steps: the outer optimizer). work:
    "samples": the round owns exactly `target_batch` sample indices; "steps": the fastest peer makes `inner_steps` steps
    of `inner_optimizer` on `inner_batch` samples each, slower ones fewer. contribution: what is sent for it. fragments:
    the parameters are exchanged in so many parts in turn. overlap: peers go on with steps for the next round while one
    is finished; when the result for a part of the parameters comes, a peer keeps the share `mixing` of its own. quorum:
    once this share of a round's peers has made its steps, the others are asked at once for what they have; `grace`: so
    many seconds at most it then waits for them.
    staleness: how many rounds late a contribution may count. norm_limit: a contribution whose norm is above so many
    times the running median of accepted ones is refused (0: never). clip_norm: the L2 norm that the merged gradient is
    clipped to over all holders (0: not clipped); `inner_clip_norm`: that of each inner step's gradient.
    clip_to_median: contributions of a larger norm are scaled down to the median of the round's norms. predictions: how
    many predictions the loss of one sample is the mean of (tokens in a window of text). begins: the first round of the
    session that it holds for. auto: the session chooses the gradient's codecs by the measured links; `streams` say
    which it has chosen.
    """

    strategy: str
    optimizer: OptimizerRule
    work: Literal["samples", "steps"] = "samples"
    contribution: Literal["gradient_sum", "pseudo_gradient"] = "gradient_sum"
    target_batch: int = 0
    inner_steps: int = 0
    streams: tuple[StreamRule, ...] = DEFAULT_STREAMS
    fragments: int = 1
    merging: Literal["staged", "streamed"] = "staged"
    quorum: float = 1.0
    grace: float = 0.0
    staleness: int = 0
    norm_limit: float = 10.0
    clip_norm: float = 0.0
    version: int = RULE_VERSION
    inner_optimizer: OptimizerRule | None = None
    inner_batch: int = 0
    inner_clip_norm: float = 0.0
    predictions: int = 1
    begins: int = 1
    clip_to_median: bool = False
    auto: bool = False
    overlap: bool = False
    mixing: float = 0.5

    def fragment_of(self, round: int) -> int:
        """Which part of the parameters `round` exchanges, from 0."""
        return (round - self.begins) % self.fragments

    def stream(self, stream: Stream) -> StreamRule:
        """The rule of one stream. Raises KeyError if the rule does not carry it."""
        for rule in self.streams:
            if rule.stream == stream:
                return rule
        raise KeyError(stream)

    @property
    def codecs(self) -> frozenset[Codec]:
        """What a member must know to take part."""
        return frozenset(codec for rule in self.streams for codec in (rule.up, rule.down))

    def streams_of(self, round: int) -> tuple[StreamRule, ...]:
        """The streams that contributions to `round` carry: the Hessian's only when an estimate is due."""
        due = isinstance(self.optimizer, Sophia) and (round - self.begins) % self.optimizer.hessian_every == 0
        return self.streams if due else tuple(rule for rule in self.streams if rule.stream != Stream.HESSIAN)


def lateness(made: RoundRule, counted: RoundRule) -> int:
    """By how many rounds a contribution that was made under one rule may be late under another; -1: it counts in its
    own round only. It is sent, and what it has not sent is kept, as the rule says under which it was made."""
    alike = made.work == counted.work == "steps" and made.streams == counted.streams
    alike = alike and (made.fragments, made.overlap) == (counted.fragments, counted.overlap)
    return counted.staleness if alike else -1


def steps_of(rule: RoundRule, settings: SessionSettings) -> int:
    """Inner steps of the fastest peer in a round. What is set is those between two exchanges of the same fragment."""
    return max(settings.inner_steps // rule.fragments, 1) if settings.inner_steps else rule.inner_steps


class StrategyChange(msgspec.Struct, frozen=True):
    """From `round` on, `rule` holds. reason: why the session has chosen other codecs by itself; '' if a person has
    changed the rule."""

    round: int
    rule: RoundRule
    reason: str = ""


class SessionSettings(msgspec.Struct, frozen=True):
    """What the instructor sets for a session. All but `seed` may change while it runs, from one round to the next.

    rounds: the session ends after so many (0: when somebody stops it). evaluate_every: rounds between held-out
    evaluations (0: only at the end). minimum_peers: rounds wait for so many synced peers. capacity: peers at once.
    upload_bytes: granted uploads under way at once, in bytes. lease_seconds: least time a lease may take.
    learning_rate: of the optimizer that steps on gradients, which a schedule multiplies (0: as the rule says).
    target_batch, inner_steps: instead of the rule's (0: as it says). snapshot_rounds: rounds between snapshots on disk.
    checkpoint_rounds: rounds between checkpoints (0: only at the end). own_samples: of data that stays with its peer at
    most so many samples count in a round (0: such data is not admitted).
    """

    seed: int = 0
    rounds: int = 0
    evaluate_every: int = 10
    minimum_peers: int = 1
    capacity: int = 256
    upload_bytes: int = 1 << 30
    lease_seconds: float = 60.0
    learning_rate: float = 0.0
    target_batch: int = 0
    snapshot_rounds: int = 50
    inner_steps: int = 0
    checkpoint_rounds: int = 0
    own_samples: int = 0


class SessionSpec(msgspec.Struct, frozen=True):
    """What a session is, fixed when it is opened, but for `settings` and `changes`.

    rule: of the first round; `changes`, by ascending round, say what holds later. Blobs: `initial` has the first
    parameters (safetensors), `data` the samples that every peer trains on ('': each peer loads them by the recipe),
    `export` files that go into checkpoints, as (name, blob). parent: the manifest's SHA-256 of the checkpoint that the
    session goes on from.
    """

    name: str
    recipe: str
    layout_digest: str
    rule: RoundRule
    settings: SessionSettings
    samples: int
    held_out: int
    initial: str
    session: str = ""
    changes: tuple[StrategyChange, ...] = ()
    data: str = ""
    export: tuple[tuple[str, str], ...] = ()
    parent: str = ""

    def rule_of(self, round: int) -> RoundRule:
        """The rule that holds for `round`."""
        return rule_of(self.rule, self.changes, round)

    @property
    def codecs(self) -> frozenset[Codec]:
        """What a member must know to read this: the codecs of all rules, those that are over, too."""
        return self.rule.codecs.union(*(change.rule.codecs for change in self.changes))


def rule_of(first: RoundRule, changes: tuple[StrategyChange, ...], round: int) -> RoundRule:
    """The rule that holds for `round`: that of the last change before or at it."""
    result = first
    for change in changes:
        if change.round <= round:
            result = msgspec.structs.replace(change.rule, begins=change.round)
    return result
