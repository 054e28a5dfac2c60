"""What waits for the training thread: messages, changes of the connection, and the user's wishes, in one order."""

from __future__ import annotations

import threading
from collections import deque
from typing import Literal, NamedTuple

from ..protocol.messages import Abort, Commit, ContributeNow, Resync, Strategy, ToMember, Welcome
from ..protocol.rules import RoundRule, StrategyChange, rule_of
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

Sign = Literal["voids evaluation", "voids steps", "voids gradients", "ends steps", "ends steps that go on"]
_VOIDS_ALL = (Welcome, Resync, Lost, Ended, Leave)
_SIGNS: dict[Sign, tuple[type, ...]] = {
    "voids evaluation": _VOIDS_ALL,
    "voids steps": (*_VOIDS_ALL, Abort),
    "voids gradients": (*_VOIDS_ALL, Abort, Commit),
    "ends steps": (ContributeNow, Commit, Pause),
    "ends steps that go on": (ContributeNow, Pause),
}


class Inbox:
    """A queue that also tells, ahead of their turn, what items in it mean for the lease that is being computed, and by
    which rules packets come that are received meanwhile."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._signs: dict[Sign, int] = dict.fromkeys(_SIGNS, 0)
        self._rules: tuple[RoundRule | None, tuple[StrategyChange, ...]] = (None, ())

    def put(self, item: Item) -> None:
        """Add `item`; from any thread."""
        if isinstance(item, Welcome):
            self._rules = (item.spec.rule, item.spec.changes)
        elif isinstance(item, Strategy):
            self._rules = (self._rules[0], item.changes)
        with self._changed:
            self._count(item, 1)
            self._items.append(item)
            self._changed.notify()

    def get(self) -> Item:
        """Wait for the next item and take it."""
        with self._changed:
            self._changed.wait_for(lambda: self._items)
            return self._take()

    def take_if(self, kinds: tuple[type, ...]) -> Item | None:
        """Take the next item if one is here and of these kinds."""
        with self._changed:
            return self._take() if self._items and isinstance(self._items[0], kinds) else None

    def has(self, sign: Sign) -> bool:
        """Whether an item that waits voids the lease under way, or ends it after the step under way."""
        return self._signs[sign] > 0

    def rule_of(self, round_: int) -> RoundRule | None:
        """The rule of a round by all that was put, taken or not; None before a `Welcome`."""
        first, changes = self._rules
        return None if first is None else rule_of(first, changes, round_)

    def _take(self) -> Item:
        item = self._items.popleft()
        self._count(item, -1)
        return item

    def _count(self, item: Item, change: int) -> None:
        for sign, kinds in _SIGNS.items():
            self._signs[sign] += change * isinstance(item, kinds)
