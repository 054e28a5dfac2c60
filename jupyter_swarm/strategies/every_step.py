"""Large-batch synchronous SGD: every round is one optimizer step on one batch that the peers share."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..protocol.checks import is_auto
from ..protocol.layout import Stream
from ..protocol.rules import Codec, OptimizerRule, RoundRule, Sophia, StreamRule


class EveryStep(msgspec.Struct, frozen=True):
    """One step of the optimizer for every `target_batch` samples, wherever they are computed.

        round r, version θ of the parameters, batch B of exactly `target_batch` sample indices
        each peer k, for its leases B_k of B:    g_k = Σ ∇ℓ(θ, x) over x in B_k
        holders:                                 g = (Σ_k g_k) / |B|,  clipped to clip_norm if it is set
                                                 θ ← optimizer(θ, g)
        Sophia, every `hessian_every` rounds:    the peers' Hessian estimates are summed and divided like g before the
                                                 step; with "gnb" they are gradients, squared only once they are one
        floating buffers: mean, weighted by |B_k|; counters: maximum

    The batch is the same whichever peers compute it, so without dropout and batch statistics and with fp32 on the wire
    this is the training of one machine with that batch: equal up to the rounding of sums in another order. It is the
    all-reduce of synchronous SGD (Chen et al., arXiv 1604.00981) without its fixed set of workers.

    up, down: codecs of gradients and of the parameters' packets. A lossy `down` sends what the peers' view lacks, so
    its error does not add up; a lossy `up` is not corrected. codec: with "auto" they are those of the first round, and
    then the session chooses by the measured links: the most exact ones that take a few percent of a round. norm_limit:
    refuse a contribution whose norm is above so many times the running median (0: never).
    """

    target_batch: int
    clip_norm: float = 0.0
    up: Codec = Codec.FP32
    down: Codec = Codec.FP32
    norm_limit: float = 10.0
    codec: Literal["auto"] | None = None

    def rule(self, optimizer: OptimizerRule, predictions: int = 1) -> RoundRule:
        """The plain data that the session follows; `optimizer` is the recipe's."""
        hessian = (StreamRule(Stream.HESSIAN, up=self.up),) if isinstance(optimizer, Sophia) else ()
        return RoundRule(
            strategy="EveryStep",
            optimizer=optimizer,
            target_batch=self.target_batch,
            streams=(
                StreamRule(Stream.GRADIENT, up=self.up, down=self.down),
                *hessian,
                StreamRule(Stream.BUFFER, merge="mean"),
                StreamRule(Stream.COUNTER, up=Codec.INT64, down=Codec.INT64, merge="maximum"),
            ),
            clip_norm=self.clip_norm,
            norm_limit=self.norm_limit,
            predictions=predictions,
            auto=is_auto(self.codec),
        )
