"""Before a recipe is hosted or joined: one forward and backward pass here, what it takes, and what is missing."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import nn

from ..protocol.errors import RecipeError, SwarmError
from ..protocol.rules import RoundRule, Sophia
from ..strategies import rules_of
from .compute import Computer, pick_device, prepare
from .data import Samples
from .forward import Forward, OutOfMemory, never
from .memory import Peak, memory_of, peer_bytes
from .progress import bytes_text
from .recipe import Data, Recipe, load_recipe

_FEW = 2
_LIMIT_SECONDS = 20.0
_REPEATS = 3
_REPEAT_SECONDS = 1.0


class Preflight(msgspec.Struct, frozen=True, kw_only=True):
    """What one pass, forward and backward, has shown of a recipe on this machine.

    problems: what stops it, each with what to do; warnings: what does not. parameters: how many are trained. samples:
    in the pass that was measured, the first `samples` of the data. seconds: that it took. predictions: per sample.
    step_samples: in one step of the optimizer that steps on gradients. peak: bytes that the pass took at most beyond
    what was in use (see `memory.Peak`). needs: estimate of the bytes that training as a peer takes on the device, with
    model, gradients, optimizer, view and packets; free: what there was for it.
    """

    recipe: str
    device: str = ""
    problems: tuple[SwarmError, ...] = ()
    warnings: tuple[str, ...] = ()
    parameters: int = 0
    train: int = 0
    held_out: int = 0
    samples: int = 0
    seconds: float = math.nan
    predictions: int = 1
    step_samples: int = 0
    peak: int = 0
    needs: int = 0
    free: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing stops it."""
        return not self.problems

    @property
    def samples_per_second(self) -> float:
        """Of this machine alone, in forward and backward passes of that size."""
        return self.samples / self.seconds if self.seconds else math.inf

    def check(self) -> None:
        """Raises the first problem, if there is one."""
        if self.problems:
            raise self.problems[0]

    def line(self) -> str:
        """The most important of it in a line."""
        if self.problems:
            return f"Preflight of {self.recipe}: {self.problems[0].what}"
        return (
            f"Preflight of {self.recipe} on {self.device}: {self.parameters:,} parameters, {self._speed()}, "
            f"memory about {bytes_text(self.needs)} of {bytes_text(self.free)}."
        )

    def _speed(self) -> str:
        speed = f"{_figure(self.samples_per_second)} samples/s"
        if self.predictions > 1:
            speed += f" ({_figure(self.samples_per_second * self.predictions)} predictions/s)"
        return speed

    def _rows(self) -> list[tuple[str, str]]:
        rows = []
        if self.parameters:
            rows.append(("parameters", f"{self.parameters:,}"))
            rows.append(("data", f"{self.train:,} samples to train on, {self.held_out:,} held out"))
        if self.samples:
            step = self.seconds * self.step_samples / self.samples
            rows.append(("one pass", f"{self.seconds:.3g} s for {self.samples} samples on {self.device}"))
            rows.append(("speed", f"{self._speed()}; {step:.3g} s for a step of {self.step_samples} samples, alone"))
            rows.append(("memory", f"about {bytes_text(self.needs)} of {bytes_text(self.free)}"))
            rows.append(("", f"the pass itself took {bytes_text(self.peak)} at its peak"))
        rows += [("warning", warning) for warning in self.warnings]
        for problem in self.problems:
            rows += [("problem", problem.what), ("why", problem.why), ("what to do", problem.todo)]
        return [(name, text) for name, text in rows if text]

    def __str__(self) -> str:
        head = f"Preflight of {self.recipe}: {'ready' if self.ok else 'not ready'}"
        return "\n".join([head, *(f"  {name:<12}{text}" for name, text in self._rows())])

    __repr__ = __str__


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def preflight(recipe: Recipe | str | Path, *, device: str = "", data: Data | None = None) -> Preflight:
    """Try a recipe on this machine: build its model, load its data, run one pass. Raises nothing that is the recipe's.

    recipe: as for `host`. device: as for `join`. data: other samples than those of the recipe's data().
    """
    name = recipe.name if isinstance(recipe, Recipe) else str(recipe)
    try:
        if not isinstance(recipe, Recipe):
            recipe = load_recipe(recipe)
            name = recipe.name
        check_machine(recipe, device)
        computer = prepare(recipe, recipe.seed, device=device, data=data)
    except SwarmError as error:
        return Preflight(recipe=name, device=device, problems=(error,))
    return try_out(computer)


