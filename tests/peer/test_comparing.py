"""Two checkpoints side by side."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from jupyter_swarm.peer.checkpoints import Checkpoint, save_checkpoint
from jupyter_swarm.peer.comparing import compare
from jupyter_swarm.protocol.errors import LayoutError
from jupyter_swarm.protocol.manifest import Manifest
from jupyter_swarm.shards.layout import layout_of
from jupyter_swarm.shards.vector import FlatVector


def saved(folder: Path, model: nn.Module, name: str, version: int, **metrics: float) -> Checkpoint:
    facts = Manifest(name, version, (), "", "", samples=10 * version, metrics=metrics)
    return save_checkpoint(folder / name, FlatVector.of(layout_of(model), model), facts, {})


def test_two_are_compared_tensor_by_tensor(tmp_path: Path) -> None:
    early = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.BatchNorm1d(2))
    late = copy.deepcopy(early)
    with torch.no_grad():
        late[0].weight.mul_(1.5)
        nn.init.zeros_(early[1].bias)
        nn.init.ones_(late[1].bias)
        late[2].num_batches_tracked.add_(1)
    a, b = saved(tmp_path, early, "early", 2, loss=3.0), saved(tmp_path, late, "late", 4, loss=1.5, held_out_loss=2.0)
    found = compare(a, b)
    assert found.tensors.keys() == early.state_dict().keys()
    assert found.tensors["0.weight"] == pytest.approx(0.5)
    assert found.tensors["0.bias"] == 0.0
    assert found.tensors["1.bias"] == found.tensors["2.num_batches_tracked"] == math.inf
    assert 0 < found.total < math.inf
    assert found.metrics == {
        "version": (2, 4), "samples": (20, 40), "loss": (3.0, 1.5), "held_out_loss": (None, 2.0),
    }  # fmt: skip
    assert set(compare(a, a).tensors.values()) == {0.0}

    table = str(found).splitlines()
    assert repr(found) == str(found), "a cell that ends with it shows it"
    assert table[0].split() == ["early", "late"]
    assert ["held_out_loss", "-", "2"] in [line.split() for line in table]
    assert ["0.weight", "0.5"] in [line.split() for line in table]


def test_checkpoints_of_different_models_are_not_compared(tmp_path: Path) -> None:
    narrow = saved(tmp_path, nn.Linear(3, 4, bias=False), "narrow", 1)
    wide = saved(tmp_path, nn.Linear(3, 5, bias=False), "wide", 1)
    with pytest.raises(LayoutError, match="of different models") as refused:
        compare(narrow, wide)
    assert "Tensor weight" in refused.value.why
