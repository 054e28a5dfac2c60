"""A peer's contribution to a round of steps: how far its own optimizer has moved the model, and its buffers."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..optim.slices import slot_names
from ..optim.torch_optimizer import RuleOptimizer
from ..protocol.errors import Refusal, SettingError
from ..protocol.layout import Layout, Stream
from ..protocol.rules import RoundRule
from .gradients import BUFFERS, norm_of, norms_of, not_finite, parameter_groups, places_in, specs_of, trained
from .vector import FlatVector

WARM_UP_SHARE = 10
"""New moments take 1 / so much of a round's steps until they are trusted with the whole learning rate."""


class PseudoGradient:
    """The inner steps that a peer makes by itself, and Δ = θ - θ_k at their end (DiLoCo, arXiv 2311.08105).

        start(view)                             the live model gets the view's numbers
        begin_step(); backward…; end_step(lr)   as often as there is work; backward of the *mean* loss over the step's
                                                batch: whoever cuts it into micro-batches scales their losses
        finish(view)                            the contribution; `view` is the one that `start` got

    A step that fails leaves no trace. The inner optimizer's moments outlive rounds; while they are new the learning
    rate rises linearly over a tenth of the rule's `inner_steps`. Where `hessian_due` (Sophia), a step begins with
    `begin_hessian`, backward…, `end_hessian`; that estimate counts even if the step then fails.

    Parameters move in their own dtype: a model in bf16 or fp16 loses what of a step is smaller than half its last digit
    (keep the parameters fp32 and compute under autocast instead). Δ is taken from the view as that dtype holds it, so
    that rounding it is not mistaken for progress. Memory beside the model and the caller's view: one fp32 vector, which
    is the gradients' until `finish` makes it Δ, and the moments; all of it is where the model is.

    `parameters`: the trained tensors of the model, in the layout's order; `device`: that of the first. `steps`: since
    `start`.
    """

    def __init__(self, layout: Layout, model: nn.Module, rule: RoundRule) -> None:
        inner = rule.inner_optimizer
        if inner is None:
            raise SettingError(f"The rule of {rule.strategy} has no inner optimizer.")
        self.layout = layout
        self.model = model
        self.parameters = trained(layout, model)
        self.steps = 0
        self._clip_norm = rule.inner_clip_norm
        self._warm_up = rule.inner_steps * rule.fragments // WARM_UP_SHARE if slot_names(inner) else 0
        self._age = 0
        self.device = self.parameters[0].device
        self._contribution = FlatVector(layout, (Stream.PARAMETERS, *BUFFERS), self.device)
        self._saved = FlatVector(layout, BUFFERS, self.device)
        self._flat = self._contribution.sections[Stream.PARAMETERS]
        self._places = places_in(self._flat, layout)
        self._optimizer = RuleOptimizer(parameter_groups(layout, self.parameters, inner.weight_decay), inner)

    def start(self, view: FlatVector) -> None:
        """Begin a round: the model gets the view's numbers. Moments stay."""
        view.copy_to(self.model)
        self.steps = 0

    def begin_step(self) -> None:
        """Gradients to zero, in memory that is kept. Buffers remembered."""
        self._clear_gradients()
        self._saved.fill(self.model)

    def end_step(self, learning_rate: float) -> None:
        """Take the step from the gradient that `backward` has left, clipped as the rule says.

        Raises `Refusal` if it is NaN or infinite, as if the step had failed.
        """
        norm = norm_of([parameter.grad for parameter in self.parameters])
        if not math.isfinite(norm):
            self.fail_step()
            raise not_finite("gradient")
        if self._clip_norm and norm > self._clip_norm:
            for parameter in self.parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(self._clip_norm / (norm + 1e-6))
        warmth = min(1.0, (self._age + 1) / (self._warm_up + 1))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate * group["scale"] * warmth
        self._optimizer.step()
        self.steps += 1
        self._age += 1

    def fail_step(self) -> None:
        """Put back what the step changed."""
        self._saved.copy_to(self.model)

    @property
    def hessian_due(self) -> bool:
        """Whether the next step wants a new Hessian estimate before it."""
        return self._optimizer.hessian_due

    def begin_hessian(self) -> None:
        """From here to `end_hessian` what is left in `.grad` is the estimate's: the gradient of the *mean* of the
        sampled loss over a batch, or what `optim.hessian.add_hutchinson` makes of the mean loss."""
        self._clear_gradients()

    def end_hessian(self, batch: int) -> None:
        """Take the estimate in, from `batch` predictions; gradients and buffers are as `begin_step` left them.

        Raises `Refusal` if it is not finite, as if the step had failed.
        """
        self._saved.copy_to(self.model)
        if not math.isfinite(norm_of([parameter.grad for parameter in self.parameters])):
            raise not_finite("Hessian estimate")
        self._optimizer.step_hessian(batch)
        self._clear_gradients()

    @torch.no_grad()
    def finish(self, view: FlatVector, round: int = 0) -> tuple[FlatVector, dict[str, float]]:
        """The contribution to `round` (view - live parameters, buffers, counters) and its L2 norms by stream name.

        The vector is this object's own: it is valid until the next `begin_step`. Raises `Refusal` if the steps have
        made numbers that are not finite; the moments that led there are dropped.
        """
        contribution = self._contribution
        contribution.fill(self.model, BUFFERS)
        for spec, parameter, place in zip(specs_of(self.layout), self.parameters, self._places, strict=True):
            begun = view.slice(Stream.PARAMETERS, spec.start, spec.count).view(spec.shape)
            place.copy_(begun.to(parameter.device, parameter.dtype)).sub_(parameter.detach())
        return contribution, self._norms(contribution)

    def _norms(self, contribution: FlatVector) -> dict[str, float]:
        try:
            return norms_of(contribution)
        except Refusal:
            self._optimizer.state.clear()
            self._age = 0
            raise

    def _clear_gradients(self) -> None:
        self._flat.zero_()
        for parameter, place in zip(self.parameters, self._places, strict=True):
            if (parameter.dtype, parameter.device) == (place.dtype, place.device):
                parameter.grad = place
            elif parameter.grad is not None:
                parameter.grad.zero_()
