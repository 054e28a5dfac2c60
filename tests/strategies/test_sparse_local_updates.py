"""Sparse local updates against SparseLoCo as it is written."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import Tensor, nn

from jupyter_swarm.optim import SGD, AdamW
from jupyter_swarm.protocol.errors import SettingError
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.rules import Codec, lateness
from jupyter_swarm.protocol.sizes import encoded_bytes
from jupyter_swarm.shards import sparse
from jupyter_swarm.shards.carried import check_streams
from jupyter_swarm.shards.feedback import ErrorFeedback
from jupyter_swarm.shards.layout import layout_of
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.strategies import EveryStep, LocalUpdates, SparseLocalUpdates

from ..shards.rounds import apply, frames_of, holder_of, prepare_of, prepared, stage_all

PEERS, ROUNDS, BETA, RATE = 3, 5, 0.95, 0.7
WEIGHTS = {0: 48, 1: 30, 2: 18}


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Linear(70, 64)


def deltas(round: int) -> list[Tensor]:
    """How far the peers came: the second one three times as far as the others."""
    generator = torch.Generator().manual_seed(round)
    size = 71 * 64
    return [torch.randn(size, generator=generator) * (3.0 if peer == 1 else 1.0) for peer in range(PEERS)]


def quantised(values: Tensor) -> Tensor:
    """Q: top-k and two bits, as on the wire."""
    buffer, out = bytearray(encoded_bytes(Codec.TOPK, values.numel())), torch.empty_like(values)
    sparse.encode(values, buffer)
    sparse.decode(buffer, out)
    return out


def test_rounds_are_sparseloco_as_it_is_written() -> None:
    """Algorithm 1 of arXiv 2508.15706, with weights by samples."""
    strategy = SparseLocalUpdates(steps=4, batch=6, outer=SGD(RATE), feedback=BETA, down=Codec.FP32)
    rule = strategy.rule(AdamW(0.01))
    check_streams(rule)
    layout = layout_of(network())
    view = FlatVector.of(layout, network())
    holder = holder_of(view, rule)
    ours = [ErrorFeedback(layout) for _ in range(PEERS)]
    theta = view.sections[Stream.PARAMETERS].clone()
    residuals = [torch.zeros_like(theta) for _ in range(PEERS)]
    for round in range(1, ROUNDS + 1):
        sent, norms = [], []
        for peer, delta in enumerate(deltas(round)):
            residuals[peer] = BETA * residuals[peer] + delta
            sent.append(quantised(residuals[peer]))
            residuals[peer] = residuals[peer] - sent[-1]

            contribution = FlatVector(layout)
            contribution.sections[Stream.PARAMETERS].copy_(delta)
            encoded = ours[peer].encode(contribution, rule.stream(Stream.GRADIENT), round - 1)
            norms.append(encoded.norm)
            stage_all([holder], frames_of(contribution, rule, peer, round, encoded), peer, round)
        middle = statistics.median(float(one.norm()) for one in sent)
        clipped = [one * min(1.0, middle / float(one.norm())) for one in sent]
        assert float(clipped[1].norm()) < 0.5 * float(sent[1].norm()), "the case did not come up"
        theta = theta - RATE * sum(weight / 96 * clipped[peer] for peer, weight in WEIGHTS.items())

        scales = tuple(min(1.0, statistics.median(norms) / norm) for norm in norms)
        apply(view, rule, prepared([holder], prepare_of(rule, WEIGHTS, round, scales=scales)), round)
        holder.install()
        torch.testing.assert_close(view.sections[Stream.PARAMETERS], theta, rtol=1e-5, atol=1e-5)


def test_what_would_lose_most_of_what_is_learnt_is_refused() -> None:
    for rule in (
        EveryStep(target_batch=8, up=Codec.TOPK).rule(AdamW(0.01)),
        LocalUpdates(steps=4, batch=2, up=Codec.TOPK).rule(AdamW(0.01)),
        SparseLocalUpdates(steps=4, batch=2, feedback=0.0).rule(AdamW(0.01)),
    ):
        with pytest.raises(SettingError):
            check_streams(rule)


def test_what_is_late_counts_only_where_it_would_be_sent_as_it_was_made() -> None:
    optimizer = AdamW(0.01)
    local, sparse = LocalUpdates(4, 2).rule(optimizer), SparseLocalUpdates(4, 2).rule(optimizer)
    assert lateness(sparse, sparse) == lateness(local, LocalUpdates(9, 2).rule(optimizer)) == 1
    assert lateness(sparse, SparseLocalUpdates(4, 2, staleness=0).rule(optimizer)) == 0
    every = EveryStep(target_batch=8).rule(optimizer)
    for made, counted in ((local, sparse), (sparse, local), (every, local), (sparse, every), (every, every)):
        assert lateness(made, counted) == -1
