"""Training alone."""

from __future__ import annotations

import msgspec
import pytest
import torch

from jupyter_swarm.peer.alone import Training
from jupyter_swarm.protocol.errors import RecipeError

from .classroom import EVERY_STEP, PLAIN, STEPS, Classroom, close, local, parameters_of


def test_a_warm_start_changes_strategy_where_it_says() -> None:
    recipe = local(strategy=f"WarmStart({EVERY_STEP}, 2, {STEPS})")
    room = Classroom(recipe)
    desk = room.join()
    alone = Training(recipe)
    for leases in ((12,), (5, 7), (12,), (6, 6)):
        room.round(desk, *leases)
        alone.step()
    assert [entry["strategy"] for entry in alone.entries] == ["EveryStep"] * 2 + ["LocalUpdates"] * 2
    assert close(parameters_of(alone._computer), room.parameters)


GROUPED = PLAIN.replace("Data,", "Data, ParameterGroup,", 1).replace("lr=0.01", "lr=0.01, weight_decay=5.0")
GROUPED += """
def groups(name, parameter):
    slow = ParameterGroup("slow", learning_rate_scale=0.5, weight_decay_scale=0.0)
    return slow if parameter.ndim < 2 else ParameterGroup()

import msgspec
recipe = msgspec.structs.replace(recipe, groups=groups)
"""


@pytest.mark.parametrize("strategy", [EVERY_STEP, STEPS])
def test_groups_of_parameters_have_their_own_learning_rate_and_decay(strategy: str) -> None:
    recipe = local(GROUPED, strategy)
    room = Classroom(recipe)
    desk = room.join()
    alone, ungrouped = Training(recipe), Training(local(GROUPED.replace("groups=groups", ""), strategy))
    for _ in range(2):
        room.round(desk, 12)
        alone.step()
        ungrouped.step()
    assert close(parameters_of(alone._computer), room.parameters)
    assert not close(parameters_of(ungrouped._computer), room.parameters)


def test_an_interrupt_in_the_midst_of_a_round_of_steps_leaves_the_model_of_the_round_before() -> None:
    recipe = local()
    seen: list[int] = []

    def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        seen.append(1)
        if len(seen) == 7:
            raise KeyboardInterrupt
        return recipe.loss(model, batch)

    training, other = Training(msgspec.structs.replace(recipe, loss=loss)), Training(recipe)
    with pytest.raises(KeyboardInterrupt):
        training.run(3)
    other.run(1)
    assert training.round == 1
    for one, two in zip(training.model.parameters(), other.model.parameters(), strict=True):
        assert one.equal(two)
    assert training.run(2).round == 3


def test_what_the_model_says_is_shown_and_changes_nothing() -> None:
    def sample(model: torch.nn.Module, data: object, prompt: str) -> str:
        return f"{prompt} {model.training} {float(model(torch.randn(1, 6)).sum()):.6f}"

    recipe = msgspec.structs.replace(local(), sample=sample)
    training, other = Training(recipe).run(1), Training(recipe).run(1)
    torch.manual_seed(2)
    assert training.sample("it").startswith("it False")
    torch.manual_seed(2)
    assert training.sample("it") == other.sample("it")
    training.run(1)
    other.run(1)
    assert close(parameters_of(training._computer), parameters_of(other._computer), 0.0)
    with pytest.raises(RecipeError, match="no samples"):
        Training(local()).sample()
