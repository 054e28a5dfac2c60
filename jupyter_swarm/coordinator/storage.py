"""The server's store as its sessions use it: the record from one thread of its own, the files from any."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import msgspec

from ..protocol.errors import CheckpointError, StoreError, SwarmError
from ..protocol.manifest import Manifest, read_manifest
from ..protocol.rules import SessionSpec
from ..store.blobs import Blobs
from ..store.database import Database
from ..store.paths import StoreRoot
from ..store.rows import StoredCheckpoint

_P = ParamSpec("_P")
_T = TypeVar("_T")

_LOCK_SECONDS = 1.0
"""How long another server is waited for; it holds the lock as long as it runs, so not in the hope that it ends."""
_UNNAMED_SECONDS = 86400.0
"""So long a blob that no session names may wait for the session that it was uploaded for."""


def spec_blobs(spec: SessionSpec) -> set[str]:
    """The blobs that a session's founder has uploaded."""
    return {spec.recipe, spec.initial, spec.data, *(sha256 for _, sha256 in spec.export)} - {""}


class Storage:
    """The open store of one server. `database` may be used in functions given to `run_in_store` only."""

    database: Database

    def __init__(self, root: Path) -> None:
        self.root = StoreRoot(root)
        self.blobs = Blobs(self.root.blobs)
        self._manifests: dict[str, Manifest] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="swarm-store")

    @classmethod
    async def open(cls, root: Path) -> Storage:
        """Open the store in `root`, made if it is missing. Raises `StoreError`, also if another server has it open."""
        storage = await asyncio.to_thread(cls, root)
        try:
            storage.database = await storage.run_in_store(Database, storage.root.database, _LOCK_SECONDS)
            await storage.run_in_store(storage.blobs.recover)
            await storage.run_in_store(storage.sweep, time.time() - _UNNAMED_SECONDS)
        except BaseException:
            storage._thread.shutdown(wait=False)
            raise
        return storage

    async def close(self) -> None:
        """Close the record once what was asked of it is done."""
        await self.run_in_store(self.database.close)
        self._thread.shutdown(wait=False)

    async def run_in_store(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run `function` in the store's thread, after what was asked for before; returns or raises what it does."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))

    def folder(self, session: str) -> Path:
        """The folder of a session's snapshots and packets, made if it is missing."""
        return self.root.session(session)

    def remove_folder(self, session: str) -> None:
        """Remove a session's snapshots and packets."""
        shutil.rmtree(self.folder(session), ignore_errors=True)

    # --- which blobs belong to whom; in functions given to `run_in_store` only

    def manifest(self, sha256: str) -> Manifest:
        """The manifest of a checkpoint. Raises `StoreError`, `CheckpointError`."""
        if sha256 not in self._manifests:
            self._manifests[sha256] = read_manifest(self.blobs.read(sha256))
        return self._manifests[sha256]

    def describe_checkpoint(self, row: StoredCheckpoint) -> dict[str, Any]:
        """A checkpoint with its manifest (None, and the problem, if that cannot be read)."""
        try:
            manifest, problem = msgspec.to_builtins(self.manifest(row.manifest)), ""
        except SwarmError as error:
            manifest, problem = None, str(error)
        return {
            "number": row.number, "name": row.name, "version": row.version, "created": row.created,
            "sha256": row.manifest, "manifest": manifest, "problem": problem,
        }  # fmt: skip

    def names_blob(self, spec: SessionSpec, sha256: str) -> bool:
        """Whether a session, or a checkpoint of it whose manifest can be read, names this blob."""
        if sha256 in spec_blobs(spec):
            return True
        for row in self.database.checkpoints(spec.session):
            with contextlib.suppress(StoreError, CheckpointError):
                if sha256 in self._blobs_of(row):
                    return True
        return False

    def forget(self, spec: SessionSpec, delete_rows: Callable[[], None]) -> None:
        """Delete rows of a session, and then the blobs of its checkpoints that no session names any more. What cannot
        be told now, because a manifest cannot be read, is left for `sweep`."""
        try:
            named = self._all_blobs_of(spec) - spec_blobs(spec)
        except (StoreError, CheckpointError):
            named = set()
        delete_rows()
        with contextlib.suppress(StoreError, CheckpointError):
            self._remove_unnamed(named)

    def sweep(self, before: float) -> None:
        """Remove what was stored before that time and no session names: uploads for a session that was never opened,
        what a deleted one has left, checkpoints that a server died over. Nothing, if a manifest cannot be read."""
        with contextlib.suppress(StoreError, CheckpointError):
            self._remove_unnamed(self.blobs.untouched(before))

    def _remove_unnamed(self, blobs: set[str]) -> None:
        """Remove those of `blobs` that no session names. None, if a manifest cannot be read: it may name them."""
        for stored in self.database.sessions():
            blobs = blobs - self._all_blobs_of(stored.spec)
        for sha256 in blobs:
            self.blobs.remove(sha256)

    def _all_blobs_of(self, spec: SessionSpec) -> set[str]:
        """All blobs that a session names: its own, and those of its checkpoints."""
        return spec_blobs(spec).union(*(self._blobs_of(row) for row in self.database.checkpoints(spec.session)))

    def _blobs_of(self, row: StoredCheckpoint) -> set[str]:
        return {row.manifest, *(entry.sha256 for entry in self.manifest(row.manifest).files)}
