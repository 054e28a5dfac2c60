"""Telling good invites from bad ones, in memory: a flood of guesses never reaches the disk or its one thread."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone

from ..protocol.invites import hash_secret
from ..store.rows import StoredInvite
from .refusals import InviteOver, NotInvited

_MOST_ADDRESSES = 4096


class InviteBook:
    """The invites of all sessions, by the hash of their secrets; and who is connected with which of them.

    outside: the sessions into which somebody has come from another machine since the server started.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.outside: set[str] = set()
        self._clock = clock
        self._by_hash: dict[str, StoredInvite] = {}
        self._connected: dict[tuple[str, int], list[Callable[[str], None]]] = {}

    def put(self, invites: Iterable[StoredInvite]) -> None:
        """Take these invites in, in place of older states of the same."""
        self._by_hash.update({invite.secret_hash: invite for invite in invites})

    def drop_session(self, session: str) -> None:
        """Forget a session's invites; their connections are closed."""
        self.outside.discard(session)
        gone = [invite for invite in self._by_hash.values() if invite.session == session]
        for invite in gone:
            del self._by_hash[invite.secret_hash]
            self.disconnect(invite, "This session was deleted.")

    def check(self, session: str, secret: str) -> StoredInvite:
        """The invite with this secret. Raises `NotInvited` or `InviteOver`.

        Found by its SHA-256, which says nothing about how much of a guess was right, and compared in constant time.
        """
        hashed = hash_secret(secret)
        invite = self._by_hash.get(hashed)
        if invite is None or invite.session != session or not hmac.compare_digest(invite.secret_hash, hashed):
            raise NotInvited
        if invite.revoked is not None:
            raise InviteOver.revoked()
        if invite.expires <= self._clock():
            until = datetime.fromtimestamp(invite.expires, timezone.utc)
            raise InviteOver.expired(f"{until:%Y-%m-%d %H:%M} UTC")
        return invite

    def connected(self, invite: StoredInvite, close: Callable[[str], None]) -> Callable[[], None]:
        """Note a connection made with an invite; `close(reason)` ends it. Returns what to call when it has ended."""
        those = self._connected.setdefault((invite.session, invite.number), [])
        those.append(close)

        def left() -> None:
            if close in those:
                those.remove(close)
            if not those:
                self._connected.pop((invite.session, invite.number), None)

        return left

    def disconnect(self, invite: StoredInvite, reason: str) -> None:
        """Close all connections that were made with an invite."""
        for close in self._connected.pop((invite.session, invite.number), ())[:]:
            close(reason)


class FailureLimiter:
    """Counts wrong secrets by address, `limit` in `seconds`. Good ones are never held up: a class shares an address."""

    def __init__(self, limit: int, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._windows: dict[str, tuple[float, int]] = {}

    def failed(self, address: str) -> float:
        """Count one failure; returns the seconds to wait if there were too many, else 0."""
        now = self._clock()
        # Windows are in the order of their starts, so those that are over come first.
        while self._windows and now - next(iter(self._windows.values()))[0] >= self._seconds:
            del self._windows[next(iter(self._windows))]
        if address not in self._windows and len(self._windows) >= _MOST_ADDRESSES:
            return self._seconds  # an attack from everywhere: none of them is told more
        start, count = self._windows.get(address, (now, 0))
        self._windows[address] = (start, count + 1)
        return start + self._seconds - now if count >= self._limit else 0.0
