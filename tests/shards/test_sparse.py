"""TOPK keeps the largest, says so in few bytes, and believes nothing that it reads."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_swarm.protocol.errors import ProtocolError
from jupyter_swarm.protocol.layout import CHUNK_ELEMENTS
from jupyter_swarm.protocol.rules import Codec
from jupyter_swarm.protocol.sizes import SPARSE_BLOCK as BLOCK
from jupyter_swarm.protocol.sizes import encoded_bytes
from jupyter_swarm.shards import sparse

counts = st.one_of(st.integers(1, 3 * BLOCK), st.sampled_from([1, 64, 65, BLOCK, BLOCK + 1, 2 * BLOCK, 5 * BLOCK + 63]))


def normal(count: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) * scale


def encoded(values: torch.Tensor) -> bytearray:
    buffer = bytearray(encoded_bytes(Codec.TOPK, values.numel()) + 5)
    sparse.encode(values, buffer)
    assert not any(buffer[-5:]), "nothing is written behind it"
    return buffer[:-5]


def through(values: torch.Tensor) -> torch.Tensor:
    out = torch.full_like(values, math.nan)
    sparse.decode(encoded(values), out)
    return out


@given(counts, st.integers(0, 99), st.integers(-30, 30))
@settings(max_examples=60, deadline=None)
def test_the_largest_of_each_block_come_through(count: int, seed: int, exponent: int) -> None:
    values = normal(count, seed, 10.0**exponent)
    out = through(values)
    for sent, got in zip(values.split(BLOCK), out.split(BLOCK), strict=True):
        kept = got != 0
        assert int(kept.sum()) == -(-sent.numel() // 64)
        assert torch.equal(torch.sign(got[kept]), torch.sign(sent[kept]))
        if not kept.all():
            assert float(sent[kept].abs().min()) >= float(sent[~kept].abs().max())


def test_what_is_kept_is_near_what_it_was() -> None:
    values = normal(CHUNK_ELEMENTS)
    out = through(values)
    kept = out != 0
    lost = float((values - out)[kept].square().sum() / values[kept].square().sum())
    assert lost < 0.02, "of the energy of what is sent so much is lost by rounding to two bits"
    assert float(out.square().sum() / values.square().sum()) > 0.1, "a 64th of the numbers has a tenth of the energy"


def test_it_is_as_short_as_the_paper_says() -> None:
    assert 4 * CHUNK_ELEMENTS / encoded_bytes(Codec.TOPK, CHUNK_ELEMENTS) > 143


@pytest.mark.parametrize("values", [torch.zeros(5000), torch.zeros(1), torch.tensor([3.0]), -torch.ones(200)])
def test_what_has_no_differences(values: torch.Tensor) -> None:
    out = through(values)
    kept = out != 0
    torch.testing.assert_close(out[kept], values[kept])
    assert int(kept.sum()) == (-(-values.numel() // 64) if values.any() else 0)


@given(st.binary(min_size=encoded_bytes(Codec.TOPK, 5000), max_size=encoded_bytes(Codec.TOPK, 5000)))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_numbers_in_range_or_refused(payload: bytes) -> None:
    out = torch.zeros(5000)
    try:
        sparse.decode(payload, out)
    except ProtocolError:
        assert not out.any()
        return
    assert int((out != 0).sum()) <= 64 + 15


def at(payload: bytearray, block: int, blocks: int) -> int:
    """Where the places of a block begin, in a chunk of whole blocks."""
    return 8 + 2 * blocks + 96 * block


def test_places_that_repeat_or_are_outside_are_refused() -> None:
    payload = encoded(normal(2 * BLOCK))
    first = at(payload, 1, 2)
    repeated = payload[:]
    repeated[first : first + 3] = bytes([5, 5 << 4, 0])  # 5 and 5 again
    with pytest.raises(ProtocolError, match="repeat"):
        sparse.read(repeated, 2 * BLOCK)
    short = encoded(normal(100))
    short[10:13] = bytes([0, 100 % 16 << 4, 100 >> 4])  # element 100 of 100
    with pytest.raises(ProtocolError, match="outside"):
        sparse.read(short, 100)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_scales_that_are_no_sizes_are_refused(bad: float) -> None:
    for where, form in ((0, "<f"), (4, "<f"), (8, "bf16")):
        payload = encoded(normal(BLOCK))
        raw = struct.pack("<f", bad)
        payload[where : where + (4 if form == "<f" else 2)] = raw if form == "<f" else raw[2:]
        with pytest.raises(ProtocolError, match="scale"):
            sparse.read(payload, BLOCK)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_not_sent_unseen(bad: float) -> None:
    values = normal(BLOCK)
    values[7] = bad
    with pytest.raises(ProtocolError):
        sparse.read(encoded(values), BLOCK)


def test_encoding_is_the_same_wherever_the_largest_are_found() -> None:
    values = normal(BLOCK)
    places = torch.topk(values.abs(), 64).indices.sort().values
    assert torch.equal(sparse.read(encoded(values), BLOCK).places, places)
    assert np.array_equal(np.flatnonzero(through(values).numpy()), places.numpy())
