"""Building frames: those of a contribution, a packet or a snapshot, one after the other."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..protocol.frames import HEADER_BYTES, MAX_FRAME_BYTES, Header, Kind
from ..protocol.layout import Layout, Stream
from ..protocol.rules import LOSSLESS, Codec, RoundRule
from ..protocol.sizes import due, encoded_bytes
from .carried import carried
from .codecs import encode, new_scratch
from .feedback import Encoded
from .vector import FlatVector


class Envelope(NamedTuple):
    """What the frames that belong together have in common; see `protocol.frames` for the fields."""

    kind: Kind
    session: int
    generation: int
    round: int
    number: int = 0
    attempt: int = 0
    fragment: int = 0


class FrameWriter:
    """Builds frames: with `kept` all in one buffer, so that each is valid until the next one is asked for, else each
    in memory of its own."""

    def __init__(self, kept: bool = True) -> None:
        self._kept = memoryview(bytearray(MAX_FRAME_BYTES)) if kept else None
        self._scratch = new_scratch()

    def parts(
        self, envelope: Envelope, stream: Stream, codec: Codec, shard: int, start: int, values: Tensor
    ) -> tuple[memoryview, ...]:
        """The same bytes as `frame`, without a copy of values that travel as they are: the header, then the values' own
        memory, which must not change before they are sent."""
        if codec not in LOSSLESS:
            return (self.frame(envelope, stream, codec, shard, start, values),)
        payload = values.cpu().numpy().data.cast("B")
        return self.wrapped(envelope, stream, codec, shard, start, values.numel(), payload)

    def wrapped(
        self, envelope: Envelope, stream: Stream, codec: Codec, shard: int, start: int, count: int, payload: memoryview
    ) -> tuple[memoryview, ...]:
        """A header for a payload that is encoded already, and the payload."""
        room = np.empty(HEADER_BYTES, np.uint8).data if self._kept is None else self._kept[:HEADER_BYTES]
        _header(envelope, stream, codec, shard, start, count, len(payload)).pack_into(room)
        return room, payload

    def frame(
        self, envelope: Envelope, stream: Stream, codec: Codec, shard: int, start: int, values: Tensor
    ) -> memoryview:
        """Header and encoded `values` (1-D, at most a chunk)."""
        size = encoded_bytes(codec, values.numel())
        # Not a bytearray, which would be filled with zeros first.
        room = np.empty(HEADER_BYTES + size, np.uint8).data if self._kept is None else self._kept
        encode(codec, values, room[HEADER_BYTES:], self._scratch)
        _header(envelope, stream, codec, shard, start, values.numel(), size).pack_into(room)
        return room[: HEADER_BYTES + size]


def _header(envelope: Envelope, stream: Stream, codec: Codec, shard: int, start: int, count: int, size: int) -> Header:
    return Header(
        envelope.kind, stream, codec, envelope.session, envelope.generation, envelope.round, envelope.number,
        shard, start, count, size, attempt=envelope.attempt, fragment=envelope.fragment,
    )  # fmt: skip


def contribution_bytes(layout: Layout, rule: RoundRule, round: int) -> int:
    """Bytes of all frames of a contribution to `round`, headers included."""
    parts = carried(layout, rule, round)
    chunks = ((stream_rule.up, count) for stream_rule, shard in parts for _, count in due(shard, rule, round))
    return sum(HEADER_BYTES + encoded_bytes(codec, count) for codec, count in chunks)


def contribution_frames(
    writer: FrameWriter,
    envelope: Envelope,
    contribution: FlatVector,
    rule: RoundRule,
    encoded: Encoded | None = None,
) -> Iterator[tuple[memoryview, ...]]:
    """The frames of a contribution to the envelope's round, in parts: gradients in the parameters' section, a Hessian
    estimate, buffers and counters in theirs. encoded: the gradients, if they are so already."""
    envelope = envelope._replace(fragment=rule.fragment_of(envelope.round))
    for stream_rule, shard in carried(contribution.layout, rule, envelope.round):
        for start, count in due(shard, rule, envelope.round):
            place = (envelope, stream_rule.stream, stream_rule.up, shard.index, start)
            if encoded is not None and stream_rule.stream == Stream.GRADIENT:
                yield writer.wrapped(*place, count, encoded.payloads[start])
            else:
                yield writer.parts(*place, contribution.slice(stream_rule.stream, start, count))


def value_frames(
    writer: FrameWriter, envelope: Envelope, vector: FlatVector, chunks: Collection[int] | None = None
) -> Iterator[memoryview]:
    """The frames that carry a vector as it is: of all chunks, or of those with the given numbers (see
    `FlatVector.chunks`)."""
    for index, (shard, start, count) in enumerate(vector.chunks()):
        if chunks is None or index in chunks:
            codec = exact_codec(shard.stream)
            values = vector.slice(shard.stream, start, count)
            yield writer.frame(envelope, shard.stream, codec, shard.index, start, values)


def exact_codec(stream: Stream) -> Codec:
    """The codec that carries a section without loss."""
    return Codec.INT64 if stream == Stream.COUNTER else Codec.FP32
