"""What this machine has, and what a server needs for a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from jupyter_swarm.optim import SGD, AdamW, Sophia
from jupyter_swarm.protocol.frames import HEADER_BYTES
from jupyter_swarm.protocol.layout import CHUNK_ELEMENTS, Layout, Stream, TensorSpec
from jupyter_swarm.protocol.rules import Codec, RoundRule
from jupyter_swarm.shards.memory import container_memory, server_bytes
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


COUNT = 10 * CHUNK_ELEMENTS
LAYOUT = Layout((TensorSpec("weight", (COUNT,), "float32", Stream.PARAMETERS, 0, COUNT),))
VECTOR = 4 * COUNT
CONTRIBUTION = VECTOR + 10 * HEADER_BYTES


@pytest.mark.parametrize(
    ("rule", "vectors", "contribution"),
    [
        # both sides, packets, to disk, for joiners, when it opens
        (EveryStep(8).rule(SGD(0.1)), 2 + 1 + 1 + 1 + 2, CONTRIBUTION),
        (EveryStep(8).rule(AdamW(0.1)), 2 * 3 + 1 + 3 + 1 + 2, CONTRIBUTION),
        (EveryStep(8).rule(Sophia(0.1)), 2 * 3 + 1 + 3 + 1 + 2, 2 * CONTRIBUTION),
        (EveryStep(8, up=Codec.FP16).rule(SGD(0.1)), 7, CONTRIBUTION - VECTOR // 2),
        (LocalUpdates(5, 8).rule(AdamW(0.1)), 2 * 2 + 1 + 2 + 1 + 2, CONTRIBUTION),
    ],
)
def test_what_a_server_keeps(rule: RoundRule, vectors: int, contribution: int) -> None:
    fixed, each = server_bytes(LAYOUT, rule)
    assert fixed == pytest.approx(vectors * VECTOR, rel=0.1)
    assert each == contribution


def test_packets_that_lose_digits_need_the_master_beside_the_view() -> None:
    exact, lossy = (
        server_bytes(LAYOUT, EveryStep(8, down=down).rule(SGD(0.1)))[0] for down in (Codec.FP32, Codec.INT8)
    )
    assert lossy - exact == pytest.approx(3 * VECTOR - 0.75 * VECTOR, rel=0.05)


def test_constants_are_kept_once() -> None:
    more = Layout((*LAYOUT.tensors, TensorSpec("table", (COUNT,), "float32", Stream.CONSTANT, 0, COUNT)))
    rule = EveryStep(8).rule(SGD(0.1))
    assert server_bytes(more, rule)[0] - server_bytes(LAYOUT, rule)[0] == 5 * VECTOR
    assert server_bytes(more, rule)[1] == server_bytes(LAYOUT, rule)[1]


def test_a_session_that_chooses_codecs_has_room_for_those_that_lose_digits() -> None:
    chosen, lossy, lossless = (
        server_bytes(LAYOUT, EveryStep(8, down=down, codec=codec).rule(SGD(0.1)))[0]
        for down, codec in ((Codec.FP32, "auto"), (Codec.FP16, None), (Codec.FP32, None))
    )
    assert chosen >= lossy
    assert chosen > lossless
