"""What a session leaves on disk: packets as they come, the round record that commits, events and metrics.

Packets are written by a thread of their own while holders still compute and links still send, so that little is left
to do when the record is due.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from ..protocol import failpoints
from ..protocol.errors import StoreError
from ..protocol.frames import Buffer
from ..protocol.messages import Evaluated
from ..protocol.records import RoundRecord
from ..store.journal import Journal, RoundWriter
from ..store.rows import Event, Level, Metric
from .storage import Storage

EVENTS_KEPT = 10_000
"""So many lines of the log wait at most for a disk that takes none."""


class Recorder:
    """The journal and the record of one session. Used from the event loop; writes elsewhere."""

    def __init__(self, session: str, storage: Storage, journal: Journal) -> None:
        self.session = session
        self.storage = storage
        self._journal = journal
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="swarm-journal")
        self._writer: RoundWriter | None = None
        self._failure: StoreError | None = None
        self._events: list[Event] = []
        self._gone: dict[str, float] = {}

    # --- packets; each function runs in the journal's thread, in the order of the calls

    def begin(self, round: int) -> None:
        """An attempt at `round` begins: what an older one has written is discarded."""
        self._thread.submit(self._begin, round)

    def append(self, frame: Buffer) -> None:
        """One more packet of the attempt."""
        self._thread.submit(self._append, frame)

    def discard(self) -> None:
        """The attempt is void."""
        self._thread.submit(self._discard)

    def _begin(self, round: int) -> None:
        self._discard()
        self._failure = None
        try:
            self._writer = self._journal.begin_round(round)
        except StoreError as error:
            self._failure = error

    def _append(self, frame: Buffer) -> None:
        if self._writer is None:
            return
        try:
            self._writer.append(frame)
        except StoreError as error:
            self._failure, self._writer = error, None

    def _discard(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.discard()

    def _finish(self) -> None:
        writer, self._writer = self._writer, None
        if self._failure is not None:
            raise self._failure
        if writer is None:
            raise StoreError("The packets of this round were not written.", todo="Resume the session to try again.")
        writer.finish()

    # --- the record

    async def commit(self, record: RoundRecord, traffic: list[Metric]) -> None:
        """Make the packets and then the record durable, with the round's loss and `traffic`. Raises `StoreError`: then
        the round is not committed."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._finish)
        failpoints.reach("before-record")
        events, self._events = self._events, []
        loss = sum(contributor.loss_sum for contributor in record.contributors)
        count = sum(contributor.loss_count for contributor in record.contributors)
        metrics = [Metric(self.session, record.round, "", "loss", loss, count), *traffic]
        try:
            await self.storage.run_in_store(self.storage.database.add_round, record, metrics, events)
        except StoreError:
            self._keep(events)
            raise
        failpoints.reach("recorded")

    async def evaluated(self, message: Evaluated) -> None:
        """Keep the means of an evaluation. Raises `StoreError`."""
        metrics = [
            Metric(self.session, message.version, "", f"held_out_{name}", mean * message.count, message.count)
            for name, mean in message.metrics.items()
        ]
        await self.storage.run_in_store(self.storage.database.add_metrics, metrics)

    def note(self, unix_time: float, generation: int, round: int, level: Level, text: str, member: str) -> None:
        """Keep a line of the session's log; it is written with the next round, or by `flush`."""
        self._events.append(Event(self.session, unix_time, generation, round, level, member, text))

    def gone(self, member: str, unix_time: float) -> None:
        """A member was here until now; `flush` writes it. A class that is cut off at once is one transaction."""
        self._gone[member] = unix_time

    async def flush(self) -> None:
        """Write the lines that no round has taken along, and who has gone. Raises `StoreError`, keeping them."""
        run, database = self.storage.run_in_store, self.storage.database
        events, self._events = self._events, []
        gone, self._gone = self._gone, {}
        try:
            if events:
                await run(database.add_events, events)
                events = []
            if gone:
                await run(database.saw_members, self.session, gone)
        except StoreError:
            self._keep(events)
            self._gone = gone | self._gone
            raise

    def _keep(self, events: list[Event]) -> None:
        self._events = (events + self._events)[-EVENTS_KEPT:]

    def close(self) -> None:
        """Discard an unfinished attempt and end the thread."""
        self._thread.submit(self._discard)
        self._thread.shutdown(wait=True)
