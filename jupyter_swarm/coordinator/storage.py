"""The server's store as its sessions use it: the record from one thread of its own, the files from any."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from ..store.blobs import Blobs
from ..store.database import Database
from ..store.paths import StoreRoot

_P = ParamSpec("_P")
_T = TypeVar("_T")

_LOCK_SECONDS = 1.0
"""How long another server is waited for; it holds the lock as long as it runs, so not in the hope that it ends."""


class Storage:
    """The open store of one server. `database` may be used in functions given to `run_in_store` only."""

    database: Database

    def __init__(self, root: Path) -> None:
        self.root = StoreRoot(root)
        self.blobs = Blobs(self.root.blobs)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="swarm-store")

    @classmethod
    async def open(cls, root: Path) -> Storage:
        """Open the store in `root`, made if it is missing. Raises `StoreError`, also if another server has it open."""
        storage = await asyncio.to_thread(cls, root)
        try:
            storage.database = await storage.run_in_store(Database, storage.root.database, _LOCK_SECONDS)
            await storage.run_in_store(storage.blobs.recover)
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
