import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_optimizer import SophiaH
from torch import Tensor, nn
from torch.nn import functional as F

from jupyter_swarm.optim import AdamW, Sophia
from jupyter_swarm.optim.hessian import add_hutchinson, hutchinson_seed, sampled_cross_entropy
from jupyter_swarm.optim.slices import Rates, Slice, update, update_hessian
from jupyter_swarm.optim.torch_optimizer import RuleOptimizer
from jupyter_swarm.protocol.errors import SettingError

betas = st.tuples(st.floats(0.0, 0.97), st.floats(0.5, 0.99))
sophias = st.builds(
    lambda lr, pair, rho, decay, estimator: Sophia(lr, pair, rho, weight_decay=decay, estimator=estimator),
    st.floats(1e-4, 0.1), betas, st.floats(0.01, 1.0), st.floats(0.0, 0.3), st.sampled_from(["gnb", "hutchinson"]),
)  # fmt: skip


class Written:
    """Algorithm 3 of the paper, in float64."""

    def __init__(self, rule: Sophia, theta: Tensor) -> None:
        self.rule = rule
        self.theta = theta.double()
        self.m = torch.zeros_like(self.theta)
        self.h = torch.zeros_like(self.theta)

    def estimate(self, estimate: Tensor, batch: int) -> None:
        estimate = estimate.double()
        second = self.rule.betas[1]
        found = batch * estimate * estimate if self.rule.estimator == "gnb" else estimate
        self.h = second * self.h + (1 - second) * found

    def step(self, gradient: Tensor) -> None:
        rule = self.rule
        first = rule.betas[0]
        self.m = first * self.m + (1 - first) * gradient.double()
        self.theta = self.theta - rule.lr * rule.weight_decay * self.theta
        ratio = self.m / torch.maximum(rule.rho * self.h, torch.tensor(rule.eps, dtype=torch.float64))
        self.theta = self.theta - rule.lr * ratio.clamp(-1, 1)


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert float((found.double() - expected).norm() / expected.norm()) < 1e-6


