"""TOPK: of each block of 4,096 numbers the 64 largest in magnitude, in 2 bits each (SparseLoCo, arXiv 2508.15706).

    ratios    2 x fp32     how far the small and the large ones of a block are from its scale, over the whole chunk
    scales    bf16         of each block: the mean magnitude of its numbers
    places    12 bits      of each number: where it is in its block, in ascending order
    symbols   2 bits       of each number: bit 0 its sign, bit 1 whether its magnitude is above the block's scale

A number becomes ± scale * ratio, one fp32 multiplication and so the same bits everywhere; all others are zero. A last
block of fewer than 4,096 numbers has one 64th of them, rounded up. Whoever sends keeps what is lost (`ErrorFeedback`).
The arithmetic runs on the device of the values; bytes are made on the CPU.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..protocol.errors import ProtocolError
from ..protocol.frames import Buffer
from ..protocol.rules import Codec
from ..protocol.sizes import SPARSE_RATIOS, SparsePart, encoded_bytes, sparse_parts

Bytes = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]


def encode(values: Tensor, buffer: bytearray | memoryview) -> None:
    """Write fp32 `values`, on any device, to the start of `buffer`."""
    parts = sparse_parts(values.numel())
    chosen = [_choose(values[one.start :][: one.blocks * one.size].view(one.blocks, -1), one.kept) for one in parts]
    scales = [numbers.abs().mean(1, keepdim=True).to(torch.bfloat16) for _, numbers in chosen]
    ratios = _ratios([numbers for _, numbers in chosen], scales)
    out = np.frombuffer(buffer, np.uint8, encoded_bytes(Codec.TOPK, values.numel()))
    out[: 4 * SPARSE_RATIOS] = ratios.numpy().view(np.uint8)
    at = 4 * SPARSE_RATIOS
    for one, (places, numbers), scale in zip(parts, chosen, scales, strict=True):
        symbols = (numbers < 0).to(torch.uint8) | ((numbers.abs() > scale.float()).to(torch.uint8) << 1)
        for piece in (
            scale.cpu().view(torch.uint8).numpy(),
            _pack12(places.to(torch.int32).cpu().numpy()),
            _pack2(symbols.cpu().numpy()),
        ):
            room = out[at : at + one.blocks * piece.shape[1]].reshape(one.blocks, -1)
            room[:] = piece
            at += room.size


def _choose(rows: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Of each row the places of the largest magnitudes, in ascending order, and what is there."""
    magnitudes = rows.abs()
    if magnitudes.device.type == "cpu":  # numpy's partition is three times as fast as torch's selection
        first = np.argpartition(magnitudes.numpy(), rows.shape[1] - kept, axis=1)[:, rows.shape[1] - kept :]
        places = torch.from_numpy(np.sort(first, axis=1))
    else:
        places = torch.topk(magnitudes, kept, dim=1, sorted=False).indices.sort(dim=1).values
    return places, rows.gather(1, places)


def _ratios(numbers: list[Tensor], scales: list[Tensor]) -> Tensor:
    """The means of magnitude ÷ scale, of those below and of those above: fp32 on the CPU."""
    sums = torch.zeros(2, 2)
    for rows, scale in zip(numbers, scales, strict=True):
        known = torch.where(scale == 0, 1.0, scale.float())
        relative = rows.abs() / known
        large = rows.abs() > scale.float()
        for place, which in enumerate((~large, large)):
            sums[place] += torch.stack([(relative * which).sum(), which.sum()]).cpu()
    return torch.where(sums[:, 1] > 0, sums[:, 0] / sums[:, 1].clamp(min=1), 0.0)


class Chosen(NamedTuple):
    """What a payload says: places in the chunk (int64) and the fp32 numbers there; all others are zero."""

    places: Tensor
    numbers: Tensor


