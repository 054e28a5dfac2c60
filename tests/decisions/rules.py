"""What must hold of a session's state after every event, whatever happened."""

from __future__ import annotations

import math
from collections.abc import Iterable

from jupyter_swarm.decisions.explain import explain, explain_peer
from jupyter_swarm.decisions.speed import weight
from jupyter_swarm.decisions.state import State
from jupyter_swarm.protocol.records import RoundRecord
from jupyter_swarm.protocol.standing import Standing


class Rules:
    """Looks at the state after each event. Records are looked at once, when they are committed."""

    def __init__(self) -> None:
        self.records = 0
        self.settled: list[tuple[int, int]] = []
        self.consumed = 0
        self.skipped = 0

    def check(self, state: State, records: list[RoundRecord], now: float) -> None:
        """Fails where the state contradicts itself or the records."""
        for record in records[self.records : state.version]:
            self._settle(record, state.shard_count)
        self._samples(state)
        _contributions(state)
        _references(state)
        _words(state, now)

    def _settle(self, record: RoundRecord, shards: int) -> None:
        self.records += 1
        assert record.round == self.records, "a round is committed once, and none is left out"
        assert record.samples == sum(contributor.weight for contributor in record.contributors)
        if record.strategy == "EveryStep":
            assert record.samples == record.target
        for contributor in record.contributors:
            assert contributor.weight == length(contributor.leases) + contributor.own
        assert [digest.shard for digest in record.digests] == list(range(shards))
        used = [part for contributor in record.contributors for part in contributor.leases]
        skips = [skip.range for skip in record.skips]
        self.consumed += length(used)
        self.skipped += length(skips)
        self.settled = join([*self.settled, *used, *skips])
        assert record.book.consumed == self.consumed
        assert record.book.skipped == self.skipped

    def _samples(self, state: State) -> None:
        """Every position before the cursor is consumed, skipped or owned by the open round; none of them twice."""
        book, current = state.book, state.round
        owned = [(piece.start, piece.stop) for piece in book.free]
        owned += [
            (lease.start, lease.stop) for lease in book.leases.values() if lease.kind == "train" and not lease.own
        ]
        if current.target and not state.in_steps:
            assert length(owned) == current.target, "a round owns exactly its target"
        owned += [(piece.start, piece.stop) for piece in book.pool]
        skips = [skip.range for skip in book.skips]
        everything = join([*self.settled, *owned, *skips])
        assert everything == ([(0, book.cursor)] if book.cursor else [])
        assert book.consumed == self.consumed
        assert book.skipped == self.skipped + length(skips)

    @staticmethod
    def check_grant(state: State, peer: str, standings: dict[str, Standing], now: float) -> None:
        """Nobody gets work whom the instructor has paused or sent away, nor in a rest that he has ordered."""
        standing = standings.get(peer, Standing())
        assert state.peers[peer].standing == standing
        assert not standing.removed
        assert not state.peers[peer].paused
        resting = standing.slowed and state.phase == "open"
        assert not (resting and now < state.peers[peer].rest_until)

    def check_end(self, state: State) -> None:
        """After the last event: the records account for every position that no open round owns."""
        assert self.records == state.version
        if state.last_record is not None and not state.in_steps and not state.changes:
            assert state.last_record.book.pool == (), "a round consumes what it owns"
            assert self.settled[0] == (0, self.settled[0][1])


def length(ranges: Iterable[tuple[int, int]]) -> int:
    """How many positions."""
    return sum(stop - start for start, stop in ranges)


def join(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same positions in as few ranges as there can be; fails if one position is in two of them."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        assert start < stop
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        else:
            assert not joined or joined[-1][1] < start, f"[{start}, {stop}) is there twice"
            joined.append((start, stop))
    return joined


def _contributions(state: State) -> None:
    current = state.round
    by_state: dict[str, list[int]] = {"announced": [], "granted": [], "accepted": []}
    for number, contribution in current.contributions.items():
        assert contribution.number == number
        by_state[contribution.state].append(number)
        claimed = [lease.id for lease in state.book.leases.values() if lease.contribution == number]
        if state.version < current.number:
            assert sorted(contribution.leases) == sorted(claimed)
            held = [state.book.leases[lease] for lease in claimed]
            assert contribution.weight == sum(lease.count for lease in held if not lease.own) + contribution.own
            assert contribution.own <= sum(lease.count for lease in held if lease.own)
            assert all(state.book.leases[lease].state == "claimed" for lease in claimed)
        if contribution.state == "accepted":
            assert set(contribution.staged) >= set(state.holding())
        else:
            assert number in state.peers[contribution.peer].contributions
    assert current.queue == by_state["announced"], "grants go by the order of announcement"
    assert current.uploading == sum(current.contributions[number].bytes for number in by_state["granted"])
    assert sorted(current.accepted) == sorted(by_state["accepted"])
    assert current.samples_in == sum(current.contributions[number].weight for number in current.accepted)
    if current.queue and state.phase == "open":
        assert by_state["granted"], "a queue waits only for uploads under way"


def _references(state: State) -> None:
    for peer in state.peers.values():
        assert len(set(peer.leases)) == len(peer.leases)
        assert all(state.book.leases[lease].peer == peer.id for lease in peer.leases)
        assert all(state.round.contributions[number].peer == peer.id for number in peer.contributions)
        assert all(state.round.contributions[number].state != "accepted" for number in peer.contributions)
        leased = [lease for lease in peer.leases if state.book.leases[lease].state == "leased"]
        assert len(leased) <= 1, "a peer computes one lease at a time"
        held = [state.book.leases[lease] for lease in peer.leases]
        in_round = [lease for lease in held if lease.kind == "train" and lease.round == state.round.number]
        if state.in_steps and state.phase == "open":
            assert peer.leased >= sum(lease.count for lease in in_round), "its steps of the round are counted"
    assert set(state.round.taking) <= set(state.peers)
    assert state.round.made == sum(state.round.taking.values())
    accepted = {lease for number in state.round.accepted for lease in state.round.contributions[number].leases}
    for lease in state.book.leases.values():
        if lease.id not in accepted:
            assert lease.id in state.peers[lease.peer].leases
    for name in state.waiting:
        peer = state.peers[name]
        assert peer.synced
        assert peer.version == state.version
        assert not peer.contributions or state.rule.overlap
        assert not peer.contribute_by
    out = sum(lease.kind == "evaluate" for lease in state.book.leases.values())
    assert out == (state.evaluation.leased if state.evaluation else 0)
    active = state.active_peers()
    assert state.crowd.synced == sum(peer.synced for peer in state.peers.values())
    assert state.crowd.active == len(active)
    assert state.crowd.measured == sum(peer.speed > 0 for peer in active)
    assert math.isclose(state.crowd.weight, sum(weight(peer.speed) for peer in active), rel_tol=1e-6, abs_tol=1e-6)
    if state.phase in ("open", "preparing"):
        assert set(state.placement.values()) == set(state.holding())


def _words(state: State, now: float) -> None:
    word, reason = explain(state, now)
    assert word in ("waiting", "training", "paused", "finished")
    assert reason
    for peer in state.peers.values():
        assert all(explain_peer(state, peer, now))
    if word == "training" and state.phase == "open" and not state.waiting:
        holding = {lease.peer for lease in state.book.leases.values() if lease.state != "claimed"}
        holding |= {c.peer for c in state.round.contributions.values() if c.state != "accepted"}
        if holding:
            assert any(state.peers[peer].name in reason for peer in holding), reason
