"""The recipe: what is trained, as one self-contained source text that defines `recipe = Recipe(...)`.

    from jupyter_swarm import AdamW, Data, EveryStep, Recipe
    recipe = Recipe(name="digits", model=make_model, data=load, loss=loss, optimizer=AdamW(lr=3e-3),
                    strategy=EveryStep(target_batch=128), metrics={"accuracy": accuracy})

A recipe is identified by the SHA-256 of its text, so the text must be all of it: modules that lie beside it are not
imported, because nobody who agreed to the hash has seen them.
"""

from __future__ import annotations

import linecache
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import msgspec
import torch

from ..protocol.errors import RecipeError
from ..protocol.rules import OptimizerRule, Sophia
from ..shards.layout import Grouping, one_group
from ..strategies import Strategy
from .source import (
    check_source,
    distribution_of,
    hash_source,
    is_installed,
    is_requirement,
    missing_packages,
    with_constants,
)

_READY = Path(__file__).resolve().parent.parent / "recipes"

Autocast = Literal["", "bfloat16", "float16"]
DEVICES = ("", "cpu", "cuda", "mps", "xpu")
Batch = Any
"""What `Data` yields for some samples: a tuple of tensors, or what torch's `default_collate` makes of them."""


class Data(msgspec.Struct, frozen=True):
    """The samples: each part a map-style dataset, a `DataLoader` of one (its collate_fn and workers are used, its order
    and batches are not), `Windows`, or a tuple of tensors with equal first dimensions.

    `train` must have at least one sample; `held_out` may be empty (None), then nothing is evaluated. files: what goes
    with the samples, as a tokenizer (name -> bytes). share: whether tensors and windows are sent to the peers, so that
    all train on the same bytes; otherwise, and for other kinds of datasets, each peer calls the recipe's data().
    """

    train: Any
    held_out: Any = None
    files: Mapping[str, bytes] = {}
    share: bool = True


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What is trained.

    model: builds the module; called under `seed`, so that all peers begin with equal parameters.
    data: loads the samples; every peer that calls it must get the same samples in the same order.
    loss: (model, batch) -> scalar tensor, the mean over the batch.
    optimizer: settings of the optimizer that steps on gradients.
    strategy: how peers work together.
    groups: (name, parameter) -> `ParameterGroup`, which scales the learning rate and weight decay of some of them
    (`decay_matrices`: no weight decay for biases and norms).
    metrics: name -> (model, batch) -> mean over the batch, for held-out samples; the loss is always among them.
    sampled_loss: (model, batch) -> the mean loss with labels sampled from the model's own predictions (Sophia-G).
    sample: (model, data, prompt) -> text, to show what the model has learnt.
    export: (model, data) -> name -> bytes, files that make a checkpoint usable elsewhere (config.json).
    micro_batch: samples in one forward pass; less if the memory does not suffice.
    predictions: how many predictions the loss of one sample is the mean of (tokens in a window of text).
    autocast: the narrower numbers that matrix products compute with ("": as the model is).
    rounds: the session ends after so many (0: when somebody stops it).
    evaluate_every: rounds between held-out evaluations (0: only at the end).
    requires: distributions to install, with their versions if these matter.
    device: the kind that it needs. memory: bytes that it needs there.
    source: the text it came from; set by `from_source`.

    Raises `RecipeError` for a value that cannot work.
    """

    name: str
    model: Callable[[], torch.nn.Module]
    data: Callable[[], Data]
    loss: Callable[[torch.nn.Module, Batch], torch.Tensor]
    optimizer: OptimizerRule
    strategy: Strategy
    groups: Grouping = one_group
    metrics: Mapping[str, Callable[[torch.nn.Module, Batch], torch.Tensor | float]] = {}
    sampled_loss: Callable[[torch.nn.Module, Batch], torch.Tensor] | None = None
    sample: Callable[[torch.nn.Module, Data, str], str] | None = None
    export: Callable[[torch.nn.Module, Data], Mapping[str, bytes]] | None = None
    micro_batch: int = 64
    predictions: int = 1
    autocast: Autocast = ""
    rounds: int = 0
    evaluate_every: int = 10
    seed: int = 0
    requires: tuple[str, ...] = ()
    device: str = ""
    memory: int = 0
    source: str = ""

    def __post_init__(self) -> None:
        self._check_functions()
        least_values = {"micro_batch": 1, "predictions": 1, "rounds": 0, "evaluate_every": 0, "seed": 0, "memory": 0}
        for field, least in least_values.items():
            value = getattr(self, field)
            if not isinstance(value, int) or value < least:
                raise RecipeError(f"{field} is {value!r}.", todo=f"Choose a whole number, at least {least}.")
        for field, kinds in (("optimizer", OptimizerRule), ("strategy", Strategy)):
            if not isinstance(getattr(self, field), kinds):
                names = ", ".join(kind.__name__ for kind in get_args(kinds))
                found = type(getattr(self, field)).__name__
                raise RecipeError(f"The recipe's {field} is a {found}.", todo=f"Choose one of {names}.")
        for field, values in (("autocast", get_args(Autocast)), ("device", DEVICES)):
            if getattr(self, field) not in values:
                found = getattr(self, field)
                raise RecipeError(f"{field} is {found!r}.", todo=f"Choose one of {', '.join(map(repr, values))}.")
        requires: Any = self.requires
        if isinstance(requires, str):
            raise RecipeError(f"requires is {requires!r}.", todo=f"Write requires=({requires!r},).")
        for name in requires:
            if not (isinstance(name, str) and is_requirement(name)):
                raise RecipeError(f"requires has {name!r}.", todo="Write a distribution's name: 'tokenizers>=0.19'.")

    def _check_functions(self) -> None:
        for field in ("model", "data", "loss", "groups", "sampled_loss", "sample", "export"):
            function = getattr(self, field)
            if not callable(function) and (function is not None or field in ("model", "data", "loss", "groups")):
                raise RecipeError(f"The recipe's {field} is not a function.", todo=f"Pass a function as {field}=.")
        for name, function in self.metrics.items():
            if not callable(function):
                raise RecipeError(f"The recipe's metric {name} is not a function.", todo="Pass name -> function.")
        if "loss" in self.metrics:
            raise RecipeError("A metric is called 'loss'.", "The loss is measured anyway.", "Give it another name.")
        if isinstance(self.optimizer, Sophia) and self.optimizer.estimator == "gnb" and self.sampled_loss is None:
            raise RecipeError(
                "The recipe has no sampled_loss.",
                "Sophia's estimate 'gnb' needs the loss with labels that are sampled from the model's predictions.",
                "Pass it as sampled_loss=, or choose Sophia(estimator='hutchinson').",
            )

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
        begun = torch.cuda.is_initialized()  # type: ignore[no-untyped-call, unused-ignore]
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if begun else ()):
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


def load_recipe(name_or_path: str | Path, **constants: Any) -> Recipe:
    """The ready recipe of that name, or the one in that file.

    constants: other values for the literals that its text assigns to names in capitals: `load_recipe("language",
    SIZE="125M")`. They are written into the text, so the hash covers them. Raises `RecipeError`.
    """
    text, path = read_recipe(name_or_path)
    return Recipe.from_source(with_constants(text, constants) if constants else text, path)


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
        return path.read_text(encoding="utf-8-sig"), path  # editors of Windows begin files with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"The recipe {path} cannot be read.", str(error), "Check the path and that the file is UTF-8."
        ) from None


def call(function: Callable[..., Any], what: str, *arguments: Any) -> Any:
    """Call a function of the recipe; what it raises becomes a `RecipeError` that names the line."""
    try:
        return function(*arguments)
    except ModuleNotFoundError as error:
        raise missing_packages((distribution_of(str(error.name)),), describe(error)) from None
    except RecipeError:
        raise
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
    code = check_source(text, filename, path)
    # Dataclasses and tracebacks look a class's module and a line's text up by name.
    module = ModuleType(f"swarm_recipe_{sha256[:12]}")
    module.__file__ = filename
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    sys.modules[module.__name__] = module
    try:
        exec(code, module.__dict__)
    except ModuleNotFoundError as error:
        raise missing_packages((distribution_of(str(error.name)),), describe(error)) from None
    except RecipeError:
        raise
    except Exception as error:
        raise RecipeError("The recipe failed while it was read.", describe(error), "Correct that line.") from error
    recipe = module.__dict__.get("recipe")
    if not isinstance(recipe, Recipe):
        raise RecipeError("The recipe's text does not define `recipe`.", todo="End it with: recipe = Recipe(…)")
    missing = tuple(name for name in recipe.requires if not is_installed(name))
    if missing:
        raise missing_packages(missing, f"The recipe {recipe.name} lists it in requires.")
    return msgspec.structs.replace(recipe, source=text)
