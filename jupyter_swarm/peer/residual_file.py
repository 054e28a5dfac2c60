"""What a peer has not sent yet, on its disk: a kernel that is restarted goes on with it.

The file is true or it is not there. It is removed before the residual changes, and written when the residual stands:
when all that was sent is decided. So no part of a contribution that counted is ever sent again.

It costs a round no time. A thread writes it from the residual's own memory, piece by piece, while inner steps are made;
a round that ends sooner stops it, which waits for no disk. At a pause, at leaving and at the process's orderly end (a
kernel's restart is one) it is always written. After a round only as often as `_BYTES_PER_SECOND` allows, for a disk is
not to be worn out: each round with a small model, every 20 s with 10 M parameters. A process that is killed with no
file there starts at zero, as one that has missed rounds does.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from ..protocol.errors import StoreError
from ..store.atomic import TEMPORARY, AtomicFile
from ..store.tensors import Stored, head

_BYTES_PER_SECOND = 2 << 20
_PIECE_ELEMENTS = 1 << 20
_KEPT_SECONDS = 24 * 3600.0
_KEY = "jupyter_swarm.residual"
_NO_DIGEST = "0" * 64
_MOST_HEAD_BYTES = 1 << 16


class Stamp(msgspec.Struct, frozen=True):
    """Whose residual it is and what it fits. version: the committed rounds that it knows of. base: the version that the
    last contribution was computed from. layout: its digest. codec: what that contribution was sent with. sha256: of the
    numbers."""

    session: str
    peer: str
    generation: int
    layout: str
    version: int = 0
    base: int = 0
    codec: str = ""
    sha256: str = _NO_DIGEST

    def misfit(self, now: Stamp) -> str:
        """Why it is of no use to a peer that joins as `now`; '' if it is."""
        if (self.session, self.peer) != (now.session, now.peer):
            return "it is another peer's"
        if self.layout != now.layout:
            return "it is of another model"
        if self.generation > now.generation or self.version > now.version:
            return f"it knows of round {self.version}, and the session is at round {now.version}"
        return ""


class _Unusable(Exception):
    """The text says why."""


class _Head(msgspec.Struct):
    metadata: dict[str, str] = msgspec.field(name="__metadata__")


class ResidualFile:
    """The residual of one peer at `path`: a safetensors file with one tensor, and its stamp.

    No method raises if the disk refuses, or if the file is none: training goes on without it, and `say` is told.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self._path = path
        self._say = say
        self._warned = False
        self._written = -float("inf")
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._clean_up()

    def load(self, now: Stamp, room: Callable[[], Tensor]) -> Stamp | None:
        """Read the numbers into what `room` gives if they fit `now`. None: they are not there, or of no use; then what
        `room` gave holds anything."""
        try:
            return self._load(now, room)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, msgspec.MsgspecError, _Unusable) as error:
            self._say(f"What this peer had not sent yet is forgotten: {error}.")
            self.void()
            return None

    def due(self, values: Tensor) -> bool:
        """Whether so many numbers may be written again after a round."""
        return time.monotonic() - self._written >= values.nbytes / _BYTES_PER_SECOND

    def save(self, stamp: Stamp, values: Tensor) -> None:
        """Write `values` (1-D, fp32, on any device) in the background. Before they change, call `void`."""
        self.void()
        self._stopped = stopped = threading.Event()
        self._written = time.monotonic()
        self._thread = threading.Thread(
            target=self._write, args=(stamp, values, stopped), name="swarm-residual", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Until what is being written is on disk."""
        if self._thread is not None:
            self._thread.join()

    def void(self) -> None:
        """From now on there is no file, and nobody reads what was given to `save`."""
        self._stopped.set()
        with self._lock:
            try:
                self._path.unlink(missing_ok=True)
            except OSError:  # somebody has it open: an empty one says nothing
                with contextlib.suppress(OSError):
                    os.truncate(self._path, 0)

    # --- reading

    def _load(self, now: Stamp, room: Callable[[], Tensor]) -> Stamp:
        with open(self._path, "rb") as file:
            length = file.read(8)
            size = int.from_bytes(length, "little")
            text = file.read(min(size, _MOST_HEAD_BYTES))
            stamp = msgspec.json.decode(msgspec.json.decode(text, type=_Head).metadata.get(_KEY, ""), type=Stamp)
            why = stamp.misfit(now)
            if why:
                raise _Unusable(why)
            values = room()
            if length + text != _head(stamp, values):
                raise _Unusable("its file is of another kind")
            digest = hashlib.sha256()
            scratch = torch.empty(min(_PIECE_ELEMENTS, values.numel()))
            for piece in torch.split(values, _PIECE_ELEMENTS):
                read = scratch[: piece.numel()]
                if file.readinto(read.numpy().data.cast("B")) != read.nbytes:
                    raise _Unusable("its file ends too soon")
                digest.update(read.numpy().data)
                piece.copy_(read)
        if digest.hexdigest() != stamp.sha256:
            raise _Unusable("its file is damaged")
        return stamp

    # --- writing, in a thread

    def _write(self, stamp: Stamp, values: Tensor, stopped: threading.Event) -> None:
        try:
            with AtomicFile(self._path) as file:
                file.write(_head(stamp, values))
                digest = hashlib.sha256()
                for piece in self._pieces(values, stopped):
                    file.write(piece)
                    digest.update(piece)
                file.overwrite(0, _head(msgspec.structs.replace(stamp, sha256=digest.hexdigest()), values))
                file.sync()
                with self._lock:
                    if not stopped.is_set():
                        file.rename()
        except StoreError as error:
            self._warn(error)

    def _pieces(self, values: Tensor, stopped: threading.Event) -> Iterator[memoryview]:
        """Copies of `values`, piece by piece, until it is stopped. The disk is never waited for under the lock."""
        scratch = torch.empty(min(_PIECE_ELEMENTS, values.numel()))
        for piece in torch.split(values, _PIECE_ELEMENTS):
            with self._lock:
                if stopped.is_set():
                    return
                copy = scratch[: piece.numel()].copy_(piece)
            yield copy.numpy().data.cast("B")

    def _warn(self, error: StoreError) -> None:
        if not self._warned:
            self._warned = True
            self._say(
                f"What this peer has not sent yet cannot be kept on its disk: {error.why}. Training goes on; after a "
                "restart it begins again with nothing."
            )

    def _clean_up(self) -> None:
        """Remove what a writer of this file has left, and what peers have left that never came back."""
        long_ago = time.time() - _KEPT_SECONDS
        with contextlib.suppress(OSError):
            for path in self._path.parent.glob(f"{self._path.name}.*{TEMPORARY}"):
                path.unlink(missing_ok=True)
            for path in self._path.parent.glob(f"*{self._path.suffix}*"):
                if path.stat().st_mtime < long_ago:
                    path.unlink(missing_ok=True)


def _head(stamp: Stamp, values: Tensor) -> bytes:
    text = msgspec.json.encode(stamp).decode()
    return head([Stored("residual", values.dtype, tuple(values.shape))], {_KEY: text})
