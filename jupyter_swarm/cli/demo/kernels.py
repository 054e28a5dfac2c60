"""Real kernels of a Jupyter server, started and used as a notebook does it: through REST and a WebSocket."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from datetime import datetime, timezone
from typing import Any

import psutil
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from ...protocol.errors import SwarmError
from .server import Server

_CELL_SECONDS = 120.0
_OPEN_SECONDS = 60.0


class CellFailed(SwarmError):
    """A cell raised an exception, or gave no answer."""


class Kernel:
    """One kernel, known as `name`. Not thread-safe: one cell at a time."""

    def __init__(self, server: Server, name: str) -> None:
        self.name = name
        self._session = uuid.uuid4().hex
        kernel = server.ask("POST", "api/kernels", {"name": "python3"})["id"]
        url = f"ws{server.url.removeprefix('http')}/api/kernels/{kernel}/channels?session_id={self._session}"
        self._open = contextlib.ExitStack()
        try:
            self._socket = self._open.enter_context(
                connect(
                    url,
                    additional_headers=server.headers,
                    proxy=None,
                    compression=None,
                    open_timeout=_OPEN_SECONDS,
                    ping_interval=None,  # the server is at its limit: a slow answer is no end
                    max_size=None,
                )
            )
        except (OSError, WebSocketException) as error:
            raise SwarmError("A kernel of the demo cannot be reached.", str(error)) from None
        self.process = psutil.Process(int(self.run("import os; print(os.getpid())")))

    def run(self, code: str, seconds: float = _CELL_SECONDS) -> str:
        """Run a cell; returns what it printed. Raises `CellFailed`."""
        request = self._message("execute_request", code=code, silent=False, store_history=True, user_expressions={},
                                allow_stdin=False, stop_on_error=True)  # fmt: skip
        until = time.monotonic() + seconds
        printed: list[str] = []
        replied = idle = False
        try:
            self._socket.send(json.dumps(request))
            while not (replied and idle):
                received = self._socket.recv(timeout=max(until - time.monotonic(), 0.0))
                if isinstance(received, bytes):
                    continue  # a widget's picture
                message = json.loads(received)
                if message["parent_header"].get("msg_id") != request["header"]["msg_id"]:
                    continue
                kind, content = message["header"]["msg_type"], message["content"]
                if kind == "stream" and content["name"] == "stdout":
                    printed.append(content["text"])
                elif kind == "error":
                    raise CellFailed(f"A cell of {self.name} failed.", f"{content['ename']}: {content['evalue']}")
                replied |= kind == "execute_reply"
                idle |= kind == "status" and content["execution_state"] == "idle"
        except (TimeoutError, OSError, WebSocketException) as error:
            raise CellFailed(f"A cell of {self.name} gave no answer.", str(error) or type(error).__name__) from None
        return "".join(printed)

    def evaluate(self, expression: str, seconds: float = _CELL_SECONDS) -> Any:
        """The value of an expression that JSON can carry, which is the last line that the cell prints."""
        return json.loads(self.run(f"import json; print(json.dumps({expression}))", seconds).splitlines()[-1])

    def close(self) -> None:
        """Close the connection; the kernel goes with the server."""
        self._open.close()

    def _message(self, kind: str, **content: Any) -> dict[str, Any]:
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": kind,
            "username": "demo",
            "session": self._session,
            "date": datetime.now(timezone.utc).isoformat(),
            "version": "5.3",
        }
        return {
            "header": header,
            "parent_header": {},
            "metadata": {},
            "content": content,
            "buffers": [],
            "channel": "shell",
        }
