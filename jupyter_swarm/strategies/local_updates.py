"""DiLoCo: every peer makes many steps by itself, then all share how far they came."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..protocol.checks import is_auto
from ..protocol.layout import Stream
from ..protocol.rules import Codec, Nesterov, OptimizerRule, RoundRule, StreamRule


class LocalUpdates(msgspec.Struct, frozen=True):
    """Rounds of `steps` inner steps on `batch` samples each (DiLoCo, Douillard et al., arXiv 2311.08105, algorithm 1).

        round r, version θ of the parameters
        each peer k:    θ_k ← θ, then H_k times  θ_k ← inner(θ_k, ∇ℓ(θ_k, batch of fresh samples))
                        Δ_k = θ - θ_k
        holders:        Δ = Σ_k n_k Δ_k / Σ_k n_k     n_k: samples that peer k took
                        θ ← outer(θ, Δ)               Nesterov momentum, 0.7 and 0.9

    The inner optimizer is the recipe's. The fastest peer makes H_k = `steps`, others fewer, by their measured speed.
    When those who are done could have taken the samples that the others still lack, or once the share `quorum` of
    them is done, the others are asked for what they have; then the round waits as long as the waiting costs less than
    the missing work is worth, at most `grace` seconds (Decoupled DiLoCo, arXiv 2604.21428). What
    comes later may count up to `staleness` rounds late. Between two rounds nothing is sent: 1/`steps` of the bytes
    of `EveryStep` for as many samples. From random parameters the loss falls visibly slower than with `EveryStep`;
    after a synchronous start it does not (`WarmStart`). New moments of the inner optimizer warm up over a tenth of the
    steps.

    outer: the optimizer that the holders run on Δ. clip_norm: of each inner gradient (0: not clipped). up, down: codecs
    of Δ and of the parameters' packets; codec: "auto", as for `EveryStep`. norm_limit: as for `EveryStep`.
    """

    steps: int
    batch: int
    outer: OptimizerRule = Nesterov(0.7, momentum=0.9)
    clip_norm: float = 0.0
    quorum: float = 1.0
    grace: float = 10.0
    staleness: int = 1
    up: Codec = Codec.FP32
    down: Codec = Codec.FP32
    norm_limit: float = 10.0
    codec: Literal["auto"] | None = None

    def rule(self, optimizer: OptimizerRule, predictions: int = 1) -> RoundRule:
        """The plain data that the session follows; `optimizer` is the recipe's."""
        return RoundRule(
            strategy="LocalUpdates",
            optimizer=self.outer,
            work="steps",
            contribution="pseudo_gradient",
            inner_steps=self.steps,
            streams=(
                StreamRule(Stream.GRADIENT, up=self.up, down=self.down, merge="mean"),
                StreamRule(Stream.BUFFER, merge="mean"),
                StreamRule(Stream.COUNTER, up=Codec.INT64, down=Codec.INT64, merge="maximum"),
            ),
            quorum=self.quorum,
            grace=self.grace,
            staleness=self.staleness,
            norm_limit=self.norm_limit,
            inner_optimizer=optimizer,
            inner_batch=self.batch,
            inner_clip_norm=self.clip_norm,
            predictions=predictions,
            auto=is_auto(self.codec),
        )
