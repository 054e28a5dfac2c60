"""The accounting finds what is missing or counted twice; the killed peer's leases are followed through the records."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from jupyter_swarm.cli.demo.findings import Stored, account, joined_in, loss_of
from jupyter_swarm.protocol.layout import Layout
from jupyter_swarm.protocol.records import BookState, Contributor, Range, RoundRecord, Skip
from jupyter_swarm.store.rows import Event

SAMPLES = 10


def record(
    round_: int, parts: dict[str, list[Range]], cursor: int, pool: tuple[Range, ...] = (), skips: tuple[Range, ...] = ()
) -> RoundRecord:
    """Round `round_`, in which each peer consumed its ranges."""
    contributors = tuple(
        Contributor(number, number, peer, sum(b - a for a, b in ranges), tuple(ranges), round_ - 1, 1.0, 1, {})
        for number, (peer, ranges) in enumerate(parts.items(), start=1)
    )
    return RoundRecord(
        "s", 1, round_, 1, contributors, sum(c.weight for c in contributors), tuple(Skip(r, "bad") for r in skips),
        BookState(cursor, pool), (), 0.1, 4, 0.0,
    )  # fmt: skip


@st.composite
def sessions(draw: st.DrawFn) -> tuple[list[RoundRecord], int]:
    """Records that are as they should be, and the last position drawn."""
    cuts = sorted(draw(st.sets(st.integers(1, 60), min_size=2, max_size=20)))
    pieces = draw(st.permutations([*zip([0, *cuts[:-1]], cuts, strict=True)]))
    fates = [draw(st.sampled_from(["peer-1", "peer-2", "skip", "wait"])) for _ in pieces]
    of = {fate: [piece for piece, f in zip(pieces, fates, strict=True) if f == fate] for fate in fates}
    peers = {fate: ranges for fate, ranges in of.items() if fate.startswith("peer")}
    one = record(1, peers, cuts[-1], skips=tuple(of.get("skip", [])))
    return [one, record(2, {}, cuts[-1], pool=tuple(of.get("wait", [])))], cuts[-1]


@given(sessions())
def test_what_is_in_one_place_only_is_exact(session: tuple[list[RoundRecord], int]) -> None:
    records, drawn = session
    found = account(records, SAMPLES)
    assert found.exact
    assert found.consumed + found.skipped + found.waiting == found.drawn == drawn
    assert found.epochs <= drawn // SAMPLES


def test_a_sample_that_is_consumed_twice_is_found() -> None:
    found = account([record(1, {"a": [(0, 6)]}, 6), record(2, {"b": [(5, 12)]}, 12)], SAMPLES)
    assert not found.exact
    assert found.twice == ((5, 6),)


def test_a_sample_that_nobody_consumed_is_found() -> None:
    found = account([record(1, {"a": [(0, 4)]}, 6), record(2, {"b": [(6, 12)]}, 14)], SAMPLES)
    assert not found.exact
    assert found.lost == ((4, 6), (12, 14))


def test_weights_that_are_not_the_samples_are_found() -> None:
    right = record(1, {"a": [(0, 6)]}, 6)
    (part,) = right.contributors
    own = msgspec.structs.replace(part, weight=9, own=3)
    assert account([msgspec.structs.replace(right, contributors=(own,))], SAMPLES).exact
    more = msgspec.structs.replace(part, weight=9)
    assert not account([msgspec.structs.replace(right, contributors=(more,))], SAMPLES).exact


def test_an_epoch_with_samples_that_wait_is_not_whole() -> None:
    assert account([record(1, {"a": [(0, 3), (5, 20)]}, 20, pool=((3, 5),))], SAMPLES).epochs == 0
    assert account([record(1, {"a": [(0, 20)]}, 20)], SAMPLES).epochs == 2


def stored(*texts: str) -> Stored:
    events = [Event("s", 0.0, 1, 2, "info", "peer-2", text) for text in texts]
    records = [record(1, {"peer-1": [(0, 4)]}, 4), record(2, {"peer-1": [(4, 6), (9, 12)], "peer-3": [(6, 9)]}, 12)]
    names = {"peer-1": "host", "peer-2": "killed", "peer-3": "slow"}
    return Stored(SAMPLES, 1, Layout(()), records, events, [], names, "")


def test_the_killed_peers_samples_are_followed_to_those_who_computed_them() -> None:
    found = loss_of(
        stored("killed joined.", "killed is gone (x); its 4 leased samples (5 to 7, 10 to 10) go to others."), "killed"
    )
    assert found is not None
    assert found.leased == ((5, 8), (10, 11))
    assert [(part.start, part.stop, part.peer) for part in found.taken] == [
        (5, 6, "host"), (6, 8, "slow"), (10, 11, "host"),
    ]  # fmt: skip


def test_a_peer_that_had_nothing_loses_nothing() -> None:
    found = loss_of(stored("killed is gone (x)."), "killed")
    assert found is not None
    assert (found.leased, found.taken) == ((), ())
    assert loss_of(stored("killed joined."), "killed") is None
    assert joined_in(stored("killed joined."), "killed") == 2


def test_the_words_that_are_looked_for_are_those_of_the_decisions() -> None:
    from jupyter_swarm.decisions import events, reducer, state
    from jupyter_swarm.decisions.effects import Note
    from jupyter_swarm.protocol import messages as m
    from jupyter_swarm.protocol.rules import SGD, RoundRule, SessionSettings

    now = state.new_state("s", RoundRule("EveryStep", SGD(0.1), target_batch=8), SessionSettings(), 20, 0, 1)
    said: list[Note] = []

    def handle(event: events.AnyEvent) -> list[object]:
        nonlocal now
        now, effects = reducer.handle(now, event, 1.0)
        said.extend(effect for effect in effects if isinstance(effect, Note))
        return list(effects)

    placing = handle(events.MemberJoined("server", "holder"))
    handle(events.Placed(placing[0].number))  # type: ignore[attr-defined]
    handle(events.MemberJoined("peer-2", "peer", "killed", "cpu"))
    handle(events.Said("peer-2", m.Synced(1, 0, "")))
    handle(events.MemberLost("peer-2", "the connection broke"))
    found = loss_of(stored(*(note.text for note in said)), "killed")
    assert found is not None
    assert found.leased
    assert found.leased[0][0] == 0
