"""Checkpoints of a session over the REST interface: written whole, listed, fetched in parts, deleted, told of."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from jupyter_swarm.coordinator import checkpoints as module
from jupyter_swarm.coordinator.manager import SessionManager
from jupyter_swarm.coordinator.session import SessionRuntime
from jupyter_swarm.decisions.events import Finish
from jupyter_swarm.protocol.errors import CheckpointError, SessionError, StoreError
from jupyter_swarm.protocol.manifest import Manifest, read_manifest
from jupyter_swarm.store.rows import Metric

from .scripted import ScriptedPeer
from .server import INITIAL, LAYOUT, Swarm, managed, open_session, sha256, spec_of

CONFIG = b'{"architectures": ["Nothing"]}'


async def blobs_of(manager: SessionManager) -> set[str]:
    folder = (await manager.storage()).blobs.folder
    return {path.name for path in folder.iterdir()}


async def export_session(manager: SessionManager) -> str:
    """A session that exports a file."""
    (await manager.storage()).blobs.put(CONFIG)
    spec = msgspec.structs.replace(spec_of(), export=(("config.json", sha256(CONFIG)),), parent="ab" * 32)
    return await open_session(manager, spec)


def notes(runtime: SessionRuntime) -> list[dict[str, Any]]:
    """What the session tells from now on, but for its status."""
    seen: list[dict[str, Any]] = []

    def look(message: bytes) -> None:
        told = json.loads(message)
        if told["type"] in ("event", "checkpoint"):
            seen.append(told)

    runtime.add_viewer(look)
    return seen


async def settle(runtime: SessionRuntime) -> None:
    """Wait for what runs in the background, but for the clock."""
    while tasks := [task for task in runtime._tasks if "_tick" not in repr(task)]:
        await asyncio.wait(tasks)


async def test_a_checkpoint_has_all_that_belongs_to_it(swarm: Swarm) -> None:
    session = await export_session(swarm.manager)
    peer, instructor = await swarm.member(session, "peer"), await swarm.member(session, "instructor")
    made = swarm.json(await swarm.call("POST", f"sessions/{session}/checkpoints", instructor, '{"name": "first"}'), 201)
    (listed,) = swarm.json(await swarm.call("GET", f"sessions/{session}/checkpoints", peer))["checkpoints"]
    assert listed == made
    assert (made["number"], made["name"], made["version"], made["problem"]) == (1, "first", 0, "")
    answer = await swarm.call("GET", f"sessions/{session}/blobs/{made['sha256']}", peer)
    assert hashlib.sha256(answer.body).hexdigest() == made["sha256"]
    manifest = read_manifest(answer.body)
    assert manifest == msgspec.convert(made["manifest"], Manifest)
    assert (manifest.session, manifest.name, manifest.parent) == (session, "first", "ab" * 32)
    assert (manifest.layout_digest, manifest.strategy) == (LAYOUT.digest, "EveryStep")
    files = {}
    for entry in manifest.files:
        answer = await swarm.call("GET", f"sessions/{session}/blobs/{entry.sha256}", peer)
        assert (len(answer.body), hashlib.sha256(answer.body).hexdigest()) == (entry.bytes, entry.sha256)
        files[entry.name] = answer.body
    assert files.keys() == {"model.safetensors", "config.json"}
    assert files["config.json"] == CONFIG
    assert np.array_equal(safetensors.numpy.load(files["model.safetensors"])["weight"], np.zeros(4, np.float32))


async def test_a_download_goes_on_where_it_broke_off(swarm: Swarm) -> None:
    session = await swarm.open_session()
    peer = await swarm.member(session, "peer")
    path = f"sessions/{session}/blobs/{sha256(INITIAL)}"
    for wanted, part in (("bytes=10-", INITIAL[10:]), ("bytes=10-19", INITIAL[10:20]), ("bytes=5-9999", INITIAL[5:])):
        answer = await swarm.call("GET", path, {**peer, "Range": wanted})
        assert (answer.code, answer.body) == (206, part)
        start = len(INITIAL) - len(INITIAL[int(wanted[6:].split("-")[0]) :])
        assert answer.headers["Content-Range"] == f"bytes {start}-{start + len(part) - 1}/{len(INITIAL)}"
    answer = await swarm.call("GET", path, {**peer, "Range": f"bytes={len(INITIAL)}-"})
    assert (answer.code, answer.headers["Content-Range"]) == (416, f"bytes */{len(INITIAL)}")
    for unusual in ("bytes=-5", "bytes=0-1,4-5", "lines=1-2"):
        answer = await swarm.call("GET", path, {**peer, "Range": unusual})
        assert (answer.code, answer.body) == (200, INITIAL)


async def test_deleting_removes_what_no_other_checkpoint_shares(swarm: Swarm) -> None:
    session = await export_session(swarm.manager)
    owner = swarm.owner()
    before = await blobs_of(swarm.manager)
    for name in ("a", "b"):
        swarm.json(await swarm.call("POST", f"sessions/{session}/checkpoints", owner, f'{{"name": "{name}"}}'), 201)
    both = await blobs_of(swarm.manager)
    assert len(both - before) == 3, "one file of parameters, two manifests"
    swarm.json(await swarm.call("DELETE", f"sessions/{session}/checkpoints/1", owner))
    assert len(await blobs_of(swarm.manager) - before) == 2
    assert (await swarm.call("DELETE", f"sessions/{session}/checkpoints/1", owner)).code == 409
    swarm.json(await swarm.call("DELETE", f"sessions/{session}", owner))
    assert await blobs_of(swarm.manager) == before, "what the founder uploaded waits for the sweep"


async def test_a_name_that_cannot_be_is_refused(swarm: Swarm) -> None:
    session = await swarm.open_session()
    for name in ("x" * 201, "two\\nlines", " "):
        answer = await swarm.call("POST", f"sessions/{session}/checkpoints", swarm.owner(), f'{{"name": "{name}"}}')
        assert "cannot be the name of a checkpoint" in swarm.json(answer, 400)["what"]


async def test_a_session_whose_files_are_missing_or_ill_named_is_not_opened(tmp_path: Path) -> None:
    async with managed(tmp_path / "swarm") as manager:
        with pytest.raises(SessionError, match=r"files of the name config\.json are not on the server"):
            await open_session(manager, msgspec.structs.replace(spec_of(), export=(("config.json", "0" * 64),)))
        for name in ("../config.json", "model.safetensors"):
            with pytest.raises(CheckpointError, match="cannot have a file"):
                await open_session(manager, msgspec.structs.replace(spec_of(), export=((name, sha256(INITIAL)),)))
        assert await manager.sessions() == []


async def test_every_so_many_rounds_one_is_due(tmp_path: Path) -> None:
    async with managed(tmp_path / "swarm") as manager:
        session = await open_session(manager, spec_of(checkpoint_rounds=5))
        runtime = manager.runtime(session)
        seen = notes(runtime)
        await settle(runtime)
        for version in range(1, 11):
            runtime.numbers.version = version
            runtime.checkpoints.committed(version)
            await settle(runtime)
        rows = await manager.archive.checkpoints(session)
        assert [(row["version"], row["name"]) for row in rows] == [(5, "round-5"), (10, "round-10")]
        told = [message for message in seen if message["type"] == "checkpoint"]
        assert [(message["version"], message["manifest"]) for message in told] == [
            (row["version"], row["sha256"]) for row in rows
        ]


async def test_the_last_version_is_kept_once_with_what_was_measured_of_it(tmp_path: Path) -> None:
    async with managed(tmp_path / "swarm") as manager:
        session = await open_session(manager)
        runtime, storage = manager.runtime(session), await manager.storage()
        await settle(runtime)
        runtime.state.version = runtime.numbers.version = 3
        metrics = [Metric(session, 2, "", "held_out_loss", 9.0, 3), Metric(session, 3, "", "loss", 8.0, 4)]
        metrics.append(Metric(session, 3, "peer-1", "bytes_up", 80.0, 4))
        await storage.run_in_store(storage.database.add_metrics, metrics)
        taken = await manager.archive.write_checkpoint(session, "mine")
        assert taken["manifest"]["metrics"] == {"held_out_loss": 3.0, "loss": 2.0}
        await storage.run_in_store(storage.database.add_metrics, [Metric(session, 3, "", "held_out_loss", 2.5, 2)])
        runtime.handle(Finish("the test"))
        assert await runtime.checkpoints.ended
        rows = await manager.archive.checkpoints(session)
        assert [row["name"] for row in rows] == ["mine", "final"]
        assert rows[1]["manifest"]["metrics"] == {"held_out_loss": 1.25, "loss": 2.0}
        assert rows[1]["manifest"]["files"] == rows[0]["manifest"]["files"]
        runtime.checkpoints.finished()
        await settle(runtime)
        assert len(await manager.archive.checkpoints(session)) == 2, "nothing new, nothing written"
        while (await manager.describe(session))["state"] != "finished":
            runtime.publish_status()
            await asyncio.sleep(0.01)


async def test_a_session_that_made_no_round_leaves_none(tmp_path: Path) -> None:
    async with managed(tmp_path / "swarm") as manager:
        session = await open_session(manager)
        manager.runtime(session).steering.finish("the test")
        assert await manager.runtime(session).checkpoints.ended
        assert await manager.archive.checkpoints(session) == []


def full(*_: Any) -> Any:
    raise StoreError("The server's disk is full.")


async def test_a_disk_that_takes_none_is_told_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with managed(tmp_path / "swarm") as manager:
        session = await open_session(manager, spec_of(checkpoint_rounds=1))
        runtime = manager.runtime(session)
        await settle(runtime)
        before, seen = await blobs_of(manager), notes(runtime)
        monkeypatch.setattr(module, "store_files", full)
        with pytest.raises(StoreError, match="disk is full"):
            await manager.archive.write_checkpoint(session, "")
        runtime.checkpoints.committed(1)
        await settle(runtime)
        assert [(one["level"], "disk is full" in one["text"]) for one in seen] == [("error", True)]
        assert runtime.status().state == "waiting"
        assert (await manager.archive.checkpoints(session), await blobs_of(manager)) == ([], before)


async def test_a_last_version_that_the_disk_refuses_is_written_by_the_next_server(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await swarm.open_session(rounds=2)
    with monkeypatch.context() as patch:
        patch.setattr(module, "store_files", full)
        peer = await ScriptedPeer.join(swarm, session, await swarm.member(session, "peer"))
        await peer.train(2)
        peer.socket.close()
        assert not await swarm.manager.runtime(session).checkpoints.ended
        assert await swarm.manager.archive.checkpoints(session) == []
    await swarm.manager.stop()
    await swarm.manager.start()
    assert await swarm.manager.runtime(session).checkpoints.ended
    (row,) = await swarm.manager.archive.checkpoints(session)
    assert (row["name"], row["version"]) == ("final", 2)
    await swarm.manager.stop()
    await swarm.manager.start()
    assert swarm.manager.live == []


async def test_a_session_has_not_finished_before_its_last_checkpoint_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server stops while it writes: the next one takes the session up again."""

    def endless(files: object, blobs: object, stopped: Callable[[], bool]) -> None:
        while not stopped():
            time.sleep(0.01)
        raise StoreError("The server stops.")

    async with managed(tmp_path / "swarm") as manager:
        session = await open_session(manager)
        runtime = manager.runtime(session)
        await settle(runtime)
        monkeypatch.setattr(module, "store_files", endless)
        runtime.state.version = runtime.numbers.version = 3
        runtime.steering.finish("the test")
        assert runtime.status().state == "finished"
    async with managed(tmp_path / "swarm") as manager:
        assert (await manager.describe(session))["state"] == "running"
        assert await manager.archive.checkpoints(session) == []


