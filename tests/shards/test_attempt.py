"""Rounds: what is merged, the optimizer's step, the packets; and what an abort leaves."""

import math
import random

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_swarm.optim import SGD, AdamW, Nesterov, OptimizerRule, Sophia
from jupyter_swarm.protocol.errors import Refusal
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.rules import Codec
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.strategies import LocalUpdates

from .rounds import contribution, holder_of, opened, prepare_of, prepared, rule_of, run_round, send, small, state_of

OPTIMIZERS = [SGD(0.1, weight_decay=0.1), Nesterov(0.1, weight_decay=0.01), AdamW(1e-2, weight_decay=0.1)]
EVERY_OPTIMIZER = [*OPTIMIZERS, Sophia(1e-2, hessian_every=2), Sophia(1e-2, estimator="hutchinson", hessian_every=1)]
LOSSY = [Codec.FP16, Codec.BF16, Codec.INT8]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("clip", [0.0, 5.0])
def test_rounds_are_the_steps_of_one_torch_optimizer(optimizer: OptimizerRule, clip: float) -> None:
    model, layout = small()
    view = FlatVector.of(layout, model)
    holder = holder_of(view, rule_of(optimizer, clip))
    grouped = [
        {"params": [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]},
        {"params": [p for p in model.parameters() if p.requires_grad and p.ndim < 2], "weight_decay": 0.0},
    ]
    if isinstance(optimizer, SGD):
        reference: torch.optim.Optimizer = torch.optim.SGD(
            grouped, optimizer.lr, optimizer.momentum, nesterov=optimizer.nesterov, weight_decay=optimizer.weight_decay
        )
    else:
        reference = torch.optim.AdamW(grouped, optimizer.lr, weight_decay=optimizer.weight_decay)
    for round in range(1, 6):
        numbers = [10 * round, 10 * round + 1, 10 * round + 2]
        run_round([holder], [view], round, numbers)
        tensors = [contribution(layout, number).tensors() for number in numbers]
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.grad = sum(each[name] for each in tensors) / 60
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        reference.step()
    expected = FlatVector.of(layout, model).sections[Stream.PARAMETERS]
    found = view.sections[Stream.PARAMETERS]
    assert float((found - expected).norm() / expected.norm()) < 1e-6
    assert (holder.version, holder.step_number) == (5, 5)


def test_a_groups_learning_rate_counts_once_whoever_makes_the_steps() -> None:
    model, layout = small()
    half = tuple(msgspec.structs.replace(group, learning_rate_scale=0.5) for group in layout.groups)
    layout = msgspec.structs.replace(layout, groups=half)
    sent = contribution(layout, 1).sections[Stream.PARAMETERS]
    steps = LocalUpdates(steps=5, batch=4, outer=SGD(1.0)).rule(SGD(0.1))
    for rule, moved in ((rule_of(SGD(1.0)), sent / 20 * 0.5), (steps, sent)):
        view = FlatVector.of(layout, model)
        before = view.sections[Stream.PARAMETERS].clone()
        run_round([holder_of(view, rule)], [view], 1, [1])
        torch.testing.assert_close(view.sections[Stream.PARAMETERS], before - moved)


def test_buffers_are_weighted_means_counters_maxima_and_constants_stay() -> None:
    holder, view = opened(rule_of(SGD(0.1)))
    frozen = view.sections[Stream.CONSTANT].clone()
    run_round([holder], [view], 1, [4, 9, 7], weights=(10, 30, 20))
    sent = [contribution(view.layout, number).sections[Stream.BUFFER] for number in (4, 9, 7)]
    torch.testing.assert_close(view.sections[Stream.BUFFER], (10 * sent[0] + 30 * sent[1] + 20 * sent[2]) / 60)
    assert view.sections[Stream.COUNTER].tolist() == [9]
    assert torch.equal(view.sections[Stream.CONSTANT], frozen)


