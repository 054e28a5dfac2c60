"""A round without a network: what peers and the coordinator would send, for the tests of the holder."""

from __future__ import annotations

import random
from collections.abc import Iterable

import torch
from torch import nn

from jupyter_swarm.protocol.errors import Refusal
from jupyter_swarm.protocol.frames import Kind, session_tag
from jupyter_swarm.protocol.layout import CHUNK_ELEMENTS, SECTIONS, Layout, Stream
from jupyter_swarm.protocol.messages import Adopt, Expect, Prepare, Staged
from jupyter_swarm.protocol.rules import Codec, OptimizerRule, RoundRule
from jupyter_swarm.shards.feedback import Encoded
from jupyter_swarm.shards.holder import Holder
from jupyter_swarm.shards.incoming import PacketSet
from jupyter_swarm.shards.layout import decay_matrices, layout_of
from jupyter_swarm.shards.outgoing import Envelope, FrameWriter, contribution_frames
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.strategies import EveryStep

SESSION = "cs101-7f3a"
TAG = session_tag(SESSION)
GENERATION = 3
WRITER = FrameWriter()


class Small(nn.Module):
    """Two and a bit shards of parameters in two groups, a constant, buffers, counters."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(1024, 520)
        self.norm = nn.BatchNorm1d(520)
        self.frozen = nn.Parameter(torch.randn(9), requires_grad=False)


def small(seed: int = 0) -> tuple[nn.Module, Layout]:
    torch.manual_seed(seed)
    model = Small()
    return model, layout_of(model, groups=decay_matrices, shard_elements=CHUNK_ELEMENTS)


def rule_of(optimizer: OptimizerRule, clip: float = 0.0, up: Codec = Codec.FP32, down: Codec = Codec.FP32) -> RoundRule:
    return EveryStep(target_batch=60, clip_norm=clip, up=up, down=down).rule(optimizer)


def contribution(layout: Layout, seed: int) -> FlatVector:
    """Random gradients, Hessian estimates, buffers and counters."""
    vector = FlatVector(layout, (*SECTIONS, Stream.HESSIAN))
    generator = torch.Generator().manual_seed(seed)
    vector.sections[Stream.PARAMETERS].normal_(generator=generator)
    vector.sections[Stream.BUFFER].normal_(generator=generator)
    vector.sections[Stream.COUNTER].fill_(seed)
    vector.sections[Stream.HESSIAN].normal_(generator=generator)
    return vector


def frames_of(
    vector: FlatVector, rule: RoundRule, number: int, round: int = 1, encoded: Encoded | None = None
) -> list[bytes]:
    envelope = Envelope(Kind.CONTRIBUTION, TAG, GENERATION, round, number)
    return [b"".join(parts) for parts in contribution_frames(WRITER, envelope, vector, rule, encoded)]


def holder_of(view: FlatVector, rule: RoundRule, shards: Iterable[int] | None = None) -> Holder:
    holder = Holder(view.layout, rule, SESSION)
    indices = tuple(shards) if shards is not None else tuple(shard.index for shard in view.layout.shards)
    holder.load(view, indices)
    holder.adopt(Adopt(GENERATION, 0, 0, indices))
    return holder


def opened(rule: RoundRule) -> tuple[Holder, FlatVector]:
    """A holder of all of the small model, and the view that a peer has of it."""
    model, layout = small()
    view = FlatVector.of(layout, model)
    return holder_of(view, rule), view


def prepare_of(
    rule: RoundRule, weights: dict[int, int], round: int = 1, attempt: int = 1, scales: tuple[float, ...] = ()
) -> Prepare:
    return Prepare(
        GENERATION, round, attempt, tuple(weights.items()), sum(weights.values()), rule.optimizer, rule.optimizer.lr,
        rule.clip_norm, scales,
    )  # fmt: skip


def stage_all(holders: list[Holder], frames: list[bytes], number: int, round: int = 1) -> list[Staged]:
    """Send each frame to the holder of its shard; the holders' reports."""
    reports = [holder.expect(Expect(GENERATION, round, number)) for holder in holders]
    for frame in frames:
        for place, holder in enumerate(holders):
            if int.from_bytes(frame[40:44], "little") in holder.shards:
                reports[place] = holder.stage(frame) or reports[place]
    if None in reports:
        raise Refusal("a holder does not have all")
    return [report for report in reports if report is not None]


def send(holders: list[Holder], number: int, round: int = 1, shuffle: random.Random | None = None) -> list[Staged]:
    """Stage the random contribution of that number on holders with the same rule; their reports."""
    frames = frames_of(contribution(holders[0].layout, number), holders[0].rule, number, round)
    if shuffle is not None:
        shuffle.shuffle(frames)
    return stage_all(holders, frames, number, round)


def prepared(holders: list[Holder], prepare: Prepare) -> list[bytes]:
    """Merge and step on all holders; the packets' frames."""
    norm = sum(holder.merge(prepare) for holder in holders) ** 0.5
    return [bytes(frame) for holder in holders for frame in holder.step(prepare, norm)]


def state_of(holder: Holder) -> list[bytes]:
    return [bytes(frame) for frame in holder.state_frames()]


def apply(view: FlatVector, rule: RoundRule, packets: list[bytes], round: int = 1, attempt: int = 1) -> None:
    arriving = PacketSet(view.layout, rule, TAG, GENERATION, round, attempt)
    assert [arriving.add(frame) for frame in packets].count(True) == 1
    arriving.apply(view)


def commit(holders: list[Holder], views: list[FlatVector], weights: dict[int, int], round: int = 1) -> None:
    """Merge the contributions that are staged, which have so many samples, and bring holders and views to `round`."""
    rule = holders[0].rule
    packets = prepared(holders, prepare_of(rule, weights, round))
    for view in views:
        apply(view, rule, packets, round)
    for holder in holders:
        holder.install()


def run_round(
    holders: list[Holder], views: list[FlatVector], round: int, numbers: list[int], weights: tuple[int, ...] = ()
) -> None:
    """A whole round of random contributions, of 20 samples each unless `weights` says how many."""
    for number in numbers:
        send(holders, number, round)
    commit(holders, views, dict(zip(numbers, weights or [20] * len(numbers), strict=True)), round)
