"""How many bytes numbers take on the wire, by codec. `shards.codecs` says what the bytes are."""

from __future__ import annotations

from typing import NamedTuple

from .frames import HEADER_BYTES
from .layout import CHUNK_ELEMENTS
from .rules import Codec

_NUMBER_BYTES = {Codec.FP32: 4, Codec.FP16: 2, Codec.BF16: 2, Codec.INT64: 8}


class Blocks(NamedTuple):
    """Numbers that share an fp32 scale: how many, the largest magnitude of one, how many are in a byte."""

    elements: int
    largest: int
    packed: int


BLOCKS = {Codec.INT8: Blocks(256, 127, 1), Codec.INT4: Blocks(128, 7, 2)}

SPARSE_BLOCK = 4096
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


def framed_bytes(codec: Codec, count: int) -> int:
    """Bytes of all frames that carry `count` numbers which follow each other from the start of a shard on."""
    whole, rest = divmod(count, CHUNK_ELEMENTS)
    frames = whole * (HEADER_BYTES + encoded_bytes(codec, CHUNK_ELEMENTS))
    return frames + (HEADER_BYTES + encoded_bytes(codec, rest) if rest else 0)
