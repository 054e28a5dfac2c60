"""Handwritten digits: a small convolutional network with batch-norm on scikit-learn's 1,797 real 8×8 images."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from jupyter_swarm import AdamW, Data, EveryStep, Recipe

HELD_OUT = 360


def data() -> Data:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16.0 - 0.5
    labels = torch.tensor(digits.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, held_out = order[HELD_OUT:], order[:HELD_OUT]
    return Data(train=(images[train], labels[train]), held_out=(images[held_out], labels[held_out]))


def model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    images, labels = batch
    return F.cross_entropy(model(images), labels)


def accuracy(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    images, labels = batch
    guesses: torch.Tensor = model(images).argmax(1)
    return (guesses == labels).float().mean()


recipe = Recipe(
    name="digits",
    model=model,
    data=data,
    loss=loss,
    optimizer=AdamW(lr=3e-3, weight_decay=0.01),
    strategy=EveryStep(target_batch=128),
    metrics={"accuracy": accuracy},
    micro_batch=64,
    rounds=150,
    evaluate_every=10,
    requires=("scikit-learn",),
)
