"""What an open WebSocket carries: whether bytes come back whole, how fast, and what a round costs at that speed."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from .. import __version__
from ..link.opening import Opened
from ..link.wire import BINARY, CLOSE, TEXT, Reader, Writer
from ..protocol.errors import LinkError, ProtocolError, VersionMismatch
from ..protocol.frames import HEADER_BYTES, Header, Kind, session_tag
from ..protocol.layout import CHUNK_ELEMENTS, Stream
from ..protocol.messages import PROTOCOL_VERSION, Hello, Refused, encode, read_to_member
from ..protocol.rules import Codec, RoundRule
from ..protocol.sizes import encoded_bytes

ECHO_SECONDS = 60.0
"""How long the echo may take; after a quarter of it, no more is sent."""
_PINGS = 3
_SLOW_ROUND_SECONDS = 2.0
_NO_RECIPE = "0" * 64
_SHOWN_DIGITS = 12


class Speed(NamedTuple):
    """Of a link: round trip in seconds, bytes/s up and down; 0: not measured."""

    round_trip: float = 0.0
    up: float = 0.0
    down: float = 0.0


def estimate(rule: RoundRule, elements: int, speed: Speed) -> tuple[str, str]:
    """What a round of `rule` over so many numbers costs at `speed`, in words, and what would make it cheaper."""
    stream = rule.stream(Stream.GRADIENT)
    sent, received = encoded_bytes(stream.up, elements), encoded_bytes(stream.down, elements)
    seconds = sent / speed.up + received / speed.down + 2 * speed.round_trip
    once = f"once in {rule.inner_steps} steps" if rule.work == "steps" else "at every step"
    found = f"{sent / 1e6:.3g} MB up and {received / 1e6:.3g} MB down {once}: about {seconds:.2g} s a round."
    if seconds < _SLOW_ROUND_SECONDS:
        return found, ""
    advice = []
    if rule.work == "samples":
        advice.append(f"LocalUpdates(steps=50) sends as much once in 50 steps: {seconds / 50:.2g} s a step.")
    if Codec.FP32 in (stream.up, stream.down):
        advice.append("Codec.FP16 up and down halves the bytes, Codec.INT8 quarters them.")
    return found, " ".join(advice)


class _Timed:
    """A stream that remembers when the first bytes of a message came."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.first = 0.0

    def readinto(self, view: memoryview) -> int:
        got = int(self._stream.readinto(view) or 0)
        self.first = self.first or time.monotonic()
        return got


def measure(opened: Opened, session: str) -> Speed:
    """Send frames there and back. Raises `LinkError` if other bytes come back, `ProtocolError` if the server refuses.

    The server sends a frame back when it has all of it, so the time to the answer's first byte is that of the way up.
    """
    timed = _Timed(opened.stream)
    reader, writer = Reader(timed), Writer(opened.socket)

    def send_and_hear(count: int, number: int) -> tuple[float, float]:
        frame = bytearray(HEADER_BYTES + 4 * count)
        Header(
            Kind.ECHO, Stream.GRADIENT, Codec.FP32, session_tag(session), 0, 0, number, 0, 0, count, 4 * count
        ).pack_into(frame)
        frame[HEADER_BYTES::997] = bytes([number % 251 + 1]) * len(frame[HEADER_BYTES::997])
        start = time.monotonic()
        writer.write(BINARY, frame)
        opcode = TEXT
        while opcode != BINARY:
            timed.first = 0.0
            opcode, payload = reader.read(_on_control)
            said = read_to_member(bytes(payload)) if opcode == TEXT else None
            if isinstance(said, Refused):
                raise ProtocolError(said.what, said.why, said.todo or "Install the same jupyter_swarm as the server.")
        end = time.monotonic()
        if payload != frame:
            raise LinkError("What came back is not what was sent.", todo="A proxy on the way changes it: avoid it.")
        return timed.first - start, end - timed.first

    trip = min(sum(send_and_hear(1, number)) for number in range(_PINGS))
    times: list[tuple[float, float]] = []
    start = time.monotonic()
    while len(times) < _PINGS and time.monotonic() - start < ECHO_SECONDS / 4:
        times.append(send_and_hear(CHUNK_ELEMENTS, len(times)))
    size = 4 * CHUNK_ELEMENTS
    up, down = min(up for up, _ in times) - trip, min(down for _, down in times)
    return Speed(trip, size / max(up, 1e-6), size / max(down, 1e-6))


def _on_control(opcode: int, payload: bytes) -> None:
    if opcode == CLOSE:
        raise EOFError(payload[2:].decode("utf-8", "replace"))


def be_refused(opened: Opened) -> None:
    """Be refused for the recipe, which the server looks at after the version and the role.

    Raises `VersionMismatch` if it is something else that the server refuses.
    """
    hello = Hello(PROTOCOL_VERSION, __version__, "peer", "doctor", agreed=_NO_RECIPE, codecs=tuple(Codec))
    Writer(opened.socket).write(TEXT, encode(hello).encode())
    reader = Reader(opened.stream)
    while True:
        opcode, payload = reader.read(_on_control)
        said = read_to_member(bytes(payload)) if opcode == TEXT else None
        if isinstance(said, Refused):
            break
    if _NO_RECIPE[:_SHOWN_DIGITS] not in said.why:
        raise VersionMismatch(said.what, said.why, said.todo)
