"""Members that are not ours: an independent WebSocket client, and a bare socket that sends any bytes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from websockets.frames import Frame, Opcode
from websockets.sync.client import connect

from jupyter_swarm.coordinator.connection import Connection
from tests.link.loopback import PATIENCE, Server


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
