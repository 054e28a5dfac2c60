"""Watching: what is pushed, what is ignored, and how it ends."""

from __future__ import annotations

import json
from typing import Any

from tornado.websocket import WebSocketClientConnection

from .server import Swarm


async def watch(swarm: Swarm, session: str, headers: dict[str, str]) -> WebSocketClientConnection:
    socket = await swarm.connect(f"sessions/{session}/watch", headers)
    assert isinstance(socket, WebSocketClientConnection), socket
    return socket


async def seen(socket: WebSocketClientConnection) -> dict[str, Any]:
    """The next push; {} once the socket is closed."""
    message = await socket.read_message()
    return json.loads(message) if message is not None else {}


async def until(socket: WebSocketClientConnection, **facts: Any) -> dict[str, Any]:
    """The next push with these facts."""
    while message := await seen(socket):
        if facts.items() <= message.items():
            return message
    raise AssertionError(f"closed before {facts}")


async def test_a_viewer_sees_the_status_and_what_changes(swarm: Swarm) -> None:
    session = await swarm.open_session()
    socket = await watch(swarm, session, await swarm.member(session, "viewer"))
    first = await seen(socket)
    assert (first["type"], first["state"], first["version"]) == ("status", "waiting", 0)
    await swarm.call("POST", f"sessions/{session}/actions", swarm.owner(), '{"action": "pause"}')
    paused = await until(socket, type="status", state="paused")
    assert "owner" in paused["reason"]
    events = swarm.json(await swarm.call("GET", f"sessions/{session}/events", swarm.owner()))
    assert events["next"] is None


async def test_what_a_viewer_sends_is_ignored(swarm: Swarm) -> None:
    session = await swarm.open_session()
    socket = await watch(swarm, session, await swarm.member(session, "viewer"))
    await socket.write_message('{"type": "control", "action": "pause"}')
    await socket.write_message(b"\x00" * 100, binary=True)
    await swarm.call("POST", f"sessions/{session}/actions", swarm.owner(), '{"action": "resume"}')
    for _ in range(2):
        assert (await until(socket, type="status"))["state"] == "waiting"


async def test_a_viewer_that_sends_much_is_let_go(swarm: Swarm) -> None:
    session = await swarm.open_session()
    socket = await watch(swarm, session, await swarm.member(session, "viewer"))
    await socket.write_message("x" * 5000)
    while await seen(socket):
        pass
    assert socket.close_code == 1009


async def test_a_viewer_that_falls_behind_is_let_go_and_costs_no_memory(swarm: Swarm) -> None:
    session = await swarm.open_session()
    socket = await watch(swarm, session, await swarm.member(session, "viewer"))
    await seen(socket)
    runtime = swarm.manager.runtime(session)
    for number in range(1000):
        runtime.publish("event", number=number, text="x" * 20_000)
    count = 0
    while await seen(socket):
        count += 1
    assert socket.close_code == 1013
    assert count < 500


async def test_a_class_that_comes_at_once_sends_no_viewer_away(swarm: Swarm) -> None:
    session = await swarm.open_session()
    socket = await watch(swarm, session, await swarm.member(session, "viewer"))
    await seen(socket)
    runtime = swarm.manager.runtime(session)
    for number in range(1000):
        runtime.note("info", f"student {number} joined (cpu).", f"peer-{number}")
    texts = [(await until(socket, type="event"))["text"] for _ in range(1000)]
    assert texts == [f"student {number} joined (cpu)." for number in range(1000)]


async def test_what_is_pushed_is_written_once_for_all_viewers(swarm: Swarm) -> None:
    session = await swarm.open_session()
    runtime = swarm.manager.runtime(session)
    one: list[bytes] = []
    two: list[bytes] = []
    ends = [runtime.add_viewer(seen.append) for seen in (one, two)]
    runtime.publish_status()
    runtime.publish("event", text="Ann joined.")
    assert [json.loads(message)["type"] for message in one] == ["status", "event"]
    assert all(mine is theirs for mine, theirs in zip(one, two, strict=True))
    for end in ends:
        end()
    runtime.publish("event", text="Ann is gone.")
    assert len(one) == 2


async def test_revoking_an_invite_closes_its_viewers_only(swarm: Swarm) -> None:
    session = await swarm.open_session()
    first = await watch(swarm, session, await swarm.member(session, "viewer"))
    second = await watch(swarm, session, await swarm.member(session, "viewer"))
    await swarm.call("DELETE", f"sessions/{session}/invites/1", swarm.owner())
    while await seen(first):
        pass
    assert (first.close_code, first.close_reason) == (1008, "This invite was revoked.")
    await swarm.call("POST", f"sessions/{session}/actions", swarm.owner(), '{"action": "pause"}')
    await until(second, type="status", state="paused")


async def test_deleting_a_session_closes_its_viewers(swarm: Swarm) -> None:
    session = await swarm.open_session()
    socket = await watch(swarm, session, await swarm.member(session, "viewer"))
    swarm.json(await swarm.call("DELETE", f"sessions/{session}", swarm.owner()))
    while await seen(socket):
        pass
    assert socket.close_reason == "This session was deleted."
    assert await swarm.connect(f"sessions/{session}/watch", swarm.owner()) == 404
