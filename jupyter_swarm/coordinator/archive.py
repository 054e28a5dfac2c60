"""What is kept of the sessions of a server, also when they have ended: their checkpoints and the blobs they name."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from ..protocol.errors import SessionError, SettingError
from ..store.database import Database

if TYPE_CHECKING:
    from .manager import SessionManager

_LAST_CHECKPOINT_SECONDS = 60.0


class Archive:
    """All of it for one server. Methods raise `UnknownSession`, `StoreError`."""

    def __init__(self, manager: SessionManager) -> None:
        self._manager = manager

    async def names_blob(self, session: str, sha256: str) -> bool:
        """Whether the session, or a checkpoint of it, names this blob."""
        spec = (await self._manager.stored(session)).spec
        storage = await self._manager.storage()
        return await storage.run_in_store(storage.names_blob, spec, sha256)

    async def checkpoints(self, session: str) -> list[dict[str, Any]]:
        """All checkpoints of a session, oldest first, each with its manifest (None, and the problem, if that cannot be
        read). Of a session that has just finished, with the last one."""
        running = self._manager.running(session)
        if running is not None and running.state.phase == "finished":
            await asyncio.wait({running.checkpoints.ended}, timeout=_LAST_CHECKPOINT_SECONDS)
        rows = await self._manager.in_record(session, Database.checkpoints)
        storage = await self._manager.storage()
        return await storage.run_in_store(lambda: [storage.describe_checkpoint(row) for row in rows])

    async def write_checkpoint(self, session: str, name: str) -> dict[str, Any]:
        """Write a checkpoint of the version that stands now; returns when it is durable. Raises `SettingError`."""
        await self._manager.stored(session)
        if len(name) > 200 or not (name.isprintable() and name == name.strip()):
            raise SettingError(
                "This cannot be the name of a checkpoint.", todo="Choose up to 200 printable characters."
            )
        row = await self._manager.runtime(session).checkpoints.take(name)
        storage = await self._manager.storage()
        return await storage.run_in_store(storage.describe_checkpoint, row)

    async def delete_checkpoint(self, session: str, number: int) -> None:
        """Remove a checkpoint, and its files unless another one shares them. Raises `SessionError`."""
        spec = (await self._manager.stored(session)).spec
        if not any(row.number == number for row in await self._manager.in_record(session, Database.checkpoints)):
            raise SessionError(f"The session has no checkpoint {number}.", todo="List its checkpoints.")
        storage = await self._manager.storage()
        running = self._manager.running(session)
        async with running.checkpoints.lock if running else contextlib.nullcontext():
            await storage.run_in_store(
                storage.forget, spec, lambda: storage.database.delete_checkpoint(session, number)
            )
