"""A recipe tried out: what it takes, what stops it, and that it leaves no trace."""

from __future__ import annotations

import copy

import pytest
import torch

from jupyter_swarm.peer import preflight as module
from jupyter_swarm.peer.compute import prepare
from jupyter_swarm.peer.preflight import Preflight, check_machine, preflight, try_out
from jupyter_swarm.peer.recipe import Data, Recipe
from jupyter_swarm.protocol.errors import RecipeError

from .classroom import NORMED, PLAIN


def tried(*changes: tuple[str, str], text: str = PLAIN, **options: object) -> Preflight:
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return preflight(Recipe.from_source(text), **options)  # type: ignore[arg-type]


LOSS = "return nn.functional.cross_entropy(model(x), y)"
MODEL = "nn.Sequential(nn.Linear(6, 8), nn.Identity(), nn.ReLU(), nn.Linear(8, 2))"


def with_model(body: str) -> Preflight:
    return tried((f"    return {MODEL}", f"    m = {MODEL}\n    {body}\n    return m"))


def test_a_recipe_that_works_shows_what_it_takes() -> None:
    report = tried()
    assert report.ok
    report.check()
    assert (report.parameters, report.train, report.held_out) == (6 * 8 + 8 + 8 * 2 + 2, 30, 10)
    assert (report.samples, report.step_samples) == (5, 12)
    assert 0 < report.seconds < 60
    assert report.samples_per_second == pytest.approx(5 / report.seconds)
    assert 0 < report.needs < report.free
    assert "74 parameters" in report.line()
    assert "30 samples to train on, 10 held out" in str(report)
    assert repr(report) == str(report), "a cell that ends with it shows it"
    assert "predictions" not in str(report)
    assert "predictions/s" in tried(("seed=3", "seed=3, predictions=16")).line()


def test_nothing_is_changed_by_it() -> None:
    text = NORMED.replace("nn.ReLU()", "nn.Dropout(0.5)")
    computer = prepare(Recipe.from_source(text), 0)
    computer.model.eval()
    computer.model[0].register_buffer("unsaved", torch.ones(2), persistent=False)  # type: ignore[index,operator]
    before = copy.deepcopy(computer.model.state_dict())
    state = torch.random.get_rng_state()
    assert try_out(computer).ok
    assert torch.equal(state, torch.random.get_rng_state())
    assert not any(module.training for module in computer.model.modules())
    assert all(parameter.grad is None for parameter in computer.model.parameters())
    for name, tensor in computer.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_tied_and_frozen_parameters_are_fine() -> None:
    tied = "m[3] = nn.Linear(8, 8); m.append(nn.Linear(8, 2)); m[1] = nn.Linear(8, 8); m[1].weight = m[3].weight"
    report = with_model(tied)
    assert report.ok
    assert report.parameters == 6 * 8 + 8 + 8 * 8 + 8 + 8 + 8 * 2 + 2
    report = with_model("m[0].weight.requires_grad_(False)")
    assert (report.ok, report.warnings, report.parameters) == (True, (), 8 + 8 * 2 + 2)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("m.add = nn.Parameter(torch.zeros(2, dtype=torch.complex64))", "complex"),
        ("m.add = nn.Parameter(torch.tensor([2**31 - 1]), requires_grad=False)", "do not fit fp32"),
        ("m.requires_grad_(False)", "nothing to train"),
        ("m = nn.Identity()", "nothing to train"),
        ("m = 5", "not a torch.nn.Module"),
        ("m.add = nn.LazyLinear(3)", "no shape yet"),
    ],
)
def test_models_that_cannot_be_trained_together(body: str, says: str) -> None:
    report = with_model(body)
    assert not report.ok
    assert says in str(report)
    with pytest.raises(type(report.problems[0])):
        report.check()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("x[:30], y[:30]", "x[:0], y[:0]"), "empty"),
        (("x[:30], y[:30]", "x[:30], y[:29]"), "differ in length"),
        (("x[:30], y[:30]", "x[:30, :5], y[:30]"), "mat1 and mat2"),
        (("y[:30])", "y[:30].float().unsqueeze(1))"), "One step of the recipe does not work"),
        ((LOSS, "return model(x).detach().sum()"), "did not return a loss"),
        ((LOSS, "return model(x)"), "did not return a loss"),
        ((LOSS, "return model(x).sum() / 0 * 0"), "The loss is nan"),
        ((LOSS, "return model(x).mul(0).sum().sqrt()"), "not a number"),
        (("return (model(x).argmax(1) == y)", "return model.nothing(x)"), "nothing"),
        (("    generator = torch", "    import surely_not_there\n    generator = torch"), "pip install surely_not"),
    ],
)
def test_recipes_that_do_not_work(change: tuple[str, str], says: str) -> None:
    report = tried(change)
    assert not report.ok
    assert says in str(report)
    assert "what to do" in str(report)


