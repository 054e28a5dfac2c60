"""What waits to be sent to one member, in what order it leaves, and when the member is taken for gone."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClosedError

from ..link.timing import Found, Measured, Pulse, Questions, Timing
from ..link.wire import BINARY, PONG, TEXT
from ..protocol.errors import SwarmError
from ..protocol.frames import Buffer
from ..protocol.messages import MAX_MESSAGE_BYTES, Heartbeat, Message, Refused, encode

if TYPE_CHECKING:
    from .sockets import FrameProtocol

QUEUE_BYTES = 2 << 30
"""Frames that may wait for one member. They are shared between members, so this is not memory for each."""
_WAYS: tuple[Measured, ...] = ("up", "down")
_CONTROL_BYTES = 4 * MAX_MESSAGE_BYTES
_REASON_BYTES = 120
PROBE_BYTES = 1 << 17
"""Less than this says more of the way there and back than of what a link carries."""
_PROBED_BEATS = 3
"""A way on which no more than that has moved in so many heartbeats is measured by sending so much."""


class Connection:
    """What is sent to one member. Control messages overtake frames unless sent `in_order`; frames leave in order.

    limit: bytes of frames that may wait; a frame beyond it is not taken. A peer that lacks one fetches a snapshot once
    the frame's round is committed. Control messages that nobody takes off for 32 MiB close the connection, and so does
    a single message that the socket does not take within the timing's `silence`. `bytes_sent`
    and `bytes_received` count payloads and frame headers on the wire; `since` is when the first bytes came of the
    message that is being received or handled, by the event loop's clock.
    """

    def __init__(self, protocol: FrameProtocol, timing: Timing = Timing(), limit: int = QUEUE_BYTES) -> None:
        self._protocol = protocol
        self._timing = timing
        self._loop = asyncio.get_running_loop()
        self._pulse = Pulse(timing, self._loop.time())
        self._control: deque[bytes] = deque()
        self._control_bytes = 0
        self._pong: bytes | None = None
        self._frames: deque[Buffer | str] = deque()
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self._busy = False
        self._putting: float | None = None
        self._questions = Questions()
        self._found: Callable[[Found], None] | None = None
        self._probes: list[Measured] = []
        self._fresh: set[Measured] = set()
        self._beats = 0
        self._moving: tuple[float, int] | None = None
        self.since: float | None = None
        self._tasks = [self._loop.create_task(self._write()), self._loop.create_task(self._beat())]
        self.limit = limit
        self.queued_bytes = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.closing = False
        self.reason = ""

    def send(self, message: Message, in_order: bool = False) -> bool:
        """Queue a message ahead of all frames, or behind those that wait. False: the connection is closing."""
        if not in_order or not self._frames:
            return self._queue(encode(message).encode())
        if not self.closing:
            self._frames.append(encode(message))
        return not self.closing

    def send_frame(self, frame: Buffer) -> bool:
        """Queue a whole frame, by reference: it must not change any more. False: closing, or over the limit."""
        if self.closing or self.queued_bytes + len(frame) > self.limit:
            return False
        self._frames.append(frame)
        self.queued_bytes += len(frame)
        self._changed.set()
        return True

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

    def measure(self, found: Callable[[Found], None]) -> None:
        """Measure the link from now on: by what moves, or where that is too little, by a few bytes now and then."""
        self._found = found
        self._ask_around()

    def answered(self, beat: Heartbeat) -> None:
        """The member sent a heartbeat, which may be the answer to one."""
        found = self._questions.answered(beat.answer, len(beat.filler), self._loop.time()) if beat.answer else None
        if found is not None:
            self.saw(found)
            self._probe()

    def saw(self, found: Found) -> None:
        """Something about the link is known."""
        self._fresh.add(found.what)
        if self._found is not None:
            self._found(found)

    def _ask_around(self) -> None:
        """Ask for the round trip, and every now and then for the ways that nothing else has measured."""
        if self._beats % _PROBED_BEATS == 0:
            self._probes = [way for way in _WAYS if way not in self._fresh]
            self._fresh.clear()
        self._beats += 1
        self.send(Heartbeat(ask=self._questions.ask("round trip", 0, self._loop.time()) if self._found else 0))

    def _probe(self) -> None:
        """One way after the other, so that neither waits behind the other."""
        if self._probes and (number := self._questions.ask(way := self._probes.pop(), PROBE_BYTES, self._loop.time())):
            up = way == "up"
            self.send(Heartbeat(ask=number, wanted=PROBE_BYTES * up, filler="." * (PROBE_BYTES * (not up))))

    def time(self) -> float:
        """Now, by the clock of `since`."""
        return self._loop.time()

    def heard(self, count: int) -> None:
        """So many bytes came in."""
        self.bytes_received += count
        now = self._loop.time()
        self.since = self.since or now
        self._pulse.heard(now)

    def pong(self, payload: bytes) -> None:
        """Answer a ping; only the latest of those that wait, as RFC 6455 5.5.3 allows."""
        self._pong = payload
        self._changed.set()

    def handling(self, busy: bool) -> None:
        """While something is being handled nothing is read, so silence means nothing."""
        self._busy = busy
        if not busy:
            self.since = None
        self._pulse.heard(self._loop.time())

    def ended(self) -> None:
        """The socket is closed."""
        self.closing = True
        self._drained.set()
        for task in self._tasks:
            task.cancel()

    def _queue(self, payload: bytes) -> bool:
        if self.closing:
            return False
        self._control.append(payload)
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
                    payload = self._control.popleft()
                    self._control_bytes -= len(payload)
                    await self._put(TEXT, payload)
                elif self.closing:
                    self._protocol.close(1000, self.reason.encode()[:_REASON_BYTES].decode("utf-8", "ignore"))
                    return
                elif self._pong is not None:
                    payload, self._pong = self._pong, None
                    await self._put(PONG, payload)
                elif self._frames:
                    frame = self._frames.popleft()
                    if isinstance(frame, str):
                        await self._put(TEXT, frame.encode())
                    else:
                        self._moving = self._moving or (self._loop.time(), self.bytes_sent)
                        await self._put(BINARY, frame)
                        self.queued_bytes -= len(frame)
                        self._drained.set()
                    if not self._frames:
                        self._ask_for_arrival()
                else:
                    self._changed.clear()
                    await self._changed.wait()
        except (StreamClosedError, WebSocketClosedError):
            pass

    def _ask_for_arrival(self) -> None:
        """All frames that waited are sent: when are they there?"""
        if self._moving is None or self._found is None:
            return
        since, before = self._moving
        self._moving = None
        count = self.bytes_sent - before
        if count >= PROBE_BYTES and (number := self._questions.ask("down", count, since)):
            self.send(Heartbeat(ask=number))

    async def _put(self, opcode: int, payload: Buffer) -> None:
        self._putting = self._loop.time()
        await self._protocol.write(opcode, payload)
        self._putting = None

    async def _beat(self) -> None:
        while not self.closing:
            now = self._loop.time()
            if self._pulse.silent(now) and not self._busy:
                self.reason = f"Nothing was heard for {self._timing.silence:.0f} s."
                self._protocol.abort()
                return
            if self._putting is not None and now - self._putting >= self._timing.silence:
                self.reason = f"It does not take what is sent to it: one message had {self._timing.silence:.0f} s."
                self._protocol.abort()
                return
            if self._pulse.due(now):
                self._ask_around()
            await asyncio.sleep(self._pulse.rest(now))


def _frame_bytes(queue: Iterable[Buffer | str]) -> int:
    return sum(len(frame) for frame in queue if not isinstance(frame, str))
