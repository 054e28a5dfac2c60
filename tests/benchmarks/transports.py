"""What a round is compared with: processes that only move the bytes, by other means or by our own link.

Started by `rounds`: `python -m tests.benchmarks.transports KIND PLACE PEERS ELEMENTS ROUNDS ADDRESS OUT`. With a star
(KIND `tornado` or `link`) place 0 is the server and 1 to PEERS are its clients: each sends as many bytes as the model
has, in messages as a round has them, and gets as many once the server has those of all. With `gloo` places 0 to
PEERS - 1 add up their vectors. Every process writes the figures of its own rounds to OUT.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from jupyter_swarm.protocol.frames import HEADER_BYTES
from jupyter_swarm.protocol.layout import CHUNK_ELEMENTS

from .harness import peak_bytes

DEVICE = "eth0"
"""Where not all are on one machine, the link that each has."""
_DEADLINE_SECONDS = 300.0


class Rounds:
    """When rounds ended, and the processor time between the first and the last end."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self._cpu: list[float] = []

    def ended(self) -> None:
        self.ends.append(time.monotonic())
        self._cpu.append(time.process_time())

    def write(self, out: Path) -> None:
        cpu = (self._cpu[-1] - self._cpu[0]) / max(len(self._cpu) - 1, 1)
        out.write_text(json.dumps({"ends": self.ends, "cpu": cpu, "peak": peak_bytes(os.getpid())}))


def messages(elements: int) -> list[int]:
    """The sizes of a round's messages in one direction of one connection."""
    return [HEADER_BYTES + 4 * min(CHUNK_ELEMENTS, elements - start) for start in range(0, elements, CHUNK_ELEMENTS)]


# --- torch.distributed


def gloo(place: int, peers: int, elements: int, rounds: int, address: str) -> Rounds:
    import torch
    import torch.distributed as distributed

    torch.set_num_threads(1)
    if not address.startswith("127."):
        os.environ["GLOO_SOCKET_IFNAME"] = DEVICE
    distributed.init_process_group("gloo", init_method=f"tcp://{address}", rank=place, world_size=peers)
    done, values = Rounds(), torch.full((elements,), 1e-3)
    for _ in range(rounds + 1):
        distributed.all_reduce(values)
        done.ended()
    if not torch.allclose(values, torch.tensor(1e-3 * peers ** (rounds + 1))):
        raise ValueError("gloo did not add up the vectors")
    distributed.destroy_process_group()
    return done


# --- a star of tornado and `websockets`


def tornado(place: int, peers: int, elements: int, rounds: int, address: str) -> Rounds:
    return asyncio.run(
        _tornado_server(peers, elements, rounds, address) if place == 0 else _tornado_client(elements, rounds, address)
    )


async def _tornado_server(peers: int, elements: int, rounds: int, address: str) -> Rounds:
    from tornado.web import Application
    from tornado.websocket import WebSocketHandler

    star = _Star(peers, elements, rounds)

    class Handler(WebSocketHandler):
        def on_message(self, message: str | bytes) -> Awaitable[None] | None:
            star.received(len(message))
            return None

        def open(self, *args: str, **kwargs: str) -> None:
            self.set_nodelay(True)

            async def send() -> None:
                for payload in star.payloads():
                    await self.write_message(payload, binary=True)

            star.connected(send)

        def on_close(self) -> None:
            star.lost()

    server = Application([("/", Handler)], websocket_max_message_size=1 << 30).listen(*_reversed(address))
    await star.over()
    server.stop()
    return star.rounds


async def _tornado_client(elements: int, rounds: int, address: str) -> Rounds:
    done = Rounds()
    payload = memoryview(bytearray(max(messages(elements))))
    async with await _connected(address) as socket:
        for _ in range(rounds + 1):
            for size in messages(elements):
                await socket.send(payload[:size])
            expected = sum(messages(elements))
            while expected:
                expected -= len(await socket.recv())
            done.ended()
    return done


