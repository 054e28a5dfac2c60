"""Streaming DiLoCo: local updates whose parameters are exchanged in parts, while the next steps are made."""

from __future__ import annotations

import msgspec

from ..protocol.rules import Codec, OptimizerRule, RoundRule
from .local_updates import LocalUpdates


class StreamingLocalUpdates(LocalUpdates, frozen=True):
    """Local updates of which each round exchanges one of P = `fragments` parts of the parameters, and nobody waits for
    the result (Streaming DiLoCo, Douillard et al., arXiv 2501.18512, algorithm 2).

        the parameters are cut into P fragments, each with parts of all layers
        round r, of `steps` / P inner steps, exchanges fragment p = r mod P; θ_p is what the peers share of it
        each peer k:    θ_k ← inner(θ_k, ∇ℓ(θ_k, batch of fresh samples))    from its first round on without a break
                        Δ_k,p = θ_p - θ_k,p            sent while it makes the steps of the next round
        holders:        Δ_p = Σ_k n_k Δ_k,p / Σ_k n_k  n_k: samples that peer k took in this round
                        θ_p ← outer(θ_p, Δ_p)          Nesterov momentum, 0.7 and 0.9
        each peer k:    θ_k,p ← α θ_k,p + (1 - α) θ_p  when the result comes, between two of its steps

    So the link carries 1/P of the parameters at a time, evenly, and has as long for it as the steps of a round take: a
    peer waits only if the next round's steps are made before the result is here. As many bytes as with `LocalUpdates`
    of `steps` steps. What is lost of a contribution that does not come in time is sent when its fragment is exchanged
    again. What is measured, and what a checkpoint has, is θ.

    steps: between two exchanges of the same fragment. fragments: P. mixing: α. The others are as for `LocalUpdates`.
    """

    fragments: int = 4
    mixing: float = 0.5
    staleness: int = 0
    up: Codec = Codec.INT4
    down: Codec = Codec.INT4

    def rule(self, optimizer: OptimizerRule, predictions: int = 1) -> RoundRule:
        """The plain data that the session follows; `optimizer` is the recipe's."""
        return msgspec.structs.replace(
            LocalUpdates.rule(self, optimizer, predictions),
            strategy="StreamingLocalUpdates",
            inner_steps=max(self.steps // max(self.fragments, 1), 1),
            fragments=self.fragments,
            overlap=True,
            mixing=self.mixing,
        )
