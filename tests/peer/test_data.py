"""Positions, epochs and batches."""

from __future__ import annotations

import itertools
import threading
from collections import UserDict
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from jupyter_swarm.peer.data import EpochOrder, Samples, to_device
from jupyter_swarm.peer.published import pack
from jupyter_swarm.peer.recipe import Data
from jupyter_swarm.peer.windows import Windows
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
    loaders = [
        DataLoader(TensorDataset(*tensors), 4, shuffle=True),
        DataLoader(Squares(), batch_size=None, num_workers=1),
    ]
    for source in (tensors, TensorDataset(*tensors), Squares(), *loaders):
        samples = Samples(source)
        values, squares = samples.batch(picked)
        assert len(samples) == 10
        assert torch.equal(values, torch.tensor([[3.0], [1.0], [4.0]]))
        assert torch.equal(squares, torch.tensor([9, 1, 16]))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_loaders_workers_read_the_samples_of_a_batch_at_once() -> None:
    together = threading.Barrier(2, timeout=60)

    class Slow(Squares):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            together.wait()
            return super().__getitem__(index)

    _, squares = Samples(DataLoader(Slow(), num_workers=2)).batch(torch.tensor([3, 1, 4, 0]))
    assert squares.tolist() == [9, 1, 16, 0]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("swarm-data")]


def test_what_collates_for_a_loader_collates_here() -> None:
    def highest(items: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(items).amax(1)

    windows = DataLoader(Windows(torch.arange(12), 3), collate_fn=highest)
    assert Samples(windows).batch(torch.tensor([0, 2])).tolist() == [3, 9]
    assert pack(Data(train=windows)) is None, "others would not collate like that"
    plain = Windows(torch.arange(12), 3)
    assert pack(Data(train=DataLoader(plain))) == pack(Data(train=plain))


def test_a_dataset_that_reads_many_at_once_is_asked_once() -> None:
    class Many(Squares):
        def __getitems__(self, indices: list[int]) -> list[int]:
            return [index + 100 for index in indices]

    assert Samples(Many()).batch(torch.tensor([3, 1])).tolist() == [103, 101]


class Endless(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return itertools.count()

    def __len__(self) -> int:
        return 3


class Pairs(BatchSampler):
    """Batches of a kind of its own."""


def test_an_order_that_others_do_not_know_is_refused() -> None:
    with pytest.raises(RecipeError, match="WeightedRandomSampler"):
        Samples(DataLoader(Squares(), sampler=WeightedRandomSampler([1.0] * 10, 10)))
    with pytest.raises(RecipeError, match="Pairs"):
        Samples(DataLoader(Squares(), batch_sampler=Pairs(range(10), 2, drop_last=False)))


class Encoded(UserDict[str, torch.Tensor]):
    """A batch as tokenizers of transformers return it: a mapping that knows how to move."""

    def to(self, device: torch.device) -> Encoded:
        return Encoded({name: tensor.to(device) for name, tensor in self.items()})


def test_whatever_holds_tensors_comes_to_the_device() -> None:
    meta = torch.device("meta")
    one = torch.zeros(2)
    packed = torch.nn.utils.rnn.pack_sequence([torch.zeros(3), torch.zeros(1)])
    moved = to_device({"plain": [one, 3], "packed": packed, "encoded": Encoded(text=one)}, meta)
    assert moved["plain"][0].device == moved["packed"].data.device == moved["encoded"]["text"].device == meta
    assert moved["plain"][1] == 3
    assert moved["packed"].batch_sizes.device.type == "cpu", "where torch wants it"


def test_nothing_held_out_is_an_empty_part() -> None:
    assert len(Samples(None)) == 0


@pytest.mark.parametrize(
    "source", [(torch.zeros(3), torch.zeros(4)), iter([1, 2]), 5, Endless(), DataLoader(Endless())]
)
def test_data_that_cannot_be_leased_by_index_is_refused(source: object) -> None:
    with pytest.raises(RecipeError):
        Samples(source)
