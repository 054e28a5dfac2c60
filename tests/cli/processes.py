"""Starting commands as processes, and seeing them end."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil

RECIPE = """
import torch
from jupyter_swarm import SGD, Data, EveryStep, Recipe

def data():
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
    return Data(train=(x, x @ torch.tensor([[1.0], [-2.0], [3.0]])), held_out=(x[:8], x[:8].sum(1, keepdim=True)))

def loss(model, batch):
    return ((model(batch[0]) - batch[1]) ** 2).mean()

recipe = Recipe(name="line", model=lambda: torch.nn.Linear(3, 1), data=data, loss=loss, optimizer=SGD(lr=0.1),
                strategy=EveryStep(target_batch=16, norm_limit=0.0), rounds=20)
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


class Served(NamedTuple):
    """A running `jupyter swarm serve`."""

    url: str
    token: str
    process: subprocess.Popen[bytes]
    storage: Path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "jupyter_swarm.cli", *arguments]


def gone(process: psutil.Process) -> bool:
    """Whether it has ended; one that nobody has collected yet has."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True
