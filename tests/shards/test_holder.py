import contextlib
import math
import random
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from jupyter_swarm.optim import SGD, AdamW, Nesterov, OptimizerRule, Sophia
from jupyter_swarm.protocol.errors import ProtocolError, Refusal, SettingError, SwarmError
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.messages import Adopt, Expect
from jupyter_swarm.protocol.rules import Codec, RoundRule, StreamRule
from jupyter_swarm.shards.holder import Holder
from jupyter_swarm.shards.incoming import PacketSet
from jupyter_swarm.shards.layout import layout_of
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.strategies import LocalUpdates

from .rounds import (
    GENERATION,
    SESSION,
    TAG,
    apply,
    contribution,
    frames_of,
    holder_of,
    prepare_of,
    prepared,
    rule_of,
    small,
    stage_all,
)  # fmt: skip

OPTIMIZERS = [SGD(0.1, weight_decay=0.1), Nesterov(0.1, weight_decay=0.01), AdamW(1e-2, weight_decay=0.1)]
EVERY_OPTIMIZER = [*OPTIMIZERS, Sophia(1e-2, hessian_every=2), Sophia(1e-2, estimator="hutchinson", hessian_every=1)]
LOSSY = [Codec.FP16, Codec.BF16, Codec.INT8]


def fuzzed() -> tuple[Holder, RoundRule, list[bytes], list[bytes]]:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    layout = layout_of(model)
    rule = rule_of(AdamW(0.1), up=Codec.INT8, down=Codec.BF16)
    holder = holder_of(FlatVector.of(layout, model), rule)
    return holder, rule, frames_of(contribution(layout, 1), rule, 1), state_of(holder)


def state_of(holder: Holder) -> list[bytes]:
    return [bytes(frame) for frame in holder.state_frames()]


def run_round(holders: list[Holder], view: FlatVector, rule: RoundRule, round: int, seeds: list[int]) -> None:
    for seed in seeds:
        stage_all(holders, frames_of(contribution(view.layout, seed), rule, seed, round), seed, round)
    packets = prepared(holders, prepare_of(rule, dict.fromkeys(seeds, 20), round))
    apply(view, rule, packets, round)
    for holder in holders:
        holder.install()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("clip", [0.0, 5.0])
def test_rounds_are_the_steps_of_one_torch_optimizer(optimizer: OptimizerRule, clip: float) -> None:
    model, layout = small()
    rule = rule_of(optimizer, clip)
    view = FlatVector.of(layout, model)
    holder = holder_of(view, rule)
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
        seeds = [10 * round, 10 * round + 1, 10 * round + 2]
        run_round([holder], view, rule, round, seeds)
        tensors = [contribution(layout, seed).tensors() for seed in seeds]
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


def test_buffers_are_weighted_means_counters_maxima_and_constants_stay() -> None:
    model, layout = small()
    rule = rule_of(SGD(0.1))
    view = FlatVector.of(layout, model)
    frozen = view.sections[Stream.CONSTANT].clone()
    holder = holder_of(view, rule)
    weights = {4: 10, 9: 30, 7: 20}
    for number in weights:
        stage_all([holder], frames_of(contribution(layout, number), rule, number), number)
    apply(view, rule, prepared([holder], prepare_of(rule, weights)))
    mean = sum(contribution(layout, n).sections[Stream.BUFFER] * (w / 60) for n, w in weights.items())
    torch.testing.assert_close(view.sections[Stream.BUFFER], mean)
    assert view.sections[Stream.COUNTER].tolist() == [9]
    assert torch.equal(view.sections[Stream.CONSTANT], frozen)


@given(seed=st.integers(0, 2**20), holders=st.integers(1, 4), down=st.sampled_from([Codec.FP32, *LOSSY]))
@settings(max_examples=12)
def test_order_of_arrival_and_number_of_holders_do_not_change_a_bit(seed: int, holders: int, down: Codec) -> None:
    model, layout = small()
    rule = rule_of(AdamW(1e-2), clip=1.0, down=down)
    shuffle = random.Random(seed)
    owners = [shuffle.randrange(holders) for _ in layout.shards]
    many = [
        holder_of(FlatVector.of(layout, model), rule, [i for i, owner in enumerate(owners) if owner == place])
        for place in range(holders)
    ]
    one = holder_of(FlatVector.of(layout, model), rule)
    for number in (1, 2, 3):
        stage_all([one], frames_of(contribution(layout, number), rule, number), number)
    for number in (2, 3, 1):
        frames = frames_of(contribution(layout, number), rule, number)
        shuffle.shuffle(frames)
        stage_all(many, frames, number)
    prepare = prepare_of(rule, {1: 20, 2: 20, 3: 20})
    norm = math.sqrt(one.merge(prepare))
    assert math.sqrt(math.fsum(holder.merge(prepare) for holder in many)) == pytest.approx(norm, rel=1e-12)
    packets = [bytes(frame) for frame in one.step(prepare, norm)]
    parts = [bytes(frame) for holder in many for frame in holder.step(prepare, norm)]
    assert sorted(parts) == sorted(packets)
    digests = {digest.shard: digest for digest in one.digests}
    assert {digest.shard: digest for holder in many for digest in holder.digests} == digests
    assert set(digests) == {shard.index for shard in layout.trained_shards}


