"""Which samples a lease means, and the batches made of them.

Positions count through all epochs: position p is sample `order(p // n)[p % n]`, where the order of an epoch is a
permutation drawn from (seed, epoch) alone. So every peer knows what any lease means without being told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
    default_convert,
)

from ..protocol.errors import RecipeError
from .windows import Windows


class EpochOrder:
    """The order in which the epochs visit `samples` samples; the last two permutations that were used are kept."""

    def __init__(self, samples: int, seed: int) -> None:
        self.samples = samples
        self.seed = seed
        self._kept: dict[int, torch.Tensor] = {}

    def indices(self, start: int, stop: int) -> torch.Tensor:
        """The sample indices, int64, at the positions [start, stop); a range may cross epochs."""
        parts = []
        while start < stop:
            epoch, offset = divmod(start, self.samples)
            count = min(stop - start, self.samples - offset)
            parts.append(self._epoch(epoch)[offset : offset + count])
            start += count
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    def _epoch(self, epoch: int) -> torch.Tensor:
        if epoch not in self._kept:
            if len(self._kept) > 1:
                del self._kept[min(self._kept)]
            digest = hashlib.sha256(f"{self.seed}:{epoch}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            self._kept[epoch] = torch.randperm(self.samples, generator=generator)
        return self._kept[epoch]


class Samples:
    """One part of the data, by index. Raises `RecipeError` for what cannot be read like that.

    Of a `DataLoader` count its data set, its `collate_fn` and its `num_workers`: so many threads read the samples of a
    batch. (Processes would have to be forked from the thread that trains.) Order and batches are the session's.
    """

    def __init__(self, source: Any) -> None:
        self._collate: Callable[[list[Any]], Any] = default_collate
        self._threads = 0
        if isinstance(source, DataLoader):
            source = self._loaded_by(source)
        plain = self._collate is default_collate
        if isinstance(source, TensorDataset) and plain:
            source = source.tensors
        self.tensors: tuple[torch.Tensor, ...] | None = None
        """The samples if they are tensors; None for other datasets."""
        self.windows = source if isinstance(source, Windows) and plain else None
        self._dataset: Any = source
        if isinstance(source, (tuple, list)) and source and all(isinstance(part, torch.Tensor) for part in source):
            if len({len(part) for part in source}) != 1:
                lengths = [len(part) for part in source]
                raise RecipeError(f"The tensors of the data differ in length: {lengths}.", todo="Make them equal.")
            self.tensors = tuple(source)
        elif source is not None and not _is_map_style(source):
            raise RecipeError(
                f"The data is a {type(source).__name__}.",
                "Samples are leased by index.",
                "Return a map-style dataset (with __len__ and __getitem__), its DataLoader, or a tuple of tensors.",
            )

    def __len__(self) -> int:
        if self.tensors is not None:
            return len(self.tensors[0])
        return 0 if self._dataset is None else len(self._dataset)

    def batch(self, indices: torch.Tensor) -> Any:
        """The samples at `indices`, collated on the CPU."""
        if self.tensors is not None:
            return tuple(part[indices.to(part.device)] for part in self.tensors)
        if self.windows is not None:
            return self.windows.batch(indices)
        return self._collate(self._read(indices.tolist()))

    def _read(self, indices: list[int]) -> list[Any]:
        if hasattr(self._dataset, "__getitems__"):
            return list(self._dataset.__getitems__(indices))
        if not self._threads:
            return [self._dataset[index] for index in indices]
        with ThreadPoolExecutor(self._threads, thread_name_prefix="swarm-data") as threads:
            return list(threads.map(self._dataset.__getitem__, indices))

    def _loaded_by(self, loader: DataLoader[Any]) -> Any:
        plain = loader.batch_sampler is None or type(loader.batch_sampler) is BatchSampler
        sampler: Any = loader.sampler if plain else loader.batch_sampler
        ours = isinstance(sampler, SequentialSampler) or (
            isinstance(sampler, RandomSampler) and not sampler.replacement
        )
        if not isinstance(loader.dataset, IterableDataset) and not ours:
            raise RecipeError(
                f"The DataLoader has a {type(sampler).__name__}.",
                "A session visits each sample once in an epoch, in an order that all peers know.",
                "Leave the sampler out, or pass the data set itself, for instance a Subset.",
            )
        if loader.collate_fn is not default_convert:  # that of a loader without batches
            self._collate = loader.collate_fn
        self._threads = loader.num_workers
        return loader.dataset


def _is_map_style(source: Any) -> bool:
    if isinstance(source, IterableDataset):
        return False
    return hasattr(source, "__getitem__") and hasattr(source, "__len__")


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with every tensor in it on `device`."""
    if hasattr(batch, "to"):  # also packed sequences, and what tokenizers return
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(to_device(value, device) for value in batch)
    return batch
