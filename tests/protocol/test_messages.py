from __future__ import annotations

import contextlib
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_swarm.protocol import messages as m
from jupyter_swarm.protocol.errors import ProtocolError
from tests.protocol.builders import FROM_MEMBER, TO_MEMBER, a_message


@pytest.mark.parametrize("kind", FROM_MEMBER)
@given(data=st.data())
@settings(max_examples=25)
def test_what_a_member_says_arrives_as_it_was(kind, data):
    message = data.draw(a_message(kind))
    assert m.read_from_member(m.encode(message)) == message


@pytest.mark.parametrize("kind", TO_MEMBER)
@given(data=st.data())
@settings(max_examples=25)
def test_what_the_coordinator_says_arrives_as_it_was(kind, data):
    message = data.draw(a_message(kind))
    assert m.read_to_member(m.encode(message).encode()) == message


def test_every_message_is_read_by_somebody():
    defined = {value for value in vars(m).values() if isinstance(value, type) and issubclass(value, m.Message)}
    assert defined - {m.Message} == {*FROM_MEMBER, *TO_MEMBER}


def test_the_type_is_the_name_in_lower_case():
    assert m.encode(m.WantWork(3, 7)) == '{"type":"wantwork","generation":3,"version":7}'


def test_fields_of_a_newer_version_are_ignored():
    text = '{"type":"wantwork","generation":3,"version":7,"mood":"good"}'
    assert m.read_from_member(text) == m.WantWork(3, 7)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        '{"type":"dance"}',
        '{"type":"wantwork"}',
        '{"type":"wantwork","generation":"3","version":7}',
        '{"type":"wantwork","generation":3,"version":1e99}',
        '{"type":"leasedone","generation":1,"lease":1,"sums":{"loss":NaN}}',
        '{"type":"leasedone","generation":1,"lease":1,"sums":{"loss":null}}',
        '{"type":"leasedone","generation":1,"lease":1,"sums":{"loss":1e999}}',
        '{"type":"commit","generation":1}',
        "[" * 100_000,
        '{"type":' * 20_000,
        "\ud800",
        b"\xff\xfe",
        b'{"type":"goodbye","reason":"\xff"}',
    ],
    ids=range(18),
)
def test_what_is_no_message_is_refused_in_words(text):
    with pytest.raises(ProtocolError) as caught:
        m.read_from_member(text)
    assert caught.value.what.startswith("A message could not be read")
    assert len(str(caught.value)) < 600, "what a stranger sent is not repeated at length"


def test_a_message_for_the_other_side_is_refused():
    with pytest.raises(ProtocolError):
        m.read_from_member(m.encode(m.Accepted(1, 1, 1)))
    with pytest.raises(ProtocolError):
        m.read_to_member(m.encode(m.WantWork(1, 1)))


def test_an_oversized_message_is_refused_without_reading_it():
    text = '{"type":"goodbye","reason":"' + "x" * m.MAX_MESSAGE_BYTES + '"}'
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="larger than"):
            m.read_from_member(text)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_message_takes_memory_in_proportion_to_its_length():
    text = (
        '{"type":"leasedone","generation":1,"lease":1,"sums":{'
        + ",".join(f'"{number}":1' for number in range(50_000))
        + "}}"
    )
    tracemalloc.start()
    try:
        m.read_from_member(text)
        assert tracemalloc.get_traced_memory()[1] < 40 * len(text)
    finally:
        tracemalloc.stop()


def read_somehow(text: str | bytes) -> None:
    for read in (m.read_from_member, m.read_to_member):
        with contextlib.suppress(ProtocolError):
            assert isinstance(read(text), m.Message)


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300)))
def test_random_bytes_are_a_message_or_our_error(text):
    read_somehow(text)


@given(st.data())
@settings(max_examples=300)
def test_mutated_messages_are_a_message_or_our_error(data):
    kind = data.draw(st.sampled_from([*FROM_MEMBER, *TO_MEMBER]))
    text = bytearray(m.encode(data.draw(a_message(kind))).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(text) - 1, 0)))
        how = data.draw(st.sampled_from(["flip", "cut", "insert", "repeat"]))
        if how == "flip" and text:
            text[at] ^= data.draw(st.integers(1, 255))
        elif how == "cut":
            del text[at:]
        elif how == "insert":
            text[at:at] = data.draw(st.sampled_from([b"[", b"{", b'"', b"1e400", b"null", b"\\ud800", b"\x00"]))
        else:
            text += text[at : at + 50]
    read_somehow(bytes(text))
