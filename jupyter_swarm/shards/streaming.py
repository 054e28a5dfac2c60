"""Inner steps that go on while a part of the parameters is on its way to the others and back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..protocol.errors import Refusal
from ..protocol.layout import Layout, Stream
from ..protocol.rules import RoundRule
from ..protocol.sizes import due
from .gradients import BUFFERS, specs_of
from .pseudo_gradient import PseudoGradient
from .vector import FlatVector


class _Part(NamedTuple):
    """`size` elements of a parameter from its element `inside` on, which are those of the vector from `place` on."""

    parameter: Tensor
    inside: int
    place: int
    size: int

    def of(self, flat: Tensor) -> Tensor:
        """The elements in the flattened parameter."""
        return flat[self.inside : self.inside + self.size]


class StreamingPseudoGradient(PseudoGradient):
    """The peer's half of Streaming DiLoCo (Douillard et al., arXiv 2501.18512, algorithm 2).

    The live model goes its own way from the first `start` on; Δ of a fragment is how far it is then from what the peers
    share, which is of the round that exchanged that fragment last. What they share is mixed into it by `mix` when a
    round's result is here. `lose` makes the next `start` begin from the view again.

    What `finish` returns stays valid while steps are made, until the next `finish`. Memory: one fp32 vector more than
    `PseudoGradient` needs. `rule`: of the round that is worked for.
    """

    def __init__(self, layout: Layout, model: nn.Module, rule: RoundRule) -> None:
        super().__init__(layout, model, rule)
        self.rule = rule
        self._drifts = False
        self._sent = FlatVector(layout, (Stream.PARAMETERS, *BUFFERS), self.device)

    def start(self, view: FlatVector) -> None:
        """Begin a round: the first time the model gets the view's numbers."""
        if not self._drifts:
            super().start(view)
        self._drifts, self.steps = True, 0

    def lose(self) -> None:
        """The live model is not what it was, or the view is another one."""
        self._drifts = False

    @torch.no_grad()
    def finish(self, view: FlatVector, round: int = 0) -> tuple[FlatVector, dict[str, float]]:
        """The contribution to `round`: of the parameters only its fragment, zeros elsewhere. Raises `Refusal` as
        `PseudoGradient.finish` does; then the next `start` begins from the view again."""
        self._sent.sections[Stream.PARAMETERS].zero_()
        for part in self._parts(round):
            shared = view.slice(Stream.PARAMETERS, part.place, part.size)
            moved = self._sent.slice(Stream.PARAMETERS, part.place, part.size)
            live = part.of(part.parameter.detach().reshape(-1))
            # From the view as the parameter's dtype holds it: rounding it is no progress.
            moved.copy_(shared.to(live.device, live.dtype) - live)
        self._sent.fill(self.model, BUFFERS)
        try:
            return self._sent, self._norms(self._sent)
        except Refusal:
            self.lose()
            raise

    @torch.no_grad()
    def mix(self, view: FlatVector, round: int) -> None:
        """The result of `round` is in the view: θ ← α θ + (1 - α) view for its fragment; buffers are the view's."""
        for part in self._parts(round):
            flat = part.parameter.detach().reshape(-1)
            live = part.of(flat)
            shared = view.slice(Stream.PARAMETERS, part.place, part.size)
            live.lerp_(shared.to(live.device, live.dtype), 1.0 - self.rule.mixing)
            if flat.data_ptr() != part.parameter.data_ptr():  # it does not lie in its own order
                part.parameter.copy_(flat.view(part.parameter.shape))
        view.copy_to(self.model, BUFFERS)

    def _parts(self, round: int) -> list[_Part]:
        """Where the round's fragment lies in the model."""
        parts, specs = [], zip(specs_of(self.layout), self.parameters, strict=True)
        pieces = [
            piece
            for shard in self.layout.shards
            if shard.stream == Stream.PARAMETERS
            for piece in due(shard, self.rule, round)
        ]
        for spec, parameter in specs:
            for start, count in pieces:
                first, last = max(start, spec.start), min(start + count, spec.start + spec.count)
                if first < last:
                    parts.append(_Part(parameter, first - spec.start, first, last - first))
        return parts
