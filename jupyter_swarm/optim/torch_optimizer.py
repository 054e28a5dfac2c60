"""The rules of `optim.slices` as a torch optimizer: for training alone, and for steps that a peer makes by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..protocol.rules import OptimizerRule, Sophia
from .slices import Rates, Slice, slot_names, update, update_hessian


class RuleOptimizer(torch.optim.Optimizer):
    """Runs `rule` on parameters of any floating dtype; its state is kept in fp32 on the parameter's device.

    A parameter group may set its own `lr` and `weight_decay`. The rule's schedule is the caller's to apply: it counts
    samples, which an optimizer does not see.

    Sophia also wants an estimate of the Hessian's diagonal now and then, before the step that first uses it:

        optimizer = RuleOptimizer(model.parameters(), Sophia(lr=1e-3))
        for x, y in batches:
            if optimizer.hessian_due:
                sampled_cross_entropy(model(x)).backward()      # optim.hessian; y is not used
                optimizer.step_hessian(batch=y.numel())
                optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    With `estimator="hutchinson"` the first line under `if` is
    `add_hutchinson(cross_entropy(model(x), y), list(model.parameters()), seed)`, with another seed each time.
    """

    def __init__(self, params: ParamsT, rule: OptimizerRule) -> None:
        self.rule = rule
        super().__init__(params, {"lr": rule.lr, "weight_decay": rule.weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Train more parameters."""
        # Around torch's decorator, which imports torch.compile for whoever compiles nothing: 800 modules, 2 s.
        add = torch.optim.Optimizer.add_param_group
        getattr(add, "__wrapped__", add)(self, param_group)

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
                    self._update(parameter, parameter.grad, float(group["lr"]), float(group["weight_decay"]))
        return loss

    @property
    def hessian_due(self) -> bool:
        """Whether the next step wants a new Hessian estimate before it (never, but for Sophia)."""
        if not isinstance(self.rule, Sophia):
            return False
        ages = [state["step"] - state["hessian_step"] for state in self.state.values()]
        return not ages or min(ages) >= self.rule.hessian_every

    @torch.no_grad()
    def step_hessian(self, batch: int = 1) -> None:
        """Take the parameters' `.grad` in as what the Hessian estimate is made of: with "gnb" the gradient of the mean
        loss over `batch` sampled labels, with "hutchinson" the estimate itself. Raises TypeError unless the rule is
        `Sophia`."""
        if not isinstance(self.rule, Sophia):
            raise TypeError(f"{type(self.rule).__name__} uses no Hessian estimate")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state, both = self._state(parameter)
                    update_hessian(self.rule, _flat(parameter.grad), batch, old=both, new=both)
                    state["hessian_step"] = state["step"]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict()` of an optimizer with the same rule gave."""
        super().load_state_dict(state_dict)
        # torch has rounded what it found to each parameter's own dtype.
        numbers = (number for group in state_dict["param_groups"] for number in group["params"])
        parameters = (parameter for group in self.param_groups for parameter in group["params"])
        for number, parameter in zip(numbers, parameters, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor):
                    self.state[parameter][name] = value.to(parameter.device, torch.float32, copy=True)

    def _state(self, parameter: Tensor) -> tuple[dict[str, Any], Slice]:
        """What is kept of a parameter, and what a step works on, as old and as new."""
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["step"] = 0
            for name in slot_names(self.rule):
                state[name] = torch.zeros(parameter.numel(), dtype=torch.float32, device=parameter.device)
            if isinstance(self.rule, Sophia):
                state["hessian_step"] = -self.rule.hessian_every
        return state, Slice(_flat(parameter), tuple(state[name] for name in slot_names(self.rule)))

    def _update(self, parameter: Tensor, gradient: Tensor, learning_rate: float, weight_decay: float) -> None:
        state, both = self._state(parameter)
        state["step"] += 1
        update(self.rule, Rates(learning_rate, weight_decay, state["step"]), _flat(gradient), old=both, new=both)
        if both.parameters.data_ptr() != parameter.data_ptr():
            parameter.copy_(both.parameters.view(parameter.shape))


def _flat(tensor: Tensor) -> Tensor:
    """The tensor as 1-D fp32: a view where its memory allows it, a copy where not."""
    return tensor.detach().to(torch.float32).reshape(-1)
