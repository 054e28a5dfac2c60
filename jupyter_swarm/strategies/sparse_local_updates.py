"""SparseLoCo: local updates of which only the largest numbers are sent."""

from __future__ import annotations

import msgspec

from ..protocol.layout import Stream
from ..protocol.rules import SGD, Codec, OptimizerRule, RoundRule, StreamRule


class SparseLocalUpdates(msgspec.Struct, frozen=True):
    """Rounds of `steps` inner steps, of which each peer sends a 64th in two bits each (SparseLoCo, arXiv 2508.15706,
    algorithm 1).

        round r, version θ of the parameters
        each peer k:    θ_k ← θ, then H_k times  θ_k ← inner(θ_k, ∇ℓ(θ_k, batch of fresh samples))
                        e_k ← β e_k + (θ - θ_k)
                        Δ_k = Q(top-k(e_k)),  e_k ← e_k - Δ_k           64 of each 4,096 numbers
        holders:        Δ_k ← Δ_k · min(1, median of the norms / ‖Δ_k‖)
                        Δ = Σ_k n_k Δ_k / Σ_k n_k                       n_k: samples that peer k took
                        θ ← θ - lr Δ                                    no momentum: e takes its place

    Up go 143 times fewer bytes than of `LocalUpdates`; down goes what the peers' view lacks, by `down`, whose error
    does not add up either. What is waited for, and how many steps the slower peers make, is as for `LocalUpdates`.

    outer: the optimizer that the holders run on Δ. feedback: β. clip_norm: of each inner gradient (0: not clipped).
    """

    steps: int
    batch: int
    outer: OptimizerRule = SGD(1.0)
    feedback: float = 0.95
    clip_norm: float = 0.0
    quorum: float = 1.0
    grace: float = 10.0
    staleness: int = 1
    up: Codec = Codec.TOPK
    down: Codec = Codec.INT4
    norm_limit: float = 10.0

    def rule(self, optimizer: OptimizerRule, predictions: int = 1) -> RoundRule:
        """The plain data that the session follows; `optimizer` is the recipe's."""
        return RoundRule(
            strategy="SparseLocalUpdates",
            optimizer=self.outer,
            work="steps",
            contribution="pseudo_gradient",
            inner_steps=self.steps,
            streams=(
                StreamRule(Stream.GRADIENT, up=self.up, down=self.down, merge="mean", feedback=self.feedback),
                StreamRule(Stream.BUFFER, merge="mean"),
                StreamRule(Stream.COUNTER, up=Codec.INT64, down=Codec.INT64, merge="maximum"),
            ),
            quorum=self.quorum,
            grace=self.grace,
            staleness=self.staleness,
            norm_limit=self.norm_limit,
            clip_to_median=True,
            inner_optimizer=optimizer,
            inner_batch=self.batch,
            inner_clip_norm=self.clip_norm,
            predictions=predictions,
        )
