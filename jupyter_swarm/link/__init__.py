"""Sockets that carry frames: kept buffers, heartbeat, reconnection under the same identity."""

from .client import Link, State
from .sending import Upload
from .timing import Timing

__all__ = ["Link", "State", "Timing", "Upload"]
