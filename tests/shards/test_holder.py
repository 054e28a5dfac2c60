"""What a holder takes over, hands out and refuses."""

import contextlib
import math
import random
import struct

import pytest
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
    contribution,
    frames_of,
    holder_of,
    opened,
    prepare_of,
    prepared,
    rule_of,
    run_round,
    send,
    small,
    state_of,
)

EVERY_OPTIMIZER = [SGD(0.1), Nesterov(0.1), AdamW(1e-2), Sophia(1e-2, hessian_every=2)]


def fuzzed() -> tuple[Holder, list[bytes]]:
    """A holder of a small model, and frames that it would take."""
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    layout = layout_of(model)
    rule = rule_of(AdamW(0.1), up=Codec.INT8, down=Codec.BF16)
    holder = holder_of(FlatVector.of(layout, model), rule)
    return holder, frames_of(contribution(layout, 1), rule, 1) + state_of(holder)


@pytest.mark.parametrize("down", [Codec.FP32, Codec.BF16])
@pytest.mark.parametrize("optimizer", EVERY_OPTIMIZER)
def test_state_frames_hand_everything_over(optimizer: OptimizerRule, down: Codec) -> None:
    rule = rule_of(optimizer, down=down)
    first, view = opened(rule)
    run_round([first], [view], 1, [1, 2])
    frames = state_of(first)
    random.Random(0).shuffle(frames)
    second = Holder(view.layout, rule, SESSION)
    for frame in frames:
        second.take_state(frame)
    second.adopt(Adopt(GENERATION, 1, 1, first.shards))
    assert state_of(second) == state_of(first)
    other = FlatVector(view.layout)
    other.copy_from(view)
    run_round([first], [view], 2, [3, 4])
    run_round([second], [other], 2, [3, 4])
    assert state_of(second) == state_of(first)
    assert other.digest_all() == view.digest_all()


def test_adopting_needs_every_chunk_and_keeps_what_is_held() -> None:
    rule = rule_of(Nesterov(0.1))
    first, view = opened(rule)
    wide = holder_of(view, rule, [2])
    run_round([first], [view], 1, [1])
    frames = state_of(first)
    second = Holder(view.layout, rule, SESSION)
    with pytest.raises(Refusal, match="did not come"):
        second.adopt(Adopt(GENERATION, 1, 1, (0,)))
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
    rule = rule_of(SGD(0.1))
    _, view = opened(rule)
    constant = next(shard.index for shard in view.layout.shards if shard.stream == Stream.CONSTANT)
    holder = holder_of(view, rule, [constant])
    report = holder.expect(Expect(GENERATION, 1, 4))
    assert report is not None
    assert report.squares == {}
    prepare = prepare_of(rule, {4: 60})
    assert holder.merge(prepare) == 0.0
    assert list(holder.step(prepare, 0.0)) == []
    holder.install()


def test_squares_are_those_of_the_decoded_numbers() -> None:
    holder, view = opened(rule_of(SGD(0.1)))
    sent = contribution(view.layout, 1)
    (report,) = send([holder], 1)
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
        (6, "<H", 1, "not held here"),
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
    holder, view = opened(rule_of(SGD(0.1)))
    frames = frames_of(contribution(view.layout, 1), holder.rule, 1)
    holder.expect(Expect(GENERATION, 1, 1))
    with pytest.raises(Refusal, match=said):
        holder.stage(patched(frames[0], offset, form, value))
    reports = [holder.stage(frame) for frame in frames]
    assert [report is not None for report in reports] == [False] * (len(frames) - 1) + [True]


def test_duplicates_wrong_lengths_and_forgotten_contributions_are_refused() -> None:
    holder, view = opened(rule_of(SGD(0.1), up=Codec.INT8))
    frames = frames_of(contribution(view.layout, 1), holder.rule, 1)
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
    rule = rule_of(Nesterov(0.1))
    holder, _ = opened(rule)
    before = state_of(holder)
    send([holder], 1)
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
    holder, frames = fuzzed()
    if data.draw(st.booleans()):
        frame = bytearray(data.draw(st.sampled_from(frames)))
        for _ in range(data.draw(st.integers(1, 3))):
            frame[data.draw(st.integers(0, min(len(frame), 90) - 1))] = data.draw(st.integers(0, 255))
        frame = frame[: data.draw(st.integers(0, len(frame)))] if data.draw(st.booleans()) else frame
    else:
        frame = bytearray(data.draw(st.binary(max_size=300)))
    before = state_of(holder)
    holder.forget(1)
    holder.expect(Expect(GENERATION, 1, 1))
    arriving = PacketSet(holder.layout, holder.rule, TAG, GENERATION, 1, 1)
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
