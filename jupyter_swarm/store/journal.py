"""The packets of each committed round of one session, in one file per round.

A file is a head, one entry per frame, and an end, little-endian:

    head    8s    magic "JSROUND1"
            u64   round
    entry   u32   length of the frame, never 0
            u32   CRC-32 of all bytes of head, lengths and frames so far, up to the end of this frame
            ...   the frame, as it was sent to the peers (`protocol.frames`)
    end     u32   0
            u32   CRC-32 up to here

The checksums are chained, so a frame that is changed, lost, doubled or moved is noticed, as is a file cut short.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path

from ..protocol.errors import StoreError
from ..protocol.frames import HEADER_BYTES, MAX_FRAME_BYTES, Buffer
from .atomic import AtomicFile, Discarding, disk_errors, remove_temporaries
from .paths import round_file, rounds_in, snapshot_file, snapshots_in

_HEAD = struct.Struct("<8sQ")
_ENTRY = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
_MAGIC = b"JSROUND1"


class RoundWriter(Discarding):
    """Takes a round's packets as they come; nothing is to be seen of them before `finish`. Not for several threads."""

    def __init__(self, path: Path, round: int) -> None:
        self._file = AtomicFile(path)
        head = _HEAD.pack(_MAGIC, round)
        self._crc = zlib.crc32(head)
        self._file.write(head)

    def append(self, frame: Buffer | Sequence[Buffer]) -> None:
        """Add one frame, whole or in parts that follow each other. Raises `StoreError`; the round is then discarded."""
        parts = [frame] if isinstance(frame, (bytes, bytearray, memoryview)) else frame
        length = sum(memoryview(part).nbytes for part in parts)
        if not HEADER_BYTES <= length <= MAX_FRAME_BYTES:
            self.discard()
            raise StoreError(f"A frame of {length} bytes cannot be stored: {HEADER_BYTES} to {MAX_FRAME_BYTES} can.")
        self._crc = zlib.crc32(_LENGTH.pack(length), self._crc)
        for part in parts:
            self._crc = zlib.crc32(part, self._crc)
        self._file.write(_ENTRY.pack(length, self._crc))
        for part in parts:
            self._file.write(part)

    def finish(self) -> None:
        """Make the round durable, in place of an earlier attempt's. Raises `StoreError`."""
        self._file.write(_ENTRY.pack(0, zlib.crc32(_LENGTH.pack(0), self._crc)))
        self._file.commit()

    def discard(self) -> None:
        self._file.discard()


class Journal:
    """The rounds of one session, in the session's folder, which it shares with the snapshots."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin_round(self, round: int) -> RoundWriter:
        """A writer for the packets of `round`. Raises `StoreError`."""
        return RoundWriter(round_file(self.folder, round), round)

    def read_round(self, round: int) -> Iterator[bytearray]:
        """The frames of `round` in the order of writing, each in a buffer of its own, one in memory at a time.

        Raises `StoreError` at the first frame that is not as it was written, or for a round that is not there.
        """
        path = round_file(self.folder, round)
        with disk_errors("read", path), path.open("rb") as file:
            head = _read(file, _HEAD.size, path)
            if head != _HEAD.pack(_MAGIC, round):
                raise _damaged(path, "It does not begin as the packets of this round do.")
            crc = zlib.crc32(head)
            while True:
                length, expected = _ENTRY.unpack(_read(file, _ENTRY.size, path))
                if length > MAX_FRAME_BYTES:
                    raise _damaged(path, f"It announces a frame of {length} bytes.")
                frame = _read(file, length, path)
                crc = zlib.crc32(frame, zlib.crc32(_LENGTH.pack(length), crc))
                if crc != expected:
                    raise _damaged(path, f"A checksum is wrong before byte {file.tell()}.")
                if not length:
                    break
                yield frame
            if file.read(1):
                raise _damaged(path, "Something follows its end.")

    def recover(self, last_round: int) -> range:
        """Clean up after a server that died, and say which rounds follow the newest snapshot (version 0 without one).

        Removes files that were being written, rounds after `last_round` (the last that has a record), and what the
        newest snapshot replaces. Raises `StoreError` if packets of a recorded round are missing. Only at the start.
        """
        remove_temporaries(self.folder)
        snapshot = max(snapshots_in(self.folder), default=0)
        if snapshot > last_round:
            raise StoreError(
                f"The stored snapshot is of version {snapshot}, but only {last_round} rounds are recorded.",
                "The record and the session's folder are not of the same time.",
                "Restore both from the same backup.",
            )
        rounds = rounds_in(self.folder)
        for round in rounds:
            if round > last_round:
                with disk_errors("remove", round_file(self.folder, round)):
                    round_file(self.folder, round).unlink()
        self.prune(snapshot)
        needed = range(snapshot + 1, last_round + 1)
        missing = sorted(set(needed) - set(rounds))
        if missing:
            raise StoreError(
                f"The packets of round {missing[0]} are missing.",
                f"The round is recorded, but {round_file(self.folder, missing[0])} is not there.",
                "Restore the session's folder from a backup, or open a new session.",
            )
        return needed

    def prune(self, snapshot: int, keep_after: int | None = None) -> None:
        """Remove what the durable snapshot of version `snapshot` replaces: older snapshots, rounds up to it, but none
        after `keep_after`, which somebody still reads."""
        last = snapshot if keep_after is None else min(snapshot, keep_after)
        old = [snapshot_file(self.folder, version) for version in snapshots_in(self.folder) if version < snapshot]
        old += [round_file(self.folder, round) for round in rounds_in(self.folder) if round <= last]
        for path in old:
            # Windows keeps a file that somebody is reading; the next time gets it.
            with contextlib.suppress(OSError):
                path.unlink()


def _read(file: BufferedReader, size: int, path: Path) -> bytearray:
    data = bytearray(size)
    if file.readinto(data) != size:
        raise _damaged(path, f"It ends after {file.seek(0, os.SEEK_END)} bytes, in the middle.")
    return data


def _damaged(path: Path, why: str) -> StoreError:
    return StoreError(
        f"The stored packets in {path.name} are damaged.",
        why,
        f"Check the disk of {path.parent}, and restore the file from a backup.",
    )
