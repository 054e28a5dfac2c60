"""The memory of a Jupyter server's process while something goes on, as far as it can be seen from here."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import psutil
import torch

from .memory import memory_of

_SAMPLE_SECONDS = 0.1


class ServerMemory:
    """In bytes: `before` of the server's process at the beginning of the block, `peak` in it, `free` the least that
    this machine (or its container) had left, `total` all of it. unknown: why they are 0, or ''.

    students: bytes of a process that will not be there in class, which do not count as used.
    """

    def __init__(self, server: str) -> None:
        self.before = self.peak = self.total = 0
        self.free = 0
        self.students = 0
        self._process = process_of(server)
        self.unknown = (
            "" if self._process else "its process cannot be seen from here: look there (top, the provider's page)"
        )
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="swarm-memory", daemon=True)

    def __enter__(self) -> ServerMemory:
        if self._process is not None:
            self.free, self.total = memory_of(torch.device("cpu"))
            self._look()
            self.before = self.peak
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        # A server that has ended is noticed by others.
        with contextlib.suppress(psutil.Error):
            assert self._process is not None
            self.peak = max(self.peak, self._process.memory_info().rss)
            self.free = min(self.free, memory_of(torch.device("cpu")).free + self.students)


def process_of(server: str) -> psutil.Process | None:
    """The process on this machine that serves Jupyter at a URL; None if it is elsewhere or cannot be seen."""
    parts = urlsplit(server)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    if not _is_here(parts.hostname or ""):
        return None
    with contextlib.suppress(psutil.Error, OSError):
        for pid in _listening(port):
            process = psutil.Process(pid)
            # Not the end of a tunnel or a proxy, which may have come from a folder of that name.
            if any("jupyter" in Path(word).name for word in process.cmdline()):
                return process
    return None


def _is_here(host: str) -> bool:
    try:
        there = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    here = {address.address.partition("%")[0] for card in psutil.net_if_addrs().values() for address in card}
    return bool(there & here)


def _listening(port: int) -> list[int]:
    try:
        connections = [(one.pid, one) for one in psutil.net_connections("tcp")]
    except psutil.AccessDenied:  # macOS tells only of one's own processes, and only when asked for each
        parents = psutil.Process().parents()
        # By the name that psutil has for it from version 6 on, or by the older one.
        listed = [(one.pid, getattr(one, "net_connections", None) or one.connections) for one in parents]
        connections = [(pid, each) for pid, connections_of in listed for each in connections_of("tcp")]
    return [pid for pid, one in connections if pid and one.status == psutil.CONN_LISTEN and one.laddr.port == port]
