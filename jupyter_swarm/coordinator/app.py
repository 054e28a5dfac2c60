"""The Jupyter server extension: its settings, what it adds to the server, its start and its end."""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_data_dir
from jupyter_server.extension.application import ExtensionApp
from tornado.ioloop import PeriodicCallback
from traitlets import Float, Integer, Unicode, default

from . import addresses
from .guard import Gate
from .handlers import routes
from .invites import FailureLimiter
from .manager import ManagerOptions, SessionManager

SERVER_VARIABLE = "JUPYTER_SWARM_SERVER"
OWNER_VARIABLE = "JUPYTER_SWARM_OWNER"
_ACTIVITY = "jupyter_swarm_last_activity"
_ACTIVITY_SECONDS = 15.0


class SwarmExtension(ExtensionApp):
    """Hosts sessions in which kernels anywhere train one model together."""

    name = "jupyter_swarm"
    description = __doc__

    storage = Unicode(
        help="Folder of everything that is stored: sessions, parameters, uploads. Of two servers that run at the same "
        "time each needs its own."
    ).tag(config=True)
    public_url = Unicode(
        "",
        help="Base URL by which people elsewhere reach this server, for invite links; e.g. https://lab.example.org/. "
        "Empty: as JupyterHub says, or else as your browser has come.",
    ).tag(config=True)
    local_url = Unicode(
        "",
        help="Base URL by which kernels on this machine reach this server. Empty: from the address it listens on. Set "
        "it where that does not fit the server's TLS certificate.",
    ).tag(config=True)
    max_blob_bytes = Integer(4 << 30, min=1, help="Largest upload (recipe, first parameters, data), in bytes.").tag(
        config=True
    )
    invite_hours = Float(168.0, min=0.01, max=8784.0, help="How long an invite is good unless it says otherwise.").tag(
        config=True
    )
    invite_capacity = Integer(256, min=1, help="How many people an invite lets in unless it says otherwise.").tag(
        config=True
    )
    wrong_invites_per_minute = Integer(
        30, min=1, help="How many wrong invites one address may try; good ones are never held up."
    ).tag(config=True)
    stop_seconds = Float(10.0, min=0.1, help="How long the server's end waits for sessions to end cleanly.").tag(
        config=True
    )

    @default("storage")
    def _default_storage(self) -> str:
        return str(Path(jupyter_data_dir()) / "swarm")

    def initialize_settings(self) -> None:
        self.manager = SessionManager(
            ManagerOptions(
                storage=Path(self.storage).expanduser(),
                max_blob_bytes=self.max_blob_bytes,
                invite_seconds=self.invite_hours * 3600,
                invite_capacity=self.invite_capacity,
            ),
            self.log,
        )
        # Not the Jupyter token: it opens our handlers only, and it never leaves this machine.
        self._owner_secret = secrets.token_urlsafe(32)
        self._activity = PeriodicCallback(self._note_activity, _ACTIVITY_SECONDS * 1000)
        # Runs once the event loop does, when the port is known and before the first request is served.
        self._app.io_loop.add_callback(self._begin)

    def initialize_handlers(self) -> None:
        gate = Gate(self.manager, self._owner_secret, FailureLimiter(self.wrong_invites_per_minute))
        self._address = addresses.PublicAddress(self._app, self.public_url)
        self.handlers.extend(routes(gate, self._address))

    def current_activity(self) -> dict[str, Any] | None:  # type: ignore[override]
        """The sessions with peers in them, which keep the server from shutting itself down for idleness."""
        attended = self.manager.attended
        return {"sessions": attended} if attended else None

    async def stop_extension(self) -> None:
        """End the sessions' connections and close the store, in at most `stop_seconds`."""
        self._activity.stop()
        if os.environ.get(OWNER_VARIABLE) == self._owner_secret:
            for name in self.kernel_environment():
                del os.environ[name]
        try:
            await asyncio.wait_for(self.manager.stop(), self.stop_seconds)
        except asyncio.TimeoutError:
            self.log.warning("Sessions did not end within %s s; they go on from what is stored.", self.stop_seconds)

    def kernel_environment(self) -> dict[str, str]:
        """What kernels inherit to find this server; nothing if it can only be reached through a Unix socket."""
        url = self.local_url.rstrip("/") or addresses.local_url(self._app)
        return {SERVER_VARIABLE: url, OWNER_VARIABLE: self._owner_secret} if url else {}

    @property
    def _app(self) -> Any:
        return self.serverapp

    async def _begin(self) -> None:
        """Let kernels of this server find it, and take up the sessions of an earlier server."""
        os.environ.update(self.kernel_environment())
        # Not before all extensions are loaded: JupyterHub's puts its own log in the place of what looks at requests.
        self._address.watch(self._app.web_app.settings)
        self._activity.start()
        await self.manager.start(resume=self._app.identity_provider.auth_enabled)

    def _note_activity(self) -> None:
        """Tell what the server says to idle cullers."""
        latest = self.manager.last_activity
        if latest:
            self._app.web_app.settings[_ACTIVITY] = latest
