"""The WebSocket wire (RFC 6455), both halves: one copy each way, into memory that the caller provides.

Libraries make the handshakes. Their framing copies a payload several times into fresh memory; here it is received
straight to where it stays and masked straight into a kept buffer. On loopback, in messages of 1 MiB, that is 2.5 times
the throughput of `websockets` and tornado towards the server and 4 times from it, where it is that of bare TCP.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Generator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..protocol.errors import LinkError
from ..protocol.frames import MAX_FRAME_BYTES, Buffer
from ..protocol.messages import MAX_MESSAGE_BYTES

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
SLICE = 256 << 10
"""Bytes moved by one call to a socket: counts and signs of life advance on slow links too."""

Parts = Buffer | tuple[Buffer, ...]
"""A message whole, or in parts that follow each other, all but the last of a multiple of 4 bytes."""
Room = Callable[[int], NDArray[np.uint8]]
"""Gives an array of at least so many bytes."""

_ALIGNMENT = 64
_WORD = 8


class Violation(LinkError):
    """The other side broke the WebSocket protocol; `code` is what the close frame will say."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(what, "Perhaps a proxy between the two ends changes what it passes on.")
        self.code = code


def size_of(message: Parts) -> int:
    """Bytes of a message."""
    return sum(map(len, message)) if isinstance(message, tuple) else len(message)


def fresh(size: int) -> NDArray[np.uint8]:
    """Memory of its own for each message, aligned to 64 bytes: the receiver may keep it."""
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    skip = -raw.ctypes.data % _ALIGNMENT
    return raw[skip : skip + size]


class KeptBuffer:
    """Memory that grows to the largest size asked for and stays, aligned as `fresh` is."""

    def __init__(self) -> None:
        self._memory = fresh(0)

    def __call__(self, size: int) -> NDArray[np.uint8]:
        """The same memory each time; what lay in it need not survive."""
        if len(self._memory) < size:
            self._memory = fresh(size)
        return self._memory


def parse(
    room: Room, masked: bool, on_control: Callable[[int, bytes], None]
) -> Generator[memoryview, None, tuple[int, memoryview]]:
    """Read one message, without I/O: yields memory that the caller fills completely with the next bytes of the wire.

    Returns TEXT or BINARY and the message, in memory that came from `room`. Control frames that come before it go to
    `on_control(opcode, payload)`. Raises `Violation`: not a WebSocket frame, masked or not as it must not be, out of
    turn, or longer than a message or a frame of this package may be.
    """
    kind = size = 0
    block = fresh(0)
    while True:
        final, opcode, length = yield from _head(masked)
        mask = (yield from _take(4)) if masked else b""
        if opcode >= CLOSE:
            if length > 125 or not final:
                raise Violation(1002, "A malformed control frame arrived.")
            payload = np.frombuffer((yield from _take(length)), np.uint8).copy()
            apply_mask(payload, mask, payload)
            on_control(opcode, payload.tobytes())
            continue
        if (opcode == CONTINUATION) != bool(kind):
            raise Violation(1002, "A WebSocket frame arrived out of turn.")
        kind = kind or opcode
        end = size + length
        if end > (MAX_MESSAGE_BYTES if kind == TEXT else MAX_FRAME_BYTES):
            raise Violation(1009, f"A message of {end} bytes arrived, more than is allowed.")
        if len(block) < end:
            # Doubling, so that a message in many fragments is not copied once for each.
            larger = room(end if final else 2 * end)
            larger[:size] = block[:size]
            block = larger
        yield block.data[size:end]
        apply_mask(block[size:end], mask, block[size:end])
        size = end
        if final:
            return kind, block.data[:size]


def _head(masked: bool) -> Generator[memoryview, None, tuple[bool, int, int]]:
    first, second = yield from _take(2)
    opcode, length = first & 0x0F, second & 0x7F
    if first & 0x70 or opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG) or bool(second & 0x80) != masked:
        raise Violation(1002, "What arrived is not a WebSocket frame.")
    if length == 126:
        (length,) = struct.unpack("!H", (yield from _take(2)))
    elif length == 127:
        (length,) = struct.unpack("!Q", (yield from _take(8)))
    return bool(first & 0x80), opcode, length


def _take(size: int) -> Generator[memoryview, None, bytes]:
    buffer = bytearray(size)
    if size:
        yield memoryview(buffer)
    return bytes(buffer)


def head(opcode: int, length: int, mask: bytes = b"") -> bytes:
    """The header of an unfragmented WebSocket frame."""
    bit = 0x80 if mask else 0
    if length < 126:
        return struct.pack("!BB", 0x80 | opcode, bit | length) + mask
    if length < 1 << 16:
        return struct.pack("!BBH", 0x80 | opcode, bit | 126, length) + mask
    return struct.pack("!BBQ", 0x80 | opcode, bit | 127, length) + mask


def apply_mask(source: NDArray[np.uint8], mask: bytes, out: NDArray[np.uint8]) -> None:
    """XOR the bytes of `source` with `mask` (4 bytes, repeated; none changes nothing) into `out`, of equal length."""
    if not mask:
        return
    key = np.frombuffer(mask * 2, np.uint8)
    whole = len(source) // _WORD * _WORD
    if whole:
        words = np.uint64
        np.bitwise_xor(source[:whole].view(words), key.view(words), out=out[:whole].view(words))
    np.bitwise_xor(source[whole:], key[: len(source) - whole], out=out[whole:])


class Stream(Protocol):
    """What is used of a buffered reader over a socket."""

    def readinto(self, view: memoryview, /) -> int: ...


class Socket(Protocol):
    """What is used of a socket, plain or TLS."""

    def send(self, data: memoryview, /) -> int: ...


class Reader:
    """The client's receiving half. `count`: bytes taken off the wire, framing included."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.count = 0

    def read(self, on_control: Callable[[int, bytes], None]) -> tuple[int, memoryview]:
        """Wait for the next message: TEXT or BINARY, and its bytes, in memory of its own.

        Raises `Violation`, EOFError, OSError.
        """
        parser = parse(fresh, masked=False, on_control=on_control)
        while True:
            try:
                view = next(parser)
            except StopIteration as stop:
                message: tuple[int, memoryview] = stop.value
                return message
            while view:
                got = self._stream.readinto(view[:SLICE])
                if not got:
                    raise EOFError
                self.count += got
                view = view[got:]


class Writer:
    """The client's sending half. `count`: bytes handed to the socket, framing included."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self._room = KeptBuffer()
        self.count = 0

    def write(self, opcode: int, payload: Parts) -> None:
        """Send one message, masked; returns once the socket has taken all of it. Raises OSError."""
        parts = payload if isinstance(payload, tuple) else (payload,)
        size = size_of(payload)
        mask = os.urandom(4)
        start = head(opcode, size, mask)
        # The payload begins at a multiple of a word.
        offset = 16
        block = self._room(offset + size)
        place = offset
        for part in parts:
            apply_mask(np.frombuffer(part, np.uint8), mask, block[place : place + len(part)])
            place += len(part)
        view = block.data[offset - len(start) : offset + size]
        view[: len(start)] = start
        while view:
            try:
                sent = self._socket.send(view[:SLICE])
            except TimeoutError:
                # A full socket is no sign of loss: the receiving thread knows whether the server is still there.
                continue
            self.count += sent
            view = view[sent:]
