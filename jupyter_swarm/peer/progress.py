"""Progress of a running cell or terminal: one line that is written again and again, wherever text is shown."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

_EVERY_SECONDS = 0.2
_EVERY_SECONDS_IN_FILES = 10.0


def bytes_text(count: float) -> str:
    """So many bytes, for people: 5.2 MB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} bytes"


class Line:
    """`show` replaces the line. Where lines cannot be replaced (a file, a pipe), one is written every ten seconds."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stdout
        self._clock = clock
        # Notebooks replace lines, but their streams are no terminals.
        self._replaces = self._stream.isatty() or type(self._stream).__module__.startswith("ipykernel")
        self._next = clock()
        self._width = 0
        self._text = ""
        self._shown = ""

    def show(self, text: str) -> None:
        """Show `text` now, or soon."""
        self._text = text
        if self._clock() >= self._next:
            self._write()

    def _write(self) -> None:
        if self._text == self._shown:
            return
        self._shown = self._text
        if self._replaces:
            self._next = self._clock() + _EVERY_SECONDS
            # A line that wraps could not be replaced.
            shown = self._text[: shutil.get_terminal_size().columns - 1] if self._stream.isatty() else self._text
            self._stream.write("\r" + shown.ljust(self._width))
            self._width = len(shown)
        else:
            self._next = self._clock() + _EVERY_SECONDS_IN_FILES
            self._stream.write(self._text + "\n")
        self._stream.flush()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._write()
        if self._replaces and self._width:
            self._stream.write("\n")
            self._stream.flush()