def test_another_merging_order_is_the_same_sum_but_need_not_be_the_same_bits() -> None:
    model, layout = small()
    rule = rule_of(SGD(1.0))
    results = []
    for order in ((1, 2, 3), (3, 2, 1)):
        holder, view = holder_of(FlatVector.of(layout, model), rule), FlatVector.of(layout, model)
        for number in order:
            stage_all([holder], frames_of(contribution(layout, number), rule, number), number)
        apply(view, rule, prepared([holder], prepare_of(rule, dict.fromkeys(order, 20))))
        results.append(view.sections[Stream.PARAMETERS])
    torch.testing.assert_close(*results)
    assert not torch.equal(*results)


@pytest.mark.parametrize("optimizer", EVERY_OPTIMIZER)
@pytest.mark.parametrize("down", [Codec.FP32, *LOSSY])
def test_an_abort_leaves_the_state_bit_identical_and_the_round_can_be_made_again(
    optimizer: OptimizerRule, down: Codec
) -> None:
    model, layout = small()
    rule = rule_of(optimizer, down=down)
    view = FlatVector.of(layout, model)
    holder = holder_of(view, rule)
    run_round([holder], view, rule, 1, [1, 2, 3])
    before = state_of(holder)
    stage_all([holder], frames_of(contribution(layout, 5), rule, 5, 2), 5, 2)
    prepared([holder], prepare_of(rule, {5: 60}, 2))
    holder.revert()
    assert state_of(holder) == before
    with pytest.raises(Refusal, match="no prepared version"):
        holder.install()
    with pytest.raises(Refusal, match="not all here"):
        holder.merge(prepare_of(rule, {5: 60}, 2, attempt=2))
    run_round([holder], view, rule, 2, [6, 7, 8])
    undisturbed, other = holder_of(FlatVector.of(layout, model), rule), FlatVector.of(layout, model)
    run_round([undisturbed], other, rule, 1, [1, 2, 3])
    run_round([undisturbed], other, rule, 2, [6, 7, 8])
    assert state_of(undisturbed) == state_of(holder)
    assert other.digest_all() == view.digest_all()


@pytest.mark.parametrize("down", LOSSY)
def test_lossy_packets_keep_views_equal_and_their_error_does_not_add_up(down: Codec) -> None:
    model, layout = small()
    exact_rule, rule = rule_of(SGD(0.05)), rule_of(SGD(0.05), down=down)
    exact, view = FlatVector.of(layout, model), FlatVector.of(layout, model)
    exact_holder, holder = holder_of(exact, exact_rule), holder_of(view, rule)
    errors = []
    for round in range(1, 13):
        run_round([exact_holder], exact, exact_rule, round, [round])
        run_round([holder], view, rule, round, [round])
        assert all(holder.view_digest(shard.index) == view.digest(shard) for shard in layout.shards)
        errors.append(float((exact.sections[Stream.PARAMETERS] - view.sections[Stream.PARAMETERS]).norm()))
    assert errors[-1] < 2 * errors[0]
    pulled = FlatVector(layout)
    holder.copy_view(pulled)
    assert pulled.digest_all() == view.digest_all()


@pytest.mark.parametrize("up", LOSSY)
def test_lossy_contributions_are_merged_after_decoding(up: Codec) -> None:
    model, layout = small()
    results = []
    for codec in (Codec.FP32, up):
        rule = rule_of(SGD(1.0), up=codec)
        holder, view = holder_of(FlatVector.of(layout, model), rule), FlatVector.of(layout, model)
        run_round([holder], view, rule, 1, [1, 2, 3])
        results.append(view.sections[Stream.PARAMETERS])
    torch.testing.assert_close(*results, rtol=0.0, atol=0.01)
    assert not torch.equal(*results)


