"""An SQLite file that is durable, upgraded in place, and open in one server at a time.

It is in WAL mode with synchronous=FULL: what was written is on the disk when a transaction ends. It is locked for as
long as it is open, since two servers that ran the same sessions would tear them. The lock goes with the process. It
also spares WAL its shared memory, which network file systems lack.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..protocol.errors import StoreError
from .atomic import disk_full


class SqliteFile:
    """The open file. Open it, use it and close it in one and the same thread: SQLite refuses any other.

    Every method raises `StoreError` where the disk refuses or the file is damaged; what was there before stays.
    """

    def __init__(self, path: Path, steps: Sequence[str], lock_seconds: float) -> None:
        """Open or make the file; waits `lock_seconds` for another server to let it go. `steps`: the SQL that leads from
        each version of its schema to the next."""
        self.path = path
        with self._errors():
            self._connection = sqlite3.connect(path, timeout=lock_seconds, isolation_level=None)
        try:
            self._prepare(steps)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file and let others open it."""
        with self._errors():
            self._connection.close()

    def run(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement; returns its rows."""
        with self._errors():
            return self._connection.execute(sql, values).fetchall()

    def run_each(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Run one statement with each of these values."""
        with self._errors():
            self._connection.executemany(sql, rows)

    def insert(self, table: str, row: tuple[Any, ...]) -> None:
        """Add a row, given all its columns."""
        self.run(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", *row)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block's writes, or none of them."""
        self.run("BEGIN IMMEDIATE")
        try:
            yield
            self.run("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite itself rolls back some of its failures
                self.run("ROLLBACK")
            raise

    def _prepare(self, steps: Sequence[str]) -> None:
        # Before the first access, so that WAL needs no shared memory and no second server comes in.
        self.run("PRAGMA locking_mode = EXCLUSIVE")
        ((version,),) = self.run("PRAGMA user_version")
        if version > len(steps):
            raise StoreError(
                "The stored sessions were written by a newer jupyter_swarm.",
                f"{self.path} has format {version}; this release reads format {len(steps)}.",
                "Upgrade jupyter_swarm on the server, or choose another folder for its sessions.",
            )
        self.run("PRAGMA journal_mode = WAL")
        self.run("PRAGMA synchronous = FULL")
        self.run("PRAGMA foreign_keys = ON")
        for number, step in enumerate(steps[version:], version + 1):
            with self._errors():
                self._connection.executescript(f"BEGIN; {step} PRAGMA user_version = {number}; COMMIT;")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's failures as `StoreError`; what only a mistake in this program can cause stays as it is."""
        try:
            yield
        except sqlite3.ProgrammingError:
            raise
        except sqlite3.Error as error:
            raise self._store_error(str(error)) from error

    def _store_error(self, reason: str) -> StoreError:
        why = f"{reason} ({self.path})"
        folder = self.path.parent
        if "is full" in reason:
            return disk_full(why, folder)
        if "locked" in reason:
            return StoreError(
                "The stored sessions are in use by another server.",
                why,
                "Stop the other Jupyter server, or choose another folder for the sessions of this one.",
            )
        if "malformed" in reason or "not a database" in reason:
            return StoreError(
                "The record of the stored sessions is damaged.",
                why,
                f"Restore {folder} from a backup, or move it away.",
            )
        return StoreError(
            "The server could not write or read its record.",
            why,
            f"Check the disk of {folder}, its free space, and the right to write there; then resume the session.",
        )