def test_a_recipe_that_cannot_be_read_is_a_problem_too() -> None:
    report = preflight("no_such_recipe")
    assert not report.ok
    assert "no recipe called" in report.line()


def test_what_the_loss_does_not_use_is_named() -> None:
    (warning,) = with_model("m.unused = nn.Linear(3, 3); m.forward = lambda x: m[3](m[2](m[0](x)))").warnings
    assert "2 of 6" in warning
    assert "unused.weight, unused.bias" in warning


def test_sampled_losses_are_tried_where_they_are_needed() -> None:
    sophia = "AdamW(lr=0.01)", "Sophia(lr=0.01)"
    assert not tried(sophia, ("seed=3", "seed=3, sampled_loss=lambda model, batch: 1 / 0")).ok
    assert tried(sophia, ("seed=3", "seed=3, sampled_loss=loss")).ok
    assert tried(("AdamW(lr=0.01)", "Sophia(lr=0.01, estimator='hutchinson')")).ok


def test_data_of_ones_own_is_tried_instead() -> None:
    assert tried(data=Data(train=(torch.zeros(3, 6), torch.zeros(3, dtype=torch.int64)))).train == 3
    computer = prepare(Recipe.from_source(PLAIN), 0)
    report = try_out(computer, Data(train=(torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64))))
    assert "mat1 and mat2" in str(report)
    assert "empty" in str(try_out(computer, Data(train=(torch.zeros(0, 6),))))


def test_where_the_memory_does_not_suffice_the_micro_batch_shrinks() -> None:
    small = "if len(batch[0]) > 3: raise MemoryError\n    x, y = batch\n    return nn"
    report = tried(("x, y = batch\n    return nn", small))
    assert report.ok
    assert report.samples == 2
    assert "micro-batches of 2" in report.warnings[0]
    report = tried(("x, y = batch\n    return nn", "x, y = batch\n    raise MemoryError\n    return nn"))
    assert "single sample" in str(report)


def test_a_model_that_is_too_slow_is_measured_on_few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LIMIT_SECONDS", 0.0)
    report = tried()
    assert report.ok
    assert report.samples == 2
    assert "slow" in report.warnings[-1]


# --- what it says it needs


def test_a_gpu_that_is_not_there_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    report = tried(("seed=3", "seed=3, device='cuda'"), ("    generator = torch", "    1 / 0\n    generator = torch"))
    assert "needs a GPU (cuda)" in report.line()
    assert "Runtime → Change runtime type" in report.problems[0].todo


def test_another_device_than_it_needs() -> None:
    with pytest.raises(RecipeError, match="needs the CPU"):
        check_machine(Recipe.from_source(PLAIN.replace("seed=3", "seed=3, device='cpu'")), "cuda:0")


def test_more_memory_than_there_is() -> None:
    report = tried(("seed=3", "seed=3, memory=1 << 50"))
    assert "1125899.9 GB of memory" in report.line()
    total = module.memory_of(torch.device("cpu")).total
    report = tried(("seed=3", f"seed=3, memory={total}"))
    assert report.ok
    assert "Close other programs" in report.warnings[-1]
