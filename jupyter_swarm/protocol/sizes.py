"""What a round exchanges, in how many bytes by which codec. `shards.codecs` says what the bytes are."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from .frames import HEADER_BYTES
from .layout import CHUNK_ELEMENTS, Shard, Stream
from .rules import Codec, RoundRule

_NUMBER_BYTES = {Codec.FP32: 4, Codec.FP16: 2, Codec.BF16: 2, Codec.INT64: 8}


class Blocks(NamedTuple):
    """Numbers that share an fp32 scale: how many, the largest magnitude of one, how many are in a byte."""

    elements: int
    largest: int
    packed: int


BLOCKS = {Codec.INT8: Blocks(256, 127, 1), Codec.INT4: Blocks(128, 7, 2)}

SPARSE_BLOCK = 4096
"""Also a multiple of what any other codec takes together."""
SPARSE_SHARE = 64
"""TOPK keeps one of so many numbers of each block."""
SPARSE_RATIOS = 2


class SparsePart(NamedTuple):
    """Blocks of one size: where their elements begin, how many blocks, elements and kept numbers in each."""

    start: int
    blocks: int
    size: int
    kept: int

    @property
    def place_bytes(self) -> int:
        """Of the places in one block: 12 bits each."""
        return 3 * (-(-self.kept // 2))

    @property
    def symbol_bytes(self) -> int:
        """Of the numbers of one block: 2 bits each."""
        return -(-self.kept // 4)


def sparse_parts(count: int) -> list[SparsePart]:
    """A chunk of `count` numbers as TOPK sees it: whole blocks, then a shorter one if need be."""
    whole, rest = divmod(count, SPARSE_BLOCK)
    parts = [SparsePart(0, whole, SPARSE_BLOCK, SPARSE_BLOCK // SPARSE_SHARE)] if whole else []
    return parts + ([SparsePart(whole * SPARSE_BLOCK, 1, rest, -(-rest // SPARSE_SHARE))] if rest else [])


def encoded_bytes(codec: Codec, count: int) -> int:
    """Bytes of a chunk of `count` numbers."""
    if codec in BLOCKS:
        shape = BLOCKS[codec]
        whole, rest = divmod(count, shape.elements)
        return 4 * (whole + bool(rest)) + whole * shape.elements // shape.packed + -(-rest // shape.packed)
    if codec == Codec.TOPK:
        parts = sparse_parts(count)
        return 4 * SPARSE_RATIOS + sum(one.blocks * (2 + one.place_bytes + one.symbol_bytes) for one in parts)
    return _NUMBER_BYTES[codec] * count


def due(shard: Shard, rule: RoundRule, round: int) -> list[tuple[int, int]]:
    """The (start, count) of each frame that carries what `round` exchanges of a shard: all of its chunks, or of each
    the part that is the round's fragment. So a fragment has parts of all layers."""
    if rule.fragments == 1 or shard.stream != Stream.PARAMETERS:
        return shard.chunks()
    fragment = rule.fragment_of(round)
    parts = ((start, fragments_of(count, rule.fragments)[fragment]) for start, count in shard.chunks())
    return [(start + first, last - first) for start, (first, last) in parts if first < last]


def fragments_of(count: int, fragments: int) -> list[tuple[int, int]]:
    """Where the fragments of a chunk begin and end: between two blocks of a codec, if each has some."""
    edges = [count * number // fragments for number in range(fragments + 1)]
    if count >= fragments * SPARSE_BLOCK:
        edges = [*(edge - edge % SPARSE_BLOCK for edge in edges[:-1]), count]
    return list(pairwise(edges))


def framed_bytes(codec: Codec, count: int, fragments: int = 1) -> int:
    """Bytes of all frames that carry `count` numbers which follow each other from the start of a shard on; where they
    are exchanged in parts, those of the mean round."""
    whole, rest = divmod(count, CHUNK_ELEMENTS)
    return (whole * _chunk_bytes(codec, CHUNK_ELEMENTS, fragments) + _chunk_bytes(codec, rest, fragments)) // fragments


def _chunk_bytes(codec: Codec, count: int, fragments: int) -> int:
    parts = (last - first for first, last in fragments_of(count, fragments))
    return sum(HEADER_BYTES + encoded_bytes(codec, part) for part in parts if part)