@pytest.mark.parametrize("down", [Codec.FP32, Codec.BF16])
@pytest.mark.parametrize("optimizer", EVERY_OPTIMIZER)
def test_state_frames_hand_everything_over(optimizer: OptimizerRule, down: Codec) -> None:
    model, layout = small()
    rule = rule_of(optimizer, down=down)
    view = FlatVector.of(layout, model)
    first = holder_of(view, rule)
    run_round([first], view, rule, 1, [1, 2])
    frames = state_of(first)
    random.Random(0).shuffle(frames)
    second = Holder(layout, rule, SESSION)
    for frame in frames:
        second.take_state(frame)
    second.adopt(Adopt(GENERATION, 1, 1, first.shards))
    assert state_of(second) == state_of(first)
    other = FlatVector(layout)
    other.copy_from(view)
    run_round([first], view, rule, 2, [3, 4])
    run_round([second], other, rule, 2, [3, 4])
    assert state_of(second) == state_of(first)
    assert other.digest_all() == view.digest_all()


def test_adopting_needs_every_chunk_and_keeps_what_is_held() -> None:
    model, layout = small()
    rule = rule_of(Nesterov(0.1))
    view = FlatVector.of(layout, model)
    first = holder_of(view, rule)
    run_round([first], view, rule, 1, [1])
    frames = state_of(first)
    second = Holder(layout, rule, SESSION)
    with pytest.raises(Refusal, match="did not come"):
        second.adopt(Adopt(GENERATION, 1, 1, (0,)))
    wide = holder_of(FlatVector.of(layout, model), rule, [2])
    for frame in frames:
        if int.from_bytes(frame[40:44], "little") == 0:
            wide.take_state(frame)
    with pytest.raises(Refusal, match="at version 0"):
        wide.adopt(Adopt(GENERATION, 1, 1, (0, 2)))
    first.adopt(Adopt(GENERATION + 1, 1, 1, (0, 1)))
    assert first.shards == (0, 1)
    assert first.generation == GENERATION + 1
    assert [frame[64:] for frame in state_of(first)] == [f[64:] for f in frames if f[40] in (0, 1)]


def test_a_holder_without_a_part_in_the_round_reports_at_once() -> None:
    model, layout = small()
    constant = next(shard.index for shard in layout.shards if shard.stream == Stream.CONSTANT)
    holder = holder_of(FlatVector.of(layout, model), rule_of(SGD(0.1)), [constant])
    report = holder.expect(Expect(GENERATION, 1, 4))
    assert report is not None
    assert report.squares == {}
    prepare = prepare_of(rule_of(SGD(0.1)), {4: 60})
    assert holder.merge(prepare) == 0.0
    assert list(holder.step(prepare, 0.0)) == []
    holder.install()


def test_squares_are_those_of_the_decoded_numbers() -> None:
    model, layout = small()
    rule = rule_of(SGD(0.1))
    sent = contribution(layout, 1)
    (report,) = stage_all([holder_of(FlatVector.of(layout, model), rule)], frames_of(sent, rule, 1), 1)
    assert set(report.squares) == {"gradient", "buffer"}
    for name, stream in (("gradient", Stream.PARAMETERS), ("buffer", Stream.BUFFER)):
        expected = float(sent.sections[stream].double().square().sum())
        assert report.squares[name] == pytest.approx(expected, rel=1e-5)


def patched(frame: bytes, offset: int, form: str, value: float) -> bytes:
    """The frame with one field overwritten."""
    changed = bytearray(frame)
    struct.pack_into(form, changed, offset, value)
    return bytes(changed)


