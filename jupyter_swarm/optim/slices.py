"""The optimizers, as functions from (old slice, gradient) to a new slice.

Nothing is changed in place unless the caller passes the same memory twice, so that whoever holds a shard can compute
the next version and still go back. The arithmetic is that of `torch.optim.SGD` and `torch.optim.AdamW`, up to the
rounding of a few operations that are taken together; Sophia's is written out at its rule. It runs through the slice in
tiles small enough to stay in the processor's cache: the slice is read and written once, whatever the number of
operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..protocol.rules import SGD, AdamW, OptimizerRule, Sophia

TILE_ELEMENTS = 1 << 16


class Slice(NamedTuple):
    """Part of the flat vector with its optimizer state: 1-D contiguous fp32 tensors of one length."""

    parameters: Tensor
    slots: tuple[Tensor, ...]

    def part(self, start: int, stop: int) -> Slice:
        """Views of the elements [start, stop)."""
        return Slice(self.parameters[start:stop], tuple(slot[start:stop] for slot in self.slots))


class Rates(NamedTuple):
    """What an optimizer step depends on besides its rule. `step` counts from 1."""

    learning_rate: float
    weight_decay: float
    step: int


def slot_names(rule: OptimizerRule) -> tuple[str, ...]:
    """The state that `rule` keeps for each element, by the names that torch uses. All slots begin as zeros."""
    if isinstance(rule, AdamW):
        return ("exp_avg", "exp_avg_sq")
    if isinstance(rule, Sophia):
        return ("exp_avg", "hessian")
    return ("momentum_buffer",) if rule.momentum else ()


def update(rule: OptimizerRule, rates: Rates, gradient: Tensor, old: Slice, new: Slice) -> None:
    """One optimizer step: reads `gradient` (1-D fp32) and `old`, writes `new`.

    `new` may be the same memory as `old` (a step in place), and `new.parameters` the same memory as `gradient`.
    """
    for start, stop, scratch in _tiles(gradient):
        parts = gradient[start:stop], old.part(start, stop), new.part(start, stop), scratch
        if isinstance(rule, SGD):
            _sgd(rule, rates, *parts)
        elif isinstance(rule, AdamW):
            _adamw(rule, rates, *parts)
        else:
            _sophia(rule, rates, *parts)


def update_hessian(rule: Sophia, estimate: Tensor, batch: int, old: Slice, new: Slice) -> None:
    """Takes a Hessian estimate in: reads `estimate` (1-D fp32) and `old`, writes the slot hessian of `new`.

        h = β2 h + (1 - β2) ĥ        gnb: ĥ = batch·estimate⊙estimate;  hutchinson: ĥ = estimate

    gnb: `estimate` is the gradient of the mean loss over `batch` predictions with labels sampled from the model. A step
    that is to use the new h takes `new`'s slot as its old one. `new`'s slot may be the same memory as `old`'s, or as
    `estimate`.
    """
    keep = rule.betas[1]
    before, after = old.slots[1], new.slots[1]
    for start, stop, scratch in _tiles(estimate):
        part = estimate[start:stop]
        if rule.estimator == "gnb":
            part = torch.mul(part, part, out=scratch).mul_(batch)
        torch.lerp(before[start:stop], part, 1 - keep, out=after[start:stop])


def _tiles(values: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """(start, stop, scratch of that length) of every tile; elsewhere than on the CPU it is all one tile."""
    count = values.numel()
    tile = min(count, TILE_ELEMENTS) if values.device.type == "cpu" else count
    scratch = torch.empty(tile, dtype=values.dtype, device=values.device)
    for start in range(0, count, max(tile, 1)):
        stop = min(start + tile, count)
        yield start, stop, scratch[: stop - start]


def _sgd(rule: SGD, rates: Rates, gradient: Tensor, old: Slice, new: Slice, scratch: Tensor) -> None:
    if rates.weight_decay:
        gradient = torch.add(gradient, old.parameters, alpha=rates.weight_decay, out=scratch)
    if rule.momentum:
        momentum = torch.add(gradient, old.slots[0], alpha=rule.momentum, out=new.slots[0])
        gradient = torch.add(gradient, momentum, alpha=rule.momentum, out=scratch) if rule.nesterov else momentum
    torch.add(old.parameters, gradient, alpha=-rates.learning_rate, out=new.parameters)


def _adamw(rule: AdamW, rates: Rates, gradient: Tensor, old: Slice, new: Slice, scratch: Tensor) -> None:
    first, second = rule.betas
    mean = torch.lerp(old.slots[0], gradient, 1 - first, out=new.slots[0])
    square = torch.mul(old.slots[1], second, out=new.slots[1]).addcmul_(gradient, gradient, value=1 - second)
    # torch divides the root by `correction` and then adds eps; the same ratio, one pass over the slice less:
    correction = (1 - second**rates.step) ** 0.5
    denominator = torch.sqrt(square, out=scratch).add_(rule.eps * correction)
    # The gradient is not read after this point: it may lie where the new parameters are written.
    torch.mul(old.parameters, 1 - rates.learning_rate * rates.weight_decay, out=new.parameters)
    new.parameters.addcdiv_(mean, denominator, value=-rates.learning_rate * correction / (1 - first**rates.step))


def _sophia(rule: Sophia, rates: Rates, gradient: Tensor, old: Slice, new: Slice, scratch: Tensor) -> None:
    mean = torch.lerp(old.slots[0], gradient, 1 - rule.betas[0], out=new.slots[0])
    if new.slots[1].data_ptr() != old.slots[1].data_ptr():
        new.slots[1].copy_(old.slots[1])
    curvature = torch.mul(old.slots[1], rule.rho, out=scratch).clamp_(min=rule.eps)
    step = torch.div(mean, curvature, out=scratch).clamp_(-1, 1)
    # Not a product with 1 - lr·λ: that factor's own rounding error in fp32 would add up over many small steps.
    torch.add(old.parameters, old.parameters, alpha=-rates.learning_rate * rates.weight_decay, out=new.parameters)
    new.parameters.add_(step, alpha=-rates.learning_rate)
