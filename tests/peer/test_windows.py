"""Windows over a text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jupyter_swarm.peer.data import Samples
from jupyter_swarm.peer.windows import Windows
from jupyter_swarm.protocol.errors import RecipeError


@given(tokens=st.integers(0, 60), length=st.integers(1, 12), stride=st.integers(0, 15))
def test_a_batch_is_its_samples_and_each_is_a_piece_of_the_text(tokens: int, length: int, stride: int) -> None:
    windows = Windows(torch.arange(tokens, dtype=torch.uint8), length, stride)
    for index in range(len(windows)):
        start = index * (stride or length)
        assert windows[index].tolist() == list(range(start, start + length + 1))
    after = len(windows) * (stride or length)
    assert after + length + 1 > tokens, "no window is left out"
    if len(windows):
        picked = torch.randperm(len(windows))
        batch = Samples(windows).batch(picked)
        assert batch.dtype == torch.int64
        assert torch.equal(batch, torch.stack([windows[int(index)] for index in picked]))


def test_each_token_but_the_first_is_guessed_once() -> None:
    windows = Windows(torch.arange(21), 5)
    guessed = torch.cat([window[1:] for window in windows])
    assert guessed.tolist() == list(range(1, 21))


def test_an_index_beyond_the_end_is_an_error() -> None:
    with pytest.raises(IndexError):
        Windows(torch.arange(21), 5)[4]


@pytest.mark.parametrize(
    ("tokens", "length"),
    [(torch.zeros(3, 3, dtype=torch.int64), 1), (torch.zeros(9), 1), ([1, 2, 3], 1), (torch.arange(9), 0)],
)
def test_what_is_no_text_is_refused(tokens: object, length: int) -> None:
    with pytest.raises(RecipeError):
        Windows(tokens, length)  # type: ignore[arg-type]
