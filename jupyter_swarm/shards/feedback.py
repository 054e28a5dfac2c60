"""Error feedback: what a lossy codec could not send yet is added to what is sent next."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..protocol.layout import Layout, Stream
from ..protocol.rules import Codec, StreamRule
from ..protocol.sizes import encoded_bytes
from .codecs import accumulate, encode, new_scratch, square_of
from .vector import FlatVector

MISSED_ROUNDS = 3
"""After more rounds between two contributions what was left of the first one is out of date."""


class Encoded:
    """The parameters' part of a contribution as it travels. codec: that of its payloads, by their chunk's start.
    norm: the L2 norm of the numbers that arrive."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.payloads: dict[int, memoryview] = {}
        self._squares: list[float] = []

    def add(self, start: int, payload: memoryview, square: float) -> None:
        """One more chunk, with the sum of squares of its numbers."""
        self.payloads[start] = payload
        self._squares.append(square)

    @property
    def norm(self) -> float:
        """L2 norm of all chunks."""
        return math.sqrt(math.fsum(self._squares))


class ErrorFeedback:
    """One peer's residual e of its pseudo-gradients Δ, in fp32 (Karimireddy et al., arXiv 1901.09847, algorithm 2; with
    the decay β of SparseLoCo, arXiv 2508.15706, algorithm 1):

        e ← β e + Δ
        send Q(e)
        e ← e - Q(e)

    That assumes that Q(e) counts. If it does not, `put_back` gives it back to e. base: the version that the last
    contribution was computed from. codec: the name of what it was sent with. device: where contributions are, and e.
    """

    def __init__(self, layout: Layout, device: torch.device | None = None) -> None:
        self.base = 0
        self.codec = ""
        self._layout = layout
        self._device = device
        self._residual: FlatVector | None = None
        self._scratch = new_scratch()

    @property
    def values(self) -> Tensor | None:
        """e, 1-D; None: there is nothing left to send."""
        return None if self._residual is None else self._residual.sections[Stream.PARAMETERS]

    def room(self) -> Tensor:
        """The memory of e, zeros the first time."""
        if self._residual is None:
            self._residual = FlatVector(self._layout, (Stream.PARAMETERS,), self._device)
        return self._residual.sections[Stream.PARAMETERS]

    def encode(self, contribution: FlatVector, rule: StreamRule, version: int) -> Encoded:
        """What to send for a contribution that was computed from `version`; takes memory the first time."""
        shards = [shard for shard in self._layout.shards if shard.stream == Stream.PARAMETERS]
        residual = self.room()
        missed = version - self.base - 1 > MISSED_ROUNDS
        self.base, self.codec = version, rule.up.name
        residual.mul_(0.0 if missed else rule.feedback).add_(contribution.sections[Stream.PARAMETERS])
        encoded = Encoded(rule.up)
        for start, count in (chunk for shard in shards for chunk in shard.chunks()):
            values = residual[start : start + count]
            payload = np.empty(encoded_bytes(rule.up, count), np.uint8).data
            encode(rule.up, values, payload, self._scratch)
            accumulate(rule.up, payload, -1.0, values, self._scratch)
            encoded.add(start, payload, square_of(rule.up, payload, count, self._scratch))
        return encoded

    def put_back(self, encoded: Encoded) -> None:
        """`encoded` did not count."""
        if self._residual is None:
            return
        for shard in self._layout.shards:
            for start, count in shard.chunks():
                if shard.stream == Stream.PARAMETERS:
                    values = self._residual.slice(Stream.PARAMETERS, start, count)
                    accumulate(encoded.codec, encoded.payloads[start], 1.0, values, self._scratch)

    def clear(self) -> None:
        """Nothing is left to send."""
        self._residual = None
