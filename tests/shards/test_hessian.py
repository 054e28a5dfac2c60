"""Hessian estimates on their way: summed by peers, merged by holders, taken in before the step."""

import math
import random

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jupyter_swarm.optim import Sophia
from jupyter_swarm.optim.hessian import add_hutchinson
from jupyter_swarm.optim.torch_optimizer import RuleOptimizer
from jupyter_swarm.protocol.errors import Refusal
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.rules import Codec
from jupyter_swarm.shards.gradients import GradientSum
from jupyter_swarm.shards.layout import layout_of
from jupyter_swarm.shards.outgoing import contribution_bytes
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.strategies import EveryStep

from .rounds import commit, contribution, frames_of, holder_of, opened, prepare_of, rule_of, send, stage_all, state_of

GNB = Sophia(0.01, rho=0.5, hessian_every=3)
HUTCHINSON = Sophia(0.01, rho=0.5, hessian_every=3, estimator="hutchinson")
CLIP = 0.5
WHOLE = slice(0, 24)


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4))


def estimate(model: nn.Sequential, optimizer: Sophia, round: int, part: slice, reduction: str) -> None:
    """Leaves in `.grad` what the estimate is made of. The "sampled" labels are the same whoever draws them."""
    generator = torch.Generator().manual_seed(round)
    x = torch.randn(24, 6, generator=generator)[part]
    drawn, given = torch.randint(0, 4, (2, 24), generator=generator)
    if optimizer.estimator == "gnb":
        F.cross_entropy(model(x.to(model[0].weight)), drawn[part], reduction=reduction).backward()
    else:
        loss = F.cross_entropy(model(x.to(model[0].weight)), given[part], reduction=reduction)
        add_hutchinson(loss, list(model.parameters()), seed=round)


def backward(model: nn.Sequential, round: int, part: slice, reduction: str) -> None:
    generator = torch.Generator().manual_seed(1000 + round)
    x, y = torch.randn(24, 6, generator=generator), torch.randint(0, 4, (24,), generator=generator)
    F.cross_entropy(model(x[part].to(model[0].weight)), y[part], reduction=reduction).backward()


def twenty_rounds(optimizer: Sophia, cuts: tuple[int, ...]) -> Tensor:
    """The parameters after 20 rounds of 24 samples, those from cut to cut being a peer's."""
    layout = layout_of(network())
    rule = EveryStep(target_batch=24, clip_norm=CLIP).rule(optimizer)
    view = FlatVector.of(layout, network())
    holder = holder_of(view, rule)
    peers = [GradientSum(layout, network()) for _ in cuts[1:]]
    for round in range(1, 21):
        due = (round - 1) % optimizer.hessian_every == 0
        weights = {}
        for number, (peer, first, last) in enumerate(zip(peers, cuts, cuts[1:], strict=False)):
            peer.start(view)
            # Two leases: the second is computed beside the first.
            for part in (slice(first, first + 2), slice(first + 2, last)):
                peer.begin_lease()
                if due:
                    peer.begin_hessian()
                    estimate(peer.model, optimizer, round, part, "sum")
                    peer.end_hessian()
                backward(peer.model, round, part, "sum")
                peer.end_lease()
            vector, norms = peer.finish()
            assert ("hessian" in norms) == due
            (report,) = stage_all([holder], frames_of(vector, rule, number, round), number, round)
            assert {name: math.sqrt(square) for name, square in report.squares.items()} == pytest.approx(norms)
            weights[number] = last - first
        commit([holder], [view], weights, round)
    return view.sections[Stream.PARAMETERS]


@pytest.mark.parametrize("optimizer", [GNB, HUTCHINSON])
@pytest.mark.parametrize("cuts", [(0, 24), (0, 3, 14, 24)])
def test_twenty_rounds_are_twenty_steps_of_one_process(optimizer: Sophia, cuts: tuple[int, ...]) -> None:
    alone = network()
    reference = RuleOptimizer(alone.parameters(), optimizer)
    for round in range(1, 21):
        assert reference.hessian_due == ((round - 1) % 3 == 0)
        if reference.hessian_due:
            estimate(alone, optimizer, round, WHOLE, "mean")
            reference.step_hessian(24)
            reference.zero_grad()
        backward(alone, round, WHOLE, "mean")
        torch.nn.utils.clip_grad_norm_(alone.parameters(), CLIP)
        reference.step()
        reference.zero_grad()
    layout = layout_of(alone)
    expected = FlatVector.of(layout, alone).sections[Stream.PARAMETERS]
    assert float((twenty_rounds(optimizer, cuts) - expected).norm() / expected.norm()) < 1e-6
    assert float((FlatVector.of(layout, network()).sections[Stream.PARAMETERS] - expected).norm()) > 0.1


