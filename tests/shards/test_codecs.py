import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_swarm.protocol.errors import ProtocolError
from jupyter_swarm.protocol.layout import CHUNK_ELEMENTS
from jupyter_swarm.protocol.rules import Codec
from jupyter_swarm.protocol.sizes import BLOCKS, encoded_bytes
from jupyter_swarm.shards.codecs import (
    FP16_LARGEST,
    accumulate,
    decode,
    decoded,
    encode,
    new_scratch,
    square_of,
)  # fmt: skip

from .elsewhere import ELSEWHERE, elsewhere

FLOATING = [Codec.FP32, Codec.FP16, Codec.BF16, Codec.INT8, Codec.INT4]
BLOCK_ELEMENTS = BLOCKS[Codec.INT8].elements
SCRATCH = new_scratch()
counts = st.one_of(st.integers(1, 600), st.sampled_from([BLOCK_ELEMENTS, 2 * BLOCK_ELEMENTS, CHUNK_ELEMENTS]))


def through(codec: Codec, values: torch.Tensor) -> tuple[bytes, torch.Tensor]:
    buffer = bytearray(encoded_bytes(codec, values.numel()))
    assert encode(codec, values, buffer, SCRATCH) == len(buffer)
    out = torch.empty_like(values)
    decode(codec, bytes(buffer), out)
    return bytes(buffer), out


@given(codec=st.sampled_from(FLOATING), count=counts, seed=st.integers(0, 99), exponent=st.integers(-4, 4))
@settings(max_examples=80, deadline=None)
def test_round_trip_error_is_within_the_codecs_bound(codec: Codec, count: int, seed: int, exponent: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(seed)) * 10.0**exponent
    _, out = through(codec, values)
    if codec == Codec.FP32:
        assert torch.equal(out, values)
    elif codec in BLOCKS:
        block, largest, _ = BLOCKS[codec]
        for part, back in zip(values.split(block), out.split(block), strict=True):
            assert float((part - back).abs().max()) <= float(part.abs().max()) / largest / 2 * 1.0001
    else:
        relative, smallest = (2.0**-11, 2.0**-25) if codec == Codec.FP16 else (2.0**-8, 1e-38)
        assert torch.all((out - values).abs() <= torch.clamp(values.abs() * relative, min=smallest))


@given(codec=st.sampled_from(FLOATING), count=st.integers(1, 600))
@settings(max_examples=40, deadline=None)
def test_what_was_decoded_encodes_to_the_same_numbers(codec: Codec, count: int) -> None:
    _, once = through(codec, torch.randn(count))
    _, twice = through(codec, once)
    torch.testing.assert_close(once, twice, rtol=1e-6, atol=0.0)


@given(values=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=40))
def test_counters_keep_every_bit(values: list[int]) -> None:
    _, out = through(Codec.INT64, torch.tensor(values))
    assert out.tolist() == values


@given(codec=st.sampled_from(list(Codec)), count=st.integers(1, 600), off=st.integers(-9, 9).filter(bool))
def test_a_payload_of_the_wrong_length_is_refused(codec: Codec, count: int, off: int) -> None:
    payload = bytes(max(encoded_bytes(codec, count) + off, 0))
    out = torch.zeros(count, dtype=torch.int64 if codec == Codec.INT64 else torch.float32)
    for read in (
        lambda: square_of(codec, payload, count, SCRATCH),
        lambda: decode(codec, payload, out),
        lambda: decoded(codec, payload, count, SCRATCH),
        lambda: accumulate(codec, payload, 1.0, out, SCRATCH),
    ):
        with pytest.raises(ProtocolError):
            read()
    assert not out.any()


@pytest.mark.parametrize("codec", FLOATING)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_still_seen_after_decoding(codec: Codec, bad: float) -> None:
    values = torch.randn(700)
    values[650] = bad
    _, out = through(codec, values)
    if codec == Codec.FP16 and math.isinf(bad):
        assert float(out[650]) == math.copysign(FP16_LARGEST, bad)
    else:
        assert not math.isfinite(float(torch.dot(out, out)))


def test_fp16_saturates() -> None:
    _, out = through(Codec.FP16, torch.tensor([1e6, -1e6, 65504.0, 1.0]))
    assert out.tolist() == [FP16_LARGEST, -FP16_LARGEST, FP16_LARGEST, 1.0]


def test_int8_is_exact_for_zeros_and_for_multiples_of_the_scale() -> None:
    values = torch.cat([torch.zeros(BLOCK_ELEMENTS), torch.arange(-127.0, 128.0), torch.full((5,), 1e-45)])
    _, out = through(Codec.INT8, values)
    assert torch.equal(out[:-5], values[:-5])
    assert torch.all(out[-5:].abs() <= 127 * 1e-44)


def test_decoding_is_one_rounded_multiplication_of_the_bytes() -> None:
    payload, out = through(Codec.INT8, torch.randn(300) * 3)
    scales = torch.frombuffer(bytearray(payload[:8]), dtype=torch.float32)
    numbers = torch.frombuffer(bytearray(payload[8:]), dtype=torch.int8)
    expected = [float(number) * float(scales[place // BLOCK_ELEMENTS]) for place, number in enumerate(numbers)]
    assert torch.equal(out, torch.tensor(expected, dtype=torch.float64).to(torch.float32))


@pytest.mark.parametrize("codec", [*FLOATING, Codec.TOPK])
@pytest.mark.parametrize("count", [1000, 9000])
def test_accumulate_adds_what_decode_gives(codec: Codec, count: int) -> None:
    payload, out = through(codec, torch.randn(count))
    assert square_of(codec, payload, count, SCRATCH) == pytest.approx(float(out.square().sum()), rel=1e-5)
    accumulator = torch.ones(count)
    accumulate(codec, payload, 2.0, accumulator, SCRATCH)
    assert torch.equal(accumulator, torch.ones(count).add_(out, alpha=2.0))


@pytest.mark.parametrize("codec", [*FLOATING, Codec.TOPK])
@pytest.mark.parametrize("count", [1, 333, 9000])
@pytest.mark.parametrize("device", ELSEWHERE, ids=str)
def test_every_device_makes_the_same_bytes_and_numbers(codec: Codec, count: int, device: torch.device) -> None:
    values = torch.randn(count)
    payload, out = through(codec, values)
    buffer, summed = bytearray(len(payload)), torch.ones(count)
    accumulate(codec, payload, 2.0, summed, SCRATCH)
    with elsewhere(device):
        there = values.to(device)
        encode(codec, there, buffer, SCRATCH)
        decoded_there, summed_there = torch.empty_like(there), torch.ones(count).to(device)
        decode(codec, payload, decoded_there)
        accumulate(codec, payload, 2.0, summed_there, SCRATCH)
        assert (decoded_there.device, summed_there.device) == (device, device)
        decoded_here, summed_here = decoded_there.cpu(), summed_there.cpu()
    assert bytes(buffer) == payload
    assert torch.equal(decoded_here, out)
    torch.testing.assert_close(summed_here, summed, rtol=1e-6, atol=1e-6)  # a GPU may multiply and add in one
