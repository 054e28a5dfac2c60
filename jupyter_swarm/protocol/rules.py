"""What a session is told to do, as plain data: the `RoundRule`, the optimizer's settings, the session's settings.

A strategy compiles to a `RoundRule`; the decisions see nothing else of it. Fields that a rule does not use keep
their defaults. Format version 1: a field may be added with a default, none may change its meaning.
"""

from __future__ import annotations

import enum
import math
from typing import Literal

import msgspec

from .errors import SettingError
from .layout import Stream

RULE_VERSION = 1


class Codec(enum.IntEnum):
    """How a shard's numbers are written as bytes. INT8 is blockwise with an fp32 scale for each block."""

    FP32 = 1
    FP16 = 2
    BF16 = 3
    INT8 = 4
    INT64 = 5


LOSSLESS = frozenset({Codec.FP32, Codec.INT64})
"""Codecs that carry values. With these a holder's master copy and the peers' view are one."""


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


OptimizerRule = SGD | AdamW


def Nesterov(  # noqa: N802  a name of the field, used like the classes beside it
    lr: float, momentum: float = 0.9, weight_decay: float = 0.0, schedule: Schedule = Schedule()
) -> SGD:
    """SGD with Nesterov momentum: the outer optimizer of DiLoCo (arXiv 2311.08105) with lr 0.7, momentum 0.9."""
    return SGD(lr=lr, momentum=momentum, nesterov=True, weight_decay=weight_decay, schedule=schedule)


class StreamRule(msgspec.Struct, frozen=True):
    """How one stream travels up and down and how the peers' parts of it become one.

    merge: "sum" divides the sum of contributions by the round's samples (gradients); "mean" weighs each contribution
    by its samples (buffers); "maximum" takes the largest (counters).
    """

    stream: Stream
    up: Codec = Codec.FP32
    down: Codec = Codec.FP32
    merge: Literal["sum", "mean", "maximum"] = "sum"


DEFAULT_STREAMS = (
    StreamRule(Stream.GRADIENT),
    StreamRule(Stream.BUFFER, merge="mean"),
    StreamRule(Stream.COUNTER, up=Codec.INT64, down=Codec.INT64, merge="maximum"),
)


class RoundRule(msgspec.Struct, frozen=True):
    """Everything that decides how a round goes: what it owns, when it closes, how it is merged, what then happens.

    work: "samples": the round owns exactly `target_batch` sample indices; "steps": each peer makes `inner_steps`
    inner steps. contribution: what is sent for it. fragments: the parameters are exchanged in so many parts in turn.
    quorum: the share of active peers that closes a round of steps once `grace` seconds are over. staleness: how many
    rounds late a contribution may count. norm_limit: a contribution whose norm is above so many times the running
    median of accepted ones is refused (0: never). clip_norm: the L2 norm that the merged gradient is clipped to over
    all holders (0: not clipped).
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

    def stream(self, stream: Stream) -> StreamRule:
        """The rule of one stream. Raises KeyError if the rule does not carry it."""
        for rule in self.streams:
            if rule.stream == stream:
                return rule
        raise KeyError(stream)


class SessionSettings(msgspec.Struct, frozen=True):
    """What the instructor sets for a session. All but `seed` may change while it runs, from one round to the next.

    rounds: the session ends after so many (0: when somebody stops it). evaluate_every: rounds between held-out
    evaluations (0: only at the end). minimum_peers: rounds wait for so many synced peers. capacity: peers at once.
    upload_bytes: granted uploads under way at once, in bytes. lease_seconds: least time a lease may take.
    learning_rate_scale: a factor on the rule's learning rate. snapshot_rounds: rounds between snapshots on disk.
    """

    seed: int = 0
    rounds: int = 0
    evaluate_every: int = 10
    minimum_peers: int = 1
    capacity: int = 256
    upload_bytes: int = 1 << 30
    lease_seconds: float = 60.0
    learning_rate_scale: float = 1.0
    target_batch: int = 0
    snapshot_rounds: int = 50


class SessionSpec(msgspec.Struct, frozen=True):
    """What a session is, fixed when it is opened. `initial` is the blob with the first parameters (safetensors)."""

    name: str
    recipe: str
    layout_digest: str
    rule: RoundRule
    settings: SessionSettings
    samples: int
    held_out: int
    initial: str
    session: str = ""


def check_spec(spec: SessionSpec) -> None:
    """Raises `SettingError` for a session that could not make a single round."""
    if spec.samples < 1:
        raise SettingError(
            "The training data set is empty.",
            todo="Check what the recipe's data() returns: its `train` part must have at least one sample.",
        )
    check_settings(spec.settings, spec.samples)
    if spec.rule.work != "samples":
        raise SettingError(f"This version cannot run rounds of {spec.rule.work}.", todo="Use the strategy EveryStep.")
    if spec.rule.version != RULE_VERSION:
        raise SettingError(f"The rule has format {spec.rule.version}; this server reads format {RULE_VERSION}.")
    check_target(spec.settings.target_batch or spec.rule.target_batch, spec.samples)


def check_target(target: int, samples: int) -> None:
    """Raises `SettingError` unless a round of `target` samples can be cut from a data set of `samples`."""
    if target < 1:
        raise SettingError(f"target_batch is {target}.", todo="Choose at least 1 sample for a round.")
    if target > samples:
        raise SettingError(
            f"target_batch is {target}, but the data set has only {samples} samples.",
            why="A round owns each of its samples once.",
            todo=f"Choose a target_batch of at most {samples}.",
        )


def check_settings(settings: SessionSettings, samples: int) -> None:
    """Raises `SettingError` for a value out of its range."""
    limits = {
        "rounds": (0, 10**9), "evaluate_every": (0, 10**9), "minimum_peers": (1, 10**6), "capacity": (1, 10**6),
        "upload_bytes": (1, 2**50), "lease_seconds": (1.0, 86400.0), "learning_rate_scale": (0.0, 1e6),
        "target_batch": (0, samples), "snapshot_rounds": (1, 10**6),
    }  # fmt: skip
    for name, (low, high) in limits.items():
        value = getattr(settings, name)
        if not low <= value <= high:
            raise SettingError(f"{name} is {value}.", todo=f"Choose a value from {low} to {high}.")
