"""The server's end of a member's WebSocket: what is received, what waits to be sent, and when the member is gone.

tornado makes the handshake and does the I/O; the frames are read by `jupyter_swarm.link.wire`, straight into the memory
that the handler gets, and written by reference, so that one packet goes to all members without a copy. Everything here
runs on the server's event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClosedError, WebSocketHandler, WebSocketProtocol, WebSocketProtocol13

from ..link.timing import Pulse, Timing
from ..link.wire import BINARY, CLOSE, PING, PONG, SLICE, TEXT, Buffer, Violation, fresh, head, parse
from ..protocol.errors import SwarmError
from ..protocol.frames import MAX_FRAME_BYTES
from ..protocol.messages import (
    MAX_MESSAGE_BYTES,
    FromMember,
    Heartbeat,
    Message,
    Refused,
    encode,
    read_from_member,
)

QUEUE_BYTES = 2 << 30
"""Frames that may wait for one member. They are shared between members, so this is not memory for each."""
_CONTROL_BYTES = 4 * MAX_MESSAGE_BYTES
_ECHOES = 4 << 20
_JOINED = 4096
_REASON_BYTES = 120


class Connection:
    """What is sent to one member. Control messages overtake frames unless sent `in_order`; frames leave in order.

    limit: bytes of frames that may wait; a frame beyond it is not taken, `overflow` is set and `on_overflow` called
    (again only after `overflow` was set to False). Control messages that nobody takes off for 32 MiB close the
    connection. `bytes_sent` and `bytes_received` count payloads and frame headers on the wire; `last_heard` is the
    event loop's time of the last sign of life.
    """

    def __init__(self, protocol: FrameProtocol, timing: Timing = Timing(), limit: int = QUEUE_BYTES) -> None:
        self._protocol = protocol
        self._timing = timing
        self._loop = asyncio.get_running_loop()
        self._pulse = Pulse(timing, self._loop.time())
        self._control: deque[tuple[int, bytes]] = deque()
        self._control_bytes = 0
        self._frames: deque[Buffer | str] = deque()
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self._busy = False
        self._tasks = [self._loop.create_task(self._write()), self._loop.create_task(self._beat())]
        self.limit = limit
        self.overflow = False
        self.on_overflow: Callable[[], None] | None = None
        self.queued_bytes = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.last_heard = self._loop.time()
        self.closing = False
        self.reason = ""

    def send(self, message: Message, in_order: bool = False) -> bool:
        """Queue a message ahead of all frames, or behind those that wait. False: the connection is closing."""
        if not in_order or not self._frames:
            return self._queue(TEXT, encode(message).encode())
        if not self.closing:
            self._frames.append(encode(message))
        return not self.closing

    def send_frame(self, frame: Buffer) -> bool:
        """Queue a whole frame, by reference: it must not change any more. False: closing, or over the limit."""
        if self.closing:
            return False
        if self.queued_bytes + len(frame) > self.limit:
            if not self.overflow:
                self.overflow = True
                if self.on_overflow is not None:
                    self.on_overflow()
            return False
        self._frames.append(frame)
        self.queued_bytes += len(frame)
        self._changed.set()
        return True

    async def echo(self, frame: Buffer) -> None:
        """Send a frame back, and take no more from this member before it has taken most of what waits for it."""
        self.send_frame(frame)
        await self.drain(_ECHOES)

    def drop_frames(self, predicate: Callable[[Buffer], bool] = lambda frame: True) -> int:
        """Forget the waiting frames for which `predicate` holds; returns how many. One being sent is not waiting."""
        kept = deque(frame for frame in self._frames if isinstance(frame, str) or not predicate(frame))
        dropped = len(self._frames) - len(kept)
        self.queued_bytes -= _frame_bytes(self._frames) - _frame_bytes(kept)
        self._frames = kept
        self._changed.set()
        return dropped

    async def drain(self, below: int = 0) -> None:
        """Wait until at most `below` bytes of frames wait, or the connection is closing."""
        while self.queued_bytes > below and not self.closing:
            self._drained.clear()
            await self._drained.wait()

    def refuse(self, error: SwarmError, retry: bool = False) -> None:
        """Tell the member why it is not wanted, and close. With `retry` it comes back by itself."""
        self.send(Refused(what=error.what, why=error.why, todo=error.todo, retry=retry))
        self.close(error.what)

    def close(self, reason: str) -> None:
        """Send the control messages that wait, drop the frames, close. A member that takes nothing is cut off."""
        if self.closing:
            return
        self.closing = True
        self.reason = reason
        self.drop_frames()
        self._drained.set()
        self._loop.call_later(self._timing.farewell, self._protocol.abort)

    def heard(self, count: int) -> None:
        """So many bytes came in."""
        self.bytes_received += count
        self.last_heard = self._loop.time()
        self._pulse.heard(self.last_heard)

    def pong(self, payload: bytes) -> None:
        """Answer a ping; only the latest of those that wait, as RFC 6455 5.5.3 allows."""
        self._control = deque(item for item in self._control if item[0] != PONG)
        self._queue(PONG, payload)

    def handling(self, busy: bool) -> None:
        """While a frame is being handled nothing is read, so silence means nothing."""
        self._busy = busy
        self._pulse.heard(self._loop.time())

    def ended(self) -> None:
        """The socket is closed."""
        self.closing = True
        self._drained.set()
        for task in self._tasks:
            task.cancel()

    def _queue(self, opcode: int, payload: bytes) -> bool:
        if self.closing:
            return False
        self._control.append((opcode, payload))
        self._control_bytes += len(payload)
        self._changed.set()
        if self._control_bytes > _CONTROL_BYTES:
            self.close("The member does not take what is sent to it.")
            return False
        return True

    async def _write(self) -> None:
        try:
            while True:
                if self._control:
                    opcode, payload = self._control.popleft()
                    self._control_bytes -= len(payload)
                    await self._protocol.write(opcode, payload)
                elif self.closing:
                    self._protocol.close(1000, self.reason.encode()[:_REASON_BYTES].decode("utf-8", "ignore"))
                    return
                elif self._frames:
                    frame = self._frames.popleft()
                    if isinstance(frame, str):
                        await self._protocol.write(TEXT, frame.encode())
                        continue
                    await self._protocol.write(BINARY, frame)
                    self.queued_bytes -= len(frame)
                    self._drained.set()
                else:
                    self._changed.clear()
                    await self._changed.wait()
        except (StreamClosedError, WebSocketClosedError):
            pass

    async def _beat(self) -> None:
        while not self.closing:
            now = self._loop.time()
            if self._pulse.silent(now) and not self._busy:
                self.reason = f"Nothing was heard for {self._timing.silence:.0f} s."
                self._protocol.abort()
                return
            if self._pulse.due(now):
                self.send(Heartbeat(sent=time.time()))
            await asyncio.sleep(self._pulse.rest(now))


def _frame_bytes(queue: Iterable[Buffer | str]) -> int:
    return sum(len(frame) for frame in queue if not isinstance(frame, str))


class FrameProtocol(WebSocketProtocol13):
    """tornado's protocol with our reading and writing of frames. What tornado calls is `_receive_frame_loop`."""

    handler: FrameSocket

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
            for start in range(0, len(view), SLICE):
                await self._fill(view[start : start + SLICE])

    async def _fill(self, view: memoryview) -> None:
        if len(view) < _JOINED:
            view[:] = await self.stream.read_bytes(len(view))
        else:
            await self.stream.read_into(view)  # type: ignore[arg-type]  # any writable buffer will do
        self.handler.connection.heard(len(view))

    def _on_control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
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
        except StreamClosedError:
            pass


