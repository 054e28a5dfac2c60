"""Files that appear under their name whole or not at all, and the disk's refusals in words."""

from __future__ import annotations

import abc
import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from ..protocol import failpoints
from ..protocol.errors import StoreError
from ..protocol.frames import Buffer

"""Bytes to be written; a memoryview must be contiguous."""

TEMPORARY = ".tmp"
"""How the names of files end that are still being written, or whose writer died."""

_SYNC_BYTES = 32 << 20
"""After so many bytes the disk is asked to take them, so that at the end there is little left to wait for."""
_sync_data = getattr(os, "fdatasync", os.fsync)

# Not every system has every number.
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_SUCH_SYNC = {errno.EINVAL, getattr(errno, "ENOTSUP", errno.EINVAL)}

_D = TypeVar("_D", bound="Discarding")


def disk_full(why: str, folder: Path) -> StoreError:
    """The error for a disk, or a quota on it, that is used up."""
    return StoreError(
        "The server's disk is full. Nothing that was stored before is lost.",
        why,
        f"Free some space on the disk of {folder}, then resume the session.",
    )


@contextlib.contextmanager
def disk_errors(doing: str, path: Path) -> Iterator[None]:
    """Turn the `OSError`s of a block into `StoreError`; `doing` goes into "The server could not ... PATH"."""
    try:
        yield
    except OSError as error:
        why = f"{error.strerror or error} ({path})"
        if error.errno in _FULL:
            raise disk_full(why, path.parent) from error
        if error.errno in _FORBIDDEN:
            todo = f"Give the account that runs the server the right to read and write in {path.parent}."
        elif isinstance(error, FileNotFoundError):
            todo = "Check whether something removed the server's files while it ran."
        else:
            todo = f"Check the disk of {path.parent}, then resume the session."
        raise StoreError(f"The server could not {doing} {path.name}.", why, todo) from error


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable, on systems and file systems that can (Windows has no such call)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SUCH_SYNC:
            raise
    finally:
        os.close(handle)


class Discarding(abc.ABC):
    """Something being written. As a context manager it discards what was not finished by the end of the block."""

    @abc.abstractmethod
    def discard(self) -> None:
        """Remove what was written, unless it was finished. May be called again."""

    def __enter__(self: _D) -> _D:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.discard()


class AtomicFile(Discarding):
    """A file being written beside its final place; `commit` makes it durable and puts it there, replacing an old one.

    Until then, and after any failure, the old file is as it was and nothing else is left. Raises `StoreError` wherever
    the disk refuses. Not to be shared between threads.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        """Bytes written so far."""
        with disk_errors("write", path):
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=TEMPORARY)
        self._temporary = Path(name)
        self._file = os.fdopen(handle, "wb")
        self._synced = 0

    def write(self, data: Buffer) -> None:
        """Append `data`. On failure the file is discarded."""
        with self._discarded_on_failure():
            self._file.write(data)
            self.size += memoryview(data).nbytes
            if self.size - self._synced >= _SYNC_BYTES:
                self._file.flush()
                _sync_data(self._file.fileno())
                self._synced = self.size

    def overwrite(self, position: int, data: Buffer) -> None:
        """Replace bytes that were written before."""
        with self._discarded_on_failure():
            self._file.seek(position)
            self._file.write(data)
            self._file.seek(0, os.SEEK_END)

    def flush(self) -> None:
        """Hand everything written so far to the operating system."""
        with self._discarded_on_failure():
            self._file.flush()

    def sync(self) -> None:
        """Make everything written so far durable, still without its name."""
        with self._discarded_on_failure():
            self._file.flush()
            os.fsync(self._file.fileno())

    def commit(self) -> None:
        """Make the file durable and give it its name."""
        self.sync()
        self.rename()
        with self._discarded_on_failure():
            sync_folder(self.path.parent)

    def rename(self) -> None:
        """Give the file its name, which waits for no disk."""
        with self._discarded_on_failure():
            self._file.close()
            failpoints.reach("mid-rename")
            os.replace(self._temporary, self.path)

    def discard(self) -> None:
        with contextlib.suppress(OSError):  # closing writes out what is buffered, which a full disk refuses again
            self._file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _discarded_on_failure(self) -> Iterator[None]:
        try:
            with disk_errors("write", self.path):
                yield
        except BaseException:
            self.discard()
            raise


def remove_temporaries(folder: Path) -> None:
    """Remove what writers that died have left in `folder`. Only while nothing is being written there."""
    with disk_errors("clean up", folder):
        for path in folder.glob(f"*{TEMPORARY}"):
            path.unlink(missing_ok=True)
