"""A running session when something in the server itself goes wrong: it never stands still without saying why."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from jupyter_swarm.coordinator import session as session_module
from jupyter_swarm.coordinator.session import SessionRuntime
from jupyter_swarm.decisions.effects import Disconnect, Note
from jupyter_swarm.decisions.events import MemberJoined, MemberLost, Tick
from jupyter_swarm.decisions.state import State
from jupyter_swarm.protocol import messages as m
from jupyter_swarm.protocol.errors import StoreError
from jupyter_swarm.shards.holder import Holder
from tests.waiting import eventually

from .scripted import ScriptedPeer
from .server import Swarm, managed, open_session


def reason(runtime: SessionRuntime) -> str:
    status = runtime.status()
    return f"{status.state}: {status.reason}"


async def test_an_error_in_background_work_pauses_the_session_with_the_reason(tmp_path: Path) -> None:
    async def breaks() -> None:
        raise RuntimeError("a wheel came off")

    async with managed(tmp_path / "swarm") as manager:
        runtime = manager.runtime(await open_session(manager))
        runtime.spawn(breaks())
        await eventually(lambda: runtime.status().state == "paused")
        assert "an error in it (RuntimeError: a wheel came off)" in reason(runtime)
        runtime.steering.resume("ann")
        assert runtime.status().state == "waiting"


async def test_a_refusal_of_the_disk_in_background_work_is_noted_and_no_more(tmp_path: Path) -> None:
    async def refused() -> None:
        raise StoreError("The disk is full.")

    async with managed(tmp_path / "swarm") as manager:
        runtime = manager.runtime(await open_session(manager))
        seen: list[dict[str, Any]] = []
        runtime.add_viewer(lambda message: seen.append(json.loads(message)))
        runtime.spawn(refused())
        await eventually(lambda: seen)
        assert (seen[0]["level"], seen[0]["text"]) == ("error", "The disk is full.")
        assert runtime.status().state == "waiting"


async def test_an_error_in_the_decisions_pauses_the_session_and_time_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = session_module.handle

    def breaks(state: State, event: Any, now: float) -> Any:
        if isinstance(event, Tick):
            raise KeyError("nobody")
        return decide(state, event, now)

    async with managed(tmp_path / "swarm") as manager:
        runtime = manager.runtime(await open_session(manager))
        monkeypatch.setattr(session_module, "handle", breaks)
        runtime.handle(Tick())
        assert "KeyError: 'nobody'" in reason(runtime)
        monkeypatch.setattr(session_module, "handle", decide)
        runtime.steering.resume("ann")
        runtime.handle(Tick())
        assert runtime.status().state == "waiting"


async def test_an_error_in_the_thread_of_the_numbers_pauses_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(holder: Holder) -> None:
        raise RuntimeError("no such memory")

    async with managed(tmp_path / "swarm") as manager:
        runtime = manager.runtime(await open_session(manager))
        monkeypatch.setattr(Holder, "revert", breaks)
        runtime.holding.own(m.Revert(1, 1, 1))
        await eventually(lambda: "no such memory" in reason(runtime))


async def test_shards_that_cannot_be_handed_over_are_handed_over_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with managed(tmp_path / "swarm") as manager:
        runtime = manager.runtime(await open_session(manager))
        await eventually(lambda: runtime.state.phase == "open")
        adopt = Holder.adopt

        def refused(holder: Holder, message: m.Adopt) -> None:
            raise StoreError("The snapshot is damaged.", "A checksum is wrong.")

        monkeypatch.setattr(Holder, "adopt", refused)
        runtime.handle(MemberJoined("holder-1", "holder"))  # so that the shards are placed anew
        await eventually(lambda: "The snapshot is damaged. A checksum is wrong." in reason(runtime))
        monkeypatch.setattr(Holder, "adopt", adopt)
        runtime.steering.resume("ann")
        await eventually(lambda: runtime.state.phase == "open")


async def test_effects_are_carried_out_in_the_order_of_the_decisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one effect makes happen at once comes after the effects that were decided with it."""
    async with managed(tmp_path / "swarm") as manager:
        runtime = manager.runtime(await open_session(manager))
        done: list[str] = []

        def decide(state: State, event: Any, now: float) -> Any:
            if isinstance(event, MemberLost):
                return state, [Note("info", "third")]
            return state, [Disconnect("peer-1", "first"), Note("info", "second")]

        def disconnect(member: str, why: str) -> None:
            done.append(why)
            runtime.handle(MemberLost(member, why))

        monkeypatch.setattr(session_module, "handle", decide)
        monkeypatch.setattr(runtime.reception, "disconnect", disconnect)
        monkeypatch.setattr(runtime, "note", lambda level, text, member="": done.append(text))
        runtime.handle(Tick())
        assert done == ["first", "second", "third"]
        monkeypatch.undo()


async def test_peers_keep_the_server_only_until_the_session_has_finished(swarm: Swarm) -> None:
    session = await swarm.open_session(facts={"held_out": 0}, evaluate_every=0, rounds=2)
    runtime = swarm.manager.runtime(session)
    peer = await ScriptedPeer.join(swarm, session, await swarm.member(session, "peer"))
    for finished in (False, True):
        runtime.last_activity = long_ago = datetime(2000, 1, 1, tzinfo=timezone.utc)
        runtime._second()
        assert (runtime.last_activity == long_ago) is finished
        if not finished:
            await peer.train(2)
            await eventually(lambda: runtime.status().state == "finished")
    assert runtime.members.peers()


async def test_that_the_session_has_finished_is_told_to_a_peer_when_it_has_the_last_version(swarm: Swarm) -> None:
    session = await swarm.open_session(facts={"held_out": 0}, evaluate_every=0, rounds=2)
    member = await swarm.member(session, "peer")
    await (await ScriptedPeer.join(swarm, session, member)).train(2)
    await eventually(lambda: swarm.manager.runtime(session).status().state == "finished")
    later = await ScriptedPeer.join(swarm, session, member)
    while not (isinstance(last := await later.hear(m.Status), m.Status) and last.state == "finished"):
        pass
    assert [one for one in later.heard if isinstance(one, m.Status) and one.state == "finished"] == [last]
    assert max([later.version, *(one.round for one in later.heard if isinstance(one, m.Commit))]) == 2
