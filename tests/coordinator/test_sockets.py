"""`FrameSocket` and `Connection` with members that are slow, silent, or hostile: an independent client, raw sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect

from jupyter_swarm.coordinator.sockets import Connection
from jupyter_swarm.link import Timing
from jupyter_swarm.protocol.errors import SessionError
from jupyter_swarm.protocol.frames import MAX_FRAME_BYTES
from jupyter_swarm.protocol.messages import MAX_MESSAGE_BYTES, Status, WantWork, encode
from tests.link.loopback import PATIENCE, Server, serving

WORK = encode(WantWork(generation=1, version=1))
STATUS = Status(generation=1, state="training", reason="go")


@pytest.fixture
def server(caplog: pytest.LogCaptureFixture) -> Iterator[Server]:
    """Whatever a member does, the server's log stays free of errors."""
    with caplog.at_level(logging.WARNING), serving() as one:
        yield one
    assert caplog.records == []


@contextmanager
def library_client(server: Server) -> Iterator[Any]:
    with connect(
        f"ws://127.0.0.1:{server.port}/", compression=None, max_size=None, ping_interval=None, proxy=None
    ) as one:
        yield one


@contextmanager
def raw_client(server: Server, receive_buffer: int = 0) -> Iterator[socket.socket]:
    """A socket after the handshake; what the server sends waits in the kernel until it is read."""
    with closing(socket.socket()) as one:
        if receive_buffer:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        one.settimeout(PATIENCE)
        one.connect(("127.0.0.1", server.port))
        one.sendall(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += one.recv(1)
        assert answer.startswith(b"HTTP/1.1 101 ")
        yield one


def connection_of(server: Server) -> Connection:
    connection: Connection = server.expect("opened").connection
    return connection


def masked(opcode: Opcode, data: bytes, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


def rest_of(one: socket.socket) -> bytes:
    """All that the server sends until it closes."""
    received = b""
    try:
        while data := one.recv(1 << 16):
            received += data
    except ConnectionResetError:
        pass
    return received


def test_an_independent_client_gets_its_frames_back(server: Server) -> None:
    with library_client(server) as one:
        for size in (1, 126, 65536, MAX_FRAME_BYTES):
            frame = random.Random(size).randbytes(size)
            one.send(frame)
            assert one.recv(PATIENCE) == frame
        one.send([b"in ", b"three ", b"fragments"])
        assert one.recv(PATIENCE) == b"in three fragments"
        assert one.ping().wait(PATIENCE)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (masked(Opcode.TEXT, b"{not json"), "could not be read"),
        (masked(Opcode.TEXT, b"\xff\xfe"), "could not be read"),
        (masked(Opcode.TEXT, b'{"type":"unheard"}'), "could not be read"),
        (masked(Opcode.TEXT, b"[" * 100_000), "could not be read"),
        (masked(Opcode.TEXT, b'{"type":"wantwork","generation":"one","version":1}'), "could not be read"),
        (b"\x82\xff" + (MAX_FRAME_BYTES + 1).to_bytes(8, "big") + b"mask", "more than is allowed"),
        (b"\x81\xff" + (MAX_MESSAGE_BYTES + 1).to_bytes(8, "big") + b"mask", "more than is allowed"),
        (b"\x82\xff" + b"\xff" * 8 + b"mask", "more than is allowed"),
        (Frame(Opcode.BINARY, b"bare").serialize(mask=False), "not a WebSocket frame"),
        (b"\xf2\x80mask", "not a WebSocket frame"),
        (masked(Opcode.CONT, b"x"), "out of turn"),
    ],
)
def test_malformed_bytes_are_answered_with_the_reason_and_a_close(server: Server, data: bytes, words: str) -> None:
    server.timing = Timing(farewell=0.2)
    with raw_client(server) as one:
        one.sendall(data + masked(Opcode.TEXT, WORK.encode()))
        received = rest_of(one)
    start = received.index(b"{")
    refused = json.loads(received[start : received.index(b"}") + 1])
    assert refused["type"] == "refused"
    assert words in refused["what"]
    assert refused["retry"] is False
    assert received[received.index(b"}") + 1] == 0x88
    assert words in server.expect("lost")
    with library_client(server) as other:
        other.send(b"still here")
        assert other.recv(PATIENCE) == b"still here"


def test_noise_and_mutated_conversations_never_hurt_the_server(server: Server) -> None:
    chance = random.Random(1)
    good = masked(Opcode.TEXT, WORK.encode()) + masked(Opcode.BINARY, bytes(300)) + masked(Opcode.PING, b"p")
    server.timing = Timing(farewell=0.2)
    for turn in range(120):
        data = bytearray(good * 3)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with raw_client(server) as one:
            try:
                one.sendall(chance.randbytes(chance.randint(1, 400)) if turn % 2 else data)
                one.shutdown(socket.SHUT_WR)
                rest_of(one)
            except OSError:
                pass
    with library_client(server) as one:
        one.send(b"still here")
        assert one.recv(PATIENCE) == b"still here"


