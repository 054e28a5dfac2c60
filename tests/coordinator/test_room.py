"""A server that is too small for a model says so before the session opens; what it says is about what it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jupyter_swarm.coordinator import room
from jupyter_swarm.coordinator.room import check_room
from jupyter_swarm.protocol.errors import SettingError
from jupyter_swarm.protocol.rules import AdamW, StrategyChange
from jupyter_swarm.shards.memory import Memory, server_bytes
from jupyter_swarm.strategies import EveryStep

from .server import RECIPE, Swarm, layout_of, opening, sha256, spec_of, zeros

GB = 10**9
LARGE = layout_of(250 * 10**6)
ADAM = EveryStep(target_batch=8).rule(AdamW(0.01))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "machine_memory", lambda: Memory(9 * GB, 10 * GB))


def spec(**facts: Any) -> Any:
    return msgspec.structs.replace(spec_of(minimum_peers=facts.pop("peers", 1)), layout_digest=LARGE.digest, **facts)


@pytest.mark.usefixtures("small")
def test_too_little_memory_is_said_with_the_figures() -> None:
    with pytest.raises(SettingError) as refused:
        check_room(spec(peers=3), LARGE)
    said = refused.value
    assert "with 3 peers the session needs 10 GB of memory, and 9.0 GB are free" in said.what
    assert "7.0 GB" in said.why
    assert "1.0 GB" in said.why
    assert "10 GB in all" in said.why
    assert "a server with more memory" in said.todo


@pytest.mark.usefixtures("small")
def test_how_many_peers_fit_is_said_where_it_may_be_too_few() -> None:
    assert check_room(spec(), LARGE).startswith("This server's memory is enough for about 1 peer at once: 9.0 GB")
    assert check_room(spec_of(), layout_of(4)) == ""


@pytest.mark.usefixtures("small")
def test_the_hungriest_strategy_that_is_to_come_counts() -> None:
    with pytest.raises(SettingError, match="too small"):
        check_room(spec(changes=(StrategyChange(5, ADAM),)), LARGE)


async def test_the_session_is_not_opened(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await swarm.open_session()
    assert swarm.json(await swarm.call("GET", "sessions", swarm.owner()))["sessions"][0]["session"] == first
    monkeypatch.setattr(room, "machine_memory", lambda: Memory(10, 20))
    for data in (RECIPE, zeros(layout_of(4))):
        await swarm.call("PUT", f"blobs/{sha256(data)}", swarm.owner(), data)
    refused = swarm.json(await swarm.call("POST", "sessions", swarm.owner(), opening()), 400)
    assert refused["what"].startswith("This server is too small for the model: with 1 peer the session needs 1 kB")
    assert len(swarm.json(await swarm.call("GET", "sessions", swarm.owner()))["sessions"]) == 1


OPENS = """
import asyncio, sys
from pathlib import Path
import msgspec, torch
from jupyter_swarm.peer.memory import Peak
from jupyter_swarm.strategies import EveryStep
from jupyter_swarm.protocol.rules import AdamW
from tests.coordinator.server import RECIPE, layout_of, managed, open_session, sha256, spec_of, zeros

async def main():
    async with managed(Path(sys.argv[1])) as manager:
        await open_session(manager)
        blobs = (await manager.storage()).blobs
        layout = layout_of(int(sys.argv[2]))
        initial = blobs.put(zeros(layout))
        rule = EveryStep(target_batch=8).rule(AdamW(0.01))
        spec = msgspec.structs.replace(spec_of(), layout_digest=layout.digest, initial=initial, rule=rule)
        with Peak(torch.device("cpu")) as peak:
            runtime = manager.runtime(await manager.open(spec, layout))
            while runtime.state.phase == "placing":
                await asyncio.sleep(0.01)
            await runtime.holding._snapshot()
            await runtime.in_thread(runtime.numbers.pin)
    print(peak.bytes)

asyncio.run(main())
"""


def test_the_estimate_is_what_a_server_takes(tmp_path: Path) -> None:
    """Without peers and packets, in a process that has opened another session before."""
    count = 8 << 20
    command = [sys.executable, "-c", OPENS, str(tmp_path / "swarm"), str(count)]
    taken = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    fixed, _ = server_bytes(layout_of(count), ADAM)
    assert 0.6 * fixed < taken < 1.1 * fixed
