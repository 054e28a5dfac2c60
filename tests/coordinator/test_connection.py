"""`Connection` with members that are slow, or take nothing at all."""

from __future__ import annotations

import asyncio
import contextlib
import time

from websockets.frames import Opcode

from jupyter_swarm.link import Timing
from jupyter_swarm.protocol.messages import Heartbeat, Status, encode
from tests.link.loopback import PATIENCE, Server

from .clients import connection_of, library_client, masked, raw_client

STATUS = Status(generation=1, state="training", reason="go")


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


def test_a_member_that_does_not_read_gets_no_more_than_the_limit(server: Server) -> None:
    server.queue_bytes = 8 << 20
    with raw_client(server, receive_buffer=4096):
        connection = connection_of(server)
        frame = bytes(1 << 20)

        def fill() -> tuple[int, int]:
            return sum(connection.send_frame(frame) for _ in range(100)), connection.queued_bytes

        assert server.call(fill) == (8, 8 << 20)

        def drop() -> tuple[int, int]:
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


def test_a_member_that_talks_but_does_not_read_is_cut_off_and_what_waits_for_it_is_forgotten(server: Server) -> None:
    server.timing = Timing(heartbeat=0.05, silence=3.0)
    with raw_client(server, receive_buffer=4096) as one:
        connection = connection_of(server)

        def fill() -> None:
            for _ in range(16):
                connection.send_frame(bytes(1 << 20))

        server.call(fill)
        with contextlib.suppress(OSError):
            while not connection.closing:
                one.sendall(masked(Opcode.TEXT, encode(Heartbeat()).encode()))
                time.sleep(0.05)
        assert "does not take what is sent" in server.expect("lost")


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
