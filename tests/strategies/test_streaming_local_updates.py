"""Streaming local updates against Streaming DiLoCo as it is written."""

from __future__ import annotations

import copy

import msgspec
import pytest
import torch
from torch import Tensor, nn

from jupyter_swarm.optim import SGD, AdamW
from jupyter_swarm.protocol.checks import check_rule
from jupyter_swarm.protocol.errors import Refusal, SettingError
from jupyter_swarm.protocol.frames import read_header
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.rules import Codec, SessionSettings
from jupyter_swarm.protocol.sizes import due
from jupyter_swarm.shards.carried import check_streams
from jupyter_swarm.shards.layout import layout_of
from jupyter_swarm.shards.outgoing import contribution_bytes
from jupyter_swarm.shards.streaming import StreamingPseudoGradient
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.strategies import EveryStep, LocalUpdates, StreamingLocalUpdates

from ..shards.rounds import apply, frames_of, holder_of, prepare_of, prepared, stage_all

PEERS, ROUNDS, FRAGMENTS, STEPS, BATCH, LATE = 3, 7, 3, 6, 5, 1
INNER, OUTER, MIXING = 0.05, 0.7, 0.25


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(70, 64), nn.Tanh(), nn.Linear(64, 3))


def batch_of(peer: int, step: int) -> Tensor:
    return torch.randn(BATCH, 70, generator=torch.Generator().manual_seed(1000 * peer + step))


def make_steps(work: StreamingPseudoGradient, peer: int, first: int, count: int) -> None:
    for step in range(first, first + count):
        work.begin_step()
        work.model(batch_of(peer, step)).square().mean().backward()
        work.end_step(INNER)


class Paper:
    """Algorithm 2 of arXiv 2501.18512: M replicas, fragment p of P synchronised every H steps, the result mixed in
    τ steps later. Plain SGD inside; SGD outside."""

    def __init__(self, pieces: list[list[tuple[int, int]]]) -> None:
        self.models = [network() for _ in range(PEERS)]
        self.shared = nn.utils.parameters_to_vector(network().parameters()).detach()
        self.masks = []
        for fragment in pieces:
            mask = torch.zeros_like(self.shared, dtype=torch.bool)
            for start, count in fragment:
                mask[start : start + count] = True
            self.masks.append(mask)

    def steps(self, first: int, count: int) -> None:
        for peer, model in enumerate(self.models):
            for step in range(first, first + count):
                model.zero_grad()
                model(batch_of(peer, step)).square().mean().backward()
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter -= INNER * parameter.grad

    def send(self, fragment: int) -> None:
        live = [nn.utils.parameters_to_vector(model.parameters()).detach() for model in self.models]
        delta = torch.stack([self.shared - one for one in live]).mean(0)
        self.shared = torch.where(self.masks[fragment], self.shared - OUTER * delta, self.shared)

    def receive(self, fragment: int) -> None:
        for model in self.models:
            live = nn.utils.parameters_to_vector(model.parameters()).detach()
            mixed = MIXING * live + (1.0 - MIXING) * self.shared
            nn.utils.vector_to_parameters(torch.where(self.masks[fragment], mixed, live), model.parameters())


def test_rounds_are_streaming_diloco_as_it_is_written() -> None:
    """The result of a round comes when so many steps of the next one are made; then it is mixed in."""
    strategy = StreamingLocalUpdates(
        steps=STEPS, batch=BATCH, fragments=FRAGMENTS, mixing=MIXING, outer=SGD(OUTER), up=Codec.FP32, down=Codec.FP32
    )
    rule = strategy.rule(SGD(INNER))
    check_streams(rule)
    assert rule.inner_steps == STEPS // FRAGMENTS > LATE
    layout = layout_of(network())
    pieces = [[one for shard in layout.shards for one in due(shard, rule, 1 + p)] for p in range(FRAGMENTS)]
    assert sum(count for fragment in pieces for _, count in fragment) == layout.parameters
    paper = Paper(pieces)
    view = FlatVector.of(layout, network())
    holder = holder_of(view, rule)
    workers = [StreamingPseudoGradient(layout, network(), rule) for _ in range(PEERS)]
    for worker in workers:
        worker.start(view)
    step = 0
    for round in range(1, ROUNDS + 1):
        fragment = (round - 1) % FRAGMENTS
        early = LATE if round > 1 else 0
        for peer, worker in enumerate(workers):
            worker.start(view)  # which leaves it where it is
            make_steps(worker, peer, step + early, rule.inner_steps - early)
        paper.steps(step + early, rule.inner_steps - early)
        step += rule.inner_steps
        sent = [[bytes(frame) for frame in frames_of(worker.finish(view, round)[0], rule, n, round)]
                for n, worker in enumerate(workers)]  # fmt: skip
        paper.send(fragment)
        assert {read_header(frame).fragment for frames in sent for frame in frames} == {fragment}
        for peer, worker in enumerate(workers):
            make_steps(worker, peer, step, LATE)
        paper.steps(step, LATE)
        for number, frames in enumerate(sent):
            stage_all([holder], frames, number, round)
        packets = prepared([holder], prepare_of(rule, dict.fromkeys(range(PEERS), 10), round))
        holder.install()
        before = view.sections[Stream.PARAMETERS].clone()
        apply(view, rule, packets, round)
        changed = view.sections[Stream.PARAMETERS] != before
        assert not changed[~paper.masks[fragment]].any()
        for worker in workers:
            worker.mix(view, round)
        paper.receive(fragment)
        assert torch.allclose(view.sections[Stream.PARAMETERS], paper.shared, atol=1e-6)
        for worker, model in zip(workers, paper.models, strict=True):
            ours, theirs = (nn.utils.parameters_to_vector(one.parameters()) for one in (worker.model, model))
            assert torch.allclose(ours, theirs, atol=1e-6)


