"""A session that can really be opened, and calls to a server by callers of every kind."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import safetensors.numpy
from jupyter_server.serverapp import ServerApp
from tornado.httpclient import HTTPClientError, HTTPRequest, HTTPResponse
from tornado.websocket import WebSocketClientConnection, websocket_connect

from jupyter_swarm.coordinator.app import OWNER_VARIABLE, SwarmExtension
from jupyter_swarm.coordinator.manager import ManagerOptions, SessionManager
from jupyter_swarm.protocol.invites import INVITE_HEADER, OWNER_HEADER, new_secret, parse_invite
from jupyter_swarm.protocol.layout import Layout, Stream, TensorSpec
from jupyter_swarm.protocol.rules import SGD, RoundRule, SessionSettings, SessionSpec

RECIPE = b"# the code that is trained\n"


def layout_of(count: int, **how: Any) -> Layout:
    """The layout of a model that is one tensor."""
    return Layout((TensorSpec("weight", (count,), "float32", Stream.PARAMETERS, 0, count),), **how)


def zeros(layout: Layout) -> bytes:
    """Its first parameters."""
    return safetensors.numpy.save({"weight": np.zeros(layout.elements, np.float32)})


LAYOUT = layout_of(4)
INITIAL = zeros(LAYOUT)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def spec_of(name: str = "CS 101", **settings: Any) -> SessionSpec:
    return SessionSpec(
        name=name,
        recipe=sha256(RECIPE),
        layout_digest=LAYOUT.digest,
        rule=RoundRule("EveryStep", SGD(0.1), target_batch=8),
        settings=SessionSettings(**settings),
        samples=100,
        held_out=10,
        initial=sha256(INITIAL),
    )


def opening(spec: SessionSpec | None = None, layout: Layout = LAYOUT) -> bytes:
    """The body that opens a session."""
    return msgspec.json.encode({"spec": spec or spec_of(), "layout": layout})


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@contextlib.asynccontextmanager
async def managed(folder: Path, clock: Clock | None = None, **options: Any) -> AsyncIterator[SessionManager]:
    """A manager over `folder`, started and, at the end, stopped, whose store has the blobs of `spec_of`."""
    manager = SessionManager(ManagerOptions(storage=folder, **options), clock=clock or Clock())
    await manager.start()
    try:
        yield manager
    finally:
        await manager.stop()


async def open_session(manager: SessionManager, spec: SessionSpec | None = None) -> str:
    """Bring the blobs and open a session."""
    blobs = (await manager.storage()).blobs
    blobs.put(RECIPE)
    blobs.put(INITIAL)
    return await manager.open(spec or spec_of(), LAYOUT)


class Swarm:
    """A running server with the extension, and who calls it."""

    def __init__(self, app: ServerApp, client: Any, port: int) -> None:
        self.app = app
        self.base = app.base_url
        self.port = port
        self.extension: SwarmExtension = app.web_app.settings["jupyter_swarm"]
        self.manager = self.extension.manager
        self._client = client
        self._token = app.identity_provider.token
        self._sockets: list[WebSocketClientConnection] = []

    def owner(self) -> dict[str, str]:
        """The owner, by the Jupyter token."""
        return {"Authorization": f"token {self._token}"}

    def kernel(self) -> dict[str, str]:
        """A kernel that this server started."""
        return {OWNER_HEADER: self.extension.kernel_environment()[OWNER_VARIABLE]}

    async def member(self, session: str, role: str, **options: Any) -> dict[str, str]:
        """A new member of a role."""
        return {INVITE_HEADER: parse_invite(await self.link(session, role, **options)).secret}

    async def link(self, session: str, role: str = "peer", **options: Any) -> str:
        body = json.dumps({"role": role, **options})
        link: str = self.json(await self.call("POST", f"sessions/{session}/invites", self.owner(), body), 201)["link"]
        return link

    @staticmethod
    def path(path: str) -> str:
        return path if path.startswith("swarm/") else f"swarm/api/{path}"

    async def call(
        self, verb: str, path: str, headers: dict[str, str] | None = None, body: bytes | str | None = None, **how: Any
    ) -> HTTPResponse:
        """One request to our API; the answer, whatever it is."""
        response: HTTPResponse = await self._client.fetch(
            f"{self.base}{self.path(path)}", method=verb, headers=headers or {}, body=body, raise_error=False,
            allow_nonstandard_methods=True, follow_redirects=False, **how,
        )  # fmt: skip
        return response

    async def connect(
        self, path: str, headers: dict[str, str] | None = None, protocols: list[str] | None = None
    ) -> WebSocketClientConnection | int:
        """A WebSocket, or the status with which it was refused."""
        request = HTTPRequest(f"ws://127.0.0.1:{self.port}{self.base}{self.path(path)}", headers=headers or {})
        try:
            socket = await websocket_connect(request, subprotocols=protocols)
        except HTTPClientError as error:
            return int(error.code)
        self._sockets.append(socket)
        return socket

    def json(self, response: HTTPResponse, status: int = 200) -> Any:
        assert response.code == status, (response.code, response.body)
        return json.loads(response.body)

    async def open_session(self, layout: Layout = LAYOUT, facts: Mapping[str, Any] = {}, **settings: Any) -> str:
        """Open a session as a founder does: blobs, then the session; `facts` go into its specification."""
        initial = zeros(layout)
        for data in (RECIPE, initial):
            self.json(await self.call("PUT", f"blobs/{sha256(data)}", self.owner(), data), 201)
        spec = msgspec.structs.replace(
            spec_of(**settings), layout_digest=layout.digest, initial=sha256(initial), **facts
        )
        opened = await self.call("POST", "sessions", self.owner(), opening(spec, layout))
        session: str = self.json(opened, 201)["session"]
        return session

    async def close(self) -> None:
        for socket in self._sockets:
            socket.close()
        await self.extension.stop_extension()
        # The server's ends of the sockets are closed a little later than ours.
        ours = [task for task in asyncio.all_tasks() if "Connection." in repr(task) or "WatchSocket." in repr(task)]
        await asyncio.gather(*ours, return_exceptions=True)


def wrong_secret() -> dict[str, str]:
    """Somebody with a secret that nobody has given out."""
    return {INVITE_HEADER: new_secret()}
