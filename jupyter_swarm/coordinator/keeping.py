"""That a session is paused or has finished is written down, for a restarted server to go on with."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..protocol.errors import SwarmError
from ..store.rows import SessionState

if TYPE_CHECKING:
    from .session import SessionRuntime

_STORED: dict[str, SessionState] = {
    "waiting": "running",
    "training": "running",
    "paused": "paused",
    "finished": "finished",
}


class StateKeeper:
    """Of one session, when its state changes; what the disk refuses is tried again.

    That it has finished is written down once its last checkpoint is there: a server that stops before takes the session
    up again.
    """

    def __init__(self, session: SessionRuntime) -> None:
        self.session = session
        self._kept: SessionState = "running"
        self._writing: asyncio.Task[None] | None = None
        self._told = False

    def see(self, state: str) -> None:
        """What the session does now, in the word of its status. Called again and again."""
        if _STORED[state] != self._kept and (self._writing is None or self._writing.done()):
            self._writing = asyncio.get_running_loop().create_task(self._write(_STORED[state]))

    async def end(self, state: str) -> None:
        """The server stops, and this is what the session did last."""
        if self._writing is not None:
            await self._writing
        if _STORED[state] != self._kept:
            await self._write(_STORED[state])

    async def _write(self, state: SessionState) -> None:
        session, store = self.session, self.session.store
        if state == "finished" and not await session.checkpoints.ended:
            self._kept = state
            return
        try:
            ending = session.state.ending if state == "finished" else ""
            await store.run_in_store(store.database.save_state, session.spec.session, state, session.now(), ending)
        except SwarmError as error:
            if not self._told:
                session.log.error("That this session is %s could not be written down.\n%s", state, error)
            self._told = True
        else:
            self._kept, self._told = state, False
