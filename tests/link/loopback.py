"""A real tornado server in a thread of its own, and a member's `Link` that writes down what happens to it."""

from __future__ import annotations

import asyncio
import queue
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import tornado.httpserver
import tornado.netutil
import tornado.web

from jupyter_swarm.coordinator.sockets import FrameSocket
from jupyter_swarm.link import Link, Timing
from jupyter_swarm.protocol.messages import Hello, Message, Status

T = TypeVar("T")
QUICK = Timing(first_delay=0.02, longest_delay=0.1, handshake=5.0, farewell=2.0, connect=20.0)
PATIENCE = 20.0


class Echo(FrameSocket):
    """Answers a `Hello` with a `Status` and each frame with itself; everything is put on `events`."""

    events: queue.Queue[tuple[str, Any]]
    sockets: list[Echo]
    refusal: tuple[int, str] | None = None

    def initialize(self, server: Server) -> None:
        self.server = server
        self.events = server.events
        self.timing = server.timing
        self.queue_bytes = server.queue_bytes

    def prepare(self) -> None:
        self.events.put(("headers", dict(self.request.headers)))
        if self.server.refusal is not None:
            status, body = self.server.refusal
            self.set_status(status)
            self.finish(body)

    def opened(self) -> None:
        self.server.sockets.append(self)
        self.events.put(("opened", self))

    def received(self, message: Message) -> None:
        self.events.put(("message", message))
        if isinstance(message, Hello):
            self.connection.send(Status(generation=1, state="waiting", reason="hello"))

    async def received_frame(self, frame: memoryview) -> None:
        await self.server.gate.wait()
        self.events.put(("frame", bytes(frame)))
        self.connection.send_frame(frame)

    def lost(self, reason: str) -> None:
        self.events.put(("lost", reason))


class Server:
    """Starts at once; `port` 0 takes a free one. Attributes may be changed between connections."""

    def __init__(self, port: int = 0, handler: type[FrameSocket] = Echo, tls: ssl.SSLContext | None = None) -> None:
        self.events: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.sockets: list[Echo] = []
        self.refusal: tuple[int, str] | None = None
        self.timing = Timing()
        self.queue_bytes = 1 << 30
        self.port = port
        self._handler, self._tls = handler, tls
        self._loop = asyncio.SelectorEventLoop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._main(started),))
        self._thread.start()
        assert started.wait(PATIENCE)

    async def _main(self, started: threading.Event) -> None:
        self._over = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        application = tornado.web.Application([("/", self._handler, {"server": self})])
        server = tornado.httpserver.HTTPServer(application, ssl_options=self._tls)
        sockets = tornado.netutil.bind_sockets(self.port, "127.0.0.1")
        self.port = sockets[0].getsockname()[1]
        server.add_sockets(sockets)
        started.set()
        await self._over.wait()
        server.stop()
        for socket in self.sockets:
            if socket.ws_connection is not None:
                socket.ws_connection.abort()
        await server.close_all_connections()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(others, timeout=1.0) if others else None

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call `function` on the server's event loop and return its result."""

        async def run() -> T:
            return function(*args)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE)

    def expect(self, kind: str) -> Any:
        """Wait for the next event of this kind, forgetting others."""
        while True:
            name, value = self.events.get(timeout=PATIENCE)
            if name == kind:
                return value

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join(PATIENCE)
            assert not self._thread.is_alive()
            self._loop.close()


@contextmanager
def serving(*args: Any, **kwargs: Any) -> Iterator[Server]:
    server = Server(*args, **kwargs)
    try:
        yield server
    finally:
        server.stop()


class Member:
    """A `Link` whose callbacks fill queues: `messages`, `frames` (copies), `states`."""

    def __init__(self, url: str, timing: Timing = QUICK, headers: dict[str, str] | None = None) -> None:
        self.messages: queue.Queue[Any] = queue.Queue()
        self.frames: queue.Queue[bytes] = queue.Queue()
        self.states: queue.Queue[tuple[str, str]] = queue.Queue()
        self.token = "token-1"
        self.link = Link(
            url,
            headers or {},
            self.hello,
            self.messages.put,
            lambda frame: self.frames.put(bytes(frame)),
            lambda state, reason: self.states.put((state, reason)),
            timing,
        )

    def hello(self) -> Hello:
        return Hello(protocol=1, software="test", role="peer", name="ann", token=self.token)

    def expect(self, state: str) -> str:
        """Wait for a state, forgetting others; the reason."""
        while True:
            name, reason = self.states.get(timeout=PATIENCE)
            if name == state:
                return reason


@contextmanager
def member(url: str, **kwargs: Any) -> Iterator[Member]:
    one = Member(url, **kwargs)
    one.link.start()
    try:
        yield one
    finally:
        one.link.close()
