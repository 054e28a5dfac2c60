"""A peer's contribution to a round of samples: the sum of its leases' gradients, and its model's buffers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..protocol.errors import Refusal
from ..protocol.layout import Layout, Stream, TensorSpec
from .carried import name_of
from .layout import shared_tensors
from .vector import FlatVector, square_sum

BUFFERS = (Stream.BUFFER, Stream.COUNTER)


class GradientSum:
    """Adds up gradients of a model, lease by lease, into one flat fp32 tensor on the model's device.

    The first lease's gradients are computed straight into that tensor, those of later ones beside it. A lease that
    fails leaves no trace: its gradients are not added, and the buffers it changed are put back. In a round whose
    Hessian estimate is due each lease also sums that, between `begin_lease` and `end_lease`, in memory of its own that
    is taken when it is first wanted.

    `parameters`: the trained tensors of the model, in the layout's order; `device`: that of the first.
    """

    def __init__(self, layout: Layout, model: nn.Module) -> None:
        self.layout = layout
        self.model = model
        self.parameters = trained(layout, model)
        self.device = self.parameters[0].device
        self._contribution = FlatVector(layout, (Stream.PARAMETERS, *BUFFERS), self.device)
        self._saved = FlatVector(layout, BUFFERS, self.device)
        self._before = FlatVector(layout, BUFFERS, self.device)
        self._sum = _Sum(layout, self.parameters, self._contribution.sections[Stream.PARAMETERS])
        self._hessian: _Sum | None = None

    def start(self, view: FlatVector) -> None:
        """Begin a round: the model gets the view's numbers, the sums are zero."""
        view.copy_to(self.model)
        self._sum.clear()
        if self._hessian is not None:
            self._hessian.clear()

    def begin_lease(self) -> None:
        """Gradients to zero, in memory that is kept: fresh memory costs more than clearing old. Buffers remembered."""
        self._sum.begin()
        self._saved.fill(self.model, BUFFERS)

    def begin_hessian(self) -> None:
        """From here to `end_hessian` what is left in `.grad` is the estimate's: the gradient of the *sum* of the
        sampled loss over the lease's samples, or what `optim.hessian.add_hutchinson` makes of the sum of the loss."""
        if self._hessian is None:
            section = FlatVector(self.layout, (Stream.HESSIAN,), self.device).sections[Stream.HESSIAN]
            self._contribution.sections[Stream.HESSIAN] = section
            self._hessian = _Sum(self.layout, self.parameters, section)
        self._sum.pause()
        self._hessian.begin()
        self._before.fill(self.model)

    def end_hessian(self) -> None:
        """The estimate of this lease is complete; buffers are as before it. Raises `Refusal` if it is not finite, as if
        the lease had failed."""
        assert self._hessian is not None
        self._hessian.pause()
        self._check(self._hessian, "Hessian estimate")
        self._before.copy_to(self.model)
        self._sum.resume()

    def end_lease(self) -> None:
        """Add the gradients that `backward` has left: those of the *sum* of the loss over the lease's samples; and the
        lease's Hessian estimate, if there was one.

        Raises `Refusal` if one is NaN or infinite, as if the lease had failed.
        """
        self._sum.pause()
        self._check(self._sum, "gradient")
        self._sum.add()
        if self._hessian is not None:
            self._hessian.add()

    def fail_lease(self) -> None:
        """Put back what the lease changed."""
        self._saved.copy_to(self.model)
        self._sum.drop()
        if self._hessian is not None:
            self._hessian.drop()

    def _check(self, sum: _Sum, name: str) -> None:
        if not math.isfinite(norm_of(sum.pending)):
            self.fail_lease()
            raise not_finite(name)

    def finish(self) -> tuple[FlatVector, dict[str, float]]:
        """The contribution (gradient sum, Hessian estimate, buffers, counters) and its L2 norms by stream name.

        The vector is this object's own: it is valid until the next `start`. Raises `Refusal` if a norm is not finite.
        """
        contribution = self._contribution
        contribution.fill(self.model, BUFFERS)
        return contribution, norms_of(contribution, hessian=self._hessian is not None and not self._hessian.empty)