async def test_what_a_server_died_over_is_swept_and_what_is_named_stays(tmp_path: Path) -> None:
    folder = tmp_path / "swarm"
    async with managed(folder) as manager:
        session = await export_session(manager)
        await manager.archive.write_checkpoint(session, "kept")
        named = await blobs_of(manager)
        blobs = (await manager.storage()).blobs
        lost, fresh = blobs.put(b"a checkpoint's file whose row was never written"), blobs.put(b"just uploaded")
        long_ago = time.time() - 2 * 86400
        for sha in named | {lost}:
            os.utime(blobs.folder / sha, (long_ago, long_ago))
    async with managed(folder) as manager:
        assert await blobs_of(manager) == named | {fresh}
        (row,) = await manager.archive.checkpoints(session)
        assert row["name"] == "kept"


async def test_a_damaged_manifest_is_listed_with_its_problem_and_stands_in_nobodys_way(tmp_path: Path) -> None:
    folder = tmp_path / "swarm"
    async with managed(folder) as manager:
        session = await open_session(manager)
        made = await manager.archive.write_checkpoint(session, "")
        before = await blobs_of(manager)
        for sha in before:
            os.utime(folder / "blobs" / sha, (1.0, 1.0))
        (folder / "blobs" / made["sha256"]).write_bytes(b"{}")
    async with managed(folder) as manager:
        (row,) = await manager.archive.checkpoints(session)
        assert row["manifest"] is None
        assert "damaged" in row["problem"]
        assert await blobs_of(manager) == before
        assert await manager.archive.names_blob(session, sha256(INITIAL)), "peers can join all the same"
        assert (await manager.archive.write_checkpoint(session, ""))["problem"] == ""
        await manager.archive.delete_checkpoint(session, 1)
        assert [row["number"] for row in await manager.archive.checkpoints(session)] == [2]