def test_predictions_multiply_the_batch_of_gauss_newton_bartlett() -> None:
    slots = []
    for predictions in (1, 7):
        holder, view = opened(EveryStep(target_batch=60).rule(GNB, predictions))
        send([holder], 1)
        commit([holder], [view], {1: 60})
        hessian = [frame for frame in state_of(holder) if frame[4] == Stream.OPTIMIZER and frame[32] == 1]
        slots.append(torch.frombuffer(bytearray(b"".join(frame[64:] for frame in hessian)), dtype=torch.float32))
    sent = contribution(view.layout, 1).sections[Stream.HESSIAN] / 60
    torch.testing.assert_close(slots[0], 0.01 * 60 * sent.square())
    torch.testing.assert_close(slots[1], 7 * slots[0])


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("down", [Codec.FP32, Codec.INT8])
def test_two_holders_are_one_holder_bit_for_bit(clip: float, down: Codec) -> None:
    rule = rule_of(Sophia(0.01, hessian_every=2), clip=clip, down=down)
    whole, view = opened(rule)
    one = [whole]
    two = [holder_of(view, rule, shards) for shards in ((0, 2, 3, 5), (1, 4))]
    assert sorted(index for holder in two for index in holder.shards) == list(whole.shards)
    for round in range(1, 5):
        packets = []
        for holders in (one, two):
            for number in (1, 2, 3):
                send(holders, number, round, random.Random(round))
            prepare = prepare_of(rule, {1: 20, 2: 30, 3: 10}, round)
            norm = math.sqrt(math.fsum(holder.merge(prepare) for holder in holders))
            packets.append(sorted(bytes(frame) for holder in holders for frame in holder.step(prepare, norm)))
            for holder in holders:
                holder.install()
        assert packets[0] == packets[1]
    states = [sorted(frame for holder in each for frame in state_of(holder)) for each in (one, two)]
    assert states[0] == states[1]


def test_only_due_rounds_carry_estimates() -> None:
    rule = rule_of(Sophia(0.01, hessian_every=2), up=Codec.FP16)
    layout = opened(rule)[1].layout
    sizes = []
    for round in (1, 2, 3):
        frames = frames_of(contribution(layout, 1), rule, 1, round)
        sizes.append(sum(map(len, frames)))
        assert sizes[-1] == contribution_bytes(layout, rule, round)
    assert sizes[0] == sizes[2]
    assert sizes[0] - sizes[1] == sum(2 * count + 64 for shard in layout.shards[:3] for _, count in shard.chunks())
    with pytest.raises(KeyError):
        frames_of(FlatVector(layout), rule, 1, 3)


def test_an_estimate_that_is_not_finite_is_refused() -> None:
    holder, view = opened(EveryStep(target_batch=60).rule(GNB, predictions=10**8))
    before = state_of(holder)
    vector = contribution(view.layout, 1)
    vector.sections[Stream.HESSIAN][3] = math.nan
    with pytest.raises(Refusal, match="HESSIAN"):
        stage_all([holder], frames_of(vector, holder.rule, 1), 1)
    holder.forget(1)
    vector.sections[Stream.HESSIAN][3] = 1e19  # finite, but B times its square is not
    stage_all([holder], frames_of(vector, holder.rule, 1), 1)
    with pytest.raises(Refusal, match="Hessian estimate of round 1"):
        commit([holder], [view], {1: 60})
    holder.revert()
    assert state_of(holder) == before


def test_a_contribution_without_its_estimate_is_not_complete() -> None:
    holder, view = opened(rule_of(GNB))
    frames = [frame for frame in frames_of(contribution(view.layout, 1), holder.rule, 1) if frame[4] != Stream.HESSIAN]
    with pytest.raises(Refusal, match="does not have all"):
        stage_all([holder], frames, 1)
    with pytest.raises(Refusal, match="not all here"):
        commit([holder], [view], {1: 60})


def noisy() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


@pytest.mark.parametrize("later", [False, True])
def test_a_lease_that_fails_in_or_after_its_estimate_leaves_no_trace(later: bool) -> None:
    model = noisy()
    layout = layout_of(model)
    work = GradientSum(layout, model)
    data = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))

    def lease(scale: float, estimate_scale: float) -> None:
        work.begin_lease()
        work.begin_hessian()
        (model(data).sum() * estimate_scale).backward()
        work.end_hessian()
        (model(data).square().sum() * scale).backward()
        work.end_lease()

    work.start(FlatVector.of(layout, model))
    if later:
        lease(1.0, 1.0)
    before = {stream: section.clone() for stream, section in work.finish()[0].sections.items()}
    for scales in ((math.nan, 1.0), (1.0, math.inf)):
        with pytest.raises(Refusal, match="not a number"):
            lease(*scales)
    after, norms = work.finish()
    for stream, section in after.sections.items():
        assert torch.equal(section, before.get(stream, torch.zeros_like(section)))
    assert ("hessian" in norms) == later
    lease(1.0, 1.0)
    # The estimate's forward pass does not count as one of training.
    assert int(work.finish()[0].sections[Stream.COUNTER]) == 1 + later
    work.start(FlatVector.of(layout, model))
    assert not work.finish()[0].sections[Stream.HESSIAN].any()
    assert "hessian" not in work.finish()[1]
