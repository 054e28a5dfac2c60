"""Running a recipe's model on micro-batches: losses and their derivatives, metrics, and what can go wrong with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..optim.hessian import add_hutchinson
from ..protocol.errors import SwarmError
from ..protocol.rules import Sophia
from .data import Samples, to_device
from .recipe import Recipe, describe

Cancel = Callable[[], bool]
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
# Of losses in float16, whose gradients would vanish in it: down when they come out infinite, up again after so many
# passes without. As `torch.amp.GradScaler`, which however skips the step where this computes it again.
_FIRST_SCALE = 2.0**16
_SCALE_STEP = 2.0**4
_PASSES = 1000


class LeaseFailed(SwarmError):
    """A lease, or a step of it, that cannot be computed here. It has left no trace."""


class Cancelled(Exception):
    """A lease that need not be computed any more. It has left no trace."""


class OutOfMemory(Exception):
    """Smaller micro-batches may help."""


class LossSum(NamedTuple):
    """Sum of the loss over so many samples."""

    total: float = 0.0
    samples: int = 0

    def plus(self, other: LossSum) -> LossSum:
        return LossSum(self.total + other.total, self.samples + other.samples)


def never() -> bool:
    """Nothing cancels."""
    return False


class Forward:
    """A recipe's functions, applied to samples in micro-batches. say: told what the user should know."""

    def __init__(self, recipe: Recipe, model: nn.Module, say: Callable[[str], None]) -> None:
        self.micro_batch = recipe.micro_batch
        self.say = say
        self.device = next(model.parameters()).device
        self._recipe = recipe
        self._model = model
        self._largest_scale = _FIRST_SCALE if recipe.autocast == "float16" else 1.0
        self._scale = self._largest_scale
        self._passes = 0

    def backward(self, samples: Samples, indices: Tensor, weight: float, cancelled: Cancel = never) -> LossSum:
        """Add the gradient of `weight` times the loss, summed over the samples, to the parameters' `.grad`.

        cancelled: asked between micro-batches whether to give up. Raises `LeaseFailed` (an exception in recipe code, a
        loss that is not finite), `OutOfMemory`, `Cancelled`; `.grad` then is anything.
        """
        return self._derive(samples, indices, weight, cancelled, self._recipe.loss, torch.autograd.backward)

    def estimate(
        self,
        samples: Samples,
        indices: Tensor,
        weight: float,
        cancelled: Cancel,
        rule: Sophia,
        seeds: tuple[int, int],
        parameters: Sequence[Tensor],
    ) -> None:
        """As `backward`, but what is added to the `.grad` of `parameters` is `rule`'s estimate of the Hessian.

        seeds: of what is random in the model and in its sampled labels, and of Hutchinson's u. Random states are as
        before when it returns.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seeds[0])
            if rule.estimator == "gnb":
                sampled = self._recipe.sampled_loss
                if sampled is None:
                    raise LeaseFailed("The recipe has no sampled_loss, which Sophia's estimate 'gnb' needs.")
                self._derive(samples, indices, weight, cancelled, sampled, torch.autograd.backward)
            else:
                # Fused attention has no second derivative.
                with sdpa_kernel(SDPBackend.MATH):
                    self._derive(
                        samples, indices, weight, cancelled, self._recipe.loss,
                        lambda loss: add_hutchinson(loss, parameters, seeds[1]),
                    )  # fmt: skip

    @torch.no_grad()
    def measure(self, samples: Samples, indices: Tensor, cancelled: Cancel = never) -> dict[str, float]:
        """Sums of the loss and of every metric over the samples. Raises as `backward` does."""
        functions = {"loss": self._recipe.loss, **self._recipe.metrics}
        sums = dict.fromkeys(functions, 0.0)
        for batch, count in self._batches(samples, indices, cancelled):
            for name, function in functions.items():
                with _recipe_code(), self._autocast():
                    sums[name] += _finite(float(function(self._model, batch)), name) * count
        return sums

    def shrink(self) -> None:
        """Go on with micro-batches of half the size. Raises `LeaseFailed` at one sample."""
        if self.micro_batch == 1:
            raise LeaseFailed("The memory does not suffice for a single sample.", todo="Close other programs.")
        self.micro_batch = max(1, self.micro_batch // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.say(f"The memory did not suffice: going on with micro-batches of {self.micro_batch} samples.")

    def scale_down(self) -> bool:
        """Gradients came out infinite: where they are computed in float16, scale them up less; whether that is left."""
        self._passes = 0
        left = self._scale > 1.0
        self._scale = self._scale / _SCALE_STEP if left else self._largest_scale
        return left

    def _derive(
        self,
        samples: Samples,
        indices: Tensor,
        weight: float,
        cancelled: Cancel,
        function: Callable[[nn.Module, Any], Tensor],
        derive: Callable[[Tensor], None],
    ) -> LossSum:
        result = LossSum()
        for batch, count in self._batches(samples, indices, cancelled):
            self._model.train()  # whoever looks at the model meanwhile may have switched to eval()
            with _recipe_code():
                with self._autocast():
                    loss = self._loss(function, batch)
                value = _finite(float(loss.detach()), "loss")
                derive(loss.reshape(()) * (count * weight * self._scale))
            result = result.plus(LossSum(value * count, count))
        if self._scale != 1.0:
            for parameter in self._model.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(1.0 / self._scale)
        self._passes += 1
        if self._passes >= _PASSES:
            self._scale, self._passes = min(self._scale * _SCALE_STEP, self._largest_scale), 0
        return result

    def _loss(self, function: Callable[[nn.Module, Any], Tensor], batch: Any) -> Tensor:
        loss = function(self._model, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise LeaseFailed(
                f"The recipe's {getattr(function, '__name__', 'loss')}() did not return a loss.",
                "It must return the mean over the batch as one number that depends on the model's parameters.",
            )
        return loss

    def _batches(self, samples: Samples, indices: Tensor, cancelled: Cancel) -> Iterator[tuple[Any, int]]:
        # Of about equal size: batch statistics of a short last piece would be poor, and of one sample impossible.
        for piece in indices.tensor_split(-(-len(indices) // self.micro_batch)):
            if cancelled():
                raise Cancelled
            with _recipe_code("These samples do not make a batch: "):
                batch = to_device(samples.batch(piece), self.device)
            yield batch, len(piece)

    def _autocast(self) -> AbstractContextManager[Any]:
        if not self._recipe.autocast:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self._recipe.autocast))


@contextmanager
def _recipe_code(where: str = "") -> Iterator[None]:
    """Around recipe code: what it raises becomes `OutOfMemory`, or a `LeaseFailed` that names the recipe's line."""
    try:
        yield
    except LeaseFailed:
        raise
    except SwarmError as error:
        raise LeaseFailed(error.what, error.why, error.todo) from None
    except Exception as error:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY):
            raise OutOfMemory from None
        raise LeaseFailed(where + describe(error)) from error


def _finite(value: float, name: str) -> float:
    if not math.isfinite(value):
        raise LeaseFailed(f"The {name} is {value}.")
    return value
