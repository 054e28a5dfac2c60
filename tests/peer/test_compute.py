"""A peer's numbers: what does not fit into memory, what is too large for float16, what a recipe gets wrong."""

from __future__ import annotations

import math

import msgspec
import pytest
import torch

from jupyter_swarm.decisions.links import with_codecs
from jupyter_swarm.peer import forward
from jupyter_swarm.peer.compute import Computer, prepare
from jupyter_swarm.peer.forward import LeaseFailed
from jupyter_swarm.peer.recipe import Recipe
from jupyter_swarm.protocol.errors import RecipeError
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.rules import AdamW, Codec
from jupyter_swarm.shards.gradients import GradientSum
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.strategies import LocalUpdates

from .classroom import EVERY_STEP, NORMED, PLAIN, close, local, out_of_memory_above, parameters_of


def computer_of(text: str, strategy: str = EVERY_STEP) -> Computer:
    return prepare(local(text, strategy), 3)


def half(text: str = PLAIN, precision: str = "float16") -> str:
    return text.replace("micro_batch=5", f"micro_batch=5, autocast={precision!r}")


def gradient(computer: Computer) -> torch.Tensor:
    """Of the first 12 samples."""
    assert isinstance(computer.worker, GradientSum)
    computer.worker.start(FlatVector.of(computer.layout, computer.model))
    computer.gradient(0, 12)
    return computer.worker.finish()[0].sections[Stream.PARAMETERS]


def after_steps(computer: Computer) -> torch.Tensor:
    """The parameters after the steps on the first 12 samples."""
    computer.worker.start(FlatVector.of(computer.layout, computer.model))
    list(computer.steps(0, 12, 0.01))
    return parameters_of(computer)


# --- memory


def test_too_little_memory_means_smaller_micro_batches_and_the_same_sum() -> None:
    said: list[str] = []
    small = prepare(Recipe.from_source(PLAIN), 3, said.append)
    out_of_memory_above(small, 2)
    assert close(gradient(small), gradient(computer_of(PLAIN)))
    assert small.micro_batch == 2
    assert "micro-batches of 2" in said[-1]


def test_too_little_memory_in_a_step_means_smaller_micro_batches_and_the_same_step() -> None:
    small, plenty = (prepare(local(), 3) for _ in range(2))
    out_of_memory_above(small, 2)
    assert close(after_steps(small), after_steps(plenty), 1e-6)
    assert small.micro_batch == 2


def test_too_little_memory_in_an_evaluation_means_smaller_micro_batches_and_the_same_sums() -> None:
    small, plenty = computer_of(NORMED), computer_of(NORMED)
    out_of_memory_above(small, 1)
    view = FlatVector.of(small.layout, small.model)
    few, many = small.evaluate(view, 0, 10), plenty.evaluate(view, 0, 10)
    assert few[1] == many[1] == 10
    assert all(math.isclose(few[0][name], many[0][name], rel_tol=1e-5) for name in ("loss", "accuracy"))


def test_a_single_sample_that_does_not_fit_fails_the_lease() -> None:
    computer = computer_of(PLAIN)
    out_of_memory_above(computer, 0)
    with pytest.raises(LeaseFailed, match="single sample"):
        computer.gradient(0, 12)


# --- narrow numbers


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_steps_under_autocast_are_nearly_those_without(precision: str) -> None:
    narrow, wide = after_steps(prepare(local(half(precision=precision)), 3)), after_steps(prepare(local(), 3))
    assert not narrow.equal(wide)
    assert close(narrow, wide, 0.05)


def test_float16_gradients_that_overflow_are_scaled_up_less() -> None:
    text = PLAIN.replace("return nn.functional", "return 50 * nn.functional")
    assert close(gradient(computer_of(half(text))), gradient(computer_of(text)), 0.02)


def test_after_an_overflow_float16_comes_to_count_small_gradients_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "_PASSES", 2)
    factor = 1e4

    def scaled(recipe: Recipe) -> Computer:
        def loss(model: torch.nn.Module, batch: object) -> torch.Tensor:
            return factor * recipe.loss(model, batch)

        return prepare(msgspec.structs.replace(recipe, loss=loss), 3)

    narrow, wide = scaled(Recipe.from_source(half())), scaled(Recipe.from_source(PLAIN))
    gradient(narrow)
    factor = 1.0
    for _ in range(8):
        gradient(narrow)
    factor = 1e-7
    assert close(gradient(narrow), gradient(wide), 0.05)


# --- strategies


def test_moments_stay_while_the_inner_optimizer_does() -> None:
    computer = prepare(local(), 3)
    worker = computer.worker
    faster = LocalUpdates(steps=8, batch=3).rule(AdamW(lr=0.5))
    other = LocalUpdates(steps=8, batch=3).rule(AdamW(lr=0.5, betas=(0.8, 0.9)))
    assert not computer.follow(faster, 2)
    assert not computer.follow(with_codecs(faster, Codec.INT4, Codec.INT8), 2)
    assert computer.worker is worker
    assert computer.follow(other, 3)
    assert computer.worker is not worker


# --- recipes that go wrong


def test_no_training_data_is_refused() -> None:
    with pytest.raises(RecipeError, match="empty"):
        computer_of(PLAIN.replace("x[:30], y[:30]", "x[:0], y[:0]"))


def test_a_batch_of_another_shape_is_named_with_the_line_of_the_recipe() -> None:
    computer = computer_of(PLAIN.replace("x[:30], y[:30]", "torch.cat([x[:30], x[:30]], 1), y[:30]"))
    with pytest.raises(LeaseFailed, match=r"nn\.functional\.cross_entropy\(model\(x\), y\)"):
        computer.gradient(0, 12)


def test_samples_of_different_shapes_are_named_as_such() -> None:
    computer = computer_of(PLAIN.replace("(x[:30], y[:30])", "[(x[i, : 5 + (i != 7)], y[i]) for i in range(30)]"))
    with pytest.raises(LeaseFailed, match="do not make a batch"):
        computer.gradient(0, 30)
