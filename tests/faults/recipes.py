"""What the classes of these tests train: no dropout and no batch statistics, so that all rounds can be computed again
from their records; all sections of a layout; sizes to taste."""

from __future__ import annotations

from typing import NamedTuple

from jupyter_swarm.protocol.layout import CHUNK_ELEMENTS, SHARD_ELEMENTS

_TEXT = """
import os
import time
import torch
from torch import nn
from jupyter_swarm import Data, EveryStep, LocalUpdates, Recipe, SGD, SparseLocalUpdates, WarmStart
from jupyter_swarm.protocol.rules import Codec

BAD = [int(index) for index in os.environ.get("FAULTS_BAD_SAMPLES", "").split()]
WIDER = int(os.environ.get("FAULTS_WIDER", "0"))
NAN = float(os.environ.get("FAULTS_NAN_CHANCE", "0"))
SECONDS = float(os.environ.get("FAULTS_STEP_SECONDS", "0"))
UNTIL = os.environ.get("FAULTS_UNTIL_FILE", "")

def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(300, 16, generator=generator)
    y = torch.tanh(x @ torch.randn(16, 1, generator=generator))
    return Data(train=(torch.arange(260), x[:260], y[:260]), held_out=(torch.arange(40), x[260:], y[260:]))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, WIDTH + WIDER), nn.Tanh(), nn.Linear(WIDTH + WIDER, 1))
        self.fixed = nn.Parameter(torch.ones(5), requires_grad=False)
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if self.training:
            self.steps += 1
        return self.body(x) * self.scale.mean() * self.fixed.mean()

def loss(model, batch):
    index, x, y = batch
    if model.training:
        time.sleep(SECONDS)
        while UNTIL and not os.path.exists(UNTIL):
            time.sleep(0.02)
    if any(int(i) in BAD for i in index) or (model.training and float(torch.rand(())) < NAN):
        return (model(x) - y).square().mean() * float("nan")
    return (model(x) - y).square().mean()

recipe = Recipe(name="faults", model=Net, data=data, loss=loss, optimizer=SGD(lr=3.0 / WIDTH, MOMENTUM),
                strategy=STRATEGY, micro_batch=16, evaluate_every=5)
"""


class Size(NamedTuple):
    """A recipe and how its vector is cut."""

    name: str
    recipe: str
    shard_elements: int


_LOCAL = "LocalUpdates(steps=6, batch=8, outer=SGD(0.7), clip_norm=0.5)"
"""Without momentum, inside and outside: moments would not be in the records, nor the outer ones in what a server that
was killed goes on from."""
WARM_ROUNDS = 3


def _recipe(width: int, options: str = "", momentum: str = "", strategy: str = "") -> str:
    text = _TEXT.replace("STRATEGY", strategy or f"EveryStep(target_batch=48, {options})")
    return text.replace("WIDTH", str(width)).replace("MOMENTUM", momentum)


MANY_SHARDS = Size("1 k parameters in 8 shards", _recipe(64), 192)
CLIPPED = Size("1 k parameters in 8 shards, clipped", _recipe(64, "clip_norm=0.1"), 192)
ONE_SHARD = Size("1 k parameters in 1 shard", _recipe(64), SHARD_ELEMENTS)
CHUNKS = Size("450 k parameters in 2 shards", _recipe(25_000), CHUNK_ELEMENTS)
MOMENTUM = Size("1 k parameters in 8 shards, momentum", _recipe(64, momentum="momentum=0.9"), 192)
LOCAL = Size("1 k parameters in 8 shards, local", _recipe(64, strategy=_LOCAL), 192)
WARM = Size(
    "1 k parameters in 8 shards, warm start",
    _recipe(64, strategy=f"WarmStart(EveryStep(target_batch=48), {WARM_ROUNDS}, {_LOCAL})"),
    192,
)
SPARSE = Size(
    "1 k parameters in 8 shards, sparse", _recipe(64, strategy="SparseLocalUpdates(steps=6, batch=8, grace=2.0)"), 192
)
LOSSY = Size("1 k parameters in 8 shards, lossy", _recipe(64, "up=Codec.BF16, down=Codec.INT8"), 192)
