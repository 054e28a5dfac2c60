"""The WebSocket of peers and holders: lets them in by their invite, then passes on what they send, in its order."""

from __future__ import annotations

import asyncio

from ..protocol.errors import InviteError, ProtocolError, Refusal, SwarmError
from ..protocol.frames import Kind, read_header
from ..protocol.messages import FromMember, Hello
from .guard import allows
from .members import check_hello
from .sockets import FrameSocket
from .watch import SwarmSocket

_WAITING = 1024
"""Messages of one member that may wait to be handled."""
ECHO_BYTES = 64 << 20
"""Whoever has not joined may have so much echoed on a connection, to measure the link."""


class PeerSocket(FrameSocket, SwarmSocket):
    """`sessions/ID/peer`: the first message is `Hello`; from then on the session's runtime decides.

    ECHO frames come back before it too, up to `ECHO_BYTES`: an invite is enough to measure the link. Other frames from
    somebody who has not joined are dropped.
    """

    _attached = False
    _echoed = 0

    @allows("peer", "holder")
    async def get(self, session: str) -> None:  # type: ignore[override]
        await self.manager.stored(session)
        self._runtime = self.manager.runtime(session)
        await super().get(session=session)

    def opened(self, *args: str, **kwargs: str) -> None:
        self._session = kwargs["session"]
        self._inbox: asyncio.Queue[FromMember] = asyncio.Queue(_WAITING)
        self._handling = asyncio.get_running_loop().create_task(self._handle())
        self.note_connection()

    def dismiss(self, reason: str) -> None:
        self.connection.refuse(InviteError(reason, todo="Ask whoever runs the session for a new invite."))

    def received(self, message: FromMember) -> None:
        try:
            self._inbox.put_nowait(message)
        except asyncio.QueueFull:
            raise ProtocolError(f"More than {_WAITING} messages wait to be handled.") from None

    async def received_frame(self, frame: memoryview) -> None:
        await self._inbox.join()  # what was sent before the frame comes first
        if self._attached:
            await self._runtime.received_frame(self.connection, frame)
        elif read_header(frame).kind == Kind.ECHO:
            self._echoed += len(frame)
            if self._echoed > ECHO_BYTES:
                raise Refusal(
                    f"More than {ECHO_BYTES >> 20} MiB were to be echoed.",
                    "So much measures any link, and the class needs the server's.",
                    "Measure with less, or connect again.",
                )
            await self.connection.echo(frame)

    def lost(self, reason: str) -> None:
        self._handling.cancel()
        self.forget_connection()
        if self._attached:
            self._attached = False
            self._runtime.detach(self.connection, reason)

    async def _handle(self) -> None:
        while not self.connection.closing:
            message = await self._inbox.get()
            try:
                if self._attached:
                    await self._runtime.received(self.connection, message)
                else:
                    await self._greet(message)
            except SwarmError as error:
                self.connection.refuse(error)
            except Exception:
                self.log.exception("A message of a member of %s could not be handled.", self._session)
                self.connection.refuse(ProtocolError("The server failed to handle a message.", "See its log."))
            finally:
                self._inbox.task_done()

    async def _greet(self, hello: FromMember) -> None:
        invite = self.caller.invite
        assert invite is not None
        if not isinstance(hello, Hello):
            raise ProtocolError(f"The first message was {type(hello).__name__}, not Hello.")
        # Who is refused anyway takes no place of the invite's.
        check_hello(hello, invite.role, self._runtime.spec_now(), len(self._runtime.members.peers()))
        await self.manager.admit(self._session, self.invite_secret or "", hello.token)
        if not self.connection.closing:
            self._runtime.attach(self.connection, hello, invite.role)
            self._attached = True
