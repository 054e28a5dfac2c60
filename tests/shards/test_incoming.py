import random

import pytest
import torch

from jupyter_swarm.optim import SGD
from jupyter_swarm.protocol.errors import ProtocolError, Refusal
from jupyter_swarm.protocol.frames import Kind, payload_of
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.rules import Codec
from jupyter_swarm.shards.carried import packet_codecs
from jupyter_swarm.shards.incoming import PacketSet, SnapshotSet
from jupyter_swarm.shards.outgoing import Envelope, FrameWriter, contribution_bytes, contribution_frames, value_frames
from jupyter_swarm.shards.vector import FlatVector

from .elsewhere import ELSEWHERE, elsewhere
from .rounds import GENERATION, TAG, contribution, frames_of, opened, prepare_of, prepared, rule_of, send, small


def one_round(down: Codec = Codec.FP32) -> tuple[FlatVector, list[bytes], PacketSet]:
    """A view, the packets of round 1, and an empty set for them."""
    rule = rule_of(SGD(0.1), down=down)
    holder, view = opened(rule)
    send([holder], 1)
    return view, prepared([holder], prepare_of(rule, {1: 60})), PacketSet(view.layout, rule, TAG, GENERATION, 1, 1)


@pytest.mark.parametrize("down", [Codec.FP32, Codec.INT8])
def test_packets_are_applied_whole_whatever_their_order(down: Codec) -> None:
    results = []
    for seed in range(3):
        view, packets, arriving = one_round(down)
        before = view.digest_all()
        random.Random(seed).shuffle(packets)
        for frame in packets[:-1]:
            assert not arriving.add(frame)
        with pytest.raises(Refusal, match=r"of \d+ packets"):
            arriving.apply(view)
        assert view.digest_all() == before
        assert arriving.add(packets[-1])
        arriving.apply(view)
        results.append(view.digest_all())
    assert len(set(results)) == 1
    assert results[0] != before


def test_lossless_packets_carry_the_values_themselves() -> None:
    view, packets, arriving = one_round()
    for frame in packets:
        arriving.add(frame)
    arriving.apply(view)
    first = torch.frombuffer(bytearray(payload_of(packets[0])), dtype=torch.float32)
    assert torch.equal(view.slice(Stream.PARAMETERS, 0, first.numel()), first)


@pytest.mark.parametrize(
    ("offset", "value"),
    [(3, Kind.CONTRIBUTION), (5, Codec.BF16), (6, 1), (8, 0), (16, 9), (20, 2), (24, 2), (40, 9), (48, 1)],
)
def test_packets_of_anything_else_are_refused(offset: int, value: int) -> None:
    _, packets, arriving = one_round()
    changed = bytearray(packets[0])
    changed[offset] = value
    with pytest.raises(Refusal):
        arriving.add(bytes(changed))
    arriving.add(packets[0])
    with pytest.raises(Refusal, match="twice"):
        arriving.add(packets[0])
    with pytest.raises(ProtocolError):
        arriving.add(packets[1][:-1])


def test_a_contributions_frames_have_the_bytes_that_were_announced() -> None:
    _, layout = small()
    for up in (Codec.FP32, Codec.INT8):
        rule = rule_of(SGD(0.1), up=up)
        frames = frames_of(contribution(layout, 1), rule, 1)
        assert sum(map(len, frames)) == contribution_bytes(layout, rule, 1)
    assert packet_codecs(rule) == {
        Stream.PARAMETERS: Codec.FP32, Stream.BUFFER: Codec.FP32, Stream.COUNTER: Codec.INT64,
    }  # fmt: skip


def snapshot_frames(vector: FlatVector, number: int, chunks: tuple[int, ...] | None = None) -> list[bytes]:
    envelope = Envelope(Kind.SNAPSHOT, TAG, GENERATION, 5, number)
    return [bytes(frame) for frame in value_frames(FrameWriter(), envelope, vector, chunks)]


def test_a_joiner_asks_only_for_what_differs_and_goes_on_after_a_break() -> None:
    model, layout = small()
    there = FlatVector.of(layout, model)
    here = FlatVector.of(layout, model)
    for stream in (Stream.PARAMETERS, Stream.COUNTER, Stream.CONSTANT):
        here.sections[stream][-1:].add_(1)
    joining = SnapshotSet(here, TAG, GENERATION, 8, there.chunk_digests())
    parameters, counter, constant = joining.missing
    frames = snapshot_frames(there, 8, joining.missing)
    assert len(frames) == 3
    damaged = bytearray(frames[0])
    damaged[-1] ^= 1
    with pytest.raises(Refusal, match="damaged"):
        joining.add(bytes(damaged))
    assert not joining.add(frames[0])
    # What is good already stays so, whatever else comes.
    assert not joining.add(bytes(damaged))
    again = SnapshotSet(here, TAG, GENERATION, 9, there.chunk_digests())
    assert again.missing == (counter, constant)
    with pytest.raises(Refusal, match="does not belong"):
        again.add(frames[1])
    assert [again.add(frame) for frame in snapshot_frames(there, 9, again.missing)] == [False, True]
    assert here.digest_all() == there.digest_all()
    assert parameters < counter < constant


def test_a_snapshot_of_another_layout_is_refused() -> None:
    model, layout = small()
    vector = FlatVector.of(layout, model)
    with pytest.raises(Refusal, match="chunks"):
        SnapshotSet(vector, TAG, GENERATION, 1, vector.chunk_digests()[1:])


@pytest.mark.parametrize("up", [Codec.FP32, Codec.FP16, Codec.INT8, Codec.TOPK])
@pytest.mark.parametrize("device", ELSEWHERE, ids=str)
def test_a_contribution_travels_alike_from_every_device(up: Codec, device: torch.device) -> None:
    rule, here = rule_of(SGD(0.1), up=up), contribution(one_round()[0].layout, 1)
    envelope = Envelope(Kind.CONTRIBUTION, TAG, GENERATION, 1)

    def frames(vector: FlatVector) -> list[bytes]:
        return [b"".join(parts) for parts in contribution_frames(FrameWriter(), envelope, vector, rule)]

    with elsewhere(device):
        there = FlatVector(here.layout, here.sections, device)
        there.copy_from(here)
        sent = frames(there)
    assert sent == frames(here)
