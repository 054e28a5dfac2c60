"""Waiting for what happens elsewhere: in another thread or process, or in a server on the same loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

_SECONDS = 90.0
"""More than a busy machine takes, less than a test may."""
_PAUSE_SECONDS = 0.05


def until(condition: Callable[[], Any]) -> None:
    """Look again and again until it holds. Raises AssertionError if it never does."""
    end = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(_PAUSE_SECONDS)


async def eventually(condition: Callable[[], Any]) -> None:
    """As `until`, while the loop goes on."""
    end = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(_PAUSE_SECONDS)