def test_what_is_sent_stays_as_it_is_while_steps_are_made() -> None:
    rule = StreamingLocalUpdates(steps=4, batch=BATCH, fragments=2).rule(AdamW(0.01))
    layout = layout_of(network())
    view, work = FlatVector.of(layout, network()), StreamingPseudoGradient(layout, network(), rule)
    work.start(view)
    make_steps(work, 0, 0, 2)
    sent, norms = work.finish(view, 1)
    kept = sent.sections[Stream.PARAMETERS].clone()
    assert norms["gradient"] == pytest.approx(float(kept.norm()))
    make_steps(work, 0, 2, 2)
    assert torch.equal(sent.sections[Stream.PARAMETERS], kept)


def test_numbers_that_are_none_are_dropped_and_the_peer_begins_from_the_view() -> None:
    rule = StreamingLocalUpdates(steps=4, batch=BATCH, fragments=2).rule(AdamW(0.01))
    layout = layout_of(network())
    view, work = FlatVector.of(layout, network()), StreamingPseudoGradient(layout, network(), rule)
    work.start(view)
    with torch.no_grad():
        next(work.model.parameters()).fill_(float("nan"))
    with pytest.raises(Refusal):
        work.finish(view, 1)
    work.start(view)
    assert float(FlatVector.of(layout, work.model).sections[Stream.PARAMETERS].sum()) == pytest.approx(
        float(view.sections[Stream.PARAMETERS].sum())
    )


def test_parameters_in_another_order_in_memory_are_mixed_too() -> None:
    torch.manual_seed(1)
    model = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    rule = StreamingLocalUpdates(steps=1, batch=1, fragments=1, mixing=0.0).rule(SGD(0.1))
    layout = layout_of(model)
    shared = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in shared.parameters():
            parameter.add_(1.0)
    work = StreamingPseudoGradient(layout, model, rule)
    work.start(FlatVector.of(layout, model))
    work.mix(FlatVector.of(layout, shared), 1)
    for ours, theirs in zip(model.parameters(), shared.parameters(), strict=True):
        assert torch.allclose(ours, theirs)
    assert model.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_fragment_is_a_part_of_every_layer_and_of_the_bytes() -> None:
    layout = layout_of(nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 1024)))
    rule = StreamingLocalUpdates(steps=8, batch=1, fragments=4).rule(SGD(0.1))
    local = LocalUpdates(steps=8, batch=1, up=Codec.INT4).rule(SGD(0.1))
    sizes = [contribution_bytes(layout, rule, round) for round in range(1, 5)]
    assert max(sizes) < 1.01 * min(sizes)
    assert sum(sizes) == pytest.approx(contribution_bytes(layout, local, 1), rel=0.01)
    for round in range(1, 5):
        starts = [start for shard in layout.shards for start, _ in due(shard, rule, round)]
        for spec in layout.tensors:
            if spec.count > 10_000:
                assert any(spec.start <= start < spec.start + spec.count for start in starts)


def test_more_fragments_than_parameters_leave_some_rounds_with_nothing() -> None:
    layout = layout_of(nn.Linear(2, 1))
    rule = StreamingLocalUpdates(steps=8, batch=1, fragments=8).rule(SGD(0.1))
    counts = [sum(count for shard in layout.shards for _, count in due(shard, rule, r)) for r in range(1, 9)]
    assert sorted(counts) == [0, 0, 0, 0, 0, 1, 1, 1]


def test_what_cannot_go_together_is_refused() -> None:
    every, late, many = (
        msgspec.structs.replace(EveryStep(target_batch=8).rule(AdamW(0.01)), fragments=2),
        StreamingLocalUpdates(steps=4, batch=2, staleness=1).rule(AdamW(0.01)),
        StreamingLocalUpdates(steps=4, batch=2, fragments=65).rule(AdamW(0.01)),
    )
    for rule in (every, late, many):
        with pytest.raises(SettingError):
            check_rule(rule, SessionSettings(), 100)
