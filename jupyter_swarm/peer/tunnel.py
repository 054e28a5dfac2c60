"""A tunnel by which others reach a server that only this machine reaches: somebody else's command, run by us.

    Tunnel.open("cloudflared tunnel --url http://localhost:{port}", "http://127.0.0.1:8888").url

The command says by which address others come in, somewhere in what it prints. It may print others too (documentation,
its own status page): the one that is right is the first behind which this server answers.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections import deque
from typing import Any
from urllib.parse import urlsplit

from ..protocol.errors import LinkError, SettingError, SwarmError
from .client import Client
from .leash import NOT_FOUND

_SECONDS = 30.0
_PROBE_SECONDS = 5.0
_PAUSE_SECONDS = 0.5
_END_SECONDS = 10.0
_LINES = 8
_URL = re.compile(r"https?://[^\s\"'<>|\\^`{}()\[\],]+")
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LOCAL = ("localhost", "127.0.0.1", "::1", "0.0.0.0")
_open: dict[tuple[str, str], Tunnel] = {}


class Tunnel:
    """A running tunnel command. url: the server's base URL for others, without a slash at its end."""

    url: str

    def __init__(self, command: str, server: str) -> None:
        parts = urlsplit(server)
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._path = parts.path.rstrip("/")
        words = [word.replace("{port}", str(self._port)) for word in _words(command)]
        self._name = words[0]
        self._said: deque[str] = deque(maxlen=_LINES)
        self._named: dict[str, None] = {}
        apart: dict[str, Any] = {"start_new_session": True}  # an interrupt of a cell is not meant for it
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jupyter_swarm.peer.leash", *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **apart,
        )  # fmt: skip
        self._reading = threading.Thread(target=self._read, name="swarm-tunnel", daemon=True)
        self._reading.start()

    @classmethod
    def open(cls, command: str, server: str, seconds: float = _SECONDS) -> Tunnel:
        """Start `command`, in which {port} stands for that of `server`, and wait until the server answers behind an
        address that it names; the tunnel that this process has open by the same command, if there is one.

        It ends with this process, or by `close`. Raises `SettingError` if there is no such command, `LinkError` if it
        ends or names no such address within `seconds`.
        """
        key = command, server
        tunnel = _open.get(key)
        if tunnel is not None and tunnel.alive:
            return tunnel
        tunnel = cls(command, server)
        try:
            tunnel._wait(seconds)
        except BaseException:
            tunnel.close()
            raise
        _open[key] = tunnel
        return tunnel

    @property
    def alive(self) -> bool:
        """Whether the command runs."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Wait until the command ends. Raises `LinkError`, with the last that it said."""
        self._process.wait()
        raise self._ended()

    def close(self) -> None:
        """End the command."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reading.join(_END_SECONDS)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                text = _COLOURS.sub("", line.decode(errors="replace")).strip()
                if text:
                    self._said.append(text)
                for url in _URL.findall(text):
                    self._name_url(url.rstrip(".;:!?"))

    def _name_url(self, url: str) -> None:
        with contextlib.suppress(ValueError):
            parts = urlsplit(url)
            # Tunnel commands also repeat where they lead to.
            if parts.hostname and not (parts.hostname in _LOCAL and parts.port == self._port):
                self._named[f"{parts.scheme}://{parts.netloc}{self._path}"] = None

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for url in list(self._named):
                if _answers(url, min(_PROBE_SECONDS, max(until - time.monotonic(), 0.1))):
                    self.url = url
                    return
            if not self.alive:
                raise self._ended()
            time.sleep(min(_PAUSE_SECONDS, seconds))
        named = ", ".join(self._named)
        what = f"Behind {named} this server does not answer." if named else "It named no address."
        raise LinkError(
            f"The tunnel is not there after {seconds:.0f} s.",
            f"{what} The last that {self._name} said:\n{self._last()}",
            "Try the command in a terminal. It must print the address by which others come in, as http://… or https://…",
        )

    def _ended(self) -> SwarmError:
        self._reading.join(_END_SECONDS)
        if self._process.returncode == NOT_FOUND and len(self._said) <= 1:
            return SettingError(
                f"The tunnel's command {self._name!r} cannot be started.",
                self._last(),
                "Install it where this kernel runs, or write its whole path.",
            )
        return LinkError(
            f"The tunnel's command {self._name!r} has ended (exit code {self._process.returncode}).",
            f"The last that it said:\n{self._last()}",
            "Try it in a terminal.",
        )

    def _last(self) -> str:
        return "\n".join(self._said) or "nothing"


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command, posix=os.name == "posix")
    except ValueError as error:
        raise SettingError("The tunnel's command cannot be read.", f"{error}.", "Look at its quotes.") from None
    if not words:
        raise SettingError(
            "The tunnel has no command.", todo="For example: cloudflared tunnel --url http://localhost:{port}"
        )
    return words


def _answers(url: str, seconds: float) -> bool:
    try:
        return Client(url, {}).probe(seconds).ours
    except SwarmError:
        return False


@atexit.register
def _close_all() -> None:
    for tunnel in _open.values():
        tunnel.close()