@given(rule=sophias, count=st.integers(20, 300), seed=st.integers(0, 100), every=st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_twenty_slice_updates_are_the_written_rule(rule: Sophia, count: int, seed: int, every: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(count, generator=generator)
    written = Written(rule, start)
    sides = [Slice(start.clone(), (torch.zeros(count), torch.zeros(count))) for _ in range(2)]
    for step in range(1, 21):
        old, new = sides
        if (step - 1) % every == 0:
            estimate = torch.randn(count, generator=generator)
            written.estimate(estimate, 50)
            update_hessian(rule, estimate, 50, old, new)
            old = Slice(old.parameters, (old.slots[0], new.slots[1]))
        gradient = torch.randn(count, generator=generator)
        written.step(gradient)
        update(rule, Rates(rule.lr, rule.weight_decay, step), gradient, old, new)
        sides.reverse()
    assert_near(sides[0].parameters, written.theta)
    torch.testing.assert_close(sides[0].slots[1].double(), written.h, rtol=1e-5, atol=1e-6)


@given(rule=sophias)
@settings(max_examples=20, deadline=None)
def test_an_estimate_may_lie_where_the_new_slot_is_written(rule: Sophia) -> None:
    estimate, hessian = torch.randn(70_000), torch.rand(70_000)
    old = Slice(torch.zeros(70_000), (torch.zeros(70_000), hessian.clone()))
    beside, over = (Slice(old.parameters, (old.slots[0], place)) for place in (torch.zeros(70_000), estimate.clone()))
    update_hessian(rule, estimate, 9, old, beside)
    update_hessian(rule, over.slots[1], 9, old, over)
    assert torch.equal(old.slots[1], hessian)
    update_hessian(rule, estimate, 9, old, old)
    assert torch.equal(beside.slots[1], over.slots[1])
    assert torch.equal(beside.slots[1], old.slots[1])


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize("estimator", ["gnb", "hutchinson"])
def test_twenty_steps_of_a_network_are_the_written_rule(estimator: str) -> None:
    rule = Sophia(0.01, rho=0.5, estimator=estimator, hessian_every=3)
    model = network()
    optimizer = RuleOptimizer(model.parameters(), rule)
    twin = network().double()
    parameters = list(twin.parameters())
    written = Written(rule, nn.utils.parameters_to_vector(parameters).detach())
    x, y = torch.randn(20, 16, 5), torch.randint(0, 3, (20, 16))

    def estimate(network: nn.Module, step: int) -> None:
        if estimator == "hutchinson":
            add_hutchinson(
                F.cross_entropy(network(x[step].to(next(network.parameters()))), y[step]),
                list(network.parameters()),
                step,
            )
            return
        # The same labels for both; which they are is not the optimizer's matter.
        labels = torch.randint(0, 3, (16,), generator=torch.Generator().manual_seed(step))
        F.cross_entropy(network(x[step].to(next(network.parameters()))), labels).backward()

    def gradients() -> Tensor:
        found = torch.cat([parameter.grad.flatten() for parameter in parameters])
        twin.zero_grad()
        return found

    due = []
    for step in range(20):
        due.append(optimizer.hessian_due)
        if due[-1]:
            estimate(model, step)
            optimizer.step_hessian(batch=16)
            optimizer.zero_grad()
            assert not optimizer.hessian_due
            estimate(twin, step)
            written.estimate(gradients(), 16)
        F.cross_entropy(model(x[step]), y[step]).backward()
        optimizer.step()
        optimizer.zero_grad()
        F.cross_entropy(twin(x[step].double()), y[step]).backward()
        written.step(gradients())
        nn.utils.vector_to_parameters(written.theta, parameters)
    assert due == [step % 3 == 0 for step in range(20)]
    assert_near(nn.utils.parameters_to_vector(model.parameters()).detach(), written.theta)


def test_state_dict_remembers_when_the_last_estimate_was() -> None:
    model = network()
    optimizer = RuleOptimizer(model.parameters(), Sophia(0.01, hessian_every=3))
    model(torch.ones(2, 5)).sum().backward()
    optimizer.step_hessian(2)
    optimizer.step()
    again = RuleOptimizer(network().parameters(), optimizer.rule)
    assert again.hessian_due
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert not again.hessian_due


def test_other_optimizers_want_no_estimates() -> None:
    optimizer = RuleOptimizer([torch.ones(2).requires_grad_()], AdamW(0.1))
    assert not optimizer.hessian_due
    with pytest.raises(TypeError, match="AdamW"):
        optimizer.step_hessian()


def test_against_the_hessian_and_steps_of_pytorch_optimizer() -> None:
    # Theirs clips m / max(h, eps) at p and multiplies by lr; ours is that with ρ = p, ε = p·eps, lr·p, λ / p.
    p, lr, decay = 0.04, 0.5, 0.1
    rule = Sophia(lr * p, (0.96, 0.9), p, p * 1e-12, decay / p, estimator="hutchinson", hessian_every=4)
    model, twin = network(), network()
    ours = RuleOptimizer(model.parameters(), rule)
    theirs = SophiaH(
        twin.parameters(), lr, (0.96, 0.9), decay, p=p, update_period=4, eps=1e-12, hessian_distribution="gaussian"
    )
    for step in range(20):
        x, y = torch.randn(16, 5), torch.randint(0, 3, (16,))
        if ours.hessian_due:
            add_hutchinson(F.cross_entropy(model(x), y), list(model.parameters()), step)
            ours.step_hessian()
            ours.zero_grad()
        F.cross_entropy(model(x), y).backward()
        ours.step()
        ours.zero_grad()
        gradients = torch.autograd.grad(F.cross_entropy(twin(x), y), list(twin.parameters()), create_graph=True)
        for parameter, gradient in zip(twin.parameters(), gradients, strict=True):
            parameter.grad = gradient
        torch.manual_seed(step)  # theirs draws u from torch's own generator
        theirs.step()
    mine, other = (nn.utils.parameters_to_vector(each.parameters()).detach() for each in (model, twin))
    assert float((mine - network_vector()).norm()) > 0.1
    assert_near(mine, other.double())


def network_vector() -> Tensor:
    return nn.utils.parameters_to_vector(network().parameters()).detach()


@given(seed=st.integers(0, 2**40))
@settings(max_examples=20, deadline=None)
def test_hutchinson_of_a_diagonal_quadratic_is_exact(seed: int) -> None:
    curvature = torch.tensor([0.5, 2.0, -3.0, 40.0])
    theta = torch.randn(4, requires_grad=True)
    idle = torch.ones(3, requires_grad=True)
    add_hutchinson((curvature * theta.square()).sum() / 2, [theta, idle], seed)
    u = torch.randn(4, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(theta.grad, curvature * u * u)
    assert idle.grad is None


def test_hutchinsons_mean_is_the_diagonal_of_a_full_hessian() -> None:
    root = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    matrix = root @ root.T
    theta = torch.randn(3, requires_grad=True)
    for seed in range(2000):
        add_hutchinson(theta @ matrix @ theta / 2, [theta], seed)
    torch.testing.assert_close(theta.grad / 2000, matrix.diagonal(), rtol=0.1, atol=0.1)


def test_equal_u_makes_the_estimate_of_a_sum_the_sum_of_estimates() -> None:
    model = network()
    parameters = list(model.parameters())
    x, y = torch.randn(12, 5), torch.randint(0, 3, (12,))
    add_hutchinson(F.cross_entropy(model(x), y, reduction="sum"), parameters, 5)
    whole = [parameter.grad.clone() for parameter in parameters]
    model.zero_grad()
    for part in (slice(0, 5), slice(5, 12)):
        add_hutchinson(F.cross_entropy(model(x[part]), y[part], reduction="sum"), parameters, 5)
    for parameter, expected in zip(parameters, whole, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-5)
    assert hutchinson_seed(7, 1) == hutchinson_seed(7, 1) != hutchinson_seed(7, 2)


def test_the_step_on_a_quadratic_is_newtons_within_the_clip() -> None:
    curvature = torch.tensor([0.1, 1.0, 50.0, 1e-4])
    theta = torch.tensor([0.7, -0.2, 1.0, 3.5], requires_grad=True)
    optimizer = RuleOptimizer([theta], Sophia(1.0, (0.0, 0.0), rho=1.0, weight_decay=0.0, estimator="hutchinson"))
    theta.grad = curvature.clone()
    optimizer.step_hessian()
    positions = []
    for _ in range(4):
        theta.grad = curvature * theta.detach()
        optimizer.step()
        positions.append(theta.detach().clone())
    torch.testing.assert_close(positions[0], torch.tensor([0.0, 0.0, 0.0, 2.5]))
    torch.testing.assert_close(positions[3], torch.zeros(4), rtol=0, atol=1e-5)


def test_where_the_curvature_is_negative_the_step_is_the_sign_of_the_momentum() -> None:
    theta = torch.zeros(3, requires_grad=True)
    optimizer = RuleOptimizer([theta], Sophia(0.25, weight_decay=0.0, estimator="hutchinson"))
    theta.grad = torch.tensor([-1.0, -1.0, 0.0])
    optimizer.step_hessian()
    theta.grad = torch.tensor([1e-3, -7.0, 0.0])
    optimizer.step()
    assert theta.tolist() == [-0.25, 0.25, 0.0]


def test_gauss_newton_bartlett_is_on_average_the_hessian_of_softmax_regression() -> None:
    # Its Hessian does not depend on the labels and is the Gauss-Newton matrix itself.
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(2, 3, requires_grad=True)
    labels = torch.zeros(6, dtype=torch.long)
    exact = torch.autograd.functional.hessian(lambda w: F.cross_entropy(x @ w, labels), weights.detach())
    generator = torch.Generator().manual_seed(2)
    total = torch.zeros(2, 3)
    for _ in range(2000):
        (gradient,) = torch.autograd.grad(sampled_cross_entropy(x @ weights, generator), weights)
        total += 6 * gradient.square()
    torch.testing.assert_close(total / 2000, exact.reshape(6, 6).diagonal().reshape(2, 3), rtol=0.1, atol=0.01)


def test_sampled_labels_are_as_frequent_as_the_model_says() -> None:
    chances = torch.tensor([0.7, 0.2, 0.1])
    logits = chances.log().expand(50, 400, 3).clone().requires_grad_()
    loss = sampled_cross_entropy(logits, torch.Generator().manual_seed(0))
    entropy = -(chances * chances.log()).sum()
    assert float(loss.detach()) == pytest.approx(float(entropy), rel=0.02)
    loss.backward()
    labels = logits.grad.argmin(dim=-1).flatten()
    torch.testing.assert_close(torch.bincount(labels) / 20_000, chances, rtol=0.05, atol=0.005)


def test_hutchinson_without_second_derivatives_says_what_to_do() -> None:
    query = torch.randn(1, 1, 4, 8, requires_grad=True)
    loss = F.scaled_dot_product_attention(query, query, query).sum()
    with pytest.raises(SettingError, match="estimator='gnb'"):
        add_hutchinson(loss, [query], 0)


def test_hutchinson_of_a_linear_loss_is_nothing() -> None:
    weights = torch.ones(3, requires_grad=True)
    add_hutchinson((weights * torch.arange(3.0)).sum(), [weights], 0)
    assert weights.grad is None
