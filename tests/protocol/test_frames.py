from __future__ import annotations

import contextlib
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_swarm.protocol.errors import ProtocolError
from jupyter_swarm.protocol.frames import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    Header,
    Kind,
    payload_of,
    read_header,
    session_tag,
)
from jupyter_swarm.protocol.layout import CHUNK_ELEMENTS, Stream
from jupyter_swarm.protocol.rules import Codec
from tests.protocol.builders import frame, headers

KNOWN = Header(
    Kind.PACKET, Stream.GRADIENT, Codec.BF16, session=0x1122334455667788, generation=3, round=41, number=0, shard=5,
    start=5 * (1 << 22), count=1000, size=2000, attempt=2, fragment=1,
)  # fmt: skip


@given(headers)
def test_a_header_arrives_as_it_was(header):
    assert read_header(frame(header)) == header


def test_the_bytes_of_a_header_do_not_change():
    assert bytes(frame(KNOWN)[:HEADER_BYTES]).hex() == (
        "4a53" "01" "02" "01" "03" "0100" "8877665544332211" "03000000" "02000000" "2900000000000000"
        "0000000000000000" "05000000" "e8030000" "0000400100000000" "d0070000" "00000000"
    )  # fmt: skip


def test_the_numbers_of_kinds_streams_and_codecs_do_not_change():
    assert {kind.name: kind.value for kind in Kind} == {
        "CONTRIBUTION": 1, "PACKET": 2, "SNAPSHOT": 3, "STATE": 4, "ECHO": 5,
    }  # fmt: skip
    assert {stream.name: stream.value for stream in Stream} == {
        "GRADIENT": 1, "PARAMETERS": 2, "BUFFER": 3, "HESSIAN": 4, "COUNTER": 5, "CONSTANT": 6, "OPTIMIZER": 7,
    }  # fmt: skip
    codecs = {"FP32": 1, "FP16": 2, "BF16": 3, "INT8": 4, "INT64": 5, "INT4": 6, "TOPK": 7}
    assert {codec.name: codec.value for codec in Codec} == codecs


def test_the_tag_of_a_session_does_not_change():
    assert session_tag("cs101-7f3a") == int.from_bytes(bytes.fromhex("c6c91e3084791a28"), "little")


def test_the_payload_is_not_copied():
    whole = frame(KNOWN)
    payload = payload_of(whole)
    assert len(payload) == 2000
    whole[HEADER_BYTES] = 7
    assert payload[0] == 7


def changed(at: int, value: bytes) -> bytes:
    whole = frame(KNOWN)
    whole[at : at + len(value)] = value
    return bytes(whole)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"", "too short"),
        (bytes(frame(KNOWN)[:63]), "too short"),
        (bytes(frame(KNOWN)[:-1]), "says it carries 2000 bytes and carries 1999"),
        (bytes(frame(KNOWN)) + b"x", "says it carries 2000 bytes and carries 2001"),
        (bytes(MAX_FRAME_BYTES + 1), "larger than"),
        (changed(0, b"XX"), "not a frame of format 1"),
        (changed(2, b"\x02"), "not a frame of format 1"),
        (changed(60, b"\x01"), "not a frame of format 1"),
        (changed(3, b"\x09"), "9 is not a valid Kind"),
        (changed(4, b"\x00"), "0 is not a valid Stream"),
        (changed(5, b"\xff"), "255 is not a valid Codec"),
        (changed(44, (0).to_bytes(4, "little")), "0 elements"),
        (changed(44, (CHUNK_ELEMENTS + 1).to_bytes(4, "little")), "elements"),
        (changed(56, (2**32 - 1).to_bytes(4, "little")), "says it carries"),
    ],
)
def test_what_is_no_frame_is_refused_with_the_reason(bad, why):
    with pytest.raises(ProtocolError, match=why):
        read_header(bad)


def read_somehow(whole: bytes | bytearray | memoryview) -> None:
    with contextlib.suppress(ProtocolError):
        assert read_header(whole).size == len(payload_of(whole))


@given(st.binary(max_size=200))
def test_random_bytes_are_a_header_or_our_error(whole):
    read_somehow(whole)
    read_somehow(memoryview(whole))


@given(headers, st.data())
@settings(max_examples=300)
def test_mutated_frames_are_a_header_or_our_error(header, data):
    whole = frame(header)
    for _ in range(data.draw(st.integers(1, 4))):
        if data.draw(st.booleans()):
            whole[data.draw(st.integers(0, HEADER_BYTES - 1))] = data.draw(st.integers(0, 255))
        elif len(whole) > HEADER_BYTES:
            del whole[data.draw(st.integers(HEADER_BYTES, len(whole) - 1)) :]
    read_somehow(whole)


def test_reading_a_large_frame_takes_no_memory():
    header = Header(Kind.PACKET, Stream.GRADIENT, Codec.FP32, 1, 1, 1, 0, 0, 0, CHUNK_ELEMENTS, 4 * CHUNK_ELEMENTS)
    whole = frame(header)
    tracemalloc.start()
    try:
        read_header(whole)
        payload_of(whole)
        assert tracemalloc.get_traced_memory()[1] < 20_000
    finally:
        tracemalloc.stop()
