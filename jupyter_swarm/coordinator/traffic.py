"""Bytes to and from each peer, counted on its sockets, by round.

A round's share is what moved from the commit before to its own: what is still on its way then counts for the next one,
and a joiner's snapshot for the round in which it came. After the last commit nothing follows, so what moves until a
peer leaves a session that has ended, or until the server stops, is added to the last round.
"""

from __future__ import annotations

from ..store.rows import Metric
from .members import Attached, Members

Bytes = tuple[int, int]
"""From a peer (up) and to it (down)."""


class Traffic:
    """Counts for the members of one session, over all their connections since the server started."""

    def __init__(self, session: str) -> None:
        self._session = session
        self._ended: dict[str, Bytes] = {}
        self._round = 0
        self._before: dict[str, Bytes] = {}
        self._last: dict[str, Bytes] = {}

    def ended(self, attached: Attached) -> None:
        """A peer's connection is gone; what it has moved counts for the round under way."""
        if attached.member.role == "peer":
            self._ended[attached.id] = _sum(self._ended.get(attached.id, (0, 0)), _moved(attached))

    def totals(self, members: Members) -> dict[str, Bytes]:
        """What has moved so far, by peer."""
        totals = dict(self._ended)
        for attached in members.peers():
            totals[attached.id] = _sum(totals.get(attached.id, (0, 0)), _moved(attached))
        return totals

    def moved(self, members: Members) -> int:
        """All bytes so far, both ways."""
        return sum(map(sum, self._ended.values())) + sum(sum(_moved(attached)) for attached in members.peers())

    def of_round(self, round: int, totals: dict[str, Bytes], members: Members) -> list[Metric]:
        """What has moved since the last commit, as metrics of `round`: of every peer that is here or was meanwhile."""
        return self._metrics(round, totals, self._last, members)

    def committed(self, round: int, totals: dict[str, Bytes]) -> None:
        """`round` is recorded with these totals."""
        self._round, self._before, self._last = round, self._last, totals

    def of_last(self, members: Members) -> list[Metric]:
        """The metrics of the last round again, with what has moved after its commit; none if this server made none."""
        return self._metrics(self._round, self.totals(members), self._before, members) if self._round else []

    def _metrics(self, round: int, totals: dict[str, Bytes], since: dict[str, Bytes], members: Members) -> list[Metric]:
        result = []
        for member, (up, down) in totals.items():
            before_up, before_down = since.get(member, (0, 0))
            if member in members.connected or (up, down) != (before_up, before_down):
                result.append(Metric(self._session, round, member, "bytes_up", up - before_up, 1))
                result.append(Metric(self._session, round, member, "bytes_down", down - before_down, 1))
        return result


def _moved(attached: Attached) -> Bytes:
    return attached.connection.bytes_received, attached.connection.bytes_sent


def _sum(one: Bytes, other: Bytes) -> Bytes:
    return one[0] + other[0], one[1] + other[1]
