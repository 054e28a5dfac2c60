"""The rules of `optim.slices` as a torch optimizer: for training alone, and for steps that a peer makes by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..protocol.rules import OptimizerRule
from .slices import Rates, Slice, slot_names, update


class RuleOptimizer(torch.optim.Optimizer):
    """Runs `rule` on parameters of any floating dtype; its state is kept in fp32 on the parameter's device.

    A parameter group may set its own `lr` and `weight_decay`. The rule's schedule is the caller's to apply: it counts
    samples, which an optimizer does not see.
    """

    def __init__(self, params: ParamsT, rule: OptimizerRule) -> None:
        self.rule = rule
        super().__init__(params, {"lr": rule.lr, "weight_decay": rule.weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step for every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, float(group["lr"]), float(group["weight_decay"]))
        return loss

    def _update(self, parameter: Tensor, learning_rate: float, weight_decay: float) -> None:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["step"] = 0
            for name in slot_names(self.rule):
                state[name] = torch.zeros(parameter.numel(), dtype=torch.float32, device=parameter.device)
        state["step"] += 1
        slots = tuple(state[name] for name in slot_names(self.rule))
        values = _flat(parameter)
        both = Slice(values, slots)
        assert parameter.grad is not None
        rates = Rates(learning_rate, weight_decay, state["step"])
        update(self.rule, rates, _flat(parameter.grad), old=both, new=both)
        if values.data_ptr() != parameter.data_ptr():
            parameter.copy_(values.view(parameter.shape))


def _flat(tensor: Tensor) -> Tensor:
    """The tensor as 1-D fp32: a view where its memory allows it, a copy where not."""
    return tensor.detach().to(torch.float32).reshape(-1)
