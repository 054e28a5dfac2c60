"""The recipe: what is trained, as one self-contained source text that defines `recipe = Recipe(...)`.

    from jupyter_swarm import AdamW, Data, EveryStep, Recipe
    recipe = Recipe(name="digits", model=make_model, data=load, loss=loss, optimizer=AdamW(lr=3e-3),
                    strategy=EveryStep(target_batch=128), metrics={"accuracy": accuracy})

A recipe is identified by the SHA-256 of its text, so the text must be all of it: modules that lie beside it are not
imported, because nobody who agreed to the hash has seen them.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import linecache
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import torch

from ..protocol.errors import RecipeError
from ..protocol.rules import OptimizerRule
from ..strategies import Strategy

_READY = Path(__file__).resolve().parent.parent / "recipes"
_DISTRIBUTION = re.compile(r"[A-Za-z0-9._-]+")

Batch = Any
"""What `Data` yields for some samples: a tuple of tensors, or what torch's `default_collate` makes of them."""


class Data(msgspec.Struct, frozen=True):
    """The samples: each part a map-style dataset, or a tuple of tensors with equal first dimensions.

    `train` must have at least one sample; `held_out` may be empty (None), then nothing is evaluated.
    """

    train: Any
    held_out: Any = None


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What is trained.

    model: builds the module; called under `seed`, so that all peers begin with equal parameters.
    data: loads the samples; every peer must get the same samples in the same order.
    loss: (model, batch) -> scalar tensor, the mean over the batch.
    optimizer: settings of the optimizer that steps the shared parameters.
    strategy: how peers work together.
    metrics: name -> (model, batch) -> mean over the batch, for held-out samples; the loss is always among them.
    micro_batch: samples in one forward pass; less if the memory does not suffice.
    rounds: the session ends after so many (0: when somebody stops it).
    evaluate_every: rounds between held-out evaluations (0: only at the end).
    requires: distributions to install, as for pip.
    source: the text it came from; set by `from_source`.

    Raises `RecipeError` for a value that cannot work.
    """

    name: str
    model: Callable[[], torch.nn.Module]
    data: Callable[[], Data]
    loss: Callable[[torch.nn.Module, Batch], torch.Tensor]
    optimizer: OptimizerRule
    strategy: Strategy
    metrics: Mapping[str, Callable[[torch.nn.Module, Batch], torch.Tensor | float]] = {}
    micro_batch: int = 64
    rounds: int = 0
    evaluate_every: int = 10
    seed: int = 0
    requires: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        for field in ("model", "data", "loss"):
            if not callable(getattr(self, field)):
                raise RecipeError(f"The recipe's {field} is not a function.", todo=f"Pass a function as {field}=.")
        if self.micro_batch < 1:
            raise RecipeError(f"micro_batch is {self.micro_batch}.", todo="Choose at least 1 sample.")
        if self.rounds < 0 or self.evaluate_every < 0:
            raise RecipeError("rounds and evaluate_every cannot be negative.")
        if "loss" in self.metrics:
            raise RecipeError("A metric is called 'loss'.", "The loss is measured anyway.", "Give it another name.")

    @property
    def sha256(self) -> str:
        """The identity of the recipe: SHA-256 of its source. Raises `RecipeError` if it has none."""
        if not self.source:
            raise RecipeError(
                f"The recipe {self.name} has no source text.",
                "It was made as an object, and others could not be shown what they are asked to run.",
                "Write it to a file, or pass its text to Recipe.from_source().",
            )
        return hash_source(self.source)

    @classmethod
    def from_source(cls, text: str, path: Path | None = None) -> Recipe:
        """Run `text` and return its `recipe`. Raises `RecipeError`, with the line, for whatever is wrong with it."""
        return _run(text, path)

    def build(self) -> torch.nn.Module:
        """A new model with the recipe's first parameters; the caller's random state stays as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = call(self.model, "model()")
        if not isinstance(model, torch.nn.Module):
            raise RecipeError(f"The recipe's model() returned {type(model).__name__}, not a torch.nn.Module.")
        return model

    def load_data(self) -> Data:
        """The samples, as `data()` gives them."""
        data = call(self.data, "data()")
        if not isinstance(data, Data):
            raise RecipeError(
                f"The recipe's data() returned {type(data).__name__}.", todo="Return Data(train=…, held_out=…)."
            )
        return data


