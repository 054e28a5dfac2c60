"""How a chunk of numbers becomes bytes and numbers again.

    FP32, INT64  the numbers as they are
    FP16         rounded; beyond ±65504 it saturates, infinity too: callers check that numbers are finite beforehand
    BF16         rounded
    INT8, INT4   blocks with a scale each: `blocks`
    TOPK         the largest numbers of each block, two bits each; all others become zero: `sparse`

Decoding gives the same bits on every CPU: it is a conversion that is exact (FP16, BF16, integers to fp32) and then at
most one fp32 multiplication, in a pass of its own so that no machine fuses it with an addition. NaN stays NaN, or is
refused. Numbers that are encoded, decoded or accumulated may be on any device; bytes are on the CPU. A CUDA device does
the arithmetic itself; from any other the numbers are taken to the CPU first, as not all of them shift bits as it does.
`scratch` is an fp32 tensor on the CPU, of at least the chunk's length, that the caller keeps; other devices keep freed
memory themselves.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ..protocol.errors import ProtocolError
from ..protocol.frames import Buffer
from ..protocol.layout import CHUNK_ELEMENTS
from ..protocol.rules import Codec
from ..protocol.sizes import BLOCKS, encoded_bytes
from . import blocks, sparse
from .vector import square_sum

FP16_LARGEST = 65504.0


_DTYPES = {
    Codec.FP32: torch.float32, Codec.FP16: torch.float16, Codec.BF16: torch.bfloat16, Codec.INT64: torch.int64,
}  # fmt: skip

# torch says once in a process that it was given memory that must not be written. Received bytes are only read here, so
# we let it say so now, where nobody hears it.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.frombuffer(b"\0", dtype=torch.uint8)


def new_scratch() -> Tensor:
    """Scratch that is enough for any chunk."""
    return torch.empty(CHUNK_ELEMENTS, dtype=torch.float32)


def encode(codec: Codec, values: Tensor, buffer: bytearray | memoryview, scratch: Tensor) -> int:
    """Write `values` (1-D, contiguous; fp32, or int64 for INT64) to the start of `buffer`; returns the bytes."""
    count = values.numel()
    values = values if _computes(values) else values.cpu()
    if codec in BLOCKS:
        blocks.encode(codec, values, buffer, _room(scratch, values))
    elif codec == Codec.TOPK:
        sparse.encode(values, buffer)
    elif codec == Codec.FP16:
        limited = torch.clamp(values, -FP16_LARGEST, FP16_LARGEST, out=_room(scratch, values))
        _numbers(codec, buffer, count).copy_(limited)
    else:
        _numbers(codec, buffer, count).copy_(values)
    return encoded_bytes(codec, count)


def decoded(codec: Codec, payload: Buffer, count: int, scratch: Tensor) -> Tensor:
    """The `count` numbers in `payload`, to be read at once: the payload's own memory where it holds them as they are,
    else in `scratch`. fp32, or int64 for INT64. Raises `ProtocolError` as `decode`."""
    if codec in (Codec.FP32, Codec.INT64):
        check_length(codec, payload, count)
        return _numbers(codec, payload, count)
    decode(codec, payload, scratch[:count])
    return scratch[:count]


def decode(codec: Codec, payload: Buffer, out: Tensor) -> None:
    """Write the numbers in `payload` to `out`. Raises `ProtocolError` if the payload has the wrong length, or says what
    cannot be."""
    check_length(codec, payload, out.numel())
    if not _computes(out):
        numbers = torch.empty_like(out, device="cpu")
        decode(codec, payload, numbers)
        out.copy_(numbers)
    elif codec in BLOCKS:
        blocks.decode(codec, payload, out)
    elif codec == Codec.TOPK:
        sparse.decode(payload, out)
    else:
        out.copy_(_numbers(codec, payload, out.numel()))


def accumulate(codec: Codec, payload: Buffer, weight: float, accumulator: Tensor, scratch: Tensor) -> None:
    """accumulator += weight * numbers. Raises `ProtocolError` as `decode`."""
    if codec == Codec.TOPK:
        check_length(codec, payload, accumulator.numel())
        sparse.accumulate(payload, weight, accumulator)
    elif accumulator.device == scratch.device:
        accumulator.add_(decoded(codec, payload, accumulator.numel(), scratch), alpha=weight)
    else:
        numbers = torch.empty_like(accumulator)
        decode(codec, payload, numbers)
        accumulator.add_(numbers, alpha=weight)


def square_of(codec: Codec, payload: Buffer, count: int, scratch: Tensor) -> float:
    """Sum of the squares of the numbers in `payload`; not finite if one of them is not. Raises `ProtocolError` as
    `decode`."""
    if codec == Codec.TOPK:
        check_length(codec, payload, count)
        return square_sum(sparse.read(payload, count).numbers)
    return square_sum(decoded(codec, payload, count, scratch))


def check_length(codec: Codec, payload: Buffer, count: int) -> None:
    """Raises `ProtocolError` unless `payload` has the length of `count` numbers."""
    if len(payload) != encoded_bytes(codec, count):
        raise ProtocolError(
            f"{count} numbers in {codec.name} are {encoded_bytes(codec, count)} bytes; {len(payload)} came."
        )


def _computes(numbers: Tensor) -> bool:
    """Whether the arithmetic is done where they are."""
    return numbers.device.type in ("cpu", "cuda")


def _room(scratch: Tensor, values: Tensor) -> Tensor:
    """As many numbers as `values` has, where they are."""
    return scratch[: values.numel()] if values.device == scratch.device else torch.empty_like(values)


def _numbers(codec: Codec, buffer: Buffer, count: int) -> Tensor:
    return torch.frombuffer(buffer, dtype=_DTYPES[codec], count=count)
