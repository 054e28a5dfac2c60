"""Error feedback loses nothing: what was sent and what is left are together all that there was to send."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from jupyter_swarm.protocol.layout import CHUNK_ELEMENTS, Layout, Stream
from jupyter_swarm.protocol.rules import Codec, StreamRule
from jupyter_swarm.shards.codecs import decode
from jupyter_swarm.shards.feedback import MISSED_ROUNDS, Encoded, ErrorFeedback
from jupyter_swarm.shards.layout import layout_of
from jupyter_swarm.shards.vector import FlatVector

from .elsewhere import ELSEWHERE, elsewhere

LAYOUT = layout_of(nn.Linear(99, 130))
SIZE = LAYOUT.sections[Stream.PARAMETERS][1]
CODECS = st.sampled_from([Codec.TOPK, Codec.INT4, Codec.INT8])


def delta(seed: int, layout: Layout = LAYOUT) -> FlatVector:
    vector = FlatVector(layout)
    vector.sections[Stream.PARAMETERS].normal_(generator=torch.Generator().manual_seed(seed))
    return vector


def numbers(encoded: Encoded, size: int = SIZE) -> Tensor:
    out = torch.zeros(size)
    for start, payload in encoded.payloads.items():
        count = min(CHUNK_ELEMENTS, size - start)
        decode(encoded.codec, payload, out[start : start + count])
    return out


def rule(codec: Codec, feedback: float = 1.0) -> StreamRule:
    return StreamRule(Stream.GRADIENT, up=codec, merge="mean", feedback=feedback)


@given(CODECS, st.lists(st.sampled_from(["counts", "does not"]), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_nothing_is_lost_whatever_counts(codec: Codec, fates: list[str]) -> None:
    feedback = ErrorFeedback(LAYOUT)
    made, counted = torch.zeros(SIZE), torch.zeros(SIZE)
    for round, fate in enumerate(fates):
        vector = delta(round)
        made += vector.sections[Stream.PARAMETERS]
        encoded = feedback.encode(vector, rule(codec), round)
        sent = numbers(encoded)
        assert encoded.norm == pytest.approx(float(sent.norm()), rel=1e-5)
        if fate == "counts":
            counted += sent
        else:
            feedback.put_back(encoded)
    nothing = FlatVector(LAYOUT)
    left = numbers(feedback.encode(nothing, rule(Codec.FP32), len(fates)))
    torch.testing.assert_close(counted + left, made, rtol=1e-4, atol=1e-4)


def test_what_is_left_fades_and_is_forgotten_after_missed_rounds() -> None:
    feedback, exact = ErrorFeedback(LAYOUT), rule(Codec.FP32, 0.5)
    sent = numbers(feedback.encode(delta(0), rule(Codec.TOPK), 0))
    left = delta(0).sections[Stream.PARAMETERS] - sent
    nothing = FlatVector(LAYOUT)
    torch.testing.assert_close(numbers(feedback.encode(nothing, exact, 1)), 0.5 * left)
    feedback.encode(delta(1), rule(Codec.TOPK), 2)
    assert not numbers(feedback.encode(nothing, exact, 2 + MISSED_ROUNDS + 2)).any()


def test_every_chunk_of_a_large_model_is_there() -> None:
    layout = layout_of(nn.Linear(1024, 600))
    size = layout.sections[Stream.PARAMETERS][1]
    encoded = ErrorFeedback(layout).encode(delta(0, layout), rule(Codec.INT8), 0)
    assert list(encoded.payloads) == list(range(0, size, CHUNK_ELEMENTS))
    torch.testing.assert_close(numbers(encoded, size), delta(0, layout).sections[Stream.PARAMETERS], atol=0.03, rtol=0)


@pytest.mark.parametrize("codec", [Codec.TOPK, Codec.INT4, Codec.FP32])
@pytest.mark.parametrize("device", ELSEWHERE, ids=str)
def test_it_is_kept_where_the_contributions_are(codec: Codec, device: torch.device) -> None:
    here, sent = ErrorFeedback(LAYOUT), []
    for round in range(3):
        sent.append(here.encode(delta(round), rule(codec, 0.5), round))
    here.put_back(sent[2])
    with elsewhere(device):
        there, vector = ErrorFeedback(LAYOUT, device), FlatVector(LAYOUT, device=device)
        for round in range(3):
            vector.copy_from(delta(round))
            encoded = there.encode(vector, rule(codec, 0.5), round)
            assert encoded.payloads == sent[round].payloads
        there.put_back(encoded)
        assert there.values is not None
        assert there.values.device == device
        left = there.values.cpu()
    assert here.values is not None
    torch.testing.assert_close(left, here.values)
