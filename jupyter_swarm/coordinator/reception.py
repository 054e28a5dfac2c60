"""Members come, say something, send numbers and go: what each of these means for a session."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

import msgspec

from ..decisions.events import Measured, MemberJoined, MemberLost, Said
from ..link.timing import Found
from ..protocol import messages as m
from ..protocol.errors import LinkError, SessionError, SwarmError
from ..protocol.frames import Buffer, Header, Kind
from ..shards.outgoing import contribution_bytes
from .connection import PROBE_BYTES, Connection
from .members import Attached, check_hello
from .refusals import Removed

if TYPE_CHECKING:
    from .session import SessionRuntime

_BEHIND_VERSIONS = 4
_BEHIND_BYTES = 32 << 20
"""Packets of so many versions and so many bytes more wait for a peer. One that is further behind fetches a snapshot."""


class Reception:
    """All of it for one session. Of members that are no longer connected, nothing is taken any more."""

    def __init__(self, session: SessionRuntime) -> None:
        self.session = session
        self._contribution_bytes = (0, 0)

    def attach(self, connection: Connection, hello: m.Hello, role: str) -> Attached:
        """Let a member in. Raises `SwarmError` with the reason if it cannot be."""
        session, members, store = self.session, self.session.members, self.session.store
        spec = session.spec_now()
        check_hello(hello, role, spec, members.others(hello))
        member, token, new = members.identify(hello)
        older = members.connected.get(member.member)
        if older is not None:
            older.connection.refuse(
                SessionError("You have joined from another place.", "The same identity said hello again.")
            )
            self.detach(older, "it connected again")
        attached = members.connected[member.member] = Attached(member, connection, hello)
        session.last_activity = datetime.now(timezone.utc)
        if new:
            session.spawn(store.run_in_store(store.database.add_member, member))
        if member.role == "holder":
            connection.send(m.HolderWelcome(member.member, token, session.generation, spec, session.layout))
        else:
            # Of a class that goes on without it, a peer that reads nothing holds no more than this in memory.
            connection.limit = min(connection.limit, _BEHIND_BYTES + _BEHIND_VERSIONS * 4 * session.layout.elements)
            connection.send(
                m.Welcome(
                    member.member, member.shown, token, session.generation, session.state.version, spec, session.layout,
                    session.state.samples_done,
                )
            )  # fmt: skip
        self.rejoin(attached)
        session.send(attached, session.status_message())
        if member.role == "peer":
            connection.measure(lambda found: self._measured(attached, found))
        return attached

    def rejoin(self, attached: Attached) -> None:
        """A member begins, or begins again on the same connection because its view is not right."""
        member, hello = attached.member, attached.hello
        self.session.handle(
            MemberJoined(
                member.member, hello.role, member.shown, hello.device, hello.own_samples, member.standing, hello.codecs
            )
        )  # fmt: skip

    def detach(self, attached: Attached, reason: str) -> None:
        """A member is gone, or its connection is."""
        session = self.session
        if not self._is_here(attached):
            return
        del session.members.connected[attached.id]
        session.traffic.ended(attached)
        session.joining.stop(attached)
        session.holding.lost(attached.id)
        session.handle(MemberLost(attached.id, reason))
        store, database = session.store, session.store.database
        now = session.now()
        session.members.left(attached.member, now)
        session.recorder.gone(attached.id, now)
        if session.state.phase == "finished":
            session.spawn(store.run_in_store(database.add_metrics, session.traffic.of_last(session.members)))

    def send_away(self, attached: Attached, error: SwarmError) -> None:
        """Tell a member why it cannot stay; it does not come back by itself."""
        attached.connection.refuse(error)
        self.detach(attached, error.what)

    def remove(self, attached: Attached) -> None:
        """Send a member away for good."""
        attached.connection.refuse(Removed())
        self.detach(attached, "removed by the instructor")

    def disconnect(self, member: str, reason: str) -> None:
        """Send a member away; it may come back."""
        attached = self.session.members.connected.get(member)
        if attached is not None:
            attached.connection.refuse(LinkError("The server closed the connection.", reason), retry=True)
            self.detach(attached, reason)

    def received(self, attached: Attached, message: m.FromMember) -> None:
        """A member said something. Raises `SwarmError` for what cannot be answered."""
        session = self.session
        if not self._is_here(attached) or getattr(message, "generation", session.generation) != session.generation:
            return
        match message:
            case m.WantSnapshot() | m.Synced():
                session.joining.asked(attached, message)
            case m.ViewDigest():
                session.joining.reported(attached, message)
            case m.Progress():
                attached.progress = message
            case m.Control():
                attached.told = ""  # what it now believes is what it asked for: tell it again how it is
                session.handle(Said(attached.id, message))
            case m.Adopted() | m.StateSent():
                session.holding.answered(attached, message)
            case m.Goodbye():
                self.detach(attached, message.reason or "left")
            case m.Announce():
                # Its share of the byte budget is what the layout says, not what it claims.
                session.handle(Said(attached.id, msgspec.structs.replace(message, bytes=self._bytes_of_contribution())))
            case _:
                session.handle(Said(attached.id, message))

    async def received_frame(self, attached: Attached, header: Header, frame: Buffer) -> None:
        """A member sent numbers; what is not meant for this session is dropped. Raises `SwarmError`."""
        session, role = self.session, attached.member.role
        if not self._is_here(attached) or (header.session, header.generation) != (session.tag, session.generation):
            return
        if header.kind == Kind.CONTRIBUTION and role == "peer":
            self._arrives(attached, header.number, len(frame))
            await session.holding.stage(attached, header, frame)
        elif header.kind == Kind.PACKET and role == "holder":
            session.delivery.packet(frame)
        elif header.kind == Kind.STATE and role == "holder":
            session.holding.state_frame(frame)

    def _measured(self, attached: Attached, found: Found) -> None:
        if self._is_here(attached):
            self.session.handle(Measured(attached.id, found.what, found.bytes, found.seconds))

    def _arrives(self, attached: Attached, number: int, count: int) -> None:
        """See how fast a contribution comes, from its first bytes to its last. How many it has, the layout says."""
        contribution = self.session.state.round.contributions.get(number)
        connection = attached.connection
        if contribution is None or contribution.peer != attached.id or connection.since is None:
            return
        known, since, before = attached.arriving
        if known != number:
            since, before = connection.since, 0
        attached.arriving = number, since, before + count
        if before < contribution.bytes <= before + count and contribution.bytes >= PROBE_BYTES:
            connection.saw(Found("up", contribution.bytes, connection.time() - since))

    def _is_here(self, attached: Attached) -> bool:
        return self.session.members.connected.get(attached.id) is attached

    def _bytes_of_contribution(self) -> int:
        """Of the round under way, whichever round it was made for."""
        session, round = self.session, self.session.state.round.number
        if self._contribution_bytes[0] != round:
            self._contribution_bytes = round, contribution_bytes(session.layout, session.state.rule, round)
        return self._contribution_bytes[1]
