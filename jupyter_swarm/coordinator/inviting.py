"""The invites of a server, as they are stored: made, revoked, and counted when somebody comes in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..protocol.errors import SessionError, SettingError
from ..protocol.invites import Role, new_secret
from ..store.database import Database
from ..store.rows import StoredInvite
from .invites import InviteBook

if TYPE_CHECKING:
    from .manager import SessionManager

_LONGEST = 366 * 86400.0
_MOST = 10**6


class Invites(InviteBook):
    """The book, and the same on the disk."""

    def __init__(self, manager: SessionManager, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._manager = manager

    async def make(
        self, session: str, role: Role, seconds: float = 0.0, capacity: int = 0, label: str = ""
    ) -> tuple[StoredInvite, str]:
        """Make an invite; returns it with its secret, which nobody can get again. Zeros mean the server's defaults."""
        options = self._manager.options
        seconds, capacity = seconds or options.invite_seconds, capacity or options.invite_capacity
        if not 0 < seconds <= _LONGEST:
            raise SettingError("An invite is good for some time, at most a year.", todo="Choose other hours.")
        if not 0 < capacity <= _MOST:
            raise SettingError(f"An invite for {capacity} people.", todo=f"Choose a capacity from 1 to {_MOST}.")
        secret = new_secret()
        invite = await self._manager.in_record(
            session, Database.add_invite, role, secret, label[:200], self._clock() + seconds, capacity
        )
        self.put([invite])
        return invite, secret

    async def revoke(self, session: str, number: int) -> None:
        """Let nobody in by this invite any more, and close the connections made with it."""
        await self._manager.in_record(session, Database.revoke_invite, number, self._clock())
        changed = [one for one in await self._manager.in_record(session, Database.invites) if one.number == number]
        if not changed:
            raise SessionError(f"The session has no invite {number}.", todo="List its invites.")
        self.put(changed)
        self.disconnect(changed[0], "This invite was revoked.")

    async def admit(self, session: str, secret: str, token: str) -> None:
        """Count one more use of an invite, unless `token` shows that its bearer is a member already.

        Raises `InviteError` if the invite has been used up.
        """

        def count(database: Database, session: str) -> list[StoredInvite]:
            if token and database.find_member(session, token):
                return []
            return [database.use_invite(session, secret, self._clock())]

        self.put(await self._manager.in_record(session, count))