def hash_source(text: str) -> str:
    """SHA-256 of a recipe's text, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def load_recipe(name_or_path: str | Path) -> Recipe:
    """The ready recipe of that name, or the one in that file. Raises `RecipeError`."""
    text, path = read_recipe(name_or_path)
    return Recipe.from_source(text, path)


def read_recipe(name_or_path: str | Path) -> tuple[str, Path]:
    """The text of a recipe and the file that it is in, without running it. Raises `RecipeError`."""
    path = Path(name_or_path).expanduser()
    if path.suffix != ".py":
        path = _READY / f"{name_or_path}.py"
        if not re.fullmatch(r"[a-z][a-z0-9_]*", str(name_or_path)) or not path.is_file():
            ready = ", ".join(sorted(p.stem for p in _READY.glob("[a-z]*.py")))
            raise RecipeError(
                f"There is no recipe called {name_or_path!r}.",
                todo=f"Name a ready one ({ready}), or the path of a .py file.",
            )
    try:
        return path.read_text(encoding="utf-8"), path
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"The recipe {path} cannot be read.", str(error), "Check the path and that the file is UTF-8."
        ) from None


def call(function: Callable[..., Any], what: str, *arguments: Any) -> Any:
    """Call a function of the recipe; what it raises becomes a `RecipeError` that names the line."""
    try:
        return function(*arguments)
    except Exception as error:
        raise RecipeError(
            f"The recipe's {what} failed.", describe(error), "Correct the recipe and try again."
        ) from error


def describe(error: BaseException) -> str:
    """An exception of recipe code in one line, with the last line of the recipe that took part in it."""
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename.startswith("<recipe "):
            place = f" (line {frame.lineno}: {(frame.line or '').strip()})"
    return f"{type(error).__name__}: {error}{place}"


def _run(text: str, path: Path | None) -> Recipe:
    sha256 = hash_source(text)
    filename = f"<recipe {sha256[:12]}>"
    try:
        tree = ast.parse(text, filename)
    except SyntaxError as error:
        raise RecipeError(f"The recipe has a syntax error in line {error.lineno}.", error.msg) from None
    _refuse_local_imports(tree, path)
    # Dataclasses and tracebacks look a class's module and a line's text up by name.
    module = ModuleType(f"swarm_recipe_{sha256[:12]}")
    module.__file__ = filename
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    sys.modules[module.__name__] = module
    try:
        exec(compile(tree, filename, "exec"), module.__dict__)
    except ModuleNotFoundError as error:
        needed = _literal_requires(tree) or (str(error.name).split(".")[0],)
        raise _missing(needed, describe(error)) from None
    except RecipeError:
        raise
    except Exception as error:
        raise RecipeError("The recipe failed while it was read.", describe(error), "Correct that line.") from error
    recipe = module.__dict__.get("recipe")
    if not isinstance(recipe, Recipe):
        raise RecipeError("The recipe's text does not define `recipe`.", todo="End it with: recipe = Recipe(…)")
    missing = tuple(name for name in recipe.requires if not _is_installed(name))
    if missing:
        raise _missing(missing, f"The recipe {recipe.name} lists it in requires.")
    return msgspec.structs.replace(recipe, source=text)


def _missing(names: tuple[str, ...], why: str) -> RecipeError:
    return RecipeError(
        f"The recipe needs what is not installed here: {', '.join(names)}.", why, f"Run: pip install {' '.join(names)}"
    )


def _is_installed(requirement: str) -> bool:
    match = _DISTRIBUTION.match(requirement)
    try:
        return match is not None and bool(importlib.metadata.distribution(match[0]))
    except importlib.metadata.PackageNotFoundError:
        return False


def _literal_requires(tree: ast.Module) -> tuple[str, ...]:
    """What the text says as `requires=`, found without running it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "requires":
            try:
                return tuple(str(name) for name in ast.literal_eval(node.value))
            except (ValueError, TypeError):
                return ()
    return ()


def _refuse_local_imports(tree: ast.Module, path: Path | None) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["." * node.level + (node.module or "")]
        else:
            continue
        for name in names:
            place = _local_file(name, path)
            if place:
                raise RecipeError(
                    f"The recipe imports the local module {name} in line {node.lineno}.",
                    f"The hash that people agree to covers the recipe's own text only, not {place}.",
                    "Copy what is needed into the recipe.",
                )


def _local_file(name: str, path: Path | None) -> str:
    """Where a module lies if it is neither installed nor part of Python; else ''."""
    if name.startswith("."):
        return "files beside it"
    top = name.split(".")[0]
    if top in sys.stdlib_module_names or top == __name__.split(".")[0]:
        return ""
    if path is not None:
        for beside in (path.parent / f"{top}.py", path.parent / top):
            if beside.exists() and not _is_site(beside):
                return str(beside)
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return ""
    if spec is None:
        return ""
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    local = [place for place in places if place not in ("built-in", "frozen") and not _is_site(Path(place))]
    return local[0] if local else ""


def _is_site(place: Path) -> bool:
    """Whether a file is in a directory that package managers install to."""
    place = place.resolve()
    roots = [Path(root).resolve() for key, root in sysconfig.get_paths().items() if key in ("purelib", "platlib")]
    return bool({"site-packages", "dist-packages"} & set(place.parts)) or any(root in place.parents for root in roots)
