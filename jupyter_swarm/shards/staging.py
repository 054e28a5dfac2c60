"""One contribution as a holder receives it: the encoded bytes, checked, kept as they came."""

from __future__ import annotations

import math
from collections.abc import Container
from typing import NamedTuple

from torch import Tensor

from ..protocol.errors import Refusal
from ..protocol.frames import Buffer, Header, payload_of
from ..protocol.layout import Layout, Stream, section_of
from ..protocol.messages import Staged
from ..protocol.rules import Codec, RoundRule
from ..protocol.sizes import due
from .carried import carried, name_of
from .codecs import check_length, square_of


class _Chunk(NamedTuple):
    codec: Codec
    shard: int
    size: int


class Staging:
    """Contribution `number` to `round`: complete when all that is due by `rule` of the shards in `held` has come
    once."""

    def __init__(self, number: int, layout: Layout, rule: RoundRule, round: int, held: Container[int]) -> None:
        self.number = number
        self._fragment = rule.fragment_of(round)
        self._chunks = {
            (stream.stream, start): _Chunk(stream.up, shard.index, count)
            for stream, shard in carried(layout, rule, round)
            if shard.index in held
            for start, count in due(shard, rule, round)
        }
        self._frames: dict[tuple[Stream, int], Buffer] = {}
        self._squares: dict[str, list[float]] = {}

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return len(self._frames) == len(self._chunks)

    def add(self, header: Header, frame: Buffer, scratch: Tensor) -> None:
        """Keep a frame. Raises `Refusal` or `ProtocolError` with the reason if it is not one of those to come."""
        place = (header.stream, header.start)
        chunk = self._chunks.get(place)
        if chunk is None or (chunk.shard, chunk.size, self._fragment) != (header.shard, header.count, header.fragment):
            raise Refusal(
                f"Elements {header.start} to {header.start + header.count} of {header.stream.name} as shard "
                f"{header.shard} are not held here, or are no chunk of the session's layout."
            )
        if header.codec != chunk.codec:
            raise Refusal(f"{header.stream.name} came in {header.codec.name}; the rule says {chunk.codec.name}.")
        if place in self._frames:
            raise Refusal(f"Elements from {header.start} on of {header.stream.name} came twice.")
        payload = payload_of(frame)
        check_length(header.codec, payload, header.count)
        if section_of(header.stream) != Stream.COUNTER:
            square = square_of(header.codec, payload, header.count, scratch)
            if not math.isfinite(square):
                raise Refusal(
                    f"A number of {header.stream.name} from element {header.start} on is NaN, infinite or too large.",
                    todo="Look at the loss of this peer.",
                )
            self._squares.setdefault(name_of(header.stream), []).append(square)
        self._frames[place] = frame

    def payload(self, stream: Stream, start: int) -> memoryview:
        """The staged bytes of one chunk."""
        return payload_of(self._frames[stream, start])

    def report(self, generation: int) -> Staged | None:
        """What to tell the coordinator, once it is complete."""
        if not self.complete:
            return None
        squares = {name: math.fsum(parts) for name, parts in self._squares.items()}
        return Staged(generation, self.number, squares)