class FrameSocket(WebSocketHandler):
    """A handler for one member's socket, to be mixed with the one that authenticates.

    Override `opened`, `received`, `received_frame` and `lost`. A `SwarmError` that they raise is sent to the member as
    `Refused`, and the connection is closed; so are bytes that are no message. Compression and tornado's pings are off.
    """

    connection: Connection
    timing = Timing()
    queue_bytes = QUEUE_BYTES

    def opened(self, *args: str, **kwargs: str) -> None:
        """`connection` is ready. Arguments as of `open`: what the route's pattern captured."""

    def received(self, message: FromMember) -> None:
        """A message came; heartbeats are not passed on."""
        raise NotImplementedError

    async def received_frame(self, frame: memoryview) -> None:
        """A whole binary frame came, in memory of its own. Nothing more is read until this returns."""
        raise NotImplementedError

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
        self.connection = Connection(self.ws_connection, self.timing, self.queue_bytes)
        self._guard(self.opened, *args, **kwargs)

    async def take(self, opcode: int, payload: memoryview) -> None:
        """Pass one whole WebSocket message on. What comes while closing is not looked at."""
        if self.connection.closing:
            return
        if opcode == TEXT:
            self._guard(self._take_message, payload)
            return
        self.connection.handling(True)
        try:
            await self.received_frame(payload)
        except SwarmError as error:
            self.connection.refuse(error)
        finally:
            self.connection.handling(False)

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        raise NotImplementedError  # FrameProtocol calls `take` instead

    def on_close(self) -> None:
        connection = getattr(self, "connection", None)
        if connection is not None:
            connection.ended()
            self.lost(connection.reason or self.close_reason or "The connection broke.")

    def _take_message(self, payload: memoryview) -> None:
        message = read_from_member(bytes(payload))
        if not isinstance(message, Heartbeat):
            self.received(message)

    def _guard(self, callback: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        try:
            callback(*args, **kwargs)
        except SwarmError as error:
            self.connection.refuse(error)
