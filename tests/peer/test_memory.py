"""What is free, what was taken, and what a peer needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import torch

from jupyter_swarm.optim import AdamW, Sophia
from jupyter_swarm.peer.memory import container_memory, memory_of, peer_bytes
from jupyter_swarm.protocol.rules import Codec
from jupyter_swarm.shards.layout import layout_of
from jupyter_swarm.strategies import EveryStep, LocalUpdates


def test_a_containers_limit_is_the_memory_that_there_is(tmp_path: Path) -> None:
    assert container_memory(tmp_path)[0] >= 1 << 62
    for name, text in (("max", "max\n"), ("current", "900\n"), ("stat", "anon 1\ninactive_file 200\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert container_memory(tmp_path) == (1 << 62, 700)
    (tmp_path / "memory.max").write_text("1000\n")
    assert container_memory(tmp_path) == (1000, 700)


def test_an_old_containers_limit(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    for name, text in (("limit_in_bytes", "1000"), ("usage_in_bytes", "600"), ("stat", "total_inactive_file 100\n")):
        (tmp_path / "memory" / f"memory.{name}").write_text(text)
    assert container_memory(tmp_path) == (1000, 500)


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
