"""The read-only WebSocket: what a session does, as JSON, for whoever may look."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
from tornado.ioloop import PeriodicCallback
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from .guard import SUBPROTOCOL, Guarded, allows
from .status import push

_HEARTBEAT_SECONDS = 20.0
"""Proxies drop a WebSocket that is silent for a minute."""
_QUEUE_BYTES = 8 << 20
"""So much a slow viewer may be behind before it is let go; it then connects again and sees the newest state. All are
behind in the same messages, so this is not memory for each viewer; and a class that comes at once is many of them."""


class SwarmSocket(Guarded, WebSocketHandler):
    """Base of our WebSockets: refused with 401 to 410 before the upgrade, closed when their invite is revoked."""

    _left: Callable[[], None] | None = None

    def check_origin(self, origin: str) -> bool:  # type: ignore[override]
        return self.brings_secret or bool(super().check_origin(origin))

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return SUBPROTOCOL if SUBPROTOCOL in subprotocols else None

    def get_compression_options(self) -> dict[str, Any] | None:
        return None

    def note_connection(self) -> None:
        """To be called in `open`: a revoked invite closes the socket from then on."""
        if self.caller.invite:
            self._left = self.manager.invites.connected(self.caller.invite, self.dismiss)

    def forget_connection(self) -> None:
        """To be called when the socket is closed."""
        if self._left:
            self._left()

    def dismiss(self, reason: str) -> None:
        """Close the socket because its invite is no longer good."""
        self.close(1008, reason)


class WatchSocket(SwarmSocket):
    """`sessions/ID/watch`: first the status, then what the session pushes; whatever the viewer sends is ignored."""

    @property
    def max_message_size(self) -> int:
        return 4096

    @allows("owner", "instructor", "peer", "viewer")
    async def get(self, session: str) -> None:  # type: ignore[override]
        await self.manager.stored(session)
        self._runtime = self.manager.runtime(session)
        await super().get(session)

    def open(self, session: str) -> None:  # type: ignore[override]
        self.note_connection()
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._waiting = 0
        self._push(push("status", **msgspec.structs.asdict(self._runtime.status())))
        self._stop_viewing = self._runtime.add_viewer(self._push)
        self._heartbeat = PeriodicCallback(lambda: self._push(push("heartbeat")), _HEARTBEAT_SECONDS * 1000)
        self._heartbeat.start()
        self._writing = asyncio.get_running_loop().create_task(self._write())

    def on_message(self, message: str | bytes) -> None:
        pass

    def on_close(self) -> None:
        self.forget_connection()
        self._stop_viewing()
        self._heartbeat.stop()
        self._writing.cancel()

    def _push(self, message: bytes) -> None:
        self._waiting += len(message)
        if self._waiting > _QUEUE_BYTES:
            self.close(1013, "This viewer is too slow.")
        else:
            self._queue.put_nowait(message)

    async def _write(self) -> None:
        with contextlib.suppress(WebSocketClosedError):
            while True:
                message = await self._queue.get()
                await self.write_message(message)  # as text
                self._waiting -= len(message)
