"""A recipe says what is wrong with it, in its own lines."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from jupyter_swarm.peer.recipe import Recipe, describe, load_recipe, read_recipe
from jupyter_swarm.protocol.errors import RecipeError

GOOD = """
import torch
from jupyter_swarm import SGD, Data, EveryStep, Recipe

def data():
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    return Data(train=(x, x.sum(1)), held_out=(x[:5], x[:5].sum(1)))

def loss(model, batch):
    x, y = batch
    return ((model(x).squeeze(1) - y) ** 2).mean()

recipe = Recipe(
    name="line",
    model=lambda: torch.nn.Linear(3, 1),
    data=data,
    loss=loss,
    optimizer=SGD(lr=0.1),
    strategy=EveryStep(target_batch=8),
    seed=5,
)
"""


def test_a_recipe_is_known_by_the_hash_of_all_its_text() -> None:
    recipe = Recipe.from_source(GOOD)
    assert recipe.sha256 == hashlib.sha256(GOOD.encode()).hexdigest()
    assert Recipe.from_source(GOOD + "# a comment\n").sha256 != recipe.sha256


def test_the_model_is_built_under_the_seed_and_the_callers_random_state_stays() -> None:
    recipe = Recipe.from_source(GOOD)
    before = torch.random.get_rng_state()
    one, two = recipe.build(), recipe.build()
    assert torch.equal(before, torch.random.get_rng_state())
    for first, second in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\n", "does not define `recipe`"),
        ("recipe = 3\n", "does not define `recipe`"),
        ("x = 1\nif x\n", "line 2"),
        ("def f():\n    return 1 / 0\n\nf()\n", "line 2: return 1 / 0"),
        ("import surely_not_a_package\n", "pip install surely_not_a_package"),
        (GOOD.replace("seed=5", "requires=('surely-not-there>=2',)"), "surely-not-there"),
        (GOOD.replace("seed=5", "micro_batch=0"), "micro_batch is 0"),
        (GOOD.replace("data=data", "data=5"), "data is not a function"),
        (GOOD.replace("seed=5", "metrics={'loss': loss}"), "another name"),
        (GOOD.replace("seed=5", "metrics={'accuracy': 0.5}"), "metric accuracy is not a function"),
        (GOOD.replace("seed=5", "sample='text'"), "sample is not a function"),
        (GOOD.replace("seed=5", "predictions=0"), "predictions is 0"),
        (GOOD.replace("seed=5", "rounds=1.5"), "rounds is 1.5"),
        (GOOD.replace("seed=5", "memory=-1"), "memory is -1"),
        (GOOD.replace("seed=5", "autocast='fp8'"), "'bfloat16'"),
        (GOOD.replace("seed=5", "device='tpu'"), "'cuda'"),
        (GOOD.replace("seed=5", "requires='numpy'"), "requires=('numpy',)"),
        (GOOD.replace("seed=5", "requires=('numpy; rm -rf ~',)"), "requires has 'numpy; rm -rf ~'"),
        (GOOD.replace("seed=5", "requires=('--index-url=x',)"), "requires has"),
        (GOOD.replace("seed=5", "seed='five'"), "seed is 'five'"),
        (GOOD.replace("SGD(lr=0.1)", "0.1"), "Choose one of SGD, AdamW, Sophia"),
        (GOOD.replace("EveryStep(target_batch=8)", "EveryStep"), "Choose one of EveryStep, LocalUpdates, Sparse"),
        (GOOD.replace("SGD(", "Sophia(").replace("import SGD", "import Sophia"), "sampled_loss"),
    ],
)
def test_what_is_wrong_is_said(text: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_source(text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "line", ["import helper", "from helper import f", "from . import helper", "import helper.part as p"]
)
def test_imports_of_local_modules_are_refused_and_nothing_has_run(line: str, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("")
    path = tmp_path / "mine.py"
    path.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef late():\n    {line}\n" + GOOD)
    with pytest.raises(RecipeError, match="line 3"):
        load_recipe(path)
    assert not (tmp_path / "ran").exists()


def test_a_module_in_the_working_directory_is_local_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "swarm_test_helper.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RecipeError, match="local module"):
        Recipe.from_source("import swarm_test_helper\n" + GOOD)


@pytest.mark.parametrize(("future", "kind"), [("from __future__ import annotations\n", "'int'"), ("", "int")])
def test_dataclasses_work_in_recipes_as_in_modules(future: str, kind: str) -> None:
    text = future + "from dataclasses import dataclass, fields\n@dataclass\nclass A:\n    x: int = 1\n"
    assert Recipe.from_source(f"{text}assert fields(A)[0].type == {kind}\n{GOOD}").name == "line"


def test_an_error_of_recipe_code_names_its_line() -> None:
    recipe = Recipe.from_source(GOOD)
    with pytest.raises(ValueError, match="unpack") as caught:
        recipe.loss(recipe.build(), (1, 2, 3))
    assert "x, y = batch" in describe(caught.value)


def test_a_model_function_that_raises_or_returns_something_else() -> None:
    for model, says in (("lambda: 1 / 0", "ZeroDivisionError"), ("lambda: 5", "int")):
        recipe = Recipe.from_source(GOOD.replace("lambda: torch.nn.Linear(3, 1)", model))
        with pytest.raises(RecipeError, match=says):
            recipe.build()


def test_names_paths_and_what_is_neither(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(GOOD, encoding="utf-8-sig")
    assert load_recipe(path).source == GOOD
    assert load_recipe("digits").name == "digits"
    for missing in ("no_such_recipe", "../digits", "__init__", tmp_path / "gone.py"):
        with pytest.raises(RecipeError):
            read_recipe(missing)
    with pytest.raises(RecipeError, match="digits"):
        load_recipe("digts")


def test_an_object_without_text_cannot_be_hosted() -> None:
    made = Recipe.from_source(GOOD)
    bare = Recipe(
        name="bare", model=made.model, data=made.data, loss=made.loss, optimizer=made.optimizer, strategy=made.strategy
    )
    with pytest.raises(RecipeError, match="from_source"):
        _ = bare.sha256
