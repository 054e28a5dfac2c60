"""Single peers, steered over the REST interface: what they, the others and a server that starts again know of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from tornado.websocket import WebSocketClientConnection

from jupyter_swarm.protocol import messages as m
from jupyter_swarm.protocol.invites import hash_secret
from jupyter_swarm.store.database import Database

from .scripted import ScriptedPeer
from .server import Swarm

RUDE = "rude word"


async def joined(swarm: Swarm, session: str, name: str = "ann", token: str = "") -> ScriptedPeer:
    return await ScriptedPeer.join(swarm, session, await swarm.member(session, "peer"), name, token=token)


async def steer(
    swarm: Swarm, session: str, peer: str, action: str, headers: dict[str, str] | None = None, **options: Any
) -> dict[str, Any]:
    body = json.dumps({"action": action, **options})
    path = f"sessions/{session}/peers/{peer}/actions"
    answer: dict[str, Any] = swarm.json(await swarm.call("POST", path, headers or swarm.owner(), body))
    return answer


def peer_in(swarm: Swarm, session: str, peer: str) -> Any:
    return next(one for one in swarm.manager.runtime(session).status().peers if one.id == peer)


async def asked(swarm: Swarm, path: str) -> Any:
    return swarm.json(await swarm.call("GET", path, swarm.owner()))


async def refusal(swarm: Swarm, session: str, token: str) -> m.Refused:
    """What whoever comes with this token is told."""
    socket = await swarm.connect(f"sessions/{session}/peer", await swarm.member(session, "peer"))
    assert isinstance(socket, WebSocketClientConnection)
    await socket.write_message(m.encode(m.Hello(m.PROTOCOL_VERSION, "0.1", "peer", "ann", token=token)))
    return await until_refused(socket)


async def until_refused(socket: WebSocketClientConnection) -> m.Refused:
    while data := await socket.read_message():
        if isinstance(data, str) and isinstance(message := m.read_to_member(data), m.Refused):
            return message
    raise AssertionError("the connection was closed without a word")


async def hears(peer: ScriptedPeer, condition: Callable[[m.Status], bool]) -> m.Status:
    while not condition(status := await peer.hear(m.Status)):
        pass
    assert isinstance(status, m.Status)
    return status


async def test_a_peer_that_is_paused_is_told_so_and_cannot_resume_itself(swarm: Swarm) -> None:
    session = await swarm.open_session(facts={"held_out": 0}, minimum_peers=2)
    ann = await joined(swarm, session)
    await steer(swarm, session, "peer-1", "pause", await swarm.member(session, "instructor"))
    told = await hears(ann, lambda status: status.state == "paused")
    assert told.reason == "paused by the instructor"
    await ann.say(m.Control("resume"))
    assert (await hears(ann, lambda status: True)).reason == "paused by the instructor"
    seen = peer_in(swarm, session, "peer-1")
    assert (seen.state, seen.reason, seen.paused_by) == ("paused", "paused by the instructor", "the instructor")
    await steer(swarm, session, "peer-1", "resume")
    bob = await joined(swarm, session, "bob")
    await asyncio.gather(ann.train(2), bob.train(2))
    assert peer_in(swarm, session, "peer-1").paused_by == ""


async def test_what_the_instructor_has_decided_outlives_the_server(swarm: Swarm) -> None:
    session = await swarm.open_session()
    ann, bob = await joined(swarm, session), await joined(swarm, session, "bob")
    await steer(swarm, session, "peer-1", "slow", share=0.25)
    await steer(swarm, session, "peer-1", "mute")
    await steer(swarm, session, "peer-1", "pause")
    await steer(swarm, session, "peer-2", "remove")
    await swarm.manager.stop()
    await swarm.manager.start()
    again = await joined(swarm, session, token=ann.welcome.token)
    seen = peer_in(swarm, session, "peer-1")
    assert (seen.name, seen.muted, seen.slowed, seen.paused_by) == ("peer 1", True, 0.25, "the instructor")
    assert again.welcome.name == "peer 1"
    assert (await refusal(swarm, session, bob.welcome.token)).what == "You were removed from this session."


async def test_whoever_is_removed_is_told_and_comes_back_as_somebody_else_only(swarm: Swarm) -> None:
    session = await swarm.open_session()
    ann = await joined(swarm, session)
    note = (await steer(swarm, session, "peer-1", "remove"))["note"]
    assert "may come in again as somebody else" in note
    told = await until_refused(ann.socket)
    assert (told.what, told.retry) == ("You were removed from this session.", False)
    assert swarm.manager.runtime(session).status().peers == []
    assert not (await refusal(swarm, session, ann.welcome.token)).retry
    assert (await joined(swarm, session)).welcome.peer == "peer-2"
    members = (await asked(swarm, f"sessions/{session}/peers"))["members"]
    assert [(one["member"], one["removed"]) for one in members] == [("peer-1", True), ("peer-2", False)]


async def test_a_muted_name_is_in_no_answer_and_no_push(swarm: Swarm) -> None:
    session = await swarm.open_session(evaluate_every=1)
    rude = await joined(swarm, session, RUDE)
    await rude.train(1)
    await steer(swarm, session, "peer-1", "pause")  # a line with its name
    await steer(swarm, session, "peer-1", "resume")
    await rude.train(3)
    viewer = await swarm.connect(f"sessions/{session}/watch", swarm.owner())
    assert isinstance(viewer, WebSocketClientConnection)
    assert RUDE in str(await viewer.read_message())
    await steer(swarm, session, "peer-1", "mute")
    while '"muted":true' not in (pushed := str(await viewer.read_message())):
        pass  # what was pushed before
    await rude.train(5)
    rude.socket.close()
    await swarm.manager.runtime(session).recorder.flush()
    student = await swarm.member(session, "peer")
    for path in ("", "/peers?done=1", "/events", "/records", "/metrics", "/settings"):
        answer = await swarm.call("GET", f"sessions/{session}{path}", student)
        assert RUDE not in json.dumps(swarm.json(answer)), path
    for asking in (swarm.owner(), await swarm.member(session, "instructor")):
        (member,) = swarm.json(await swarm.call("GET", f"sessions/{session}/peers", asking))["members"]
        assert (member["name"], member["hidden_name"]) == ("peer 1", RUDE)
    events = (await asked(swarm, f"sessions/{session}/events"))["events"]
    assert any(event["text"].startswith("peer 1 is paused by the instructor") for event in events)
    while "is gone" not in pushed:
        assert RUDE not in pushed
        pushed = str(await viewer.read_message())
    assert RUDE not in pushed
    await steer(swarm, session, "peer-1", "unmute")
    assert (await asked(swarm, f"sessions/{session}/peers"))["members"][0]["name"] == RUDE


async def test_what_cannot_be_done_is_refused_in_words(swarm: Swarm) -> None:
    session = await swarm.open_session()
    await joined(swarm, session)
    path = f"sessions/{session}/peers"
    for peer, body, status, what in (
        ("peer-7", {"action": "pause"}, 404, "The session has no peer peer-7."),
        ("peer-1", {"action": "slow", "share": 0}, 400, "A peer cannot be slowed to 0 of its share of the work."),
        ("peer-1", {"action": "praise"}, 400, "The request's body could not be read."),
    ):
        answer = await swarm.call("POST", f"{path}/{peer}/actions", swarm.owner(), json.dumps(body))
        assert swarm.json(answer, status)["what"] == what
    assert peer_in(swarm, session, "peer-1").slowed == 0.0


async def test_a_name_that_begins_like_a_muted_one_stays_as_it_is(swarm: Swarm) -> None:
    session = await swarm.open_session()
    for name in ("ann", "ann", "Smith, Jo"):
        await joined(swarm, session, name)
    await steer(swarm, session, "peer-1", "mute")
    await swarm.manager.runtime(session).recorder.flush()
    texts = [event["text"] for event in (await asked(swarm, f"sessions/{session}/events"))["events"]]
    assert texts[:3] == ["peer 1 joined (cpu).", "ann 2 joined (cpu).", "Smith Jo joined (cpu)."]


async def test_what_each_has_done_is_told_to_whoever_asks(swarm: Swarm) -> None:
    session = await swarm.open_session()
    ann = await joined(swarm, session)
    await ann.train(3)
    (member,) = (await asked(swarm, f"sessions/{session}/peers?done=1"))["members"]
    assert member["samples"] == 24
    assert min(member["bytes_up"], member["bytes_down"]) > 0
    (member,) = (await asked(swarm, f"sessions/{session}/peers"))["members"]
    assert "samples" not in member


async def test_peers_are_listed_page_by_page_and_found_by_name(swarm: Swarm) -> None:
    session = await swarm.open_session()
    peers = [await joined(swarm, session, name) for name in ("ann", "Bob", "bobby", "cem", "dan")]
    peers[3].socket.close()
    while len(swarm.manager.runtime(session).members.peers()) > 4:
        await asyncio.sleep(0.01)
    path = f"sessions/{session}/peers"

    async def names(query: str) -> tuple[list[str], list[str], int, int | None]:
        found = await asked(swarm, f"{path}?{query}")
        members, connected = ([one["name"] for one in found[key]] for key in ("members", "connected"))
        return members, connected, found["count"], found["next"]

    assert await names("limit=2") == (["ann", "Bob"], ["ann", "Bob"], 5, 2)
    assert await names("limit=2&after=2") == (["bobby", "cem"], ["bobby"], 5, 4)
    assert await names("limit=2&after=4") == (["dan"], ["dan"], 5, None)
    assert await names("here=1&limit=3&after=3") == (["dan"], ["dan"], 4, None)
    assert await names("find=BOB") == (["Bob", "bobby"], ["Bob", "bobby"], 2, None)
    assert await names("find=peer-4") == (["cem"], [], 1, None)
    assert await names("find=c&here=1") == ([], [], 0, None)
    await steer(swarm, session, "peer-2", "mute")
    assert await names("find=bob") == (["bobby"], ["bobby"], 1, None), "a hidden name finds nobody"
    done = await asked(swarm, f"{path}?done=1&limit=1")
    assert done["done"]["bytes_up"] >= done["members"][0]["bytes_up"]


async def test_a_class_that_is_cut_off_is_written_down_at_once(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    session = await swarm.open_session()
    peers = [await joined(swarm, session, name) for name in ("ann", "bob", "cem")]
    runtime = swarm.manager.runtime(session)
    written: list[dict[str, float]] = []
    write = Database.saw_members

    def counted(database: Database, of: str, seen: dict[str, float]) -> None:
        written.append(seen)
        write(database, of, seen)

    monkeypatch.setattr(Database, "saw_members", counted)
    await runtime.recorder.flush()
    for peer in runtime.members.peers():
        runtime.reception.detach(peer, "its network is gone")
    await runtime.recorder.flush()
    assert [set(seen) for seen in written] == [{peer.welcome.peer for peer in peers}]
    stored = await swarm.manager.in_record(session, Database.members)
    told = (await asked(swarm, f"sessions/{session}/peers"))["members"]
    assert [one.last_seen for one in stored] == [one["last_seen"] for one in told]
    assert all(one.last_seen > one.joined for one in stored)


async def test_whoever_comes_back_to_a_full_session_has_its_place(swarm: Swarm) -> None:
    """Before the server knows that the old connection is dead."""
    session = await swarm.open_session(capacity=2)
    ann, _ = await joined(swarm, session), await joined(swarm, session, "bob")
    assert "is full" in (await refusal(swarm, session, "")).what
    assert (await joined(swarm, session, token=ann.welcome.token)).welcome.peer == "peer-1"
    assert len(swarm.manager.runtime(session).status().peers) == 2


@pytest.mark.parametrize("where", ["at once", "after a restart"])
async def test_names_that_are_taken_get_a_number_and_keep_it(swarm: Swarm, where: str) -> None:
    session = await swarm.open_session()
    first, second = await joined(swarm, session), await joined(swarm, session)
    if where == "after a restart":
        while len(await swarm.manager.in_record(session, Database.members)) < 2:
            await asyncio.sleep(0.01)
        await swarm.manager.stop()
        await swarm.manager.start()
    third = await joined(swarm, session, " ann\t")
    assert [one.welcome.name for one in (first, second, third)] == ["ann", "ann 2", "ann 3"]
    assert (await joined(swarm, session, "whatever", second.welcome.token)).welcome.name == "ann 2"
    assert {peer.name for peer in swarm.manager.runtime(session).status().peers} >= {"ann 2", "ann 3"}


async def test_two_copies_of_a_notebook_are_two_peers(swarm: Swarm) -> None:
    """Their kernels have no token in common: neither puts the other out."""
    session = await swarm.open_session()
    one, other = await asyncio.gather(joined(swarm, session), joined(swarm, session))
    assert {one.welcome.peer, other.welcome.peer} == {"peer-1", "peer-2"}
    assert hash_secret(one.welcome.token) != hash_secret(other.welcome.token)
    assert len(swarm.manager.runtime(session).status().peers) == 2
