import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jupyter_swarm.optim import SGD, AdamW, OptimizerRule, Sophia
from jupyter_swarm.optim.torch_optimizer import RuleOptimizer
from jupyter_swarm.protocol.errors import Refusal
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.shards.layout import decay_matrices, layout_of
from jupyter_swarm.shards.pseudo_gradient import PseudoGradient
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.strategies import EveryStep, LocalUpdates
from jupyter_swarm.strategies.workers import GradientSum, worker

DATA = torch.randn(40, 8, 4, generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    # No bias before the batch norm: its gradient would be nothing but rounding, which AdamW would make steps of.
    return nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))


def made(optimizer: OptimizerRule, steps: int = 5, clip: float = 0.0) -> tuple[PseudoGradient, FlatVector]:
    model = network()
    layout = layout_of(model, decay_matrices)
    work = worker(LocalUpdates(steps=steps, batch=8, clip_norm=clip).rule(optimizer), layout, model)
    assert isinstance(work, PseudoGradient)
    return work, FlatVector.of(layout, model)


def loss_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x).square().mean()


def take_steps(work: PseudoGradient, first: int, count: int, rate: float = 0.05) -> None:
    for step in range(first, first + count):
        work.begin_step()
        loss_of(work.model, DATA[step]).backward()
        work.end_step(rate)