def read(payload: Buffer, count: int) -> Chosen:
    """The numbers in a payload of the right length. Raises `ProtocolError` for places that repeat or are outside, and
    for scales that are not finite or negative."""
    raw = np.frombuffer(payload, np.uint8)
    ratios = raw[: 4 * SPARSE_RATIOS].view(np.float32)
    at = 4 * SPARSE_RATIOS
    places, numbers = [], []
    for one in sparse_parts(count):
        found = []
        for width in (2, one.place_bytes, one.symbol_bytes):
            found.append(raw[at : at + one.blocks * width].reshape(one.blocks, width))
            at += one.blocks * width
        scale = torch.from_numpy(found[0].copy()).view(torch.bfloat16).float().numpy()
        inside = _unpack12(found[1], one.kept)
        symbols = _unpack2(found[2], one.kept)
        _check(inside, scale, ratios, one)
        # One multiplication: the sign changes no rounding.
        with np.errstate(over="ignore"):  # whoever sums it up finds what is not finite
            magnitudes = scale * ratios[symbols >> 1]
        numbers.append(np.where(symbols & 1, -magnitudes, magnitudes).ravel())
        places.append((inside + (one.start + one.size * np.arange(one.blocks))[:, None]).ravel())
    return Chosen(torch.from_numpy(np.concatenate(places)), torch.from_numpy(np.concatenate(numbers)))


def _check(places: Array, scale: Array, ratios: Array, one: SparsePart) -> None:
    if (np.diff(places, axis=1) <= 0).any() or int(places[:, -1].max()) >= one.size:
        raise ProtocolError("Places in a sparse chunk repeat, are out of order, or are outside of it.")
    if not (np.isfinite(scale).all() and np.isfinite(ratios).all()) or scale.min() < 0 or ratios.min() < 0:
        raise ProtocolError("A scale in a sparse chunk is negative or not finite.")


def decode(payload: Buffer, out: Tensor) -> None:
    """Write the numbers in `payload` to fp32 `out`, on any device, zeros between them. Raises as `read`."""
    found = read(payload, out.numel())
    out.zero_()
    out[found.places.to(out.device)] = found.numbers.to(out.device)


def accumulate(payload: Buffer, weight: float, accumulator: Tensor) -> None:
    """accumulator += weight * numbers, on any device, touching only those that are not zero. Raises as `read`."""
    found = read(payload, accumulator.numel())
    places, numbers = found.places.to(accumulator.device), found.numbers.to(accumulator.device)
    accumulator.index_add_(0, places, numbers, alpha=weight)


# --- bits


def _pack12(places: Array) -> Bytes:
    """(rows, kept) -> (rows, 3 for each two): the first's low 8 bits, its high 4 and the second's low 4, the rest."""
    pairs = _padded(places, 2).reshape(len(places), -1, 2)
    first, second = pairs[..., 0], pairs[..., 1]
    packed: Bytes = np.stack([first & 255, (first >> 8) | ((second & 15) << 4), second >> 4], axis=-1).astype(np.uint8)
    return packed.reshape(len(places), -1)


def _unpack12(packed: Bytes, kept: int) -> Array:
    threes = packed.reshape(len(packed), -1, 3).astype(np.int64)
    first = threes[..., 0] | ((threes[..., 1] & 15) << 8)
    second = (threes[..., 1] >> 4) | (threes[..., 2] << 4)
    return np.stack([first, second], axis=-1).reshape(len(packed), -1)[:, :kept]


def _pack2(symbols: Array) -> Array:
    """(rows, kept) -> (rows, 1 for each four), the first in the lowest bits."""
    fours = _padded(symbols, 4).reshape(len(symbols), -1, 4)
    packed: Array = fours[..., 0] | (fours[..., 1] << 2) | (fours[..., 2] << 4) | (fours[..., 3] << 6)
    return packed


def _unpack2(packed: Bytes, kept: int) -> Array:
    shifted: Array = packed[..., None] >> np.array([0, 2, 4, 6], np.uint8)
    return (shifted & 3).reshape(len(packed), -1)[:, :kept]


def _padded(rows: Array, unit: int) -> Array:
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % unit)))
