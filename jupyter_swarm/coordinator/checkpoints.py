"""The checkpoints of a running session: when one is due, what it says, and that it is whole or not there.

A round waits for a copy of the view and no longer: hashing and writing are done beside it. What goes wrong with a
checkpoint that nobody waits for is told as an event, and training goes on: what it stands on, journal and snapshots, is
written elsewhere, and a disk that takes that no more pauses it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec

from .. import __version__
from ..protocol.errors import CheckpointError, StoreError, SwarmError
from ..protocol.manifest import FileEntry, FileHash, Manifest
from ..shards.vector import FlatVector
from ..store.checkpoints import store_files, weight_files
from ..store.rows import StoredCheckpoint

if TYPE_CHECKING:
    from .session import SessionRuntime

_PIECE = 1 << 20
LAST = "final"
"""The name of the checkpoint that is written when a session ends."""


class Checkpoints:
    """`lock` is held while a checkpoint is written or deleted. `ended`: whether, at the end, the last one is there. If
    not, because the disk refused it or the server stopped before, the session has not finished: the next server takes
    it up again."""

    def __init__(self, session: SessionRuntime) -> None:
        self.session = session
        self.lock = asyncio.Lock()
        self.ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._stopped = False
        self._exported: tuple[FileEntry, ...] = ()

    def committed(self, version: int) -> None:
        """A version stands: write it if it is its turn."""
        session = self.session
        every = session.state.settings.checkpoint_rounds
        if not every or version % every:
            return
        if self.lock.locked():
            text = f"No checkpoint was written after round {version}: the one before is still being written."
            session.note("warning", text)
        else:
            session.spawn(self._due("", session.in_thread(session.numbers.version_and_view)))

    def finished(self) -> None:
        """The session has ended: its last version is kept."""
        self.session.spawn(self._last())

    def stop(self) -> None:
        """Give up what is being written."""
        self._stopped = True
        if not self.ended.done():
            self.ended.set_result(False)

    async def take(self, name: str) -> StoredCheckpoint:
        """Write the version that stands; returns when it is durable. Raises `StoreError`."""
        async with self.lock:
            return await self._write(name, *await self.session.in_thread(self.session.numbers.version_and_view))

    async def _due(self, name: str, copy: asyncio.Future[tuple[int, FlatVector]]) -> bool:
        """Write the copy of a version; whether that worked."""
        try:
            async with self.lock:
                await self._write(name, *await copy)
        except SwarmError as error:
            reason = " ".join(str(error).split("\n"))
            self.session.note("error", f"No checkpoint was written after round {self.session.state.version}: {reason}")
            return False
        return True

    async def _last(self) -> None:
        session, there = self.session, False
        try:
            there = not session.state.version or await self._due(
                LAST, session.in_thread(session.numbers.version_and_view)
            )
        finally:
            if not self.ended.done():
                self.ended.set_result(there)

    async def _write(self, name: str, version: int, view: FlatVector) -> StoredCheckpoint:
        session, store = self.session, self.session.store
        known = await store.run_in_store(self._of_version, version)
        manifest = await store.run_in_store(self._facts, name or f"round-{version}", version)
        if known:
            row, older = known
            if name == LAST and older.metrics == manifest.metrics:
                return row
            files, digest = older.files, older.view_digest
        else:
            weights = await asyncio.to_thread(store_files, weight_files(view), store.blobs, lambda: self._stopped)
            digest = await asyncio.to_thread(view.digest_all)
            files = (*weights, *await asyncio.to_thread(self._export_files))
        manifest = msgspec.structs.replace(manifest, files=files, view_digest=digest)
        row = await store.run_in_store(self._record, manifest)
        session.note("info", f"Checkpoint {row.number} ({row.name}) of version {version} was written.")
        session.publish("checkpoint", number=row.number, name=row.name, version=version, manifest=row.manifest)
        return row

    # --- in the store's thread

    def _of_version(self, version: int) -> tuple[StoredCheckpoint, Manifest] | None:
        """The newest whole checkpoint of this version, if there is one: numbers are written once."""
        store = self.session.store
        for row in reversed(store.database.checkpoints(self.session.spec.session)):
            if row.version == version:
                with contextlib.suppress(StoreError, CheckpointError):
                    manifest = store.manifest(row.manifest)
                    if all(store.blobs.exists(entry.sha256) for entry in manifest.files):
                        return row, manifest
        return None

    def _facts(self, name: str, version: int) -> Manifest:
        session, database = self.session, self.session.store.database
        spec = session.spec_now()
        record = database.round(spec.session, version)
        return Manifest(
            name=name,
            version=version,
            files=(),
            layout_digest=spec.layout_digest,
            view_digest="",
            session=spec.session,
            session_name=spec.name,
            generation=session.generation,
            samples=record.book.done if record else 0,
            recipe=spec.recipe,
            data=spec.data,
            strategy=(record and record.strategy) or spec.rule_of(max(version, 1)).strategy,
            metrics=database.latest_metrics(spec.session, version),
            parent=spec.parent,
            software=f"jupyter_swarm {__version__}",
            created=session.now(),
        )

    def _record(self, manifest: Manifest) -> StoredCheckpoint:
        """The manifest, and then the row that makes it a checkpoint of the session."""
        store = self.session.store
        missing = [entry.name for entry in manifest.files if not store.blobs.exists(entry.sha256)]
        if missing:
            raise StoreError(f"The file {missing[0]} of the checkpoint has gone.", todo="Write the checkpoint again.")
        sha256 = store.blobs.put(manifest.encode())
        return store.database.add_checkpoint(
            manifest.session, manifest.name, manifest.version, sha256, manifest.created
        )

    def _export_files(self) -> tuple[FileEntry, ...]:
        if not self._exported:
            self._exported = tuple(self._entry(name, sha256) for name, sha256 in self.session.spec.export)
        return self._exported

    def _entry(self, name: str, sha256: str) -> FileEntry:
        digest = FileHash()
        with self.session.store.blobs.open(sha256) as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
        return digest.entry(name)
