"""What moved between server and peers, round by round, as it is stored and handed out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from jupyter_swarm.coordinator import pages
from jupyter_swarm.coordinator.pages import metric_page, record_page
from jupyter_swarm.coordinator.session import SessionRuntime
from jupyter_swarm.protocol.records import BookState, Contributor, RoundRecord
from jupyter_swarm.store.database import Database
from jupyter_swarm.store.rows import Metric

from .scripted import ScriptedPeer
from .server import Swarm, layout_of, managed, open_session

COUNT = 25_000
FRAME = 64 + 4 * COUNT
"""Bytes of the one frame of a contribution, and of a packet."""
TALK = 6_000
"""More than all messages of a round take."""


@pytest.fixture(autouse=True)
def links_are_measured_by_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jupyter_swarm.coordinator.connection.PROBE_BYTES", 1)


async def large(swarm: Swarm, **settings: Any) -> str:
    """A session whose frames are much larger than its messages."""
    return await swarm.open_session(layout_of(COUNT), {"held_out": 0}, evaluate_every=0, **settings)


async def rows(swarm: Swarm, session: str, name: str, member: str) -> dict[int, float]:
    """Bytes by round."""
    answer = swarm.json(await swarm.call("GET", f"sessions/{session}/metrics", swarm.owner()))
    return {row["version"]: row["mean"] for row in answer["metrics"] if (row["name"], row["member"]) == (name, member)}


def near(count: float, frames: int) -> bool:
    return frames * FRAME <= count < frames * FRAME + TALK


async def test_each_round_has_the_bytes_that_moved_since_the_one_before(swarm: Swarm) -> None:
    session = await large(swarm)
    ann = await ScriptedPeer.join(swarm, session, await swarm.member(session, "peer"))
    await ann.train(3)
    # Version 3 has been told of, so that its record and all before it are there.
    up = await rows(swarm, session, "bytes_up", "peer-1")
    down = await rows(swarm, session, "bytes_down", "peer-1")
    assert list(up) == list(down) == [1, 2, 3]
    assert all(near(count, 1) for count in up.values()), up
    # A packet may be on its way when its round is recorded; then it counts for the next one.
    assert near(sum(down.values()), 3) or near(sum(down.values()), 2), down


async def test_a_peer_that_went_counts_until_it_went_and_the_last_round_has_the_rest(swarm: Swarm) -> None:
    session = await large(swarm, rounds=4)
    ann = await ScriptedPeer.join(swarm, session, await swarm.member(session, "peer"))
    await ann.train(2)
    ann.socket.close()
    while swarm.manager.runtime(session).status().peers:
        await asyncio.sleep(0.01)
    bob = await ScriptedPeer.join(swarm, session, await swarm.member(session, "peer"))
    await bob.train(4)
    connection = swarm.manager.runtime(session).members.connected["peer-2"].connection
    bob.socket.close()
    while swarm.manager.runtime(session).status().peers:
        await asyncio.sleep(0.01)
    assert list(await rows(swarm, session, "bytes_up", "peer-1")) == [1, 2, 3]
    assert near(sum((await rows(swarm, session, "bytes_up", "peer-1")).values()), 2)
    assert near(sum((await rows(swarm, session, "bytes_down", "peer-1")).values()), 2)
    # The last packet went out after its round's record, when no other was to follow.
    for name, count in (("bytes_up", connection.bytes_received), ("bytes_down", connection.bytes_sent)):
        found = await rows(swarm, session, name, "peer-2")
        assert (list(found), sum(found.values())) == ([3, 4], count)


async def test_a_server_that_ends_leaves_all_that_moved_on_record(swarm: Swarm) -> None:
    session = await large(swarm)
    ann = await ScriptedPeer.join(swarm, session, await swarm.member(session, "peer"))
    await ann.train(2)
    runtime: SessionRuntime = swarm.manager.runtime(session)
    connection = runtime.members.connected["peer-1"].connection
    sent = connection.bytes_sent
    await swarm.manager.stop()
    assert sent <= sum((await rows(swarm, session, "bytes_down", "peer-1")).values()) <= connection.bytes_sent
    await swarm.manager.stop()
    await swarm.manager.start()
    assert sent <= sum((await rows(swarm, session, "bytes_down", "peer-1")).values()) <= connection.bytes_sent


@pytest.mark.parametrize(("limit", "pages"), [(1, 3), (5, 4), (6, 2), (11, 2), (12, 1)])
async def test_metrics_come_in_pages_of_whole_versions(tmp_path: Path, limit: int, pages: int) -> None:
    """Version 0 has 1 row, version 1 has 5, versions 2 and 3 have 3: never is one torn apart, none is lost."""
    async with managed(tmp_path / "swarm") as manager:
        session = await open_session(manager)
        database = (await manager.storage()).database
        members = {0: 1, 1: 5, 2: 3, 3: 3}
        every = [Metric(session, at, f"peer-{n}", "bytes_up", n, 1) for at in members for n in range(members[at])]
        await (await manager.storage()).run_in_store(database.add_metrics, every)
        found: list[Metric] = []
        after: int | None = -1
        count = 0
        while after is not None:
            page, after = await manager.in_record(session, metric_page, after, limit)
            assert len(page) <= max(limit, 2 * 5)
            found += page
            count += 1
        assert (found, count) == (every, pages)


async def test_a_page_of_records_is_bounded_by_the_peers_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "CONTRIBUTORS", 10)
    async with managed(tmp_path / "swarm") as manager:
        session = await open_session(manager)
        database = (await manager.storage()).database
        for round, count in enumerate((4, 4, 4, 30, 1, 1), start=1):
            those = tuple(
                Contributor(n + 1, n, f"peer-{n}", 2, ((0, 2),), 0, 1.0, 2, {"gradient": 1.0}) for n in range(count)
            )
            record = RoundRecord(session, 1, round, 1, those, 2 * count, (), BookState(), (), 0.1, 8, 0.0)
            await (await manager.storage()).run_in_store(database.add_round, record)
        found = []
        after: int | None = 0
        while after is not None:
            page, after = await manager.in_record(session, record_page, after, 1000)
            found.append([record.round for record in page])
        assert found == [[1, 2], [3], [4], [5, 6]]
        assert [r.round for r in (await manager.in_record(session, record_page, 4, 1))[0]] == [5]
        done = await manager.in_record(session, Database.done)
        assert (done["peer-0"].samples, done["peer-3"].samples, done["peer-29"].samples) == (12, 8, 2)
