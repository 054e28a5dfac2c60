"""Recipes to be measured, as source texts, for `Recipe.from_source`."""

from __future__ import annotations

VECTOR = """
import time

import torch
from torch import nn

from jupyter_swarm import SGD, Data, EveryStep, Recipe

PARAMETERS = {parameters}
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


def loss(model, batch):
    time.sleep({seconds} * len(batch[0]))
    return Known.apply(model.values)


recipe = Recipe(
    name="vector", model=Vector, data=data, loss=loss, optimizer=SGD(lr=1e-3),
    strategy=EveryStep(target_batch={target}), evaluate_every=0,
)
"""
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
