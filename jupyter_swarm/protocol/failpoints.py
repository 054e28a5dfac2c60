"""Named moments of a round at which a fault is worst. Tests put a hook here; in use nothing happens.

A test process sets `hook` to a function that, at the point of its choice, kills its own process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Point = Literal[
    "mid-upload",
    "accepted",
    "prepared",
    "half-delivered",
    "before-record",
    "recorded",
    "mid-rename",
    "mid-snapshot",
    "mid-checkpoint",
]

hook: Callable[[str], None] | None = None


def reach(point: Point) -> None:
    """Say that this process has come to `point`."""
    if hook is not None:
        hook(point)
