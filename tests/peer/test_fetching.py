"""Files that come in chunks: continued, checked, fetched again where they are wrong."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_swarm.peer.fetching import fetch, is_whole
from jupyter_swarm.protocol import manifest
from jupyter_swarm.protocol.errors import CheckpointError, LinkError
from jupyter_swarm.protocol.manifest import FileEntry, entry_of

CHUNK = 16
DATA = bytes(range(100))


@pytest.fixture(autouse=True)
def small_chunks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "CHUNK_BYTES", CHUNK)
        yield


class Server:
    """Sends `data`; `spoil(request, position)` says which byte to spoil; breaks off after `bytes_left` bytes."""

    def __init__(self, data: bytes, piece: int = 7, spoil: Callable[[int], int | None] = lambda request: None) -> None:
        self.data = data
        self.piece = piece
        self.spoil = spoil
        self.breaks_at: int | None = None
        self.requests: list[int] = []
        self.sent = 0

    @contextlib.contextmanager
    def __call__(self, start: int) -> Iterator[Iterator[bytes]]:
        self.requests.append(start)
        data = bytearray(self.data)
        place = self.spoil(len(self.requests))
        if place is not None:
            data[place] ^= 1
        yield self._pieces(bytes(data), start)

    def _pieces(self, data: bytes, start: int) -> Iterator[bytes]:
        for first in range(start, len(data), self.piece):
            if self.breaks_at is not None and first >= self.breaks_at:
                raise LinkError("The connection is gone.")
            piece = data[first : first + self.piece]
            self.sent += len(piece)
            yield piece


def entry(data: bytes = DATA) -> FileEntry:
    return entry_of("file", data)


def told(_: int) -> None:
    pass


@given(
    there=st.binary(max_size=120),
    right=st.integers(0, 100),
    piece=st.integers(1, 120),
    size=st.integers(0, 100),
)
def test_whatever_is_there_already_it_ends_whole(there: bytes, right: int, piece: int, size: int) -> None:
    data = DATA[:size]
    file = io.BytesIO(data[:right] + there)
    server = Server(data, piece)
    fetch(file, entry(data), server, told)
    assert file.getvalue() == data
    # What was right is kept, but for a chunk whose beginning was right and whose rest was not.
    assert not server.requests or server.requests[0] >= min(right, size) // CHUNK * CHUNK


def test_a_fetch_that_broke_off_goes_on_where_it_did() -> None:
    file, first, second = io.BytesIO(), Server(DATA), Server(DATA)
    first.breaks_at = 35
    with pytest.raises(LinkError):
        fetch(file, entry(), first, told)
    assert file.getvalue() == DATA[:35]
    said: list[int] = []
    fetch(file, entry(), second, said.append)
    assert (second.requests, second.sent) == ([35], 65)
    assert file.getvalue() == DATA
    assert said[0] == 35
    assert said == sorted(said)
    assert said[-1] == 100
    fetch(file, entry(), second, told)
    assert second.requests == [35], "nothing was missing"


def test_a_wrong_chunk_is_fetched_once_more_and_no_other() -> None:
    file = io.BytesIO()
    server = Server(DATA, spoil=lambda request: 40 if request == 1 else None)
    fetch(file, entry(), server, told)
    assert file.getvalue() == DATA
    assert server.requests == [0, 32]


def test_a_chunk_that_stays_wrong_is_an_error_that_says_which() -> None:
    file = io.BytesIO()
    server = Server(DATA, spoil=lambda request: 40)
    with pytest.raises(CheckpointError, match="does not arrive") as refused:
        fetch(file, entry(), server, told)
    assert "Bytes 32 to 48" in refused.value.why
    assert server.requests == [0, 32]
    assert file.getvalue() == DATA[:32], "what was right stays"


def test_a_source_that_ends_early_is_an_error() -> None:
    with pytest.raises(LinkError, match="ended after 50 of 100"):
        fetch(io.BytesIO(), entry(), Server(DATA[:50]), told)


@given(place=st.integers(0, 99))
def test_a_changed_byte_is_found(place: int) -> None:
    changed = bytearray(DATA)
    changed[place] ^= 128
    assert not is_whole(io.BytesIO(changed), entry())
    assert not is_whole(io.BytesIO(DATA[:place]), entry())
    assert not is_whole(io.BytesIO(DATA + b"x"), entry())
    assert is_whole(io.BytesIO(DATA), entry())
