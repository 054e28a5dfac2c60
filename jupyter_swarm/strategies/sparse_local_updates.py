"""SparseLoCo: local updates of which only the largest numbers are sent."""

from __future__ import annotations

import msgspec

from ..protocol.rules import SGD, Codec, OptimizerRule, RoundRule
from .local_updates import LocalUpdates


class SparseLocalUpdates(LocalUpdates, frozen=True):
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

    outer: the optimizer that the holders run on Δ. feedback: β. The others are as for `LocalUpdates`.
    """

    outer: OptimizerRule = SGD(1.0)
    up: Codec = Codec.TOPK
    down: Codec = Codec.INT4
    feedback: float = 0.95

    def rule(self, optimizer: OptimizerRule, predictions: int = 1) -> RoundRule:
        """The plain data that the session follows; `optimizer` is the recipe's."""
        local = LocalUpdates.rule(self, optimizer, predictions)
        gradient, *others = local.streams
        gradient = msgspec.structs.replace(gradient, feedback=self.feedback)
        return msgspec.structs.replace(
            local, strategy="SparseLocalUpdates", streams=(gradient, *others), clip_to_median=True
        )
