"""The head of a safetensors file, for writers that stream the numbers behind it.

Written here, not by the safetensors library, because the library wants all tensors in memory at once and copies them.
The format is https://huggingface.co/docs/safetensors#format
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch

from ..protocol.errors import StoreError

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16",
}  # fmt: skip


class Stored(NamedTuple):
    """A tensor as a file has it."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def ordered(tensors: Iterable[Stored]) -> list[Stored]:
    """In the order in which their numbers follow each other: as in the safetensors library, wide types first, so that
    every tensor is aligned. Raises `StoreError` for a dtype that the format does not have."""
    result = sorted(tensors, key=lambda tensor: (-tensor.dtype.itemsize, tensor.name))
    for tensor in result:
        if tensor.dtype not in _DTYPES:
            raise StoreError(f"The tensor {tensor.name} cannot be stored: its dtype is {tensor.dtype}.")
    return result


def head(tensors: Iterable[Stored], metadata: Mapping[str, str]) -> bytes:
    """Length and JSON header of a file with these tensors, in this order. The metadata comes first."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    position = 0
    for tensor in tensors:
        end = position + tensor.bytes
        facts = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [position, end]}
        header[tensor.name] = facts
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