async def _connected(address: str) -> Any:
    """A connection, as soon as the server is there."""
    from websockets.asyncio.client import connect

    until = time.monotonic() + 30
    while True:
        try:
            return await connect(f"ws://{address}/", max_size=None, compression=None, proxy=None)
        except OSError:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.1)


class _Star:
    """The server's side of a star: when the bytes of all clients are here, all get theirs."""

    def __init__(self, peers: int, elements: int, rounds: int) -> None:
        self.rounds = Rounds()
        self._peers = peers
        self._sizes = messages(elements)
        self._left = rounds + 1
        self._missing = peers * sum(self._sizes)
        self._sends: list[Callable[[], Awaitable[None]]] = []
        self._tasks: set[asyncio.Future[None]] = set()
        self._here = peers
        self._over = asyncio.Event()

    def payloads(self) -> Iterator[bytes]:
        """Messages of a round to one client; the memory is shared, as that of packets is."""
        largest = bytes(self._sizes[0])
        return (largest if size == len(largest) else bytes(size) for size in self._sizes)

    def connected(self, send: Callable[[], Awaitable[None]]) -> None:
        self._sends.append(send)

    def received(self, size: int) -> None:
        self._missing -= size
        if self._missing:
            return
        self._missing = self._peers * sum(self._sizes)
        self.rounds.ended()
        for send in self._sends:
            task = asyncio.ensure_future(send())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def lost(self) -> None:
        self._here -= 1
        if not self._here:
            self._over.set()

    async def over(self) -> None:
        await asyncio.wait_for(self._over.wait(), _DEADLINE_SECONDS)


# --- a star of our own link


def link(place: int, peers: int, elements: int, rounds: int, address: str) -> Rounds:
    if place == 0:
        return asyncio.run(_link_server(peers, elements, rounds, address))
    return _link_client(elements, rounds, address)


async def _link_server(peers: int, elements: int, rounds: int, address: str) -> Rounds:
    from tornado.web import Application

    from jupyter_swarm.coordinator.sockets import FrameSocket
    from jupyter_swarm.link.memory import keep_buffers

    keep_buffers()
    star = _Star(peers, elements, rounds)

    class Handler(FrameSocket):
        def opened(self, *args: str, **kwargs: str) -> None:
            async def send() -> None:
                for payload in star.payloads():
                    self.connection.send_frame(payload)

            star.connected(send)

        def received(self, message: Any) -> None:
            pass

        async def received_frame(self, frame: memoryview) -> None:
            star.received(len(frame))

        def lost(self, reason: str) -> None:
            star.lost()

    server = Application([("/", Handler)]).listen(*_reversed(address))
    await star.over()
    server.stop()
    return star.rounds


def _link_client(elements: int, rounds: int, address: str) -> Rounds:
    from jupyter_swarm import __version__
    from jupyter_swarm.link import Link
    from jupyter_swarm.link.memory import keep_buffers
    from jupyter_swarm.protocol.messages import PROTOCOL_VERSION, Hello

    keep_buffers()
    done, payload = Rounds(), memoryview(bytearray(max(messages(elements))))
    arrived: queue.SimpleQueue[int] = queue.SimpleQueue()
    connection = Link(
        f"ws://{address}/",
        {},
        lambda: Hello(PROTOCOL_VERSION, __version__, "peer", "", agreed="", layout_digest="", token=""),
        lambda message: None,
        lambda frame: arrived.put(len(frame)),
        lambda state, reason: None,
    )
    connection.start()
    connection.wait(30)
    for _ in range(rounds + 1):
        connection.send_frames(payload[:size] for size in messages(elements))
        expected = sum(messages(elements))
        while expected:
            expected -= arrived.get(timeout=_DEADLINE_SECONDS)
        done.ended()
    connection.close()
    return done


def _reversed(address: str) -> tuple[int, str]:
    host, _, port = address.partition(":")
    return int(port), host


if __name__ == "__main__":
    kind, *numbers, address, out = sys.argv[1:]
    result = {"gloo": gloo, "tornado": tornado, "link": link}[kind](*map(int, numbers), address)
    result.write(Path(out))
