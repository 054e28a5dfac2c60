"""The life of sessions on one server's disk, without a web server."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from jupyter_swarm.coordinator.manager import session_id
from jupyter_swarm.coordinator.pages import record_page
from jupyter_swarm.coordinator.refusals import SessionEnded, UnknownSession
from jupyter_swarm.protocol.errors import LayoutError, SessionError, SettingError, StoreError
from jupyter_swarm.protocol.layout import Layout, Stream, TensorSpec

from .server import LAYOUT, managed, open_session, spec_of


@pytest.mark.parametrize(
    ("name", "slug"),
    [("CS 101", "cs-101"), ("Éléments d'analyse", "elements-d-analyse"), ("日本", "session"), ("-", "session")],
)
def test_ids_can_be_read_and_typed(name: str, slug: str) -> None:
    identity = session_id(name)
    assert identity[:-5] == slug
    assert len(session_id("x" * 200)) <= 64


async def test_nothing_is_written_before_a_session_is_opened(tmp_path: Path) -> None:
    async with managed(tmp_path / "swarm") as manager:
        assert await manager.sessions() == []
        with pytest.raises(UnknownSession):
            await manager.describe("cs101-7f3a")
    assert not (tmp_path / "swarm").exists()


async def test_a_session_is_opened_listed_and_described(tmp_path: Path) -> None:
    async with managed(tmp_path / "swarm") as manager:
        session = await open_session(manager)
        view = await manager.describe(session)
        assert (view["name"], view["state"], view["generation"], view["problem"]) == ("CS 101", "running", 1, "")
        assert view["status"]["version"] == 0
        assert [one["session"] for one in await manager.sessions()] == [session]
        assert manager.live == [session]
        assert manager.last_activity is not None


async def test_what_could_not_be_trained_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    other = Layout((TensorSpec("bias", (3,), "float32", Stream.PARAMETERS, 0, 3),))
    async with managed(tmp_path / "swarm") as manager:
        await open_session(manager)
        with pytest.raises(SettingError, match="data set is empty"):
            await manager.open(msgspec.structs.replace(spec_of(), samples=0), LAYOUT)
        with pytest.raises(SettingError, match="only 4 samples"):
            await manager.open(msgspec.structs.replace(spec_of(), samples=4), LAYOUT)
        with pytest.raises(SettingError, match="name"):
            await manager.open(spec_of(name=" "), LAYOUT)
        with pytest.raises(LayoutError, match="digest differs"):
            await manager.open(spec_of(), other)
        with pytest.raises(SessionError, match="recipe are not on the server"):
            await manager.open(msgspec.structs.replace(spec_of(), recipe="0" * 64), LAYOUT)
        with pytest.raises(LayoutError, match="bias is missing"):
            await manager.open(msgspec.structs.replace(spec_of(), layout_digest=other.digest), other)
        assert len(await manager.sessions()) == 1


async def test_settings_change_and_outlive_the_server(tmp_path: Path) -> None:
    async with managed(tmp_path / "swarm") as manager:
        session = await open_session(manager)
        settings = await manager.change_settings(session, {"learning_rate": 0.5, "rounds": 7}, "owner")
        assert (settings.learning_rate, settings.rounds, settings.capacity) == (0.5, 7, 256)
    async with managed(tmp_path / "swarm") as manager:
        assert (await manager.stored(session)).spec.settings == settings


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"lr": 1}, "no setting 'lr'"),
        ({"rounds": "many"}, "wrong kind"),
        ({"rounds": -1}, "rounds is -1"),
        ({"seed": 1}, "seed"),
        ({"target_batch": 101}, "target_batch is 101"),
    ],
)
async def test_settings_that_make_no_sense_are_refused(tmp_path: Path, changes: dict[str, object], why: str) -> None:
    async with managed(tmp_path / "swarm") as manager:
        session = await open_session(manager)
        with pytest.raises(SettingError, match=why):
            await manager.change_settings(session, changes, "owner")
        assert (await manager.stored(session)).spec == msgspec.structs.replace(spec_of(), session=session)


async def test_a_session_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with managed(tmp_path / "swarm") as manager:
        running, paused = await open_session(manager), await open_session(manager)
        invite, secret = await manager.invites.make(running, "peer")
        await manager.act(paused, "pause", "owner")
    async with managed(tmp_path / "swarm") as manager:
        assert sorted(manager.live) == sorted([running, paused])
        assert manager.runtime(running).generation == 2
        assert manager.runtime(running).status().state == "waiting"
        assert manager.runtime(paused).status().state == "paused"
        assert manager.invites.check(running, secret) == invite
        await manager.act(paused, "resume", "owner")
        assert manager.runtime(paused).status().state == "waiting"


async def test_a_session_that_ended_stays_on_record_and_does_not_come_back(tmp_path: Path) -> None:
    async with managed(tmp_path / "swarm") as manager:
        session = await open_session(manager)
        await manager.act(session, "stop", "owner")
        assert manager.live == []
    async with managed(tmp_path / "swarm") as manager:
        view = await manager.describe(session)
        assert (view["state"], view["status"]) == ("finished", None)
        with pytest.raises(SessionEnded):
            await manager.act(session, "pause", "owner")
        assert await manager.in_record(session, record_page, 0, 10) == ([], None)


async def test_a_session_that_cannot_go_on_says_why_and_the_others_do(tmp_path: Path) -> None:
    async with managed(tmp_path / "swarm") as manager:
        broken, whole = await open_session(manager), await open_session(manager)
        folder = (await manager.storage()).folder(broken)
    for snapshot in folder.glob("snapshot-*"):
        snapshot.write_bytes(b"not a snapshot")
    async with managed(tmp_path / "swarm") as manager:
        assert manager.live == [whole]
        problem = (await manager.describe(broken))["problem"]
        assert "snapshot" in problem
        with pytest.raises(StoreError):
            manager.runtime(broken)


async def test_deleting_removes_everything_but_blobs(tmp_path: Path) -> None:
    async with managed(tmp_path / "swarm") as manager:
        session = await open_session(manager)
        storage = await manager.storage()
        folder = storage.folder(session)
        await manager.delete(session)
        assert not folder.exists()
        assert storage.blobs.exists(spec_of().recipe)
        assert await manager.sessions() == []
        with pytest.raises(UnknownSession):
            await manager.delete(session)


async def test_two_servers_do_not_run_the_same_sessions(tmp_path: Path) -> None:
    async with managed(tmp_path / "swarm") as first:
        await open_session(first)
        async with managed(tmp_path / "swarm") as second:
            assert second.live == []
            with pytest.raises(StoreError, match="in use by another server"):
                await open_session(second)


async def test_without_unfinished_sessions_another_server_may_have_the_store(tmp_path: Path) -> None:
    async with managed(tmp_path / "swarm") as manager:
        await manager.act(await open_session(manager), "stop", "owner")
    async with managed(tmp_path / "swarm"), managed(tmp_path / "swarm") as second:
        assert second.live == []
        assert len(await second.sessions()) == 1