class _Sum:
    """A flat fp32 tensor that the leases' gradients are added to.

    `begin` lets backward write to `.grad`, `pause` takes what it wrote (`pending`) away, `add` adds it or `drop` drops
    it. As long as the sum is `empty`, backward writes into the sum itself.
    """

    def __init__(self, layout: Layout, parameters: Sequence[Tensor], section: Tensor) -> None:
        self.empty = True
        self.pending: list[Tensor | None] = []
        self._parameters = parameters
        self._flat = section
        self._places = places_in(self._flat, layout)
        self._beside: list[Tensor | None] = [None] * len(parameters)

    def clear(self) -> None:
        self._flat.zero_()
        self.empty = True
        self.pending = []

    def begin(self) -> None:
        for index, (parameter, place) in enumerate(zip(self._parameters, self._places, strict=True)):
            if self.empty and (parameter.dtype, parameter.device) == (place.dtype, place.device):
                parameter.grad = place
                continue
            beside = self._beside[index]
            parameter.grad = None if beside is None else beside.zero_()

    def pause(self) -> None:
        self.pending = [parameter.grad for parameter in self._parameters]
        for index, (gradient, place) in enumerate(zip(self.pending, self._places, strict=True)):
            if gradient is not None and not _same(gradient, place):
                self._beside[index] = gradient

    def resume(self) -> None:
        for parameter, gradient in zip(self._parameters, self.pending, strict=True):
            parameter.grad = gradient

    @torch.no_grad()
    def add(self) -> None:
        if not self.pending:
            return
        for gradient, place in zip(self.pending, self._places, strict=True):
            if gradient is not None and not _same(gradient, place):
                place.add_(gradient)
        self.empty = False
        self.pending = []

    def drop(self) -> None:
        if self.empty:
            self._flat.zero_()
        self.pending = []


def trained(layout: Layout, model: nn.Module) -> list[Tensor]:
    """The tensors of `model` that the parameters' section consists of, in its order."""
    tensors = shared_tensors(model)
    return [tensors[spec.name] for spec in specs_of(layout)]


def specs_of(layout: Layout) -> list[TensorSpec]:
    """The tensors of the parameters' section."""
    return [spec for spec in layout.tensors if spec.stream == Stream.PARAMETERS]


def parameter_groups(layout: Layout, parameters: Sequence[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """The layout's groups as a torch optimizer takes them, of `parameters` in the layout's order; `scale`: the group's
    factor on the learning rate, which the caller applies."""
    members = list(zip((spec.group for spec in specs_of(layout)), parameters, strict=True))
    return [
        {
            "params": [parameter for index, parameter in members if index == place],
            "weight_decay": weight_decay * group.weight_decay_scale,
            "scale": group.learning_rate_scale,
        }
        for place, group in enumerate(layout.groups)
    ]


def places_in(flat: Tensor, layout: Layout) -> list[Tensor]:
    """Views of each tensor's place in a flat tensor of the parameters' section, in the tensor's shape."""
    return [flat[spec.start : spec.start + spec.count].view(spec.shape) for spec in specs_of(layout)]


@torch.no_grad()
def norm_of(tensors: Sequence[Tensor | None]) -> float:
    """L2 norm of all the tensors together, in fp32."""
    norms = [torch.linalg.vector_norm(tensor, dtype=torch.float32) for tensor in tensors if tensor is not None]
    return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0


def not_finite(name: str) -> Refusal:
    """What to say of a gradient that is NaN or infinite."""
    return Refusal(
        f"The {name} of a lease is not a number or infinite.",
        why="The loss became NaN or too large on these samples.",
        todo="Look at these samples, or lower the learning rate.",
    )


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors lie in the same memory."""
    return one.data_ptr() == other.data_ptr()


def norms_of(contribution: FlatVector, hessian: bool = False) -> dict[str, float]:
    """L2 norm of the gradient and, if there are any, of the Hessian estimate and the floating buffers, by stream
    name. Raises `Refusal` if one is not finite."""
    streams = {Stream.GRADIENT: Stream.PARAMETERS, Stream.BUFFER: Stream.BUFFER}
    if hessian:
        streams[Stream.HESSIAN] = Stream.HESSIAN
    norms = {
        name_of(stream): math.sqrt(square_sum(contribution.sections[section]))
        for stream, section in streams.items()
        if contribution.sections[section].numel()
    }
    for name, norm in norms.items():
        if not math.isfinite(norm):
            raise Refusal(
                f"The {name} that this peer would contribute is not a number or infinite.",
                todo="Look at the loss, or lower the learning rate.",
            )
    return norms
