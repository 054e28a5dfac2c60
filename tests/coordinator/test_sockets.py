"""`FrameSocket` with members that are silent or hostile: an independent client, raw sockets."""

from __future__ import annotations

import json
import random
import socket
import threading
from typing import Any

import pytest
from tornado.iostream import IOStream
from websockets.frames import Frame, Opcode

from jupyter_swarm.link import Timing
from jupyter_swarm.protocol.errors import SessionError
from jupyter_swarm.protocol.frames import MAX_FRAME_BYTES
from jupyter_swarm.protocol.messages import MAX_MESSAGE_BYTES, Heartbeat, Message, WantWork, encode
from tests.link.loopback import PATIENCE, Echo, Server, serving

from .clients import connection_of, library_client, masked, raw_client

WORK = encode(WantWork(generation=1, version=1))


class Patient(Echo):
    """Handles a message, too, only once the gate is open."""

    async def received(self, message: Message) -> None:
        await self.server.gate.wait()
        super().received(message)


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


def test_frames_small_and_large_arrive_whole_however_they_are_cut(server: Server) -> None:
    some = random.Random(7)
    sizes = [some.choice((0, 1, 5, 125, 126, 4000, 4090, 4096, 5000, 70_000)) for _ in range(120)]
    frames = [some.randbytes(size) for size in sizes]
    wire = b"".join(masked(Opcode.BINARY, frame) for frame in frames)
    with raw_client(server) as one:
        at = 0
        while at < len(wire):
            step = some.choice((1, 3, 2000, 30_000))
            one.sendall(wire[at : at + step])
            at += step
        server.gate.set()
        arrived = [server.expect("frame") for _ in frames]
    assert arrived == frames


def test_small_messages_that_came_together_are_read_together(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    read_bytes = IOStream.read_bytes

    def counted(stream: IOStream, size: int, partial: bool = False) -> Any:
        reads.append(size)
        return read_bytes(stream, size, partial)

    monkeypatch.setattr(IOStream, "read_bytes", counted)
    with raw_client(server) as one:
        reads.clear()
        one.sendall(30 * masked(Opcode.TEXT, WORK.encode()))
        for _ in range(30):
            server.expect("message")
    assert 30 * len(WORK) > 1000
    assert len(reads) < 10


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
    ids=lambda value: value if isinstance(value, str) else "",  # masks are drawn at random
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


@pytest.mark.parametrize("first", [b"held", WORK])
def test_while_something_is_handled_nothing_more_is_read_and_silence_is_no_loss(first: bytes | str) -> None:
    with serving(handler=Patient) as server:
        server.timing = Timing(silence=0.1, heartbeat=0.02)
        server.call(server.gate.clear)
        with library_client(server) as one:
            connection = connection_of(server)
            one.send(first)
            while json.loads(one.recv(PATIENCE))["type"] != "heartbeat":
                pass
            one.send(b"waits")
            for _ in range(20):
                assert json.loads(one.recv(PATIENCE))["type"] == "heartbeat"
            assert not connection.closing
            # Six bytes of header and the payload: the second frame has not been looked at.
            assert connection.bytes_received == 6 + len(first)
            server.call(server.gate.set)
            handled = [server.events.get(timeout=PATIENCE) for _ in range(2)]
            assert [kind for kind, _ in handled] == ["frame" if first == b"held" else "message", "frame"]
            assert handled[1][1] == b"waits"


def test_a_flood_of_messages_leaves_the_event_loop_to_others(server: Server) -> None:
    with raw_client(server) as one:
        connection = connection_of(server)
        flood = masked(Opcode.TEXT, encode(Heartbeat()).encode()) * 20_000
        sending = threading.Thread(target=one.sendall, args=(flood,))
        sending.start()
        while not (read := server.call(lambda: connection.bytes_received)):
            pass
        assert read < len(flood)
        sending.join()


def test_an_error_of_the_server_is_told_without_its_details(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: object, message: Message) -> None:
        raise RuntimeError("/home/ann/secret")

    monkeypatch.setattr("tests.link.loopback.Echo.received", broken)
    with library_client(server) as one:
        one.send(WORK)
        told = one.recv(PATIENCE)
    assert json.loads(told)["what"] == "The server failed to handle what you sent."
    assert "secret" not in told
    server.expect("lost")
    assert [record.exc_info[1].args for record in caplog.records if record.exc_info] == [("/home/ann/secret",)]
    caplog.clear()
