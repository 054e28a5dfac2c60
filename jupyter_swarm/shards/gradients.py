"""A peer's contribution to a round of samples: the sum of its leases' gradients, and its model's buffers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..protocol.errors import Refusal
from ..protocol.layout import Layout, Stream
from .carried import name_of
from .layout import shared_tensors
from .vector import FlatVector, square_sum

_BUFFERS = (Stream.BUFFER, Stream.COUNTER)


class GradientSum:
    """Adds up gradients of a model, lease by lease, into one flat fp32 tensor on the model's device.

    The first lease's gradients are computed straight into that tensor, those of later ones beside it. A lease that
    fails leaves no trace: its gradients are not added, and the buffers it changed are put back.
    """

    def __init__(self, layout: Layout, model: nn.Module) -> None:
        self.layout = layout
        self.model = model
        self._contribution = FlatVector(layout, (Stream.PARAMETERS, *_BUFFERS))
        self._saved = FlatVector(layout, _BUFFERS)
        tensors = shared_tensors(model)
        specs = [spec for spec in layout.tensors if spec.stream == Stream.PARAMETERS]
        self._parameters = [tensors[spec.name] for spec in specs]
        device = self._parameters[0].device
        self._sum = self._contribution.sections[Stream.PARAMETERS].to(device)
        self._places = [self._sum[spec.start : spec.start + spec.count].view(spec.shape) for spec in specs]
        self._beside: list[Tensor | None] = [None] * len(specs)
        self._leases = 0

    def start(self, view: FlatVector) -> None:
        """Begin a round: the model gets the view's numbers, the sum is zero."""
        view.copy_to(self.model)
        self._sum.zero_()
        self._leases = 0

    def begin_lease(self) -> None:
        """Gradients to zero, in memory that is kept: fresh memory costs more than clearing old. Buffers remembered."""
        for index, (parameter, place) in enumerate(zip(self._parameters, self._places, strict=True)):
            if not self._leases and (parameter.dtype, parameter.device) == (place.dtype, place.device):
                parameter.grad = place
                continue
            if parameter.grad is not None and not _same(parameter.grad, place):
                self._beside[index] = parameter.grad
            beside = self._beside[index]
            parameter.grad = None if beside is None else beside.zero_()
        self._saved.fill(self.model)

    @torch.no_grad()
    def end_lease(self) -> None:
        """Add the gradients that `backward` has left: those of the *sum* of the loss over the lease's samples.

        Raises `Refusal` if one is NaN or infinite, as if the lease had failed.
        """
        pairs = [
            (place, parameter.grad)
            for place, parameter in zip(self._places, self._parameters, strict=True)
            if parameter.grad is not None
        ]
        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for _, gradient in pairs]
        norm = float(torch.linalg.vector_norm(torch.stack(norms))) if pairs else 0.0
        if not math.isfinite(norm):
            self.fail_lease()
            raise Refusal(
                "The gradient of a lease is not a number or infinite.",
                why="The loss became NaN or too large on these samples.",
                todo="Look at these samples, or lower the learning rate.",
            )
        for place, gradient in pairs:
            if not _same(gradient, place):
                place.add_(gradient)
        self._leases += 1

    def fail_lease(self) -> None:
        """Put back what the lease changed."""
        self._saved.copy_to(self.model)
        if not self._leases:
            self._sum.zero_()

    def finish(self) -> tuple[FlatVector, dict[str, float]]:
        """The contribution (gradient sum, buffers, counters) and its L2 norms by stream name.

        The vector is this object's own: it is valid until the next `start`.
        """
        contribution = self._contribution
        contribution.fill(self.model, _BUFFERS)
        section = contribution.sections[Stream.PARAMETERS]
        if section.data_ptr() != self._sum.data_ptr():
            section.copy_(self._sum)
        return contribution, norms_of(contribution)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors lie in the same memory."""
    return one.data_ptr() == other.data_ptr()


def norms_of(contribution: FlatVector) -> dict[str, float]:
    """L2 norm of the gradient and, if there are any, of the floating buffers, by stream name."""
    streams = {Stream.GRADIENT: Stream.PARAMETERS, Stream.BUFFER: Stream.BUFFER}
    return {
        name_of(stream): math.sqrt(square_sum(contribution.sections[section]))
        for stream, section in streams.items()
        if contribution.sections[section].numel()
    }
