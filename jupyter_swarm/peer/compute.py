"""The numbers of a peer: gradients of training leases and metrics of evaluation leases, on this machine's device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from ..protocol.errors import RecipeError, Refusal, SettingError, SwarmError
from ..protocol.layout import Layout, Stream
from ..shards.layout import layout_of
from ..shards.vector import FlatVector
from .data import EpochOrder, Samples, to_device
from .recipe import Data, Recipe, describe

Cancel = Callable[[], bool]
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class LeaseFailed(SwarmError):
    """A lease that cannot be computed here. It has left no trace."""


class Cancelled(Exception):
    """A lease that need not be computed any more. It has left no trace."""


class LossSum(NamedTuple):
    """Sum of the loss over so many samples."""

    total: float = 0.0
    samples: int = 0

    def plus(self, other: LossSum) -> LossSum:
        return LossSum(self.total + other.total, self.samples + other.samples)


class _OutOfMemory(Exception):
    pass


def never() -> bool:
    """Nothing cancels."""
    return False


def pick_device(name: str = "") -> torch.device:
    """The device of that name as torch spells it; without one the accelerator that torch finds, or else the CPU.

    Raises `SettingError` if this machine has no such device.
    """
    if name:
        try:
            device = torch.device(name)
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise SettingError(
                f"This machine cannot compute on {name!r}.",
                str(error).split("\n")[0],
                "Leave the device out, or say cpu, cuda, cuda:1 or mps.",
            ) from None
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


class Computer:
    """A recipe's model and data, ready to compute leases.

    seed: the session's, from which the order of the samples follows. say: told what the user should know. `sum` holds
    the gradients of the leases since its `start`. `data`: what the samples are of, with the recipe's files.
    """

    data: Data

    def __init__(
        self,
        recipe: Recipe,
        layout: Layout,
        model: nn.Module,
        parts: tuple[Samples, Samples],
        seed: int,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.layout = layout
        self.device = next(model.parameters()).device
        self.model = model
        self.micro_batch = recipe.micro_batch
        self._recipe = recipe
        self._train, self._held_out = parts
        self.samples = (len(self._train), len(self._held_out))
        self._order = EpochOrder(len(self._train), seed)
        self.say = say
        self.sum = recipe.strategy.worker(layout, self.model)

    def gradient(self, start: int, stop: int, cancelled: Cancel = never) -> LossSum:
        """Add the gradient of the loss, summed over the samples at positions [start, stop), to `self.sum`.

        cancelled: asked between micro-batches whether to give up. Raises `LeaseFailed` (an exception in recipe code,
        a loss or gradient that is not finite) and `Cancelled`.
        """
        indices = self._order.indices(start, stop)
        while True:
            self.sum.begin_lease()
            try:
                loss = self._backward(indices, cancelled)
                self.sum.end_lease()
                return loss
            except _OutOfMemory:
                self.sum.fail_lease()
                self._halve_micro_batch()
            except Refusal as error:
                raise LeaseFailed(error.what, error.why, error.todo) from None
            except BaseException:
                self.sum.fail_lease()
                raise

    def evaluate(
        self, view: FlatVector, start: int, stop: int, cancelled: Cancel = never
    ) -> tuple[dict[str, float], int]:
        """Sums of the loss and of every metric over the held-out samples [start, stop), at `view`, and their number.

        What training has under way (buffers, modes) is as before when it returns. Raises as `gradient` does.
        """
        kept = FlatVector(self.layout, (Stream.BUFFER, Stream.COUNTER))
        kept.fill(self.model)
        modes = [(module, module.training) for module in self.model.modules()]
        view.copy_to(self.model)
        self.model.eval()
        try:
            while True:
                try:
                    return self._measure(torch.arange(start, stop), cancelled), stop - start
                except _OutOfMemory:
                    self._halve_micro_batch()
        finally:
            kept.copy_to(self.model)
            for module, training in modes:
                module.training = training

    def _backward(self, indices: torch.Tensor, cancelled: Cancel) -> LossSum:
        self.model.train()
        result = LossSum()
        for batch, count in self._batches(self._train, indices, cancelled):
            with _recipe_code():
                loss = self._loss(batch)
                value = _finite(float(loss.detach()), "loss")
                torch.autograd.backward(loss.reshape(()) * count)
            result = result.plus(LossSum(value * count, count))
        return result

    @torch.no_grad()
    def _measure(self, indices: torch.Tensor, cancelled: Cancel) -> dict[str, float]:
        functions = {"loss": self._recipe.loss, **self._recipe.metrics}
        sums = dict.fromkeys(functions, 0.0)
        for batch, count in self._batches(self._held_out, indices, cancelled):
            for name, function in functions.items():
                with _recipe_code():
                    sums[name] += _finite(float(function(self.model, batch)), name) * count
        return sums

    def _loss(self, batch: Any) -> torch.Tensor:
        loss = self._recipe.loss(self.model, batch)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise LeaseFailed(
                "The recipe's loss() did not return a loss.",
                "It must return the mean over the batch as one number that depends on the model's parameters.",
            )
        return loss

    def _batches(self, samples: Samples, indices: torch.Tensor, cancelled: Cancel) -> Iterator[tuple[Any, int]]:
        # Of about equal size: batch statistics of a short last piece would be poor, and of one sample impossible.
        for piece in indices.tensor_split(-(-len(indices) // self.micro_batch)):
            if cancelled():
                raise Cancelled
            with _recipe_code():
                batch = to_device(samples.batch(piece), self.device)
            yield batch, len(piece)

    def _halve_micro_batch(self) -> None:
        if self.micro_batch == 1:
            raise LeaseFailed("The memory does not suffice for a single sample.", todo="Close other programs.")
        self.micro_batch = max(1, self.micro_batch // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.say(f"The memory did not suffice: going on with micro-batches of {self.micro_batch} samples.")


def prepare(recipe: Recipe, seed: int, say: Callable[[str], None] = lambda text: None, device: str = "") -> Computer:
    """Build the recipe's model, load its data. Raises `RecipeError`, `LayoutError` for what cannot be trained."""
    model = recipe.build().to(pick_device(device))
    data = recipe.load_data()
    parts = Samples(data.train), Samples(data.held_out)
    if not len(parts[0]):
        raise RecipeError("The training data set is empty.", todo="Check what the recipe's data() returns as train.")
    computer = Computer(recipe, layout_of(model), model, parts, seed, say)
    computer.data = data
    return computer


@contextmanager
def _recipe_code() -> Iterator[None]:
    """Around recipe code: what it raises becomes `_OutOfMemory`, or a `LeaseFailed` that names the recipe's line."""
    try:
        yield
    except LeaseFailed:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY):
            raise _OutOfMemory from None
        raise LeaseFailed(describe(error)) from error


def _finite(value: float, name: str) -> float:
    if not math.isfinite(value):
        raise LeaseFailed(f"The {name} is {value}.")
    return value
