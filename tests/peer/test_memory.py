"""What is free, what was taken, and what a peer needs."""

from __future__ import annotations

import subprocess
import sys

import psutil
import torch

from jupyter_swarm.optim import AdamW, Sophia
from jupyter_swarm.peer.memory import memory_of, peer_bytes
from jupyter_swarm.protocol.rules import Codec
from jupyter_swarm.shards.layout import layout_of
from jupyter_swarm.strategies import EveryStep, LocalUpdates, SparseLocalUpdates, StreamingLocalUpdates


def test_memory_of_the_machine() -> None:
    free, total = memory_of(torch.device("cpu"))
    assert 0 < free <= total <= psutil.virtual_memory().total


PEAK = """
import torch
from jupyter_swarm.peer.memory import Peak
with Peak(torch.device("cpu")) as peak:
    for _ in range(20):
        torch.ones(16 << 20).mul_(2)
print(peak.bytes)
with Peak(torch.device("cpu")) as peak:
    pass
print(peak.bytes)
"""


def test_a_peak_is_seen_although_it_is_over() -> None:
    """In a process of its own: this one may have kept memory in which it would not show."""
    ran = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, check=True, text=True)
    much, little = map(int, ran.stdout.split())
    assert much > 32 << 20 > little


def test_vectors_of_a_peer() -> None:
    layout = layout_of(torch.nn.Linear(999, 1))
    vector = 4 * 1000
    adam, sophia = AdamW(lr=1e-3), Sophia(lr=1e-3)
    assert peer_bytes(layout, EveryStep(8).rule(adam)) == (vector, 2 * vector)
    assert peer_bytes(layout, EveryStep(8, down=Codec.INT8).rule(adam)) == (vector, vector + 1000 + 4 * 4)
    assert peer_bytes(layout, EveryStep(8).rule(sophia)) == (3 * vector, 2 * vector)
    assert peer_bytes(layout, LocalUpdates(5, 8).rule(adam)) == (2 * vector, 3 * vector)
    assert peer_bytes(layout, LocalUpdates(5, 8, staleness=0).rule(adam)) == (2 * vector, 2 * vector)
    sparse = SparseLocalUpdates(5, 8, down=Codec.FP32).rule(adam)
    assert peer_bytes(layout, sparse) == (3 * vector, 3 * vector)
    streaming = StreamingLocalUpdates(8, 8, down=Codec.FP32).rule(adam)
    assert peer_bytes(layout, streaming) == (3 * vector, 2 * vector)