def test_errors_of_the_handler_that_are_meant_for_the_member_reach_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object) -> None:
        raise SessionError("The session is full.", todo="Wait.")

    monkeypatch.setattr("tests.link.loopback.Echo.opened", full)
    with library_client(server) as one:
        assert json.loads(one.recv(PATIENCE)) == {
            "type": "refused", "what": "The session is full.", "why": "", "todo": "Wait.", "retry": False,
        }  # fmt: skip
    assert server.expect("lost") == "The session is full."


def test_control_overtakes_the_frames_that_wait(server: Server) -> None:
    with raw_client(server, receive_buffer=4096) as one:
        connection = connection_of(server)
        frames = [bytes([number]) * (1 << 20) for number in range(16)]

        def fill() -> None:
            for frame in frames:
                assert connection.send_frame(frame)
            connection.send(STATUS)

        server.call(fill)
        received = bytearray()
        while encode(STATUS).encode() not in received:
            received += one.recv(1 << 16)
        assert len(received) < 4 << 20


def test_a_member_that_does_not_read_overflows_at_the_limit_once(server: Server) -> None:
    server.queue_bytes = 8 << 20
    calls = []
    with raw_client(server, receive_buffer=4096):
        connection = connection_of(server)
        frame = bytes(1 << 20)

        def fill() -> tuple[int, int]:
            connection.on_overflow = lambda: calls.append(connection.queued_bytes)
            return sum(connection.send_frame(frame) for _ in range(100)), connection.queued_bytes

        assert server.call(fill) == (8, 8 << 20)
        assert connection.overflow
        assert calls == [8 << 20]

        def drop() -> tuple[int, int]:
            connection.overflow = False
            return connection.drop_frames(lambda waiting: waiting is frame), connection.queued_bytes

        dropped, left = server.call(drop)
        assert dropped > 0
        assert left <= len(frame)
        assert server.call(connection.send_frame, frame)


def test_dropping_leaves_the_others_in_order(server: Server) -> None:
    with library_client(server) as one:
        connection = connection_of(server)

        def fill() -> int:
            for number in range(6):
                connection.send_frame(bytes([number]))
            return connection.drop_frames(lambda frame: frame[0] % 2 == 1)

        assert server.call(fill) == 3
        assert [one.recv(PATIENCE) for _ in range(3)] == [b"\0", b"\2", b"\4"]


def test_drain_waits_until_the_member_has_taken_enough(server: Server) -> None:
    with library_client(server) as one:
        connection = connection_of(server)

        async def send() -> int:
            for _ in range(8):
                connection.send_frame(bytes(1 << 20))
            await connection.drain(below=2 << 20)
            return connection.queued_bytes

        future = asyncio.run_coroutine_threadsafe(send(), server._loop)
        for _ in range(8):
            one.recv(PATIENCE)
        assert future.result(PATIENCE) <= 2 << 20


def test_closing_gives_the_reason_and_cuts_off_who_does_not_read(server: Server) -> None:
    server.timing = Timing(farewell=0.2)
    with raw_client(server, receive_buffer=4096):
        connection = connection_of(server)

        def fill_and_close() -> None:
            for _ in range(16):
                connection.send_frame(bytes(1 << 20))
            connection.close("The server stops.")
            assert not connection.send(STATUS)
            assert not connection.send_frame(b"x")

        server.call(fill_and_close)
        assert server.expect("lost") == "The server stops."


def test_messages_that_nobody_takes_end_the_connection(server: Server) -> None:
    server.timing = Timing(farewell=0.2)
    with raw_client(server, receive_buffer=4096):
        connection = connection_of(server)
        long = Status(generation=1, state="training", reason="x" * (1 << 20))
        sent = server.call(lambda: sum(connection.send(long) for _ in range(100)))
        assert 30 <= sent <= 33
        assert "does not take" in server.expect("lost")


def test_a_flood_of_pings_is_answered_with_the_latest(server: Server) -> None:
    with raw_client(server, receive_buffer=4096) as one:
        for number in range(2000):
            one.sendall(masked(Opcode.PING, b"%04d" % number))
        one.sendall(masked(Opcode.BINARY, b"end"))
        received = b""
        while not received.endswith(b"end"):
            received += one.recv(1 << 16)
        assert b"1999" in received
        assert len(received) <= 2000 * 6 + 5


def test_while_a_frame_is_handled_nothing_more_is_read_and_silence_is_no_loss(server: Server) -> None:
    server.timing = Timing(silence=0.1, heartbeat=0.02)
    server.call(server.gate.clear)
    with library_client(server) as one:
        connection = connection_of(server)
        one.send(b"held")
        while json.loads(one.recv(PATIENCE))["type"] != "heartbeat":
            pass
        one.send(b"waits")
        for _ in range(20):
            assert json.loads(one.recv(PATIENCE))["type"] == "heartbeat"
        assert not connection.closing
        # Six bytes of header and the payload: the second frame has not been looked at.
        assert connection.bytes_received == 6 + 4
        server.call(server.gate.set)
        frames = []
        while len(frames) < 2:
            got = one.recv(PATIENCE)
            frames += [got] if isinstance(got, bytes) else []
        assert frames == [b"held", b"waits"]
