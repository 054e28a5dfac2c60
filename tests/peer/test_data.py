"""Positions, epochs and batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset, TensorDataset

from jupyter_swarm.peer.data import EpochOrder, Samples
from jupyter_swarm.protocol.errors import RecipeError


@given(samples=st.integers(1, 50), seed=st.integers(0, 2**40), epoch=st.integers(0, 5))
def test_an_epoch_visits_every_sample_once(samples: int, seed: int, epoch: int) -> None:
    visited = EpochOrder(samples, seed).indices(epoch * samples, (epoch + 1) * samples)
    assert sorted(visited.tolist()) == list(range(samples))


@given(
    samples=st.integers(1, 20),
    start=st.integers(0, 60),
    lengths=st.lists(st.integers(0, 30), max_size=5),
)
def test_however_a_range_is_cut_it_means_the_same_samples(samples: int, start: int, lengths: list[int]) -> None:
    stop = start + sum(lengths)
    whole = EpochOrder(samples, 7).indices(start, stop).tolist()
    pieces: list[int] = []
    for length in lengths:
        pieces += EpochOrder(samples, 7).indices(start, start + length).tolist()
        start += length
    assert pieces == whole


def test_epochs_and_seeds_have_different_orders() -> None:
    order = EpochOrder(1000, 3)
    first = order.indices(0, 1000)
    assert not torch.equal(first, order.indices(1000, 2000))
    assert not torch.equal(first, EpochOrder(1000, 4).indices(0, 1000))
    assert torch.equal(first, order.indices(0, 1000))


class Squares(Dataset[tuple[torch.Tensor, int]]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.tensor([float(index)]), index * index


def test_tensors_tensor_datasets_and_map_style_datasets_give_the_same_batches() -> None:
    numbers = torch.arange(10)
    tensors = numbers.float().unsqueeze(1), numbers**2
    picked = torch.tensor([3, 1, 4])
    for source in (tensors, TensorDataset(*tensors), Squares()):
        samples = Samples(source)
        values, squares = samples.batch(picked)
        assert len(samples) == 10
        assert torch.equal(values, torch.tensor([[3.0], [1.0], [4.0]]))
        assert torch.equal(squares, torch.tensor([9, 1, 16]))


def test_nothing_held_out_is_an_empty_part() -> None:
    assert len(Samples(None)) == 0


@pytest.mark.parametrize("source", [(torch.zeros(3), torch.zeros(4)), iter([1, 2]), 5])
def test_data_that_cannot_be_leased_by_index_is_refused(source: object) -> None:
    with pytest.raises(RecipeError):
        Samples(source)