@given(seed=st.integers(0, 2**20), holders=st.integers(1, 4), down=st.sampled_from([Codec.FP32, *LOSSY]))
@settings(max_examples=12)
def test_order_of_arrival_and_number_of_holders_do_not_change_a_bit(seed: int, holders: int, down: Codec) -> None:
    rule = rule_of(AdamW(1e-2), clip=1.0, down=down)
    one, view = opened(rule)
    shuffle = random.Random(seed)
    owners = [shuffle.randrange(holders) for _ in view.layout.shards]
    many = [holder_of(view, rule, [i for i, owner in enumerate(owners) if owner == place]) for place in range(holders)]
    for number in (1, 2, 3):
        send([one], number)
    for number in (2, 3, 1):
        send(many, number, shuffle=shuffle)
    prepare = prepare_of(rule, {1: 20, 2: 20, 3: 20})
    norm = math.sqrt(one.merge(prepare))
    assert math.sqrt(math.fsum(holder.merge(prepare) for holder in many)) == pytest.approx(norm, rel=1e-12)
    packets = [bytes(frame) for frame in one.step(prepare, norm)]
    parts = [bytes(frame) for holder in many for frame in holder.step(prepare, norm)]
    assert sorted(parts) == sorted(packets)
    digests = {digest.shard: digest for digest in one.digests}
    assert {digest.shard: digest for holder in many for digest in holder.digests} == digests
    assert set(digests) == {shard.index for shard in view.layout.trained_shards}


def test_another_merging_order_is_the_same_sum_but_need_not_be_the_same_bits() -> None:
    results = []
    for order in ([1, 2, 3], [3, 2, 1]):
        holder, view = opened(rule_of(SGD(1.0)))
        run_round([holder], [view], 1, order)
        results.append(view.sections[Stream.PARAMETERS])
    torch.testing.assert_close(*results)
    assert not torch.equal(*results)


@pytest.mark.parametrize("optimizer", EVERY_OPTIMIZER)
@pytest.mark.parametrize("down", [Codec.FP32, *LOSSY])
def test_an_abort_leaves_the_state_bit_identical_and_the_round_can_be_made_again(
    optimizer: OptimizerRule, down: Codec
) -> None:
    rule = rule_of(optimizer, down=down)
    holder, view = opened(rule)
    run_round([holder], [view], 1, [1, 2, 3])
    before = state_of(holder)
    send([holder], 5, 2)
    prepared([holder], prepare_of(rule, {5: 60}, 2))
    holder.revert()
    assert state_of(holder) == before
    with pytest.raises(Refusal, match="no prepared version"):
        holder.install()
    with pytest.raises(Refusal, match="not all here"):
        holder.merge(prepare_of(rule, {5: 60}, 2, attempt=2))
    run_round([holder], [view], 2, [6, 7, 8])
    undisturbed, other = opened(rule)
    run_round([undisturbed], [other], 1, [1, 2, 3])
    run_round([undisturbed], [other], 2, [6, 7, 8])
    assert state_of(undisturbed) == state_of(holder)
    assert other.digest_all() == view.digest_all()


@pytest.mark.parametrize("down", LOSSY)
def test_lossy_packets_keep_views_equal_and_their_error_does_not_add_up(down: Codec) -> None:
    exact_holder, exact = opened(rule_of(SGD(0.05)))
    holder, view = opened(rule_of(SGD(0.05), down=down))
    errors = []
    for round in range(1, 13):
        run_round([exact_holder], [exact], round, [round])
        run_round([holder], [view], round, [round])
        assert all(holder.view_digest(shard.index) == view.digest(shard) for shard in view.layout.shards)
        errors.append(float((exact.sections[Stream.PARAMETERS] - view.sections[Stream.PARAMETERS]).norm()))
    assert errors[-1] < 2 * errors[0]
    pulled = FlatVector(view.layout)
    holder.copy_view(pulled)
    assert pulled.digest_all() == view.digest_all()


@pytest.mark.parametrize("up", LOSSY)
def test_lossy_contributions_are_merged_after_decoding(up: Codec) -> None:
    results = []
    for codec in (Codec.FP32, up):
        holder, view = opened(rule_of(SGD(1.0), up=codec))
        run_round([holder], [view], 1, [1, 2, 3])
        results.append(view.sections[Stream.PARAMETERS])
    torch.testing.assert_close(*results, rtol=0.0, atol=0.01)
    assert not torch.equal(*results)
