"""A tunnel by which others reach a server that only this machine reaches: somebody else's command, run by us.

    Tunnel.open("cloudflared tunnel --url http://localhost:{port}", "http://127.0.0.1:8888").url

The command says by which address others come in, somewhere in what it prints. It may print others too (documentation,
its own status page, where it leads to): the one that is right is the first behind which this server answers.
"""

from __future__ import annotations

import atexit
import contextlib
import re
import subprocess
import threading
import time
from collections import deque
from urllib.parse import urlsplit

from ..protocol.errors import LinkError, SettingError, SwarmError
from . import apart
from .client import Client
from .leash import NOT_FOUND
from .words import words_of

_SECONDS = 30.0
_PROBE_SECONDS = 5.0
_PAUSE_SECONDS = 0.5
_END_SECONDS = 10.0
_LINES = 8
_LONGEST_LINE = 1 << 13
_LINE_END = re.compile(rb"[\r\n]+")
_URL = re.compile(r"https?://[^\s\"'<>|\\^`{}()\[\],\x00-\x1f\x7f]+")
_COLOURS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_PORTS = {"http": 80, "https": 443}
_LOCAL = ("localhost", "127.0.0.1", "::1", "0.0.0.0")
_open: dict[tuple[str, str], Tunnel] = {}


class Tunnel:
    """A running tunnel command. url: the server's base URL for others, without a slash at its end."""

    url: str

    def __init__(self, command: str, server: str) -> None:
        parts = urlsplit(server)
        self._host, self._port = parts.hostname, parts.port or _PORTS[parts.scheme]
        self._path = parts.path.rstrip("/")
        words = [word.replace("{port}", str(self._port)) for word in _words(command)]
        self._name = words[0]
        self._said: deque[str] = deque(maxlen=_LINES)
        self._named: dict[str, None] = {}
        self._found = threading.Event()
        self._process = apart.start("leash", *words, stderr=subprocess.STDOUT)
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
        while self.alive:  # an interrupt does not end Windows' own waiting
            time.sleep(_PAUSE_SECONDS)
        raise self._ended()

    def close(self) -> None:
        """End the command."""
        apart.end(self._process, _END_SECONDS)
        self._reading.join(_END_SECONDS)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            rest = b""
            while piece := output.read1(_LONGEST_LINE):  # type: ignore[attr-defined]
                *lines, rest = _LINE_END.split(rest[-_LONGEST_LINE:] + piece)
                for line in lines:
                    self._hear(line)
            self._hear(rest)

    def _hear(self, line: bytes) -> None:
        text = _COLOURS.sub("", line.decode(errors="replace")).strip()
        if text:
            self._said.append(text)
        if not self._found.is_set():
            for url in _URL.findall(text):
                self._name_url(url.rstrip(".;:!?"))

    def _name_url(self, url: str) -> None:
        with contextlib.suppress(ValueError):
            parts = urlsplit(url)
            to_here = (parts.port or _PORTS[parts.scheme]) == self._port and parts.hostname in (self._host, *_LOCAL)
            if parts.hostname and not to_here:
                self._named[f"{parts.scheme}://{parts.netloc}{self._path}"] = None

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not self.alive:
                raise self._ended()
            # The secret in the link is better encrypted, where there is a choice.
            for url in sorted(self._named, key=lambda one: not one.startswith("https:")):
                if _answers(url, min(_PROBE_SECONDS, max(until - time.monotonic(), 0.1))):
                    self.url = url
                    self._found.set()
                    return
            time.sleep(min(_PAUSE_SECONDS, seconds))
        named = ", ".join(self._named)
        what = f"Behind {named} this server does not answer." if named else "It named no address."
        raise LinkError(
            f"The tunnel is not there after {seconds:.0f} s.",
            f"{what} The last that {self._name} said:\n{self._last()}",
            "Try the command in a terminal. It must print the address by which others come in, as http://… or "
            "https://…; if others can open that, but not this machine, pass it with --url instead.",
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
            "Try it in a terminal. It must run for as long as others are to come in; for a tunnel that stays open by "
            "itself pass its address with --url instead.",
        )

    def _last(self) -> str:
        return "\n".join(self._said) or "nothing"


def _words(command: str) -> list[str]:
    try:
        words = words_of(command)
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
