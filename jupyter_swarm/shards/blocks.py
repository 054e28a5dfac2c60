"""INT8 and INT4: blocks of numbers, each with the fp32 scale that its largest magnitude gives.

    INT8  blocks of 256: number ≈ scale * q, q from -127 to 127; one byte each
    INT4  blocks of 128: q from -7 to 7, stored as q + 8 in half a byte: the block's first half in the low halves of
          its bytes, the second half in the high ones

A chunk is all scales, then all numbers. Rounded half to even; a number is off by at most half its block's scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..protocol.frames import Buffer
from ..protocol.rules import Codec
from ..protocol.sizes import BLOCKS, Blocks, encoded_bytes


def encode(codec: Codec, values: Tensor, buffer: bytearray | memoryview, scratch: Tensor) -> None:
    """Write fp32 `values` to the start of `buffer`. scratch: fp32, at least as many, on the same device."""
    shape = BLOCKS[codec]
    payload = torch.frombuffer(buffer, dtype=torch.uint8, count=encoded_bytes(codec, values.numel()))
    room = payload if values.device == payload.device else torch.empty_like(payload, device=values.device)
    for part, scale, numbers in _rows(shape, values, room):
        rounded = scratch[: part.numel()].view(part.shape)
        torch.amax(torch.abs(part, out=rounded), dim=1, out=scale)
        scale.div_(shape.largest)
        divisors = torch.where(scale == 0, 1.0, scale)
        torch.div(part, divisors[:, None], out=rounded).round_().clamp_(-shape.largest, shape.largest)
        if shape.packed == 1:
            numbers.view(torch.int8).copy_(rounded)
        else:
            half = numbers.shape[1]
            numbers.copy_(rounded[:, :half].add_(8))
            high = rounded[:, half:].add_(8).to(torch.uint8)
            numbers[:, : high.shape[1]].bitwise_or_(high.bitwise_left_shift_(4))
    if room is not payload:
        payload.copy_(room)


def decode(codec: Codec, payload: Buffer, out: Tensor) -> None:
    """Write the numbers in `payload`, which has the right length, to fp32 `out`."""
    shape = BLOCKS[codec]
    for part, scale, numbers in _rows(shape, out, torch.frombuffer(payload, dtype=torch.uint8).to(out.device)):
        if shape.packed == 1:
            part.copy_(numbers.view(torch.int8))
        else:
            half = numbers.shape[1]
            part[:, :half].copy_(numbers & 15)
            part[:, half:].copy_((numbers >> 4)[:, : part.shape[1] - half])
            part.sub_(8)
        part.mul_(scale[:, None])


def _rows(shape: Blocks, values: Tensor, room: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Values, scales and the numbers' bytes in `room`, as rows of one block each: a shorter last block by itself."""
    whole, rest = divmod(values.numel(), shape.elements)
    blocks = whole + bool(rest)
    size = shape.elements // shape.packed
    scales, numbers = room[: 4 * blocks].view(torch.float32), room[4 * blocks :]
    cut = whole * shape.elements
    rows = []
    if whole:
        rows.append((values[:cut].view(whole, -1), scales[:whole], numbers[: whole * size].view(whole, -1)))
    if rest:
        rows.append((values[cut:].view(1, -1), scales[whole:], numbers[whole * size :].view(1, -1)))
    return rows
