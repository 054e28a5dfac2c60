"""What was recorded of a session, page by page, without the names of those who are muted; for the store's thread."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from ..protocol.records import RoundRecord
from ..store.database import Database
from ..store.rows import Event, Metric

CONTRIBUTORS = 10_000
"""So many contributors are in a page of records, unless its first record has more: some 3 MB."""


def record_page(database: Database, session: str, after: int, limit: int) -> tuple[list[RoundRecord], int | None]:
    """Records of the rounds after `after`, at most `limit`, and the last of these rounds if more may follow."""
    shown = _without_muted(database, session)
    page: list[RoundRecord] = []
    contributors = 0
    for record in database.rounds(session, after):
        contributors += len(record.contributors)
        if len(page) == limit or (page and contributors > CONTRIBUTORS):
            return page, page[-1].round
        page.append(_as_shown(record, shown))
    return page, None


def _as_shown(record: RoundRecord, shown: Callable[[str], str]) -> RoundRecord:
    replace = msgspec.structs.replace
    return replace(
        record, contributors=tuple(replace(one, waited_for=shown(one.waited_for)) for one in record.contributors)
    )


def event_page(database: Database, session: str, after: int, limit: int) -> list[Event]:
    """At most `limit` events whose number is above `after`."""
    shown = _without_muted(database, session)
    events = database.events(session, after, limit)
    return [msgspec.structs.replace(event, text=shown(event.text)) for event in events]


def _without_muted(database: Database, session: str) -> Callable[[str], str]:
    """What makes of a text one without the names of those who are muted."""
    members = database.members(session)
    if not any(one.standing.muted for one in members):
        return lambda text: text
    # The others' too: "ann 2" is not a second word after the name of ann.
    names = {one.name: one.shown for one in members}
    longest_first = sorted(names, key=len, reverse=True)
    whole = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, longest_first))})(?!\w)")
    return lambda text: whole.sub(lambda match: names[match[1]], text)


def metric_page(
    database: Database, session: str, after: int, limit: int, together: bool = False
) -> tuple[list[Metric], int | None]:
    """The metrics of versions after `after`, whole versions in about `limit` rows, and the last of these versions if
    more may follow. together: only those of all members together."""
    while len(rows := database.metrics(session, after, limit + 1, together)) > limit:
        whole = [row for row in rows if row.version < rows[-1].version]
        if whole:
            return whole, whole[-1].version
        limit *= 2  # a version of so many members
    return rows, None