@pytest.mark.parametrize(
    ("offset", "form", "value", "said"),
    [
        (3, "<B", 2, "not part of a contribution"),
        (4, "<B", int(Stream.PARAMETERS), "not held here"),
        (5, "<B", int(Codec.BF16), "the rule says"),
        (8, "<Q", 1, "not part of a contribution"),
        (16, "<I", GENERATION - 1, "generation"),
        (24, "<Q", 2, "round 2"),
        (32, "<Q", 77, "not expected"),
        (40, "<I", 1, "not held here"),
        (40, "<I", 4_000_000, "not held here"),
        (44, "<I", 5, "not held here"),
        (48, "<Q", 1, "not held here"),
        (48, "<Q", 2**63, "not held here"),
        (64, "<f", math.nan, "NaN"),
        (64, "<f", math.inf, "infinite"),
        (64, "<f", 1e30, "too large"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused_with_the_reason(offset: int, form: str, value: float, said: str) -> None:
    model, layout = small()
    rule = rule_of(SGD(0.1))
    holder = holder_of(FlatVector.of(layout, model), rule)
    frames = frames_of(contribution(layout, 1), rule, 1)
    holder.expect(Expect(GENERATION, 1, 1))
    with pytest.raises(Refusal, match=said):
        holder.stage(patched(frames[0], offset, form, value))
    reports = [holder.stage(frame) for frame in frames]
    assert [report is not None for report in reports] == [False] * (len(frames) - 1) + [True]


def test_duplicates_wrong_lengths_and_forgotten_contributions_are_refused() -> None:
    model, layout = small()
    rule = rule_of(SGD(0.1), up=Codec.INT8)
    holder = holder_of(FlatVector.of(layout, model), rule)
    frames = frames_of(contribution(layout, 1), rule, 1)
    holder.expect(Expect(GENERATION, 1, 1))
    holder.stage(frames[0])
    with pytest.raises(Refusal, match="twice"):
        holder.stage(frames[0])
    size = len(frames[1]) - 64 - 8
    with pytest.raises(ProtocolError, match="bytes"):
        holder.stage(patched(frames[1], 56, "<I", size)[:-8])
    holder.forget(1)
    with pytest.raises(Refusal, match="not expected"):
        holder.stage(frames[1])


def test_what_cannot_be_merged_is_refused_and_the_state_stays() -> None:
    model, layout = small()
    rule = rule_of(Nesterov(0.1))
    holder = holder_of(FlatVector.of(layout, model), rule)
    before = state_of(holder)
    stage_all([holder], frames_of(contribution(layout, 1), rule, 1), 1)
    prepare = prepare_of(rule, {1: 60})
    with pytest.raises(Refusal, match="nothing to merge"):
        holder.merge(prepare_of(rule, {}))
    with pytest.raises(Refusal, match="other state"):
        holder.merge(prepare_of(rule_of(AdamW(0.1)), {1: 60}))
    with pytest.raises(Refusal, match="has not been merged"):
        list(holder.step(prepare, 1.0))
    huge = prepare_of(rule_of(SGD(1e38, momentum=0.9, nesterov=True, weight_decay=1.0)), {1: 60})
    norm = math.sqrt(holder.merge(huge))
    with pytest.raises(Refusal, match="not finite"):
        list(holder.step(huge, norm))
    with pytest.raises(Refusal, match="no prepared version"):
        holder.install()
    assert state_of(holder) == before
    assert len(prepared([holder], prepare)) > 0


@given(data=st.data())
@settings(max_examples=150)
def test_random_and_damaged_bytes_give_our_errors_or_nothing(data: st.DataObject) -> None:
    holder, rule, frames, states = fuzzed()
    if data.draw(st.booleans()):
        frame = bytearray(data.draw(st.sampled_from(frames + states)))
        for _ in range(data.draw(st.integers(1, 3))):
            frame[data.draw(st.integers(0, min(len(frame), 90) - 1))] = data.draw(st.integers(0, 255))
        frame = frame[: data.draw(st.integers(0, len(frame)))] if data.draw(st.booleans()) else frame
    else:
        frame = bytearray(data.draw(st.binary(max_size=300)))
    before = state_of(holder)
    holder.forget(1)
    holder.expect(Expect(GENERATION, 1, 1))
    arriving = PacketSet(holder.layout, rule, TAG, GENERATION, 1, 1)
    for take in (holder.stage, holder.take_state, arriving.add):
        with contextlib.suppress(SwarmError):
            take(bytes(frame))
    assert state_of(holder) == before


@pytest.mark.parametrize(
    ("optimizer", "streams", "said"),
    [
        (SGD(0.1), (StreamRule(Stream.HESSIAN),), "HESSIAN"),
        (Sophia(0.1), (StreamRule(Stream.GRADIENT),), "no Hessian estimates"),
        (SGD(0.1), (StreamRule(Stream.GRADIENT, up=Codec.INT64),), "cannot travel"),
        (SGD(0.1), (StreamRule(Stream.COUNTER),), "cannot travel"),
    ],
)
def test_rules_that_the_holder_cannot_follow(
    optimizer: OptimizerRule, streams: tuple[StreamRule, ...], said: str
) -> None:
    _, layout = small()
    with pytest.raises(SettingError, match=said):
        Holder(layout, RoundRule("EveryStep", optimizer, streams=streams), SESSION)


def test_sophia_cannot_step_with_pseudo_gradients() -> None:
    _, layout = small()
    with pytest.raises(SettingError, match="LocalUpdates gives Sophia no Hessian"):
        Holder(layout, LocalUpdates(steps=5, batch=4, outer=Sophia(0.1)).rule(SGD(0.1)), SESSION)
