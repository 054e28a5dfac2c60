from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from jupyter_swarm.link.sending import Outbox, Upload
from jupyter_swarm.link.timing import Pulse, Timing
from jupyter_swarm.link.wire import BINARY, CLOSE, TEXT
from jupyter_swarm.protocol.errors import LinkError
from jupyter_swarm.protocol.frames import Buffer
from jupyter_swarm.protocol.messages import Goodbye, Heartbeat, WantWork, read_from_member


class Sink:
    """Stands for the `Writer`: keeps what is written; `then` runs after each write."""

    def __init__(self) -> None:
        self.written: list[tuple[int, bytes]] = []
        self.then: Callable[[], object] = lambda: None

    def write(self, opcode: int, payload: Buffer) -> None:
        self.written.append((opcode, bytes(payload)))
        self.then()

    def kinds(self) -> list[object]:
        return [read_from_member(data) if code == TEXT else code for code, data in self.written]


def drain(outbox: Outbox, sink: Sink, clock: float = 0.0) -> None:
    outbox.finish()
    outbox.run(sink, Pulse(Timing(), 0.0), lambda: clock)  # type: ignore[arg-type]


WORK = WantWork(generation=1, version=1)


def test_control_overtakes_queued_frames() -> None:
    outbox, sink = Outbox(), Sink()

    def frames() -> Iterator[bytes]:
        for number in range(3):
            yield b"%d" % number
        outbox.finish()

    outbox.add(Upload(frames()))

    def interrupt() -> None:
        if sink.written[-1] == (BINARY, b"0"):
            outbox.send(WORK)

    sink.then = interrupt
    outbox.run(sink, Pulse(Timing(), 0.0), lambda: 0.0)  # type: ignore[arg-type]
    assert sink.kinds() == [BINARY, WORK, BINARY, BINARY, CLOSE]


def test_frames_are_asked_for_one_at_a_time_from_one_buffer() -> None:
    outbox, sink = Outbox(), Sink()
    scratch = bytearray(4)

    def frames() -> Iterator[memoryview]:
        for number in range(4):
            assert len(sink.written) == number
            scratch[:] = bytes([number]) * 4
            yield memoryview(scratch)
        outbox.finish()

    upload = Upload(frames())
    outbox.add(upload)
    outbox.run(sink, Pulse(Timing(), 0.0), lambda: 0.0)  # type: ignore[arg-type]
    assert [data for code, data in sink.written if code == BINARY] == [bytes([n]) * 4 for n in range(4)]
    assert (upload.done.is_set(), upload.error, upload.bytes) == (True, None, 16)


def test_cancelled_half_way_no_frame_follows_and_the_next_upload_goes_on() -> None:
    outbox, sink = Outbox(), Sink()
    closed = threading.Event()

    def frames() -> Iterator[bytes]:
        try:
            while True:
                yield b"first"
        finally:
            closed.set()

    def second() -> Iterator[bytes]:
        yield b"second"
        outbox.finish()

    upload, other = Upload(frames()), Upload(second())
    outbox.add(upload)
    outbox.add(other)
    sink.then = lambda: upload.cancel() if len(sink.written) == 3 else None
    outbox.run(sink, Pulse(Timing(), 0.0), lambda: 0.0)  # type: ignore[arg-type]
    assert [data for _, data in sink.written[:-1]] == [b"first"] * 3 + [b"second"]
    assert upload.done.is_set()
    assert upload.cancelled
    assert upload.error is None
    assert closed.is_set()
    assert other.done.is_set()


def test_what_the_frames_raise_ends_their_upload_only() -> None:
    outbox, sink = Outbox(), Sink()

    def broken() -> Iterator[bytes]:
        yield b"one"
        raise ZeroDivisionError

    def whole() -> Iterator[bytes]:
        yield b"two"
        outbox.finish()

    first, second = Upload(broken()), Upload(whole())
    outbox.add(first)
    outbox.add(second)
    outbox.run(sink, Pulse(Timing(), 0.0), lambda: 0.0)  # type: ignore[arg-type]
    assert isinstance(first.error, ZeroDivisionError)
    assert second.error is None
    assert sink.written[1] == (BINARY, b"two")


def test_a_lost_connection_ends_all_uploads_with_the_reason() -> None:
    outbox, sink = Outbox(), Sink()
    uploads = [Upload([b"x"] * 3), Upload([b"y"])]
    for upload in uploads:
        assert outbox.add(upload)

    def fail() -> None:
        raise ConnectionResetError

    sink.then = fail
    with pytest.raises(ConnectionResetError):
        outbox.run(sink, Pulse(Timing(), 0.0), lambda: 0.0)  # type: ignore[arg-type]
    for upload in uploads:
        assert upload.wait(0)
        assert isinstance(upload.error, LinkError)
    assert not outbox.add(Upload([]))
    assert not outbox.send(WORK)


def test_the_goodbye_is_the_last_message() -> None:
    outbox, sink = Outbox(), Sink()
    outbox.send(WORK)
    outbox.finish(Goodbye(reason="bye"))
    assert not outbox.send(WORK)
    drain(outbox, sink)
    assert sink.kinds() == [WORK, Goodbye(reason="bye"), CLOSE]


def test_a_heartbeat_goes_out_when_it_is_due() -> None:
    outbox, sink = Outbox(), Sink()
    now = [0.0]

    def frames() -> Iterator[bytes]:
        for now[0] in (10.0, 19.0, 20.0, 21.0):
            yield b"f"
        outbox.finish()

    outbox.add(Upload(frames()))
    outbox.run(sink, Pulse(Timing(), 0.0), lambda: now[0])  # type: ignore[arg-type]
    beats = [place for place, kind in enumerate(sink.kinds()) if isinstance(kind, Heartbeat)]
    assert beats == [2]
