"""What a recipe's text shows before it runs, and what it does not show wrongly."""

from __future__ import annotations

import ast
import symtable
from pathlib import Path

import pytest

import jupyter_swarm
from jupyter_swarm.peer.recipe import Recipe, load_recipe
from jupyter_swarm.peer.source import _refuse_undefined, check_source, with_constants
from jupyter_swarm.protocol.errors import RecipeError


def problem_of(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        check_source(text, "<recipe>")
    return str(caught.value)


# --- syntax


def test_a_syntax_error_is_shown_with_its_line_and_place() -> None:
    said = problem_of("x = 1\ny = (2 +\nz = 3\n")
    assert "line 2" in said
    assert "    y = (2 +\n        ^" in said


@pytest.mark.parametrize(
    "text", ["return 5\n", "def f():\n    nonlocal x\n", "x = '\0'\n", "x = " + "1 + " * 3000 + "1\n"]
)
def test_what_the_compiler_refuses_is_a_syntax_error_too(text: str) -> None:
    assert "line" in problem_of(text) or "not Python" in problem_of(text)


@pytest.mark.parametrize(
    "line",
    ["%matplotlib inline", "!pip install torch", "files = !ls", "%%time", "    %time x = 1", "files = %pwd", "torch?"],
)
def test_commands_of_the_notebook_are_named_as_such(line: str) -> None:
    said = problem_of(f"x = 1\nif x:\n    pass\n{line}\n")
    assert "Line 4 of the recipe is a command of the notebook" in said
    assert line.strip() in said


# --- names


@pytest.mark.parametrize(
    ("text", "line", "name"),
    [
        ("def loss(model, batch):\n    return model(batch) * scale\n", 2, "scale"),
        ("x = VOCABULARY\n", 1, "VOCABULARY"),
        ("def f():\n    size = 3\n\ndef g():\n    return size\n", 5, "size"),
        ("class A:\n    size = 3\n    def f(self):\n        return size\n", 4, "size"),
        ("f = lambda x: [y + offset for y in x]\n", 1, "offset"),
        ("def f():\n    def g():\n        return here\n    return g\n", 3, "here"),
        ("@decorated\ndef f(): pass\n", 1, "decorated"),
        ("def f(x=default): pass\n", 1, "default"),
        ("class A(Base): pass\n", 1, "Base"),
        ("def f():\n    return get_ipython()\n", 2, "get_ipython"),
        ("def f():\n    try:\n        return missing\n    except ValueError:\n        return 1\n", 3, "missing"),
    ],
)
def test_a_name_that_the_text_does_not_define_is_found_with_its_line(text: str, line: int, name: str) -> None:
    said = problem_of(text)
    assert f"uses {name} in line {line}" in said
    assert "the cell must contain all of it" in said


DEFINED = """
from __future__ import annotations
import os.path
import collections.abc as abc
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from nowhere import Ghost

T = TypeVar("T")
first, (second, *rest) = 1, (2, 3)
total: int = 0
print(__name__, __file__, __doc__, __builtins__, WindowsError if False else OSError) if False else None

class A(Generic[T]):
    size = 3
    twice = size * 2
    where = __module__ + __qualname__
    later: Ghost
    def f(self) -> A:
        return __class__, super(), self.size

def g(a, /, b=first, *args, c: Unknown = second, **kwargs) -> Unheard:
    local: Nothing = 1
    def inner():
        nonlocal local
        local += a
        return local, a, b, args, c, kwargs
    with open(os.path.devnull) as file, open(abc.__file__):
        pass
    for i, j in []:
        del i
    else:
        print(j if (k := a) else k)
    try:
        pass
    except OSError as error:
        print(error)
    [x for x in range(3) if x for y in range(x) if y]
    {u: v for u, v in {}.items()}
    return inner, late(), made, file

def make():
    global made
    import made
    global counted
    counted = 1

def late():
    return counted, rest

try:
    unicode
except NameError:
    unicode_ = str

def asks():
    try:
        return get_ipython()
    except Exception:
        return None

match first:
    case {"a": found, **others}:
        print(found, others)
    case [one, *more]:
        print(one, more)
    case _ as any_:
        print(any_)
print(f"{first!r:>{second}}", (lambda q, *r: q)(1))
del total

async def h():
    async for p in h():
        yield p
    async with h() as m:
        await m
"""


def test_nothing_that_is_defined_is_called_undefined() -> None:
    check_source(DEFINED, "<recipe>")


@pytest.mark.parametrize(
    "text",
    [
        "from os.path import *\nprint(join)\n",
        "exec('x = 1')\nprint(x)\n",
        "globals()['x'] = 1\ndef f(): return x\n",
        "vars().update(x=1)\ndef f(): return x\n",
    ],
)
def test_where_names_come_about_unseen_nothing_is_said(text: str) -> None:
    check_source(text, "<recipe>")


def test_no_module_of_the_standard_library_gives_a_false_alarm() -> None:
    """Real code of every kind."""
    folder = Path(ast.__file__).parent
    names = ["argparse", "ast", "dataclasses", "enum", "functools", "inspect", "logging/handlers", "typing", "tarfile"]
    names += ["asyncio/base_events", "collections/__init__", "subprocess", "socket", "unittest/mock", "shutil"]
    for name in names:
        text = (folder / f"{name}.py").read_text(encoding="utf-8")
        tree = ast.parse(text)
        _refuse_undefined(tree, symtable.symtable(text, name, "exec"))


def test_the_ready_recipes_define_all_they_use() -> None:
    paths = list(Path(jupyter_swarm.__file__).parent.glob("recipes/[a-z]*.py"))
    assert paths
    for path in paths:
        check_source(path.read_text(encoding="utf-8"), "<recipe>", path)


# --- imports


@pytest.mark.parametrize(
    "line", ["__import__('helper')", "importlib.import_module('helper.part')", "import_module('.helper', 'here')"]
)
def test_local_modules_named_in_calls_are_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("")
    text = f"import importlib\nfrom importlib import import_module\ndef f():\n    {line}\n"
    with pytest.raises(RecipeError, match=r"local module .*helper.* in line 4"):
        check_source(text, "<recipe>", tmp_path / "mine.py")


def test_what_lies_beside_a_recipe_does_not_hide_what_is_installed(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    check_source("import torch\n", "<recipe>", tmp_path / "mine.py")
    (tmp_path / "helpers").mkdir()
    with pytest.raises(RecipeError, match="local module helpers in line 1"):
        check_source("import helpers\n", "<recipe>", tmp_path / "mine.py")


def test_names_of_the_notebook_cannot_be_imported() -> None:
    assert "local module __main__ in line 2" in problem_of("\nfrom __main__ import helper\n")


def test_a_missing_import_says_what_to_install_before_anything_runs(tmp_path: Path) -> None:
    text = f"open({str(tmp_path / 'ran')!r}, 'w')\nimport surely_not_there.part\n"
    with pytest.raises(RecipeError, match="pip install surely_not_there"):
        Recipe.from_source(text)
    assert not (tmp_path / "ran").exists()
    needed = "recipe = dict(requires=('surely-not>=2', 'x; rm -rf ~', 'surely-too'))\n"
    assert problem_of(text + needed).endswith('Run: pip install "surely-not>=2" surely-too')


def test_an_import_that_may_not_be_needed_is_no_problem() -> None:
    check_source("try:\n    import surely_not_there\nexcept ImportError:\n    surely_not_there = None\n", "<recipe>")
    check_source("def f():\n    import surely_not_there\n", "<recipe>")


# --- constants

CONSTANTS = """# größe: the ü before counts as two bytes
SIZE = "small"; NAME = "ä"  # both on one line
RATES = (
    1e-3,
    2e-3,
)
DEPTH: int = 4
NOTHING = None
TWICE = DEPTH * 2
AGAIN = 1
AGAIN = 2
lower = 5
def f():
    HIDDEN = 1
"""


def values(text: str) -> dict[str, object]:
    namespace: dict[str, object] = {}
    exec(text, namespace)
    return namespace


def test_constants_are_replaced_in_the_text_and_nothing_else_is() -> None:
    text = with_constants(CONSTANTS, {"NAME": "é\n'\"", "SIZE": "125M", "RATES": (0.5,), "DEPTH": 8, "NOTHING": [1]})
    found = values(text)
    assert (found["SIZE"], found["NAME"], found["RATES"], found["DEPTH"]) == ("125M", "é\n'\"", (0.5,), 8)
    assert (found["NOTHING"], found["TWICE"]) == ([1], 16)
    assert "# both on one line" in text
    assert with_constants(CONSTANTS, {"SIZE": "small"}).replace("'small'", '"small"') == CONSTANTS
    both = values(with_constants(CONSTANTS, {"SIZE": "a", "NAME": "b"}))
    assert (both["SIZE"], both["NAME"]) == ("a", "b")


@pytest.mark.parametrize("name", ["TWICE", "AGAIN", "lower", "HIDDEN", "SIZ"])
def test_what_is_no_constant_is_refused_and_the_constants_are_listed(name: str) -> None:
    with pytest.raises(RecipeError, match=r"SIZE='small', NAME='ä', RATES=\(0.001, 0.002\), DEPTH=4"):
        with_constants(CONSTANTS, {name: 3})


@pytest.mark.parametrize("value", [3, None, object(), b"x"])
def test_a_constant_keeps_its_kind(value: object) -> None:
    with pytest.raises(RecipeError, match="Pass a str"):
        with_constants(CONSTANTS, {"SIZE": value})


def test_constants_change_the_recipe_and_its_hash() -> None:
    plain, other = load_recipe("digits"), load_recipe("digits", HELD_OUT=100)
    assert len(other.load_data().held_out[0]) == 100
    assert other.sha256 != plain.sha256
    assert "HELD_OUT = 100" in other.source
    with pytest.raises(RecipeError, match="HELD_OUT=360"):
        load_recipe("digits", HELDOUT=100)