def check_machine(recipe: Recipe, device: str = "") -> None:
    """Raises `RecipeError` if this machine is not what the recipe needs, `SettingError` if it has no such `device`."""
    kind = device.partition(":")[0]
    if recipe.device and (kind not in ("", recipe.device) or not _has(recipe.device)):
        found = f"The device chosen is {device}." if device else "torch finds none on this machine."
        needed = "the CPU" if recipe.device == "cpu" else f"a GPU ({recipe.device})"
        raise RecipeError(
            f"This recipe needs {needed}.",
            found,
            "In Colab choose Runtime → Change runtime type; elsewhere a machine that has it, and a torch built for it.",
        )
    there = memory_of(pick_device(device or recipe.device)).total
    if recipe.memory > there:
        raise RecipeError(
            f"This recipe needs {bytes_text(recipe.memory)} of memory; here there are {bytes_text(there)}.",
            todo="Use a machine with more memory, or a smaller model.",
        )


def _has(kind: str) -> bool:
    if kind == "cpu":
        return True
    module: Any = getattr(torch.backends if kind == "mps" else torch, kind, None)
    return module is not None and bool(module.is_available())


def try_out(computer: Computer, own: Data | None = None) -> Preflight:
    """One pass with the data of `computer`, or with `own`. The model, its modes and random states stay as they are."""
    recipe, warnings = computer.recipe, list[str]()
    rule, changes = rules_of(recipe.strategy, recipe.optimizer, recipe.predictions)
    rules = [rule, *(change.rule for change in changes)]
    model_bytes = sum(tensor.nbytes for tensor in (*computer.model.parameters(), *computer.model.buffers()))
    report = Preflight(
        recipe=recipe.name,
        device=str(computer.device),
        parameters=computer.layout.parameters,
        train=computer.samples[0],
        held_out=computer.samples[1],
        predictions=recipe.predictions,
        step_samples=max(rule.inner_batch or rule.target_batch for rule in rules),
        free=memory_of(computer.device).free + model_bytes,
    )
    forward = Forward(recipe, computer.model, warnings.append)
    try:
        with _unchanged(computer.model):
            measured = _measure(forward, computer.model, Samples((own or computer.data).train))
            warnings += _look_at_gradients(computer.model, recipe)
            _try_the_rest(computer, forward, rules)
    except SwarmError as error:
        what = f"One step of the recipe does not work here. {error.what}"
        problem = RecipeError(what, error.why, error.todo or "Correct the recipe.")
        return msgspec.structs.replace(report, problems=(problem,), warnings=tuple(warnings))
    except OutOfMemory:
        problem = RecipeError("The memory does not suffice for one step of the recipe.", todo="Close other programs.")
        return msgspec.structs.replace(report, problems=(problem,), warnings=tuple(warnings))
    if measured.samples < min(forward.micro_batch, computer.samples[0]):
        warnings.append(
            f"A micro-batch of {forward.micro_batch} would take more than {_LIMIT_SECONDS:.0f} s: "
            f"{measured.samples} samples were measured. Training will be slow on this machine."
        )
    report = msgspec.structs.replace(
        report, samples=measured.samples, seconds=measured.seconds, peak=measured.peak, warnings=tuple(warnings)
    )
    return _weigh(report, computer, rules, model_bytes)


class _Pass(NamedTuple):
    samples: int
    seconds: float
    peak: int


