"""What the demo's session has left on the server's disk, read after the server is gone, and what follows from it.

Nothing here is assumed: positions come from the stored round records, the killed peer's leases from the stored events,
the server's digest from its last snapshot and the packets since.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from ...coordinator.numbers import Numbers
from ...protocol.errors import SwarmError
from ...protocol.layout import Layout
from ...protocol.records import Range, RoundRecord
from ...store.blobs import Blobs
from ...store.database import Database
from ...store.paths import StoreRoot
from ...store.rows import Event, Member, Metric

_LEASED = re.compile(r"leased samples \((\d+ to \d+(?:, \d+ to \d+)*)\)")


class Accounting(msgspec.Struct, frozen=True):
    """Where every sample position that a round ever drew has gone. `exact`: each is in one place, and in one only.

    samples: in the data set. drawn: positions 0 to `drawn` - 1. consumed, skipped, waiting: so many of them. epochs:
    whole ones. twice, lost: ranges that are in several places, or in none. What late peers still hold at a commit
    counts as waiting; samples of peers' own data have no position.
    """

    samples: int
    drawn: int
    consumed: int
    skipped: int
    waiting: int
    epochs: int
    twice: tuple[Range, ...]
    lost: tuple[Range, ...]
    exact: bool


class Taken(msgspec.Struct, frozen=True):
    """Who computed a part of what the killed peer had leased, and in which round it counted."""

    start: int
    stop: int
    peer: str
    round: int


class Loss(msgspec.Struct, frozen=True):
    """The killed peer: what it had leased when it died, and who took that over."""

    peer: str
    round: int
    event: str
    leased: tuple[Range, ...]
    taken: tuple[Taken, ...]


class Stored(msgspec.Struct, frozen=True):
    """A session as it lies on disk. `digest`: SHA-256 over all shared numbers at the last version. predictions: of each
    sample."""

    samples: int
    predictions: int
    layout: Layout
    records: list[RoundRecord]
    events: list[Event]
    metrics: list[Metric]
    names: dict[str, str]
    digest: str

    def member(self, name: str) -> str:
        """The id of the member that others see as `name`."""
        return next(member for member, known in self.names.items() if known == name)


def read(storage: Path, session: str) -> Stored:
    """Read a session whose server has ended. Raises `SwarmError`."""
    root = StoreRoot(storage)
    database = Database(root.database)
    try:
        stored = next((row for row in database.sessions() if row.session == session), None)
        if stored is None:
            raise SwarmError("The demo's session is not in the server's store.")
        layout, last = database.layout(session), database.last_round(session)
        members: list[Member] = database.members(session)
        numbers = Numbers(stored.spec, layout, root.session(session), stored.generation)
        numbers.restore(last, Blobs(root.blobs).read(stored.spec.initial))
        return Stored(
            samples=stored.spec.samples,
            predictions=stored.spec.rule.predictions,
            layout=layout,
            records=list(database.rounds(session)),
            events=database.events(session, limit=100_000),
            metrics=database.metrics(session),
            names={member.member: member.name for member in members},
            digest=numbers.view().digest_all(),
        )
    finally:
        database.close()


def account(records: list[RoundRecord], samples: int) -> Accounting:
    """Check the records of all rounds of a session, in order, against each other."""
    consumed = [lease for record in records for contributor in record.contributors for lease in contributor.leases]
    skipped = [skip.range for record in records for skip in record.skips]
    last = records[-1].book if records else None
    waiting = list(last.pool) if last else []
    drawn = last.cursor if last else 0
    twice, lost, reached = [], [], 0
    for start, stop in sorted([*consumed, *skipped, *waiting]):
        if start > reached:
            lost.append((reached, start))
        if start < reached:
            twice.append((start, min(stop, reached)))
        reached = max(reached, stop)
    if reached < drawn:
        lost.append((reached, drawn))
    sums = _count(consumed), _count(skipped), _count(waiting)
    weighed = sum(contributor.weight - contributor.own for record in records for contributor in record.contributors)
    exact = not twice and not lost and reached == drawn and sum(sums) == drawn and weighed == sums[0]
    first_waiting = min((start for start, _ in waiting), default=drawn)
    return Accounting(samples, drawn, *sums, first_waiting // samples, tuple(twice), tuple(lost), exact)


def loss_of(stored: Stored, name: str) -> Loss | None:
    """What became of the peer called `name` that was killed; None if its end is not on record."""
    member = stored.member(name)
    gone = next((e for e in stored.events if e.member == member and e.text.startswith(f"{name} is gone")), None)
    if gone is None:
        return None
    match = _LEASED.search(gone.text)
    leased = tuple(_range(part) for part in match[1].split(", ")) if match else ()
    taken = [
        Taken(max(start, low), min(stop, high), stored.names[contributor.peer], record.round)
        for record in stored.records
        for contributor in record.contributors
        for start, stop in contributor.leases
        for low, high in leased
        if max(start, low) < min(stop, high)
    ]
    return Loss(name, gone.round, gone.text, leased, tuple(sorted(taken, key=lambda part: part.start)))


def joined_in(stored: Stored, name: str) -> int:
    """The round that was under way when the peer called `name` joined."""
    member = stored.member(name)
    return next(event.round for event in stored.events if event.member == member)


def _range(text: str) -> Range:
    first, last = text.split(" to ")
    return int(first), int(last) + 1


def _count(ranges: list[Range]) -> int:
    return sum(stop - start for start, stop in ranges)
