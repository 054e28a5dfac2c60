"""Blobs by content: a file's name is the SHA-256 of its bytes. Data, recipes, exports, checkpoints."""

from __future__ import annotations

import contextlib
import hashlib
import re
from io import BufferedReader
from pathlib import Path

from ..protocol.errors import Refusal, StoreError
from ..protocol.frames import Buffer
from ..protocol.manifest import FileEntry, FileHash
from .atomic import AtomicFile, Discarding, disk_errors, remove_temporaries

_ADDRESS = re.compile(r"[0-9a-f]{64}")


class BlobWriter(Discarding):
    """Takes a blob in pieces; nothing is to be seen of it before `finish`. Not for several threads."""

    def __init__(self, path: Path, limit: int) -> None:
        self._file = AtomicFile(path)
        self._limit = limit
        self._hash = hashlib.sha256()

    def write(self, chunk: Buffer) -> None:
        """Add bytes. Raises `Refusal` beyond the size limit, `StoreError` from the disk; the blob is then discarded."""
        if self._file.size + memoryview(chunk).nbytes > self._limit:
            self.discard()
            raise Refusal(
                f"The upload is larger than {self._limit} bytes.",
                "The server takes nothing larger for this purpose.",
                "Send less, or have the limit of the server raised.",
            )
        self._hash.update(chunk)
        self._file.write(chunk)

    def finish(self) -> None:
        """Store the blob durably. Raises `Refusal` if its bytes are not the announced ones, or `StoreError`."""
        if self._hash.hexdigest() != self._file.path.name:
            self.discard()
            raise Refusal(
                "The uploaded bytes are not those that were announced.",
                f"Their SHA-256 is {self._hash.hexdigest()}, not {self._file.path.name}.",
                "Send them again.",
            )
        if self._file.path.exists():
            self.discard()  # the same bytes, perhaps being read: Windows would not let go of them
        else:
            self._file.commit()

    def discard(self) -> None:
        self._file.discard()


class NewBlob(Discarding):
    """Takes a blob in pieces whose hash is not known before its end. Not for several threads."""

    def __init__(self, folder: Path) -> None:
        self._file = AtomicFile(folder / "new")
        self._hash = FileHash()

    def write(self, chunk: Buffer) -> None:
        """Add bytes. Raises `StoreError`; the blob is then discarded."""
        self._hash.update(chunk)
        self._file.write(chunk)

    def finish(self, name: str) -> FileEntry:
        """Store the blob durably; returns the entry of a file `name` with its bytes. Raises `StoreError`."""
        entry = self._hash.entry(name)
        self._file.path = self._file.path.with_name(entry.sha256)
        if self._file.path.exists():
            self.discard()
        else:
            self._file.commit()
        return entry

    def discard(self) -> None:
        self._file.discard()


class Blobs:
    """The blobs in one folder. Every method raises `Refusal` for what is not 64 lower-case hexadecimal digits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def writer(self, sha256: str, limit: int) -> BlobWriter:
        """A writer for the blob `sha256`, of at most `limit` bytes. Raises `StoreError`."""
        return BlobWriter(self._path(sha256), limit)

    def put(self, data: Buffer) -> str:
        """Store `data`; returns its SHA-256. Raises `StoreError`."""
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.exists(sha256):
            with self.writer(sha256, memoryview(data).nbytes) as writer:
                writer.write(data)
                writer.finish()
        return sha256

    def new(self) -> NewBlob:
        """A writer for a blob of any size. Raises `StoreError`."""
        return NewBlob(self.folder)

    def exists(self, sha256: str) -> bool:
        """Whether the blob is stored."""
        return self._path(sha256).is_file()

    def size(self, sha256: str) -> int:
        """Bytes of the blob. Raises `StoreError` if it is not there."""
        path = self._path(sha256)
        with disk_errors("find", path):
            return path.stat().st_size

    def open(self, sha256: str) -> BufferedReader:
        """The blob as a file to be read in pieces; who receives it checks its hash. Raises `StoreError`."""
        path = self._path(sha256)
        with disk_errors("read", path):
            return path.open("rb")

    def read(self, sha256: str) -> bytes:
        """The whole blob, checked against its hash. Raises `StoreError`."""
        path = self._path(sha256)
        with disk_errors("read", path):
            data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise StoreError(
                f"The stored blob {sha256} is damaged.",
                "Its bytes do not have the SHA-256 that is its name.",
                f"Check the disk of {self.folder}, remove the file, and upload it again.",
            )
        return data

    def remove(self, sha256: str) -> None:
        """Forget a blob, if it is there."""
        # Windows keeps a file that somebody is reading; the next sweep gets it.
        with contextlib.suppress(OSError):
            self._path(sha256).unlink()

    def untouched(self, before: float) -> set[str]:
        """The blobs that were stored before that time (seconds since 1970). Raises `StoreError`."""
        with disk_errors("look into", self.folder):
            files = [path for path in self.folder.iterdir() if _ADDRESS.fullmatch(path.name)]
            return {path.name for path in files if path.stat().st_mtime < before}

    def recover(self) -> None:
        """Remove uploads that a server that died has left unfinished. Only at the start."""
        remove_temporaries(self.folder)

    def _path(self, sha256: str) -> Path:
        if not _ADDRESS.fullmatch(sha256):
            raise Refusal("This is not the address of a blob.", "It is not a SHA-256 of 64 hexadecimal digits.")
        return self.folder / sha256
