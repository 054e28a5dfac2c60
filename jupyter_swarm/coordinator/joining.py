"""How a peer comes to have the current version: from a pinned snapshot, then the packets of the rounds since.

The journal is what waits for a slow joiner, not memory: its packets are read when it is ready for them. A joiner for
which even the journal has moved on gets a new snapshot once; the second time it is told that its link is too slow. The
journal waits: packets that a joiner will need stay, within bounds, when a snapshot replaces them for a restart.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..decisions.events import Said
from ..protocol import messages as m
from ..protocol.errors import LinkError, StoreError
from ..protocol.frames import Buffer
from .members import Attached
from .numbers import Pin

if TYPE_CHECKING:
    from .session import SessionRuntime

PIN_AGE = 4
"""A pinned snapshot is shared with later joiners while it is at most so many versions old."""
PINS_KEPT = 2
ROUNDS_KEPT = 1000
BYTES_KEPT = 4 << 30
"""For joiners the packets of so many rounds are kept at most."""
SNAPSHOTS = 2
"""A joiner that falls behind the journal after so many snapshots has too slow a link."""
DIGESTS_KEPT = 8
QUEUED_BYTES = 8 << 20
"""So much is put into a joiner's connection ahead of what its link takes."""


class Joining:
    """Snapshots and catching up, for one session."""

    def __init__(self, session: SessionRuntime) -> None:
        self.session = session
        self._pins: list[Pin] = []
        self._pinning = asyncio.Lock()
        self._digests: dict[int, tuple[int, str]] = {}
        self._unchecked: dict[str, tuple[Attached, m.ViewDigest]] = {}

    def asked(self, attached: Attached, message: m.WantSnapshot | m.Synced) -> None:
        """A peer wants something: what it was being sent until now is of no use to it any more."""
        self.stop(attached)
        if isinstance(message, m.Synced):
            attached.sending = self.session.spawn(self._synced(attached, message))
            return
        self.session.handle(Said(attached.id, message))
        attached.sending = self.session.spawn(self._snapshot(attached, message))

    def stop(self, attached: Attached) -> None:
        """Send no more of a snapshot or of past rounds to a peer, and nothing of the rounds that come."""
        attached.feed = "none"
        if attached.sending is not None:
            attached.sending.cancel()
        attached.connection.drop_frames()

    async def _snapshot(self, attached: Attached, message: m.WantSnapshot) -> None:
        """Offer a pinned snapshot, or send the chunks of the one that was offered."""
        pin = next((pin for pin in self._pins if pin.number == message.number), None)
        if pin is None:
            pin = await self._pin()
            attached.pin, attached.behind = pin.number, pin.version
            attached.connection.send(
                m.SnapshotOffer(self.session.generation, pin.number, pin.version, pin.chunk_digests)
            )
            return
        for frame in self.session.numbers.pin_frames(pin, message.chunks):
            await self._send(attached, frame)

    async def _pin(self) -> Pin:
        async with self._pinning:
            version = self.session.state.version
            if self._pins and self._pins[-1].version >= version - PIN_AGE:
                return self._pins[-1]
            pin = await self.session.in_thread(self.session.numbers.pin)
            self._pins = [*self._pins, pin][-PINS_KEPT:]
            return pin

    def release_pins(self) -> None:
        """Let go of the snapshots that nobody fetches: each is as large as the model."""
        used = {attached.pin for attached in self.session.members.peers()}
        self._pins = [pin for pin in self._pins if pin.number in used]

    def needed(self, version: int) -> int:
        """The version after which the journal must keep the packets of rounds, for those who will ask for them."""
        rounds = min(ROUNDS_KEPT, BYTES_KEPT // (4 * self.session.layout.elements))
        behind = [attached.behind for attached in self.session.members.peers() if attached.behind is not None]
        return max(min([version, *behind, *(pin.version for pin in self._pins)]), version - rounds)

    async def _synced(self, attached: Attached, message: m.Synced) -> None:
        """A peer has a whole view: check it if that is possible, send the rounds since, then let it follow live."""
        session = self.session
        pin = next((pin for pin in self._pins if pin.version == message.version), None)
        attached.pin, attached.behind = 0, message.version
        if message.version > session.state.version or (pin is not None and pin.digest != message.digest):
            self.resync(attached, "your view is not the class's")
            return
        attached.feed = "catching up"
        version = message.version
        while version < session.state.version:
            try:
                await self._send_round(attached, version + 1)
            except StoreError:
                self._fell_behind(attached)
                return
            attached.behind = version = version + 1
        self._follow(attached, message)

    def _follow(self, attached: Attached, message: m.Synced) -> None:
        """From here on the peer gets packets as they come; those of the attempt under way that went out already come
        first. No await in here: nothing may happen in between."""
        session = self.session
        attached.feed, attached.behind = "live", None
        for frame in session.delivery.sent:
            attached.connection.send_frame(frame)
        session.handle(Said(attached.id, message))

    async def _send_round(self, attached: Attached, number: int) -> None:
        session = self.session
        record = await session.store.run_in_store(session.store.database.round, session.spec.session, number)
        if record is None:
            raise StoreError(f"Round {number} is not recorded.")
        frames: Iterator[bytearray] = session.numbers.journal.read_round(number)
        while batch := await asyncio.to_thread(lambda: list(itertools.islice(frames, 8))):
            for frame in batch:
                await self._send(attached, frame)
        loss = record.mean_loss
        commit = m.Commit(
            session.generation, number, record.attempt, record.book.done, len(record.contributors),
            loss if loss == loss else None, record.learning_rate, number % session.state.shard_count,
        )  # fmt: skip
        attached.connection.send(commit, in_order=True)

    async def _send(self, attached: Attached, frame: Buffer) -> None:
        attached.connection.send_frame(frame)
        await attached.connection.drain(QUEUED_BYTES)

    def _fell_behind(self, attached: Attached) -> None:
        attached.restarts += 1
        if attached.restarts < SNAPSHOTS:
            self.resync(attached, "the class went on faster than your link could follow")
            return
        attached.connection.refuse(
            LinkError(
                "Your link is too slow to follow this class.",
                "The parameters changed faster than they could be sent to you.",
                "Use a faster link, or ask the instructor for a recipe with fewer bytes.",
            )
        )
        self.session.reception.detach(attached, "its link is too slow for this model")

    def resync(self, attached: Attached, reason: str) -> None:
        """The peer is to fetch a snapshot; until it has, it gets no work and no packets."""
        self.stop(attached)
        self.session.reception.rejoin(attached)
        attached.connection.send(m.Resync(self.session.generation, reason))

    # --- whether all views are the same

    def reported(self, attached: Attached, message: m.ViewDigest) -> None:
        """A peer tells the digest of one shard of its view; fast ones do before the server knows its own."""
        known = self._digests.get(message.version)
        if known is None:
            self._unchecked[attached.id] = attached, message
        elif known != (message.shard, message.sha256):
            name = attached.member.shown
            text = f"The view of {name} differs from version {message.version}; it fetches a snapshot."
            self.session.note("warning", text, attached.id)
            self.resync(attached, "your view differs from the class's")

    def installed(self, version: int, shard: int, sha256: str) -> None:
        """The server's own digest of one shard at `version`."""
        self._digests[version] = shard, sha256
        self._digests.pop(version - DIGESTS_KEPT, None)
        unchecked, self._unchecked = self._unchecked, {}
        for attached, message in unchecked.values():
            if message.version == version and self.session.members.connected.get(attached.id) is attached:
                self.reported(attached, message)
