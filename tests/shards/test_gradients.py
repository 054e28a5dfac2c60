import math

import pytest
import torch
from torch import nn

from jupyter_swarm.protocol.errors import Refusal
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.shards.gradients import GradientSum
from jupyter_swarm.shards.layout import layout_of
from jupyter_swarm.shards.vector import FlatVector

DATA = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=0.5), nn.Linear(3, 1))


def lease(work: GradientSum, data: torch.Tensor) -> None:
    work.begin_lease()
    work.model(data).square().sum().backward()
    work.end_lease()


def test_the_sum_over_leases_is_the_gradient_of_the_summed_loss() -> None:
    model = network().eval()
    layout = layout_of(model)
    view = FlatVector.of(layout, model)
    work = GradientSum(layout, model)
    for _ in range(2):
        work.start(view)
        for start in range(0, 12, 4):
            lease(work, DATA[start : start + 4])
        contribution, norms = work.finish()
    twin = network().eval()
    twin(DATA).square().sum().backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in twin.parameters()])
    torch.testing.assert_close(contribution.sections[Stream.PARAMETERS], expected)
    assert norms["gradient"] == pytest.approx(float(expected.norm()), rel=1e-5)
    assert norms["buffer"] == pytest.approx(math.sqrt(3), rel=1e-6)


def test_a_lease_that_fails_leaves_no_trace() -> None:
    model = network()
    layout = layout_of(model)
    view = FlatVector.of(layout, model)
    work = GradientSum(layout, model)
    work.start(view)
    lease(work, DATA[:4])
    before = {stream: section.clone() for stream, section in work.finish()[0].sections.items()}
    with pytest.raises(Refusal, match="not a number"):
        lease(work, torch.full((4, 4), math.nan))
    work.begin_lease()
    model(DATA[4:8])
    work.fail_lease()
    after = work.finish()[0].sections
    assert all(torch.equal(before[stream], after[stream]) for stream in before)
    assert int(after[Stream.COUNTER]) == 1
    lease(work, DATA[4:8])
    assert int(work.finish()[0].sections[Stream.COUNTER]) == 2


def test_buffers_that_are_not_finite_make_no_contribution() -> None:
    model = network()
    layout = layout_of(model)
    work = GradientSum(layout, model)
    work.start(FlatVector.of(layout, model))
    lease(work, DATA)
    model[1].running_var[0] = math.inf
    with pytest.raises(Refusal, match="buffer that this peer would contribute"):
        work.finish()


def test_gradients_set_to_none_unused_parameters_and_half_precision() -> None:
    model = nn.ModuleDict({"used": nn.Linear(4, 2).to(torch.bfloat16), "idle": nn.Linear(2, 2)})
    layout = layout_of(model)
    work = GradientSum(layout, model)
    work.start(FlatVector.of(layout, model))
    for _ in range(3):
        work.begin_lease()
        model.zero_grad(set_to_none=True)
        model["used"](torch.ones(5, 4, dtype=torch.bfloat16)).sum().backward()
        work.end_lease()
    contribution, norms = work.finish()
    gradients = contribution.tensors()
    assert torch.equal(gradients["used.weight"], torch.full((2, 4), 15.0))
    assert not gradients["idle.weight"].any()
    assert set(norms) == {"gradient"}


def test_start_gives_the_model_the_views_numbers() -> None:
    model = network()
    layout = layout_of(model)
    view = FlatVector.of(layout, model)
    work = GradientSum(layout, model)
    work.start(view)
    lease(work, DATA)
    view.sections[Stream.PARAMETERS].fill_(0.5)
    work.start(view)
    assert torch.equal(model[0].bias.detach(), torch.full((3,), 0.5))
    contribution, _ = work.finish()
    assert not contribution.sections[Stream.PARAMETERS].any()
    assert contribution.sections[Stream.COUNTER].tolist() == [0]
