"""Code run in a kernel of a Jupyter server, as a front end does it: through the server."""

from __future__ import annotations

import json
from collections.abc import Mapping

import httpx
from websockets.sync.client import connect


def start(server: str, owner: Mapping[str, str]) -> str:
    """The id of a new kernel at `server`, a base URL, for whoever has these headers."""
    answer = httpx.post(f"{server}/api/kernels", headers=owner, trust_env=False, timeout=60)
    answer.raise_for_status()
    return str(answer.json()["id"])


def execute(server: str, headers: Mapping[str, str], kernel: str, code: str) -> str:
    """What code prints in a kernel. Raises `InvalidStatus` if whoever has `headers` may not talk to it."""
    url = f"{server.replace('http', 'ws', 1)}/api/kernels/{kernel}/channels"
    with connect(
        url, additional_headers=headers, proxy=None, max_size=None, open_timeout=60, ping_interval=None
    ) as socket:
        header = {"msg_id": "1", "msg_type": "execute_request", "session": "s", "username": "", "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
        request = {"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content}
        socket.send(json.dumps(request))
        said = ""
        while True:
            message = json.loads(socket.recv())
            kind, content = message["msg_type"], message["content"]
            if message["parent_header"].get("msg_id") != "1":
                continue
            said += "\n".join(content["traceback"]) if kind == "error" else content.get("text", "")
            if kind == "status" and content["execution_state"] == "idle":
                return said
