"""Our framing against the library's: what one writes the other reads, however the bytes are cut."""

from __future__ import annotations

import contextlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from jupyter_swarm.link.wire import BINARY, CLOSE, PING, TEXT, KeptBuffer, Reader, Violation, Writer, fresh, parse
from jupyter_swarm.protocol.frames import MAX_FRAME_BYTES

payloads = st.one_of(
    st.binary(max_size=300),
    st.integers(65530, 65545).map(lambda size: bytes(i * 7 % 251 for i in range(size))),
)


class Dribble:
    """A socket that takes a few bytes at a time, and sometimes none before its timeout."""

    def __init__(self, pieces: list[int]) -> None:
        self._pieces = pieces
        self._calls = 0
        self.taken = bytearray()

    def send(self, data: memoryview) -> int:
        size = self._pieces[self._calls % len(self._pieces)]
        self._calls += 1
        if not size:
            raise TimeoutError
        self.taken += data[:size]
        return min(size, len(data))


@given(payloads, st.lists(st.integers(0, 1 << 17), min_size=1).filter(any))
def test_the_library_reads_what_we_write(payload: bytes, pieces: list[int]) -> None:
    if sum(pieces) < 1000:
        pieces = [*pieces, 1 << 17]
    socket = Dribble(pieces)
    writer = Writer(socket)
    writer.write(BINARY, memoryview(payload))
    server = Protocol(Side.SERVER, max_size=None)
    server.receive_data(bytes(socket.taken))
    (frame,) = server.events_received()
    assert isinstance(frame, Frame)
    assert (frame.opcode, bytes(frame.data), frame.fin) == (Opcode.BINARY, payload, True)
    assert writer.count == len(socket.taken)


def run(data: bytes, masked: bool = True) -> tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]]:
    """All messages and all control frames in `data`."""
    control: list[tuple[int, bytes]] = []
    messages: list[tuple[int, bytes]] = []
    stream = io.BytesIO(data)
    room = fresh if masked else KeptBuffer()
    while True:
        parser = parse(room, masked, lambda opcode, payload: control.append((opcode, payload)))
        while True:
            try:
                view = next(parser)
            except StopIteration as stop:
                messages.append((stop.value[0], bytes(stop.value[1])))
                break
            if stream.readinto(view) < len(view):
                return messages, control


@given(st.lists(payloads, min_size=1, max_size=4), st.booleans(), st.binary(max_size=125))
def test_we_read_what_the_library_writes_fragments_and_pings_between_included(
    parts: list[bytes], masked: bool, ping: bytes
) -> None:
    def wire(opcode: Opcode, data: bytes, fin: bool) -> bytes:
        return Frame(opcode, data, fin).serialize(mask=masked)

    data = b""
    for place, part in enumerate(parts):
        data += wire(Opcode.CONT if place else Opcode.BINARY, part, place == len(parts) - 1)
        data += wire(Opcode.PING, ping, True)
    data += wire(Opcode.TEXT, b"next", True)
    messages, control = run(data, masked)
    assert messages == [(BINARY, b"".join(parts)), (TEXT, b"next")]
    assert control == [(PING, ping)] * len(parts)


@given(st.binary(max_size=200), st.booleans())
def test_noise_is_a_violation_or_incomplete_never_anything_else(noise: bytes, masked: bool) -> None:
    with contextlib.suppress(Violation):
        run(noise, masked)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (Frame(Opcode.BINARY, b"x").serialize(mask=False), 1002),
        (Frame(Opcode.CONT, b"x").serialize(mask=True), 1002),
        (Frame(Opcode.TEXT, b"x", fin=False).serialize(mask=True) * 2, 1002),
        (b"\xc2\x80abcd", 1002),
        (bytes([0x80 | CLOSE, 0x80 | 126]) + b"\0\x7e" + b"mask", 1002),
        (b"\x82\xff" + (MAX_FRAME_BYTES + 1).to_bytes(8, "big") + b"mask", 1009),
        (b"\x02\xff" + MAX_FRAME_BYTES.to_bytes(8, "big") + b"mask" + bytes(MAX_FRAME_BYTES) + b"\x80\x81maskx", 1009),
    ],
    ids=[
        "unmasked",
        "continues nothing",
        "two beginnings",
        "reserved bit",
        "long control",
        "too long",
        "grows too long",
    ],
)
def test_violations_have_their_close_code(data: bytes, code: int) -> None:
    with pytest.raises(Violation) as caught:
        run(data)
    assert caught.value.code == code


def test_a_kept_buffer_is_one_memory_and_aligned() -> None:
    room = KeptBuffer()
    large = room(1 << 20)
    assert room(100).ctypes.data == large.ctypes.data
    assert large.ctypes.data % 64 == 0


def test_the_end_of_the_stream_is_an_end_of_file() -> None:
    with pytest.raises(EOFError):
        Reader(io.BytesIO(b"\x82\x7e")).read(lambda opcode, payload: None)
