"""What waits for the training thread: messages, changes of the connection, and the user's wishes, in one order."""

from __future__ import annotations

import queue
import threading
from typing import Literal, NamedTuple

from ..protocol.messages import Abort, Commit, Resync, ToMember, Welcome
from .arrivals import SnapshotArrived


class Lost(NamedTuple):
    """The connection is gone; the link makes a new one."""

    reason: str


class Ended(NamedTuple):
    """The link is over for good."""

    error: Exception | None


class Pause(NamedTuple):
    """The user wants this peer to rest."""

    reason: str


class Resume(NamedTuple):
    """The user wants this peer to go on."""


class Leave(NamedTuple):
    """The user wants this peer to leave."""


Item = ToMember | SnapshotArrived | Lost | Ended | Pause | Resume | Leave

_VOIDS_ALL = (Welcome, Resync, Lost, Ended, Leave)
_VOIDS_TRAINING = (*_VOIDS_ALL, Commit, Abort)


class Inbox:
    """A queue that also says whether something in it makes the lease that is being computed pointless."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._void = {"train": 0, "evaluate": 0}

    def put(self, item: Item) -> None:
        """Add `item`; from any thread."""
        self._count(item, 1)
        self._items.put(item)

    def get(self) -> Item:
        """Wait for the next item and take it."""
        item = self._items.get()
        self._count(item, -1)
        return item

    def voids(self, kind: Literal["train", "evaluate"]) -> bool:
        """Whether an item that waits makes a lease of this kind void."""
        return self._void[kind] > 0

    def _count(self, item: Item, change: int) -> None:
        with self._lock:
            self._void["train"] += change * isinstance(item, _VOIDS_TRAINING)
            self._void["evaluate"] += change * isinstance(item, _VOIDS_ALL)