def _measure(forward: Forward, model: nn.Module, samples: Samples) -> _Pass:
    """The fastest of a few passes of a micro-batch; of few samples only, where all of it would take too long."""
    if not len(samples):
        raise RecipeError("The data set is empty.", todo="Pass data with at least one sample.")
    while True:
        count = min(forward.micro_batch, len(samples))
        try:
            # The first pass also does what is done once only: choosing kernels, compiling.
            few = min((_pass(forward, model, samples, min(_FEW, count)) for _ in range(2)), key=_seconds)
            if few.seconds * count / few.samples > _LIMIT_SECONDS:
                return few
            passes = [_pass(forward, model, samples, count)]
            while len(passes) < _REPEATS and sum(map(_seconds, passes)) < _REPEAT_SECONDS:
                passes.append(_pass(forward, model, samples, count))
            return min(passes, key=_seconds)._replace(peak=max(one.peak for one in passes))
        except OutOfMemory:
            forward.shrink()


def _seconds(one: _Pass) -> float:
    return one.seconds


def _pass(forward: Forward, model: nn.Module, samples: Samples, count: int) -> _Pass:
    model.zero_grad(set_to_none=True)
    with Peak(forward.device) as peak:
        start = time.perf_counter()
        forward.backward(samples, torch.arange(count), 1.0)
        if forward.device.type == "cuda":
            torch.cuda.synchronize(forward.device)
        seconds = time.perf_counter() - start
    return _Pass(count, seconds, peak.bytes)


def _look_at_gradients(model: nn.Module, recipe: Recipe) -> list[str]:
    trained = [(name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad]
    finite = all(bool(tensor.grad.isfinite().all()) for _, tensor in trained if tensor.grad is not None)
    if not finite and recipe.autocast != "float16":  # there the scale is still to be found
        raise RecipeError(
            "The gradient of the first samples is not a number or infinite.", todo="Look at the loss and the data."
        )
    without = [name for name, tensor in trained if tensor.grad is None]
    if not without:
        return []
    names = ", ".join(without[:3]) + (", …" if len(without) > 3 else "")
    return [f"{len(without)} of {len(trained)} trained tensors have no part in the loss of the first samples: {names}."]


def _try_the_rest(computer: Computer, forward: Forward, rules: list[RoundRule]) -> None:
    """What training also calls, though not at once: the metrics, and the Hessian's estimate."""
    held_out, train = Samples(computer.data.held_out), Samples(computer.data.train)
    for optimizer in (rule.inner_optimizer or rule.optimizer for rule in rules):
        if isinstance(optimizer, Sophia):
            trained = [tensor for tensor in computer.model.parameters() if tensor.requires_grad]
            computer.model.zero_grad(set_to_none=True)
            few = torch.arange(min(_FEW, len(train)))
            forward.estimate(train, few, 1.0, never, optimizer, (0, 0), trained)
            break
    if len(held_out):
        computer.model.eval()
        forward.measure(held_out, torch.arange(min(_FEW, len(held_out))))


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Random states, buffers, modes and gradients are as before at the end of the block."""
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    device = next(model.parameters()).device
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for module, name, buffer, kept in buffers:
                module._buffers[name] = buffer
                buffer.copy_(kept)
        for module, training in modes:
            module.training = training
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _weigh(report: Preflight, computer: Computer, rules: list[RoundRule], model_bytes: int) -> Preflight:
    """With what training as a peer needs, and whether that is there."""
    here, on_cpu = zip(*(peer_bytes(computer.layout, rule) for rule in rules), strict=True)
    apart = computer.device.type == "cuda"
    needs = model_bytes + report.peak + max(here) + (0 if apart else max(on_cpu))
    warnings = list(report.warnings)
    places = [("this machine" if not apart else f"the GPU ({report.device})", needs, report.free)]
    if apart:
        places.append(("this machine", max(on_cpu) + model_bytes, memory_of(torch.device("cpu")).free))
    for place, wanted, free in places:
        if max(wanted, computer.recipe.memory) > free:
            text = f"Training may need {bytes_text(max(wanted, computer.recipe.memory))} of the memory of {place}; "
            warnings.append(text + f"{bytes_text(free)} are free. Close other programs, or use a smaller micro_batch.")
    return msgspec.structs.replace(report, needs=needs, warnings=tuple(warnings))
