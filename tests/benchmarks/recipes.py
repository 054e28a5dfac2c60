"""Recipes to be measured, as source texts, for `Recipe.from_source`."""

from __future__ import annotations

_KNOWN = """PARAMETERS = {parameters}
DIRECTION = torch.full((PARAMETERS,), 1e-3)


class Known(torch.autograd.Function):
    '''A loss whose gradient is known beforehand: all that is left to do is to add it up.'''

    @staticmethod
    def forward(ctx, values):
        return values[:1].sum()

    @staticmethod
    def backward(ctx, gradient):
        return DIRECTION


class Vector(nn.Module):
    def __init__(self):
        super().__init__()
        self.values = nn.Parameter(torch.zeros(PARAMETERS))


def data():
    return Data(train=(torch.arange(4096),))


"""
"""A model of one parameter vector."""

VECTOR = (
    """
import time

import torch
from torch import nn

from jupyter_swarm import SGD, Data, EveryStep, Recipe

"""
    + _KNOWN
    + """def loss(model, batch):
    time.sleep({seconds} * len(batch[0]))
    return Known.apply(model.values)


recipe = Recipe(
    name="vector", model=Vector, data=data, loss=loss, optimizer=SGD(lr=1e-3),
    strategy=EveryStep(target_batch={target}), evaluate_every=0,
)
"""
)
"""One parameter vector and a gradient that costs nothing but `seconds` of sleep for each sample: what is left is the
round itself."""

NETWORK = """
import torch
import torch.nn.functional as F
from torch import nn

from jupyter_swarm import SGD, AdamW, Data, EveryStep, Nesterov, Recipe


def data():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(2000, 20, generator=generator)
    labels = (inputs[:, :4] @ torch.randn(4, 5, generator=generator)).argmax(1)
    return Data(train=(inputs, labels))


def model():
    return nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.LayerNorm(64), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5))


def loss(model, batch):
    inputs, labels = batch
    return F.cross_entropy(model(inputs), labels)


recipe = Recipe(
    name="network", model=model, data=data, loss=loss, optimizer={optimizer}, strategy=EveryStep(target_batch=96),
    micro_batch=16, evaluate_every=0,
)
"""
"""A small network without batch statistics or dropout."""

SLEEPY = """
import os
import time

import torch
from torch import nn

from jupyter_swarm import SGD, Data, EveryStep, LocalUpdates, Recipe

SECONDS = float(os.environ.get("SLEEPY_SECONDS", "{seconds}"))


def data():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(4096, 20, generator=generator)
    return Data(train=(inputs, inputs[:, :4].sum(1, keepdim=True).tanh()))


def model():
    return nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 1))


def loss(model, batch):
    inputs, targets = batch
    time.sleep(SECONDS * len(inputs) / {batch})
    return (model(inputs) - targets).square().mean()


recipe = Recipe(
    name="sleepy", model=model, data=data, loss=loss, optimizer=SGD(lr=0.01), strategy={strategy}, micro_batch={batch},
    evaluate_every=0,
)
"""
"""A step of which it is known what it takes, on cores that others need too."""

CHURN = """
import time

import torch
from torch import nn

from jupyter_swarm import AdamW, Data, LocalUpdates, Recipe, SparseLocalUpdates


def teacher():
    generator = torch.Generator().manual_seed(2)
    first, second = torch.randn(32, 256, generator=generator), torch.randn(256, 1, generator=generator)
    return lambda x: torch.tanh(x @ first / 4) @ second / 16


def data():
    inputs = torch.randn(60_000, 32, generator=torch.Generator().manual_seed(1))
    labels = teacher()(inputs)
    return Data(train=(inputs[:58_000], labels[:58_000]), held_out=(inputs[58_000:], labels[58_000:]))


def model():
    return nn.Sequential(nn.Linear(32, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 1))


def loss(model, batch):
    inputs, labels = batch
    if model.training:
        time.sleep({seconds} * len(inputs) / {batch})
    return (model(inputs) - labels).square().mean()


recipe = Recipe(
    name="churn", model=model, data=data, loss=loss, optimizer=AdamW(lr=2e-3), strategy={strategy},
    micro_batch={batch}, evaluate_every=10,
)
"""
"""Something to learn for ten minutes, by steps of which it is known what they take."""

PACED = (
    """
import time

import torch
from torch import nn

from jupyter_swarm import SGD, Codec, Data, EveryStep, LocalUpdates, Recipe, SparseLocalUpdates, StreamingLocalUpdates

"""
    + _KNOWN
    + """SECONDS = {seconds}
DUE = [0.0]


def loss(model, batch):
    # A step begins when the one before it has lasted as long as it should; the first after a pause, as if it had begun.
    now = time.monotonic()
    due = DUE[0] + SECONDS if now < DUE[0] + 2 * SECONDS else now + SECONDS
    time.sleep(max(due - now, 0))
    DUE[0] = max(due, now)
    return Known.apply(model.values)


recipe = Recipe(
    name="paced", model=Vector, data=data, loss=loss, optimizer=SGD(lr=1e-3), strategy={strategy},
    micro_batch={batch}, evaluate_every=0,
)
"""
)
"""Steps of `seconds` each, whatever the machine is busy with, as long as it can keep up: what optimizer and gradient
take is part of them."""

PERCEPTRON = """
import torch
from torch import nn

from jupyter_swarm import AdamW, Codec, Data, EveryStep, LocalUpdates, Recipe, SparseLocalUpdates, StreamingLocalUpdates

WIDTH = {width}


def data():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(4096, WIDTH, generator=generator)
    return Data(train=(inputs, inputs.roll(1, dims=1).tanh()))


def model():
    return nn.Sequential(
        nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)
    )


def loss(model, batch):
    inputs, targets = batch
    return (model(inputs) - targets).square().mean()


recipe = Recipe(
    name="perceptron", model=model, data=data, loss=loss, optimizer=AdamW(lr=1e-4), strategy={strategy},
    micro_batch={batch}, evaluate_every=0,
)
"""
"""3 · `width`² parameters and steps that are computed."""
