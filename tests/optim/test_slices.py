import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_swarm.optim import SGD, AdamW, Nesterov, OptimizerRule, Sophia, slices
from jupyter_swarm.optim.slices import Rates, Slice, slot_names, update
from jupyter_swarm.optim.torch_optimizer import RuleOptimizer

rates_of_learning = st.floats(1e-4, 0.5)
decays = st.one_of(st.just(0.0), st.floats(1e-4, 0.3))
sgd_rules = st.builds(
    lambda lr, momentum, nesterov, decay: SGD(lr, momentum, nesterov and momentum > 0, decay),
    rates_of_learning, st.sampled_from([0.0, 0.5, 0.9]), st.booleans(), decays,
)  # fmt: skip
adamw_rules = st.builds(
    lambda lr, first, second, eps, decay: AdamW(lr, (first, second), eps, decay),
    st.floats(1e-4, 1e-2), st.floats(0.0, 0.95), st.floats(0.5, 0.999), st.sampled_from([1e-8, 1e-3]), decays,
)  # fmt: skip
torch_rules = st.one_of(sgd_rules, adamw_rules)
rules = st.one_of(torch_rules, st.builds(lambda lr, decay: Sophia(lr, weight_decay=decay), rates_of_learning, decays))


def torch_optimizer(rule: OptimizerRule, parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
    if isinstance(rule, SGD):
        return torch.optim.SGD(
            parameters, lr=rule.lr, momentum=rule.momentum, nesterov=rule.nesterov, weight_decay=rule.weight_decay
        )
    return torch.optim.AdamW(parameters, rule.lr, rule.betas, rule.eps, rule.weight_decay)


def fresh(rule: OptimizerRule, parameters: torch.Tensor) -> Slice:
    return Slice(parameters.clone(), tuple(torch.zeros_like(parameters) for _ in slot_names(rule)))


@given(rule=torch_rules, count=st.integers(1, 70), seed=st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_thirty_steps_are_those_of_torch(rule: OptimizerRule, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parameter = torch.randn(count, generator=generator).requires_grad_()
    reference = torch_optimizer(rule, [parameter])
    sides = [fresh(rule, parameter.detach()), fresh(rule, parameter.detach())]
    for step in range(1, 31):
        parameter.grad = torch.randn(count, generator=generator)
        update(rule, Rates(rule.lr, rule.weight_decay, step), parameter.grad, sides[0], sides[1])
        sides.reverse()
        reference.step()
    torch.testing.assert_close(sides[0].parameters, parameter.detach(), rtol=2e-5, atol=2e-6)


@given(rule=rules, count=st.integers(1, 200), tile=st.integers(1, 64))
@settings(max_examples=40, deadline=None)
def test_old_state_and_gradient_stay_as_they_were(rule: OptimizerRule, count: int, tile: int) -> None:
    old = Slice(torch.randn(count), tuple(torch.rand(count) for _ in slot_names(rule)))
    gradient = torch.randn(count)
    before = [tensor.clone() for tensor in (old.parameters, *old.slots, gradient)]
    new = fresh(rule, torch.zeros(count))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "TILE_ELEMENTS", tile)
        update(rule, Rates(rule.lr, rule.weight_decay, 3), gradient, old, new)
    assert all(torch.equal(a, b) for a, b in zip(before, (old.parameters, *old.slots, gradient), strict=True))
    assert not torch.equal(new.parameters, old.parameters)


@given(rule=rules)
@settings(max_examples=40, deadline=None)
def test_in_place_and_over_the_gradient_give_the_same_bits(rule: OptimizerRule) -> None:
    count = 1000
    old = Slice(torch.randn(count), tuple(torch.rand(count) for _ in slot_names(rule)))
    gradient = torch.randn(count)
    rates = Rates(rule.lr, rule.weight_decay, 5)
    beside, over = fresh(rule, torch.zeros(count)), fresh(rule, gradient)
    update(rule, rates, gradient, old, beside)
    update(rule, rates, over.parameters, old, over)
    update(rule, rates, gradient, old, old)
    for result in (over, old):
        assert torch.equal(result.parameters, beside.parameters)
        assert all(torch.equal(a, b) for a, b in zip(result.slots, beside.slots, strict=True))


@pytest.mark.parametrize("rule", [SGD(0.1), Nesterov(0.05, weight_decay=0.01), AdamW(1e-2)])
def test_torch_optimizer_trains_like_torchs_own(rule: OptimizerRule) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 3))
    twin = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 3))
    twin.load_state_dict(model.state_dict())
    model.to(memory_format=torch.channels_last)
    ours, theirs = RuleOptimizer(model.parameters(), rule), torch_optimizer(rule, list(twin.parameters()))
    data, labels = torch.randn(16, 1, 4, 4), torch.randint(0, 3, (16,))
    for _ in range(20):
        for network, optimizer in ((model, ours), (twin, theirs)):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(data), labels).backward()
            optimizer.step()
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_torch_optimizer_groups_and_state_dict() -> None:
    first, second = (torch.ones(3).requires_grad_() for _ in range(2))
    groups = [{"params": [first], "weight_decay": 0.5}, {"params": [second], "lr": 0.0}]
    optimizer = RuleOptimizer(groups, Nesterov(0.1))
    first.grad = second.grad = torch.zeros(3)
    optimizer.step()
    assert torch.all(first < 1)
    assert torch.equal(second, torch.ones(3))
    again = RuleOptimizer([{"params": [first.detach().clone().requires_grad_()]}, {"params": [second]}], Nesterov(0.1))
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    again.param_groups[0]["params"][0].grad = torch.zeros(3)
    again.step()
    optimizer.step()
    assert torch.equal(again.param_groups[0]["params"][0], first)


def test_torch_optimizer_steps_half_precision_parameters_and_leaves_those_without_gradient() -> None:
    half, idle = torch.ones(4, dtype=torch.bfloat16).requires_grad_(), torch.ones(4).requires_grad_()
    half.grad = torch.ones(4, dtype=torch.bfloat16)
    RuleOptimizer([half, idle], AdamW(0.125, weight_decay=0.0)).step()
    torch.testing.assert_close(half.detach().float(), torch.full((4,), 0.875))
    assert torch.equal(idle, torch.ones(4))


def test_the_state_of_half_precision_parameters_is_saved_and_loaded_in_full() -> None:
    torch.manual_seed(0)
    parameter = torch.randn(50, dtype=torch.bfloat16).requires_grad_()
    first = RuleOptimizer([parameter], AdamW(0.1))
    twin = parameter.detach().clone().requires_grad_()
    second = RuleOptimizer([twin], AdamW(0.1))
    for step in range(6):
        parameter.grad = torch.randn(50).to(torch.bfloat16)
        first.step()
        if step == 2:
            second.load_state_dict(copy.deepcopy(first.state_dict()))
            twin.data.copy_(parameter)
        elif step > 2:
            twin.grad = parameter.grad
            second.step()
    assert torch.equal(parameter, twin)
    for name in slot_names(first.rule):
        assert torch.equal(first.state[parameter][name], second.state[twin][name])
