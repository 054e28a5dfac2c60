"""What the demo sees of its session while it runs: the viewers' WebSocket, read by a thread, shown in the terminal."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from ...protocol.errors import SwarmError

_EVENTS = 8
_LINE_SECONDS = 5.0
_PATIENCE_SECONDS = 300.0
"""A session that commits nothing for so long does not get on."""


class Watch:
    """`with Watch(url, headers)`: keeps the session's status, losses, evaluations and events up to date."""

    def __init__(self, url: str, headers: dict[str, str], hear: Callable[[str], None]) -> None:
        self.status: dict[str, Any] = {}
        self.round = 0
        self.loss: float | None = None
        self.metrics: dict[str, float] = {}
        self._hear = hear
        self._changed = threading.Condition()
        self._over = False
        try:
            self._socket = connect(url, additional_headers=headers, proxy=None, compression=None, ping_interval=None)
        except (OSError, WebSocketException) as error:
            raise SwarmError("The session cannot be watched.", str(error)) from None
        self._thread = threading.Thread(target=self._read, name="swarm-watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._socket.close()
        self._thread.join()

    def wait_for(self, condition: Callable[[Watch], bool]) -> None:
        """Wait until `condition` holds. Raises `SwarmError` if no round is committed for long, or none can be."""

        def moves() -> bool:
            return condition(self) or self._stuck or self.round != before

        with self._changed:
            while not condition(self):
                before = self.round
                if not self._changed.wait_for(moves, _PATIENCE_SECONDS) or (self._stuck and not condition(self)):
                    raise SwarmError("The demo's session does not get on.", str(self.status.get("reason", "")))

    def reached(self, round_: int) -> Callable[[Watch], bool]:
        """The condition that so many rounds are committed, or that there will be no more."""
        return lambda watch: watch.round >= round_ or watch.finished

    @property
    def finished(self) -> bool:
        return self.status.get("state") == "finished"

    @property
    def _stuck(self) -> bool:
        return self._over or self.status.get("state") == "paused"

    def _read(self) -> None:
        try:
            for text in self._socket:
                with self._changed:
                    self._take(json.loads(text))
                    self._changed.notify_all()
        except WebSocketException:
            pass
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "status":
            self.status = message
        elif message["type"] == "commit":
            self.round, self.loss = message["round"], message["mean_loss"]
        elif message["type"] == "evaluated":
            self.metrics = message["metrics"]
        elif message["type"] == "event":
            self._hear(message["text"])


class Screen:
    """`with Screen()`: a live table where the terminal allows it, else a line now and then. `say` adds an event."""

    def __init__(self, console: Console | None = None) -> None:
        self.watch: Watch | None = None
        self.predictions = 1
        self._console = console or Console(highlight=False)
        self._events: list[str] = []
        self._started = time.monotonic()
        self._over = threading.Event()
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4, transient=True)
        self._thread = threading.Thread(target=self._write_lines, name="swarm-screen", daemon=True)

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        else:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        if self._live is not None:
            self._live.stop()
        else:
            self._thread.join()

    def say(self, text: str) -> None:
        """Something that happened."""
        line = f"{time.monotonic() - self._started:5.1f} s  {text}"
        self._events = [*self._events, line][-_EVENTS:]
        if self._live is None:
            self._console.print(Text(line), soft_wrap=True)

    def _write_lines(self) -> None:
        shown = ""
        while not self._over.wait(_LINE_SECONDS):
            if (line := self._line()) != shown:
                shown = line
                self.say(line)

    def _line(self) -> str:
        watch = self.watch
        if watch is None or not watch.status:
            return "starting"
        parts = [f"round {watch.round} of {watch.status['rounds']} ({watch.status['strategy']})"]
        if watch.loss is not None:
            parts.append(f"loss {watch.loss:.4f}")
        parts += [f"held-out {name} {value:.4f}" for name, value in watch.metrics.items()]
        return "  ".join(parts)

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False)
        speed = "tokens/s" if self.predictions > 1 else "samples/s"
        for column in ("peer", "state", speed, "share", "why"):
            right = column in (speed, "share")
            table.add_column(column, justify="right" if right else "left", no_wrap=True)
        for peer in self.watch.status.get("peers", []) if self.watch else []:
            table.add_row(
                peer["name"], peer["state"], f"{peer['speed'] * self.predictions:,.0f}", f"{peer['share']:.0%}",
                Text(peer["reason"]),
            )  # fmt: skip
        reason = self.watch.status.get("reason", "") if self.watch else ""
        return Group(
            Text(self._line(), style="bold"), Text(reason, style="dim"), Text(), table, Text(),
            *(Text(event) for event in self._events),
        )  # fmt: skip
