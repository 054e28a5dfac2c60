"""The server's end of a member's WebSocket: how it is read and written, and how a handler gets what came.

tornado makes the handshake and does the I/O; the frames are read by `jupyter_swarm.link.wire`, straight into the memory
that the handler gets, and written by reference, so that one packet goes to all members without a copy. Everything here
runs on the server's event loop.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable

from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketHandler, WebSocketProtocol, WebSocketProtocol13

from ..link.timing import Timing
from ..link.wire import CLOSE, PING, SLICE, TEXT, Violation, fresh, head, parse
from ..protocol.errors import ProtocolError, SwarmError
from ..protocol.frames import MAX_FRAME_BYTES, Buffer
from ..protocol.messages import MAX_MESSAGE_BYTES, FromMember, Heartbeat, read_from_member
from .connection import QUEUE_BYTES, Connection
from .turns import Turns

_JOINED = 4096
_TURN = 8 << 20
"""What is there already is read without a pause: after so many bytes the others on the event loop get their turn. A
read of a few counts as `SLICE`."""
_log = logging.getLogger(__name__)


class FrameProtocol(WebSocketProtocol13):
    """tornado's protocol with our reading and writing of frames. What tornado calls is `_receive_frame_loop`."""

    handler: FrameSocket
    _turn = 0
    _ahead = b""

    async def write(self, opcode: int, payload: Buffer) -> None:
        """Send one message and wait until the socket has taken it. Raises StreamClosedError."""
        start = head(opcode, len(payload))
        self.handler.connection.bytes_sent += len(start) + len(payload)
        if len(payload) < _JOINED:
            await self.stream.write(start + payload)
            return
        # Two writes: joining them would copy the payload.
        done = self.stream.write(start), self.stream.write(memoryview(payload))
        await done[1]

    def abort(self) -> None:
        """Cut the connection."""
        self._abort()

    async def _receive_frame_loop(self) -> None:
        try:
            while not self.client_terminated:
                await self.handler.take(*await self._next_message())
        except Violation as error:
            self.handler.connection.refuse(error)
            await self._discard()
        except StreamClosedError:
            pass
        finally:
            self._abort()
            self.handler.on_ws_connection_close(self.close_code, self.close_reason)

    async def _next_message(self) -> tuple[int, memoryview]:
        parser = parse(fresh, masked=True, on_control=self._on_control)
        while True:
            try:
                view = next(parser)
            except StopIteration as stop:
                message: tuple[int, memoryview] = stop.value
                return message
            await self._fill(view)

    async def _fill(self, view: memoryview) -> None:
        size = len(view)
        # What is small comes with more that is: a message's header, its mask and its payload by one read.
        while len(self._ahead) < size < _JOINED:
            self._ahead += await self.stream.read_bytes(_JOINED, partial=True)
        known, self._ahead = self._ahead[:size], self._ahead[size:]
        view[: len(known)] = known
        await self._read(len(known))
        view = view[len(known) :]
        while view:
            # As much as is there, straight to its place: each read costs as much Python as copying 100 kB.
            count = await self.stream.read_into(view, partial=True)  # type: ignore[arg-type]  # any writable buffer
            await self._read(count)
            view = view[count:]

    async def _read(self, count: int) -> None:
        self.handler.connection.heard(count)
        self._turn += max(count, SLICE)
        if self._turn >= _TURN:
            self._turn = 0
            await asyncio.sleep(0)

    def _on_control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self.handler.connection.since = None  # a proxy's ping begins no message
            self.handler.connection.pong(payload)
        elif opcode == CLOSE:
            self.client_terminated = True
            if len(payload) >= 2:
                self.close_code = int.from_bytes(payload[:2], "big")
                self.close_reason = payload[2:].decode("utf-8", "replace")
            self.close()
            raise StreamClosedError

    async def _discard(self) -> None:
        """Read on without looking until the other end closes, so that it can read why; `close` sets the limit."""
        try:
            while True:
                await self.stream.read_bytes(SLICE, partial=True)
                await asyncio.sleep(0)
        except StreamClosedError:
            pass


class FrameSocket(WebSocketHandler, ABC):
    """A handler for one member's socket, to be mixed with the one that authenticates.

    Nothing more is read from the member while `received` or `received_frame` handles something. A `SwarmError` that one
    of the methods below raises is sent to the member as `Refused`, and the connection is closed; so are bytes that are
    no message. Compression and tornado's pings are off.
    """

    connection: Connection
    timing = Timing()
    queue_bytes = QUEUE_BYTES

    def opened(self, *args: str, **kwargs: str) -> None:
        """`connection` is ready. Arguments as of `open`: what the route's pattern captured."""

    @abstractmethod
    def received(self, message: FromMember) -> Awaitable[None] | None:
        """A message came; heartbeats are not passed on. What is returned, if anything, is awaited."""

    @abstractmethod
    async def received_frame(self, frame: memoryview) -> None:
        """A whole binary frame came, in memory of its own."""

    def lost(self, reason: str) -> None:
        """The connection is gone, for the reason given, whoever ended it."""

    # --- what tornado calls

    @property
    def ping_interval(self) -> float:
        return 0

    @property
    def max_message_size(self) -> int:
        return max(MAX_MESSAGE_BYTES, MAX_FRAME_BYTES)

    def get_compression_options(self) -> None:
        return None

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        usual = super().get_websocket_protocol()
        return FrameProtocol(self, False, usual.params) if isinstance(usual, WebSocketProtocol13) else usual

    def open(self, *args: str, **kwargs: str) -> None:
        assert isinstance(self.ws_connection, FrameProtocol)
        self.set_nodelay(True)
        # tornado reads so much into memory of its own where it does not know how much is to come.
        self.ws_connection.stream.read_chunk_size = _JOINED
        self.connection = Connection(self.ws_connection, self.timing, self.queue_bytes)
        self._turns: Turns = self.settings.setdefault("jupyter_swarm_turns", Turns())
        try:
            self.opened(*args, **kwargs)
        except SwarmError as error:
            self.connection.refuse(error)

    async def take(self, opcode: int, payload: memoryview) -> None:
        """Pass one whole WebSocket message on. What comes while closing is not looked at."""
        self.connection.handling(True)
        try:
            await self._turns.mine()
            if not self.connection.closing:
                await (self._take_message(payload) if opcode == TEXT else self.received_frame(payload))
        except SwarmError as error:
            self.connection.refuse(error)
        except Exception:
            _log.exception("What a member sent could not be handled.")
            self.connection.refuse(ProtocolError("The server failed to handle what you sent.", "See its log."))
        finally:
            self.connection.handling(False)

    def on_close(self) -> None:
        connection = getattr(self, "connection", None)
        if connection is not None:
            connection.ended()
            self.lost(connection.reason or self.close_reason or "The connection broke.")

    async def _take_message(self, payload: memoryview) -> None:
        message = read_from_member(bytes(payload))
        if isinstance(message, Heartbeat):
            self.connection.answered(message)
        else:
            handled = self.received(message)
            if handled is not None:
                await handled
