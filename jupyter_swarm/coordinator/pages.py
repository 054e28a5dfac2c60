"""What was recorded of a session, page by page; for the store's thread."""

from __future__ import annotations

import itertools

from ..protocol.records import RoundRecord
from ..store.database import Database
from ..store.rows import Metric


def record_page(database: Database, session: str, after: int, limit: int) -> list[RoundRecord]:
    """At most `limit` records of the rounds after `after`."""
    return list(itertools.islice(database.rounds(session, after), limit))


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
