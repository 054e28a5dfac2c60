"""A checkpoint's parameters are written as others read them, whole or not at all."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from jupyter_swarm.protocol.errors import StoreError
from jupyter_swarm.shards.layout import layout_of
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.store.blobs import Blobs
from jupyter_swarm.store.checkpoints import store_files, weight_files


class Odd(nn.Module):
    """Tied, frozen, of several dtypes, with counters, a scalar and nothing at all."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.narrow = nn.Parameter(torch.randn(7, dtype=torch.bfloat16))
        self.scale = nn.Parameter(torch.tensor(2.5))
        self.none = nn.Parameter(torch.empty(0, 4))
        self.frozen = nn.Parameter(torch.randn(2, 2), requires_grad=False)
        self.register_buffer("mask", torch.tensor([True, False]))
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


def view_of(model: nn.Module) -> FlatVector:
    return FlatVector.of(layout_of(model), model)


def written(view: FlatVector, folder: Path, **how: int) -> dict[str, bytes]:
    blobs = Blobs(folder)
    entries = store_files(weight_files(view, **how), blobs, lambda: False)
    return {entry.name: blobs.read(entry.sha256) for entry in entries}


def test_the_numbers_come_back_bit_for_bit_in_the_models_dtypes(tmp_path: Path) -> None:
    model = Odd()
    files = written(view_of(model), tmp_path)
    assert list(files) == ["model.safetensors"]
    found = safetensors.torch.load(files["model.safetensors"])
    state = model.state_dict()
    assert found.keys() == state.keys() - {"head.weight"}, "tied once"
    for name, tensor in found.items():
        assert tensor.dtype == state[name].dtype
        assert torch.equal(tensor, state[name])
    (tmp_path / "model.safetensors").write_bytes(files["model.safetensors"])
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_more_than_a_part_goes_into_several_files_with_an_index(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(10, 10) for _ in range(4)))
    files = written(view_of(model), tmp_path, part_bytes=500)
    names = [f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)]
    assert list(files) == [*names, "model.safetensors.index.json"]
    index = json.loads(files["model.safetensors.index.json"])
    parts = {name: safetensors.torch.load(files[name]) for name in names}
    assert index["metadata"]["total_size"] == 4 * 440
    assert index["weight_map"] == {tensor: name for name, part in parts.items() for tensor in part}
    together = {name: tensor for part in parts.values() for name, tensor in part.items()}
    assert all(torch.equal(together[name], tensor) for name, tensor in model.state_dict().items())


def test_the_same_numbers_are_stored_once(tmp_path: Path) -> None:
    view = view_of(Odd())
    assert written(view, tmp_path) == written(view, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_leaves_nothing(small_disk) -> None:
    view = view_of(nn.Linear(300, 300))
    with small_disk.full(), pytest.raises(StoreError, match="disk is full"):
        written(view, small_disk.folder)
    assert [path.name for path in small_disk.folder.iterdir() if path.name != "filler"] == []
    assert written(view, small_disk.folder)


@pytest.mark.parametrize("pieces", [0, 5])
def test_a_server_that_stops_leaves_nothing_of_any_file(tmp_path: Path, pieces: int) -> None:
    """Each of the four files has a head and two tensors."""
    written = itertools.count()
    view = view_of(nn.Sequential(*(nn.Linear(10, 10) for _ in range(4))))
    with pytest.raises(StoreError, match="not written"):
        store_files(weight_files(view, part_bytes=500), Blobs(tmp_path), lambda: next(written) == pieces)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("point", ["mid-checkpoint", "mid-rename"])
def test_a_server_killed_while_writing_leaves_nothing_half(
    tmp_path: Path, killed_at: Callable[[str, str], None], point: str
) -> None:
    killed_at(
        point,
        "from pathlib import Path\n"
        "from torch import nn\n"
        "from jupyter_swarm.shards.layout import layout_of\n"
        "from jupyter_swarm.shards.vector import FlatVector\n"
        "from jupyter_swarm.store.blobs import Blobs\n"
        "from jupyter_swarm.store.checkpoints import store_files, weight_files\n"
        "model = nn.Linear(100, 100)\n"
        "view = FlatVector.of(layout_of(model), model)\n"
        f"store_files(weight_files(view), Blobs(Path({str(tmp_path)!r})), lambda: False)\n",
    )
    assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
    Blobs(tmp_path).recover()
    assert list(tmp_path.iterdir()) == []
