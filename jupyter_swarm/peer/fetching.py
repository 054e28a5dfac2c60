"""Files that come chunk by chunk, each checked against its hash, and go on where they broke off."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import BinaryIO

from ..protocol.errors import CheckpointError, LinkError
from ..protocol.manifest import FileEntry

_PIECE = 1 << 20

Source = Callable[[int], AbstractContextManager[Iterable[bytes]]]
"""The bytes of a file from a position on, in pieces."""


def fetch(file: BinaryIO, entry: FileEntry, source: Source, say: Callable[[int], None]) -> None:
    """Fetch what `file` lacks of `entry` and what is wrong in it. `say` is told how many of its bytes are there.

    A chunk that is wrong is fetched once more. Raises `CheckpointError` if it then still is, `LinkError` if the source
    ends early; what is right by then stays in `file`.
    """
    arriving = _Arriving(file, entry)
    wrong: set[int] = set()
    say(arriving.position)
    while not arriving.complete:
        before = arriving.position
        with source(before) as pieces:
            for piece in pieces:
                right = arriving.add(piece)
                say(arriving.position)
                if not right:
                    break
            else:
                if arriving.position == before:
                    raise LinkError(f"{entry.name} ended after {before} of {entry.bytes} bytes.", todo="Try again.")
                continue
        if arriving.chunk in wrong:
            start, stop = entry.span(arriving.chunk)
            raise CheckpointError(
                f"{entry.name} does not arrive as its manifest says.",
                f"Bytes {start} to {stop} have another SHA-256, also when they are fetched again.",
                "Try again; if that does not help, the server's copy is damaged: take another checkpoint.",
            )
        wrong.add(arriving.chunk)


def is_whole(file: BinaryIO, entry: FileEntry) -> bool:
    """Whether `file` has exactly the bytes of `entry`."""
    return _good_chunks(file, entry) == len(entry.chunks) and not file.read(1)


class _Arriving:
    """A file of which `chunk` chunks are there and right, and perhaps the beginning of the next."""

    def __init__(self, file: BinaryIO, entry: FileEntry) -> None:
        self._file = file
        self._entry = entry
        self.chunk = _good_chunks(file, entry)
        self._digest = hashlib.sha256()
        start, stop = entry.span(self.chunk) if not self.complete else (entry.bytes, entry.bytes)
        file.seek(start)
        rest = file.read(stop - start)
        if len(rest) == stop - start:  # all of a chunk, and wrong
            rest = b""
        self._cut(start + len(rest))
        self._digest.update(rest)

    @property
    def complete(self) -> bool:
        return self.chunk == len(self._entry.chunks)

    def add(self, piece: bytes) -> bool:
        """Take the next bytes; False if a chunk is wrong: it has been cut off."""
        view = memoryview(piece)
        while len(view) and not self.complete:
            start, stop = self._entry.span(self.chunk)
            part = view[: stop - self.position]
            view = view[len(part) :]
            self._file.write(part)
            self._digest.update(part)
            self.position += len(part)
            if self.position == stop:
                right = self._digest.hexdigest() == self._entry.chunks[self.chunk]
                self._digest = hashlib.sha256()
                if not right:
                    self._cut(start)
                    return False
                self.chunk += 1
        return True

    def _cut(self, position: int) -> None:
        self._file.seek(position)
        self._file.truncate()
        self.position = position


def _good_chunks(file: BinaryIO, entry: FileEntry) -> int:
    """How many chunks from the beginning on are there and right; the file's position is behind the last one read."""
    file.seek(0)
    for chunk, expected in enumerate(entry.chunks):
        start, stop = entry.span(chunk)
        digest = hashlib.sha256()
        while start < stop and (piece := file.read(min(_PIECE, stop - start))):
            digest.update(piece)
            start += len(piece)
        if start < stop or digest.hexdigest() != expected:
            return chunk
    return len(entry.chunks)
