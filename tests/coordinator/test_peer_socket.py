"""Peers at the server's door: who is let in, and what is done with what they send."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from tornado.websocket import WebSocketClientConnection

from jupyter_swarm.coordinator import peer_socket
from jupyter_swarm.protocol.frames import HEADER_BYTES, Header, Kind, session_tag
from jupyter_swarm.protocol.layout import CHUNK_ELEMENTS, Stream
from jupyter_swarm.protocol.messages import (
    PROTOCOL_VERSION,
    Hello,
    Message,
    Refused,
    ToMember,
    WantWork,
    Welcome,
    encode,
    read_to_member,
)
from jupyter_swarm.protocol.rules import Codec

from .server import Swarm

HELLO = Hello(PROTOCOL_VERSION, "0.1", "peer", "ann")


async def dial(swarm: Swarm, session: str, headers: dict[str, str]) -> WebSocketClientConnection:
    socket = await swarm.connect(f"sessions/{session}/peer", headers)
    assert isinstance(socket, WebSocketClientConnection), socket
    return socket


async def say(socket: WebSocketClientConnection, message: Message) -> None:
    await socket.write_message(encode(message))


async def hear(socket: WebSocketClientConnection) -> ToMember:
    text = await socket.read_message()
    assert isinstance(text, str), text
    return read_to_member(text)


async def greeted(swarm: Swarm, session: str, headers: dict[str, str], **hello: Any) -> ToMember:
    """The answer to a `Hello` on a new connection."""
    socket = await dial(swarm, session, headers)
    await say(socket, msgspec.structs.replace(HELLO, **hello))
    return await hear(socket)


def peers(swarm: Swarm, session: str) -> list[str]:
    return [peer.name for peer in swarm.manager.runtime(session).status().peers]


async def test_a_peer_is_welcomed_and_missed(swarm: Swarm) -> None:
    session = await swarm.open_session()
    socket = await dial(swarm, session, await swarm.member(session, "peer"))
    assert swarm.manager.attended == []
    await say(socket, HELLO)
    welcome = await hear(socket)
    assert isinstance(welcome, Welcome)
    assert (welcome.name, welcome.spec.session, welcome.version) == ("ann", session, 0)
    assert peers(swarm, session) == ["ann"]
    assert swarm.extension.current_activity() == {"sessions": [session]}
    listed = await swarm.call("GET", f"sessions/{session}/peers", swarm.owner())
    assert [member["name"] for member in swarm.json(listed)["members"]] == ["ann"]
    assert welcome.token not in listed.body.decode()
    assert "hash" not in listed.body.decode()
    socket.close()
    while peers(swarm, session):
        await asyncio.sleep(0.01)
    assert swarm.extension.current_activity() is None


async def test_the_first_message_must_be_hello(swarm: Swarm) -> None:
    session = await swarm.open_session()
    socket = await dial(swarm, session, await swarm.member(session, "peer"))
    await say(socket, WantWork(1, 0))
    refused = await hear(socket)
    assert isinstance(refused, Refused)
    assert "WantWork" in refused.what
    assert await socket.read_message() is None


async def test_an_invite_for_one_lets_one_in_who_may_come_back(swarm: Swarm) -> None:
    session = await swarm.open_session()
    invite = await swarm.member(session, "peer", capacity=1)
    wrong = await greeted(swarm, session, invite, protocol=99)
    assert isinstance(wrong, Refused)  # and took no place
    first = await greeted(swarm, session, invite)
    assert isinstance(first, Welcome)
    again = await greeted(swarm, session, invite, token=first.token)
    assert isinstance(again, Welcome)
    assert again.peer == first.peer
    second = await greeted(swarm, session, invite, name="bob")
    assert isinstance(second, Refused)
    assert "full" in second.what


async def test_a_peers_invite_makes_no_holder(swarm: Swarm) -> None:
    session = await swarm.open_session()
    answer = await greeted(swarm, session, await swarm.member(session, "peer"), role="holder")
    assert isinstance(answer, Refused)
    assert "not for a holder" in answer.what


async def test_revoking_an_invite_sends_its_peers_away_for_good(swarm: Swarm) -> None:
    session = await swarm.open_session()
    invite = await swarm.member(session, "peer")
    socket = await dial(swarm, session, invite)
    await say(socket, HELLO)
    await hear(socket)
    await swarm.call("DELETE", f"sessions/{session}/invites/1", swarm.owner())
    while not isinstance(refused := await hear(socket), Refused):
        pass
    assert (refused.what, refused.retry) == ("This invite was revoked.", False)
    while await socket.read_message() is not None:
        pass
    assert await swarm.connect(f"sessions/{session}/peer", invite) == 410
    while peers(swarm, session):
        await asyncio.sleep(0.01)


def echo(session: str, count: int = 1) -> bytes:
    frame = bytearray(HEADER_BYTES + 4 * count)
    header = Header(Kind.ECHO, Stream.GRADIENT, Codec.FP32, session_tag(session), 0, 0, 0, 0, 0, count, 4 * count)
    header.pack_into(frame)
    return bytes(frame)


async def test_an_invite_is_enough_to_measure_the_link_within_bounds(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await swarm.open_session()
    socket = await dial(swarm, session, await swarm.member(session, "peer", capacity=1))
    frame = echo(session, CHUNK_ELEMENTS)
    for _ in range(3):
        await socket.write_message(frame, binary=True)
        assert await socket.read_message() == frame
    assert peers(swarm, session) == []
    monkeypatch.setattr(peer_socket, "ECHO_BYTES", 3 * len(frame))
    await socket.write_message(echo(session), binary=True)
    refused = await hear(socket)
    assert isinstance(refused, Refused)
    assert "were to be echoed" in refused.what
    assert await socket.read_message() is None


async def test_numbers_of_somebody_who_has_not_joined_are_not_looked_at(swarm: Swarm) -> None:
    session = await swarm.open_session()
    socket = await dial(swarm, session, await swarm.member(session, "peer"))
    packet = bytearray(echo(session))
    packet[3] = Kind.CONTRIBUTION
    await socket.write_message(bytes(packet), binary=True)
    await say(socket, HELLO)
    assert isinstance(await hear(socket), Welcome)
    await socket.write_message(b"no frame", binary=True)
    while not isinstance(refused := await hear(socket), Refused):
        pass
    assert "too short" in refused.what


async def test_what_a_member_says_of_itself_moves_no_cursor_and_fills_no_screen(swarm: Swarm) -> None:
    session = await swarm.open_session()
    welcome = await greeted(
        swarm,
        session,
        await swarm.member(session, "peer"),
        name="\x1b[2J\nann\x00\u202e",
        device="cpu\r" + "x" * 100_000,
    )
    assert isinstance(welcome, Welcome)
    assert welcome.name == "[2J ann"
    (seen,) = swarm.manager.runtime(session).status().peers
    assert seen.device.startswith("cpu xxx")
    assert len(seen.device) <= 1000


async def test_own_samples_are_told_or_refused(swarm: Swarm) -> None:
    session = await swarm.open_session()
    answer = await greeted(swarm, session, await swarm.member(session, "peer"), own_samples=50)
    assert isinstance(answer, Refused)
    assert "no data of your own" in answer.what
    generous = await swarm.open_session(own_samples=20)
    invite = await swarm.member(generous, "peer")
    assert isinstance(await greeted(swarm, generous, invite, own_samples=-1), Refused)
    assert isinstance(await greeted(swarm, generous, invite, own_samples=50), Welcome)
    assert [peer.own_samples for peer in swarm.manager.runtime(generous).status().peers] == [50]


async def test_a_session_that_is_over_lets_nobody_in(swarm: Swarm) -> None:
    session = await swarm.open_session()
    invite = await swarm.member(session, "peer")
    await swarm.manager.stop()
    await swarm.manager.start(resume=False)
    assert await swarm.connect(f"sessions/{session}/peer", invite) == 410