def parameters_of(model: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def test_the_rule_says_which_worker() -> None:
    model = network()
    layout = layout_of(model)
    assert isinstance(worker(EveryStep(8).rule(SGD(0.1)), layout, model), GradientSum)
    assert isinstance(worker(LocalUpdates(5, 8).rule(SGD(0.1)), layout, model), PseudoGradient)


@pytest.mark.parametrize("optimizer", [SGD(1.0), AdamW(1.0, weight_decay=0.1)])
@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_the_contribution_is_how_far_the_inner_optimizer_came(optimizer: OptimizerRule, clip: float) -> None:
    work, view = made(optimizer, clip=clip)
    twin = network()
    groups = [
        {"params": [p for p in twin.parameters() if p.ndim >= 2], "weight_decay": optimizer.weight_decay},
        {"params": [p for p in twin.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    alone = RuleOptimizer(groups, optimizer)
    first = parameters_of(twin)
    for round in range(3):
        work.start(view)
        take_steps(work, 4 * round, 4)
        contribution, norms = work.finish(view)
        assert work.steps == 4
        for step in range(4 * round, 4 * round + 4):
            alone.zero_grad()
            loss_of(twin, DATA[step]).backward()
            if clip:
                nn.utils.clip_grad_norm_(twin.parameters(), clip)
            for group in alone.param_groups:
                group["lr"] = 0.05
            alone.step()
        moved = view.sections[Stream.PARAMETERS] - FlatVector.of(work.layout, twin).sections[Stream.PARAMETERS]
        torch.testing.assert_close(contribution.sections[Stream.PARAMETERS], moved, rtol=1e-5, atol=1e-7)
        assert norms["gradient"] == pytest.approx(float(moved.norm()), rel=1e-5)
        assert contribution.sections[Stream.COUNTER].tolist() == [4 * round + 4]
        torch.testing.assert_close(contribution.sections[Stream.BUFFER][:6], twin[1].running_mean)
        view.fill(twin)
    assert not torch.equal(parameters_of(twin), first)


def test_micro_batches_with_scaled_losses_are_one_step() -> None:
    contributions = []
    for pieces in (1, 3):
        work, view = made(AdamW(1.0))
        work.model.eval()
        work.start(view)
        work.begin_step()
        for piece in DATA[0].tensor_split(pieces):
            (loss_of(work.model, piece) * len(piece) / 8).backward()
        work.end_step(0.05)
        contributions.append(work.finish(view)[0].sections[Stream.PARAMETERS])
    torch.testing.assert_close(*contributions)


def test_a_step_that_fails_leaves_no_trace() -> None:
    undisturbed, view = made(AdamW(1.0))
    disturbed, _ = made(AdamW(1.0))
    for work in (undisturbed, disturbed):
        work.start(view)
        take_steps(work, 0, 2)
        if work is disturbed:
            work.begin_step()
            loss_of(work.model, DATA[9] * math.nan).backward()
            with pytest.raises(Refusal, match="not a number"):
                work.end_step(0.05)
            work.begin_step()
            loss_of(work.model, DATA[9]).backward()
            work.fail_step()
        assert work.steps == 2
        take_steps(work, 2, 2)
    one, other = (work.finish(view)[0].sections for work in (undisturbed, disturbed))
    assert all(torch.equal(one[stream], other[stream]) for stream in one)


def test_moments_outlive_rounds_and_are_new_only_once() -> None:
    work, view = made(AdamW(1.0), steps=30)
    lengths = []
    for round in range(2):
        work.start(view)
        for step in range(5):
            before = parameters_of(work.model)
            take_steps(work, 5 * round + step, 1)
            # Adam's first steps are as long as the learning rate, whatever the gradient.
            lengths.append(float((parameters_of(work.model) - before).abs().max()) / 0.05)
    assert lengths[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0], rel=0.2)
    assert min(lengths[4:]) > 0.5


def test_an_optimizer_without_moments_needs_no_warm_up() -> None:
    work, view = made(SGD(1.0), steps=100)
    twin = network()
    loss_of(twin, DATA[0]).backward()
    work.start(view)
    take_steps(work, 0, 1, rate=0.5)
    expected = parameters_of(twin) - 0.5 * torch.cat([p.grad.flatten() for p in twin.parameters()])
    torch.testing.assert_close(parameters_of(work.model), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_the_view_is_no_progress(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).to(dtype)
    layout = layout_of(model)
    view = FlatVector.of(layout, model)
    view.sections[Stream.PARAMETERS].normal_()
    view.tensors()["2.bias"].fill_(1.0)
    work = PseudoGradient(layout, model, LocalUpdates(5, 8).rule(SGD(1.0)))
    work.start(view)
    assert not work.finish(view)[0].sections[Stream.PARAMETERS].any()
    work.begin_step()
    model.zero_grad(set_to_none=True)
    model(torch.ones(2, 4, dtype=dtype)).sum().backward()
    work.end_step(0.25)
    moved = work.finish(view)[0].tensors()
    assert torch.equal(moved["2.bias"], torch.full((2,), 0.5))


def test_parameters_that_the_loss_does_not_use_are_decayed_all_the_same() -> None:
    model = nn.ModuleDict({"used": nn.Linear(4, 2), "idle": nn.Linear(2, 2)})
    layout = layout_of(model)
    view = FlatVector.of(layout, model)
    work = PseudoGradient(layout, model, LocalUpdates(5, 8).rule(SGD(1.0, weight_decay=0.5)))
    work.start(view)
    work.begin_step()
    model["used"](torch.ones(5, 4)).sum().backward()
    work.end_step(0.1)
    moved = work.finish(view)[0].tensors()["idle.weight"]
    torch.testing.assert_close(moved, 0.05 * view.tensors()["idle.weight"])


def test_steps_that_led_to_infinity_are_refused_and_the_next_round_begins_with_new_moments() -> None:
    work, view = made(SGD(1.0, momentum=0.9))
    work.start(view)
    take_steps(work, 0, 1, rate=math.inf)
    with pytest.raises(Refusal, match="not a number or infinite"):
        work.finish(view)
    work.start(view)
    take_steps(work, 0, 2)
    fresh, _ = made(SGD(1.0, momentum=0.9))
    fresh.start(view)
    take_steps(fresh, 0, 2)
    one, other = (each.finish(view)[0].sections[Stream.PARAMETERS] for each in (work, fresh))
    assert torch.equal(one, other)


@pytest.mark.parametrize("estimator", ["gnb", "hutchinson"])
def test_sophia_gets_its_estimates_between_steps(estimator: str) -> None:
    optimizer = Sophia(0.02, rho=1.0, estimator=estimator, hessian_every=2, weight_decay=0.0)
    work, view = made(optimizer)
    twin = network()
    alone = RuleOptimizer(twin.parameters(), optimizer)
    target = torch.zeros(8, dtype=torch.long)
    due = []
    work.start(view)
    for step in range(5):
        due.append(work.hessian_due)
        assert alone.hessian_due == due[-1]
        work.begin_step()
        if due[-1]:
            work.begin_hessian()
            F.cross_entropy(work.model(DATA[step]), target).backward()
            work.end_hessian(8)
            assert not work.hessian_due
            kept = {name: buffer.clone() for name, buffer in twin.named_buffers()}
            F.cross_entropy(twin(DATA[step]), target).backward()
            twin.load_state_dict(kept, strict=False)
            alone.step_hessian(8)
            alone.zero_grad()
        for model in (work.model, twin):
            loss_of(model, DATA[step]).backward()
        work.end_step(0.02)
        alone.step()
        alone.zero_grad()
    assert due == [True, False, True, False, True]
    moved = view.sections[Stream.PARAMETERS] - FlatVector.of(work.layout, twin).sections[Stream.PARAMETERS]
    contribution = work.finish(view)[0]
    torch.testing.assert_close(contribution.sections[Stream.PARAMETERS], moved, rtol=1e-5, atol=1e-7)
    assert contribution.sections[Stream.COUNTER].tolist() == [5]


def test_an_estimate_that_is_not_finite_changes_nothing() -> None:
    work, view = made(Sophia(0.02))
    work.start(view)
    work.begin_step()
    work.begin_hessian()
    (work.model(DATA[0]).sum() * math.inf).backward()
    with pytest.raises(Refusal, match="Hessian estimate"):
        work.end_hessian(8)
    assert work.hessian_due
    contribution, norms = work.finish(view)
    assert norms["gradient"] == 0.0
    assert contribution.sections[Stream.COUNTER].tolist() == [0]
