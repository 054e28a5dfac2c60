"""A link that is bad: a TCP proxy in this process that cuts its connections, or lets little through."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator

_SLICE = 1 << 14


class Proxy:
    """What connects to `port` reaches the server at `target`. `up_rate`: bytes/s that it lets through to the server,
    on each connection; 0: all. Sockets of it hold little, so that whoever sends notices."""

    def __init__(self, target: int) -> None:
        self.up_rate = 0.0
        self.cuts = 0
        self._target = target
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def cut(self) -> None:
        """End all connections, in the middle of whatever is on its way."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        self.cuts += bool(pairs)
        for pair in pairs:
            for one in pair:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                outside, _ = self._listener.accept()
            except OSError:
                return
            try:
                inside = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # the server is away
                outside.close()
                continue
            for one in (outside, inside):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SLICE)
            with self._lock:
                self._pairs.append((outside, inside))
            threading.Thread(target=self._pump, args=(outside, inside, True), name="proxy up", daemon=True).start()
            threading.Thread(target=self._pump, args=(inside, outside, False), name="proxy down", daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(256 if up and self.up_rate else _SLICE):
                target.sendall(data)
                if up and self.up_rate:
                    time.sleep(len(data) / self.up_rate)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            if one is source:
                one.close()


@contextlib.contextmanager
def proxy(target: int) -> Iterator[Proxy]:
    """A proxy that is closed at the end."""
    one = Proxy(target)
    try:
        yield one
    finally:
        one.close()


@contextlib.contextmanager
def dropping(one: Proxy, seed: int, least: float, most: float) -> Iterator[None]:
    """Cut all connections again and again, every `least` to `most` seconds."""
    ended, chance = threading.Event(), random.Random(seed)

    def run() -> None:
        while not ended.wait(chance.uniform(least, most)):
            one.cut()

    thread = threading.Thread(target=run, name="dropping", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
