"""The packets of the attempt under way, on their way to peers and journal, and the record that makes them a version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..decisions.events import Recorded, RecordFailed
from ..protocol import failpoints
from ..protocol import messages as m
from ..protocol.errors import StoreError
from ..protocol.frames import Buffer, read_header
from ..protocol.records import RoundRecord
from ..shards.incoming import PacketSet

if TYPE_CHECKING:
    from .session import SessionRuntime


class Delivery:
    """One attempt at a time, from the holders' `Prepare` to the commit or the abort."""

    def __init__(self, session: SessionRuntime) -> None:
        self.session = session
        self.packets: PacketSet | None = None
        self.sent: list[Buffer] = []
        self._record: RoundRecord | None = None

    def begin(self, prepare: m.Prepare) -> None:
        """A holder is told to prepare: from the first time on, packets of this attempt come."""
        if self.packets is None or (self.packets.round, self.packets.attempt) != (prepare.round, prepare.attempt):
            self.packets = self.session.numbers.packets(prepare.round, prepare.attempt)
            self.sent = []
            self.session.recorder.begin(prepare.round)

    def packet(self, frame: Buffer) -> None:
        """A packet is ready: to everybody who follows live, and to the journal. Raises `Refusal` for a wrong one."""
        header = read_header(frame)
        packets = self.packets
        if packets is None or (header.round, header.attempt) != (packets.round, packets.attempt):
            return
        packets.add(frame)
        self.sent.append(frame)
        if len(self.sent) == max(packets.expected // 2, 1):
            failpoints.reach("half-delivered")
        self.session.recorder.append(frame)
        for attached in self.session.members.peers():
            if attached.feed == "live":
                attached.connection.send_frame(frame)
        self._commit_if_complete()

    def write(self, record: RoundRecord) -> None:
        """Commit once all packets are here: messages overtake them, so those of other holders may be on their way."""
        self._record = record
        self._commit_if_complete()

    def _commit_if_complete(self) -> None:
        record, packets = self._record, self.packets
        if record is not None and packets is not None and packets.complete:
            self._record = None
            self.session.spawn(self._commit(record))

    async def _commit(self, record: RoundRecord) -> None:
        members, traffic = self.session.members, self.session.traffic
        totals = traffic.totals(members)
        try:
            await self.session.recorder.commit(record, traffic.of_round(record.round, totals, members))
        except Exception as error:
            if not isinstance(error, StoreError):
                self.session.failed(error)
            reason = " ".join(str(error).split("\n"))
            self.session.handle(RecordFailed(record.round, record.attempt, reason))
        else:
            traffic.committed(record.round, totals)
            self.session.handle(Recorded(record.round, record.attempt))

    def committed(self) -> None:
        """The packets are in the journal, from where late peers get them."""
        self.packets, self.sent = None, []

    def void(self) -> None:
        """The attempt is void: nobody needs its packets, not even those who have been sent some."""
        void = {id(frame) for frame in self.sent}
        for attached in self.session.members.peers():
            attached.connection.drop_frames(lambda frame: id(frame) in void)
        self.packets, self.sent, self._record = None, [], None
        self.session.recorder.discard()
