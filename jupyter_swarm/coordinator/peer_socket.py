"""The WebSocket of peers and holders: lets them in by their invite, then passes on what they send, in its order."""

from __future__ import annotations

from ..protocol.errors import InviteError, ProtocolError, Refusal
from ..protocol.frames import Kind, read_header
from ..protocol.messages import FromMember, Hello
from .guard import allows
from .members import Attached, check_hello, readable
from .sockets import FrameSocket
from .watch import SwarmSocket

ECHO_BYTES = 64 << 20
"""So much is echoed on a connection, to measure the link."""
_ECHOES = 4 << 20
"""No more is read while so many bytes of echoes wait to be taken."""


class PeerSocket(FrameSocket, SwarmSocket):
    """`sessions/ID/peer`: the first message is `Hello`; from then on the session's runtime decides.

    ECHO frames come back before it too, up to `ECHO_BYTES`: an invite is enough to measure the link. Other frames from
    somebody who has not joined are dropped.
    """

    _member: Attached | None = None
    _echoed = 0

    @allows("peer", "instructor", "holder")
    async def get(self, session: str) -> None:  # type: ignore[override]
        await self.manager.stored(session)
        self._runtime = self.manager.runtime(session)
        await super().get(session=session)

    def opened(self, *args: str, **kwargs: str) -> None:
        self._session = kwargs["session"]
        self.note_connection()

    def dismiss(self, reason: str) -> None:
        self.connection.refuse(InviteError(reason, todo="Ask whoever runs the session for a new invite."))

    async def received(self, message: FromMember) -> None:
        message = readable(message)
        if self._member is None:
            await self._greet(message)
        else:
            self._runtime.reception.received(self._member, message)

    async def received_frame(self, frame: memoryview) -> None:
        header = read_header(frame)
        if header.kind == Kind.ECHO:
            await self._echo(frame)
        elif self._member is not None:
            await self._runtime.reception.received_frame(self._member, header, frame)

    def lost(self, reason: str) -> None:
        self.forget_connection()
        member, self._member = self._member, None
        if member is not None:
            self._runtime.reception.detach(member, reason)

    async def _greet(self, hello: FromMember) -> None:
        invite = self.caller.invite
        assert invite is not None
        if not isinstance(hello, Hello):
            raise ProtocolError(f"The first message was {type(hello).__name__}, not Hello.")
        # Who is refused anyway takes no place of the invite's.
        check_hello(hello, invite.role, self._runtime.spec_now(), self._runtime.members.others(hello))
        await self.manager.invites.admit(self._session, self.invite_secret or "", hello.token)
        if not self.connection.closing:
            self._member = self._runtime.reception.attach(self.connection, hello, invite.role)

    async def _echo(self, frame: memoryview) -> None:
        self._echoed += len(frame)
        if self._echoed > ECHO_BYTES:
            raise Refusal(
                f"More than {ECHO_BYTES >> 20} MiB were to be echoed.",
                "So much measures any link, and the class needs the server's.",
                "Measure with less, or connect again.",
            )
        self.connection.send_frame(frame)
        await self.connection.drain(_ECHOES)
