"""How a chunk of numbers becomes bytes and numbers again.

    FP32, INT64  the numbers as they are
    FP16         rounded; beyond ±65504 it saturates, infinity too: callers check that numbers are finite beforehand
    BF16         rounded
    INT8         blocks of 256: first one fp32 scale for each block (largest magnitude / 127), then one int8 for each
                 number, rounded half to even; a number is off by at most half its block's scale

Decoding gives the same bits on every CPU: it is a conversion that is exact (FP16, BF16, int8 to fp32) and for INT8 one
fp32 multiplication, in a pass of its own so that no machine fuses it with an addition. NaN stays NaN in all codecs but
INT64. `scratch` is an fp32 tensor of at least the chunk's length that the caller keeps.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ..protocol.errors import ProtocolError
from ..protocol.layout import CHUNK_ELEMENTS
from ..protocol.rules import Codec

BLOCK_ELEMENTS = 256
FP16_LARGEST = 65504.0

Buffer = bytes | bytearray | memoryview

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


def encoded_bytes(codec: Codec, count: int) -> int:
    """Bytes of `count` numbers."""
    if codec == Codec.INT8:
        return 4 * _blocks(count) + count
    return _DTYPES[codec].itemsize * count


def encode(codec: Codec, values: Tensor, buffer: bytearray | memoryview, scratch: Tensor) -> int:
    """Write `values` (1-D, contiguous, CPU; fp32, or int64 for INT64) to the start of `buffer`; returns the bytes."""
    count = values.numel()
    if codec == Codec.INT8:
        scales, numbers = _int8_parts(buffer, count)
        for part, scale, number in _block_rows(values, scales, numbers):
            _encode_blocks(part, scale, number, scratch[: part.numel()].view(part.shape))
    elif codec == Codec.FP16:
        limited = torch.clamp(values, -FP16_LARGEST, FP16_LARGEST, out=scratch[:count])
        _numbers(codec, buffer, count).copy_(limited)
    else:
        _numbers(codec, buffer, count).copy_(values)
    return encoded_bytes(codec, count)


def decoded(codec: Codec, payload: Buffer, count: int, scratch: Tensor) -> Tensor:
    """The `count` numbers in `payload`, to be read at once: the payload's own memory where it holds them as they are,
    else in `scratch`. fp32, or int64 for INT64. Raises `ProtocolError` if the payload has the wrong length."""
    check_length(codec, payload, count)
    if codec in (Codec.FP32, Codec.INT64):
        return _numbers(codec, payload, count)
    return _decode(codec, payload, scratch[:count])


def decode(codec: Codec, payload: Buffer, out: Tensor) -> None:
    """Write the numbers in `payload` to `out`. Raises `ProtocolError` if the payload has the wrong length."""
    check_length(codec, payload, out.numel())
    _decode(codec, payload, out)


def accumulate(codec: Codec, payload: Buffer, weight: float, accumulator: Tensor, scratch: Tensor) -> None:
    """accumulator += weight * numbers. Raises `ProtocolError` if the payload has the wrong length."""
    accumulator.add_(decoded(codec, payload, accumulator.numel(), scratch), alpha=weight)


def check_length(codec: Codec, payload: Buffer, count: int) -> None:
    """Raises `ProtocolError` unless `payload` has the length of `count` numbers."""
    if len(payload) != encoded_bytes(codec, count):
        raise ProtocolError(
            f"{count} numbers in {codec.name} are {encoded_bytes(codec, count)} bytes; {len(payload)} came."
        )


def _decode(codec: Codec, payload: Buffer, out: Tensor) -> Tensor:
    if codec != Codec.INT8:
        return out.copy_(_numbers(codec, payload, out.numel()))
    scales, numbers = _int8_parts(payload, out.numel())
    out.copy_(numbers)
    for part, scale, _ in _block_rows(out, scales, numbers):
        part.mul_(scale[:, None])
    return out


def _numbers(codec: Codec, buffer: Buffer, count: int) -> Tensor:
    return torch.frombuffer(buffer, dtype=_DTYPES[codec], count=count)


def _blocks(count: int) -> int:
    return -(-count // BLOCK_ELEMENTS)


def _int8_parts(buffer: Buffer, count: int) -> tuple[Tensor, Tensor]:
    blocks = _blocks(count)
    scales = torch.frombuffer(buffer, dtype=torch.float32, count=blocks)
    return scales, torch.frombuffer(buffer, dtype=torch.int8, count=count, offset=4 * blocks)


def _block_rows(values: Tensor, scales: Tensor, numbers: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Values, scales and int8 numbers as rows of one block each; a shorter last block comes by itself."""
    count = values.numel()
    whole = count // BLOCK_ELEMENTS
    cut = whole * BLOCK_ELEMENTS
    rows = []
    if whole:
        rows.append((values[:cut].view(whole, -1), scales[:whole], numbers[:cut].view(whole, -1)))
    if cut < count:
        rows.append((values[cut:].view(1, -1), scales[whole:], numbers[cut:].view(1, -1)))
    return rows


def _encode_blocks(values: Tensor, scales: Tensor, numbers: Tensor, scratch: Tensor) -> None:
    torch.amax(torch.abs(values, out=scratch), dim=1, out=scales)
    scales.div_(127)
    divisors = torch.where(scales == 0, 1.0, scales)
    numbers.copy_(torch.div(values, divisors[:, None], out=scratch).round_().clamp_(-127, 127))
