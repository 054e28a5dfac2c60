"""A way to a server that carries so many bytes per second and no more, like a link between two houses."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator

from .server import Swarm

_PIECE = 4096


class SlowLink:
    """Passes bytes on to a port of this machine. up, down: bytes per second, for all connections one by one; both may
    change at any time."""

    def __init__(self, port: int, up: float, down: float) -> None:
        self.up, self.down = up, down
        self.port = 0
        self._to = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_PIECE)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        # The loop closes what is cut off in its next turns.
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to, limit=_PIECE)
        self._writers += [writer, back]
        for source, sink, way in ((reader, back, "up"), (there, writer, "down")):
            task = asyncio.get_running_loop().create_task(self._pass(source, sink, way))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: str) -> None:
        clock = asyncio.get_running_loop().time
        free = clock()
        with contextlib.suppress(OSError):
            while piece := await source.read(_PIECE):
                free = max(free, clock()) + len(piece) / getattr(self, way)
                await asyncio.sleep(free - clock())
                sink.write(piece)
                await sink.drain()
        sink.close()


@contextlib.asynccontextmanager
async def through(swarm: Swarm, up: float, down: float) -> AsyncIterator[tuple[Swarm, SlowLink]]:
    """`swarm` as somebody sees it whose link is as slow as that."""
    link = SlowLink(swarm.port, up, down)
    await link.open()
    far = copy.copy(swarm)
    far.port = link.port
    try:
        yield far, link
    finally:
        await link.close()
