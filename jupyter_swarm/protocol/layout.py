"""The flat vector: which tensor lies where, and how the vector is cut into shards.

All state that peers share is one vector of elements, in four sections that follow each other: parameters, floating
buffers, counters (integer buffers) and constants (parameters that are not trained). `Layout` is plain data, so that
the coordinator can reason about it without torch; `jupyter_swarm.shards` builds it from a model and moves the numbers.
"""

from __future__ import annotations

import enum
import hashlib
from functools import cached_property

import msgspec

LAYOUT_VERSION = 1
CHUNK_ELEMENTS = 1 << 18
"""Elements in one frame: 1 MiB of fp32, the size that moves fastest through a WebSocket."""
SHARD_ELEMENTS = 4 * CHUNK_ELEMENTS
"""Elements in one shard unless the session says otherwise: 4 MiB of fp32. Peers digest one shard in each round, so that
a larger one costs all of them time, and a smaller one makes records longer."""


class Stream(enum.IntEnum):
    """What a frame carries. GRADIENT and HESSIAN range over the parameters section."""

    GRADIENT = 1
    PARAMETERS = 2
    BUFFER = 3
    HESSIAN = 4
    COUNTER = 5
    CONSTANT = 6
    OPTIMIZER = 7


SECTIONS = (Stream.PARAMETERS, Stream.BUFFER, Stream.COUNTER, Stream.CONSTANT)
"""The streams that own a section of the flat vector, in the order of the sections."""


def section_of(stream: Stream) -> Stream:
    """The section of the flat vector that `stream` ranges over."""
    if stream in (Stream.GRADIENT, Stream.HESSIAN, Stream.OPTIMIZER):
        return Stream.PARAMETERS
    return stream


class ParameterGroup(msgspec.Struct, frozen=True):
    """Tensors that the outer optimizer treats alike: factors on its learning rate and weight decay."""

    name: str = "all"
    learning_rate_scale: float = 1.0
    weight_decay_scale: float = 1.0


class TensorSpec(msgspec.Struct, frozen=True):
    """One tensor's place: elements [start, start + count) of the flat vector. Tied names are listed in `ties`."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    stream: Stream
    start: int
    count: int
    group: int = 0
    ties: tuple[str, ...] = ()


class Shard(msgspec.Struct, frozen=True):
    """A fixed contiguous slice [start, stop) of one section of the flat vector."""

    index: int
    stream: Stream
    start: int
    stop: int
    fragment: int = 0

    @property
    def count(self) -> int:
        return self.stop - self.start

    def chunks(self) -> list[tuple[int, int]]:
        """The (start, count) of each frame that carries this shard."""
        starts = range(self.start, self.stop, CHUNK_ELEMENTS)
        return [(start, min(CHUNK_ELEMENTS, self.stop - start)) for start in starts]


class Layout(msgspec.Struct, frozen=True, dict=True):
    """Every tensor's place, the parameter groups, and the size of a shard (in elements, a multiple of a chunk)."""

    tensors: tuple[TensorSpec, ...]
    groups: tuple[ParameterGroup, ...] = (ParameterGroup(),)
    shard_elements: int = SHARD_ELEMENTS
    version: int = LAYOUT_VERSION

    @cached_property
    def sections(self) -> dict[Stream, tuple[int, int]]:
        """Section -> its [start, stop) in the flat vector."""
        result: dict[Stream, tuple[int, int]] = {}
        position = 0
        for stream in SECTIONS:
            size = sum(tensor.count for tensor in self.tensors if tensor.stream == stream)
            result[stream] = (position, position + size)
            position += size
        return result

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """All shards in order; a shard never crosses from one section into the next."""
        result: list[Shard] = []
        for stream, (start, stop) in self.sections.items():
            for first in range(start, stop, self.shard_elements):
                last = min(first + self.shard_elements, stop)
                result.append(Shard(index=len(result), stream=stream, start=first, stop=last))
        return tuple(result)

    @cached_property
    def trained_shards(self) -> tuple[Shard, ...]:
        """The shards that change from round to round (all but the constants)."""
        return tuple(shard for shard in self.shards if shard.stream != Stream.CONSTANT)

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        start, stop = self.sections[Stream.PARAMETERS]
        return stop - start

    @property
    def elements(self) -> int:
        """Length of the flat vector."""
        return self.sections[SECTIONS[-1]][1]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the layout: two models with the same digest can train together."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()

    def difference(self, other: Layout) -> str:
        """The first difference to `other` in words, or '' if there is none."""
        mine = {tensor.name: tensor for tensor in self.tensors}
        theirs = {tensor.name: tensor for tensor in other.tensors}
        for name in mine:
            if name not in theirs:
                return f"tensor {name} is only in the first model"
            if mine[name] != theirs[name]:
                return (
                    f"tensor {name} is {mine[name].dtype} {list(mine[name].shape)} here "
                    f"and {theirs[name].dtype} {list(theirs[name].shape)} there"
                )
        extra = [name for name in theirs if name not in mine]
        if extra:
            return f"tensor {extra[0]} is only in the second model"
        return "" if self.digest == other.digest else "the parameter groups, ties or shard size differ"
