"""What is measured of links, and the codecs that a session chooses by it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_swarm.decisions import events as e
from jupyter_swarm.decisions import links
from jupyter_swarm.decisions.effects import SetCodecs
from jupyter_swarm.decisions.links import Way, choose, low, with_choice
from jupyter_swarm.decisions.rates import Rate, ServerLink
from jupyter_swarm.decisions.reducer import handle
from jupyter_swarm.decisions.state import Crowd, State, new_state
from jupyter_swarm.protocol import messages as m
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.records import BookState, Contributor, RoundRecord
from jupyter_swarm.protocol.rules import SGD, Codec, RoundRule, SessionSettings, StrategyChange
from jupyter_swarm.protocol.sizes import framed_bytes
from jupyter_swarm.strategies import LocalUpdates
from tests.decisions.world import World, told

LADDER = (Codec.FP32, Codec.FP16, Codec.INT8, Codec.INT4)
MBIT = 1e6 / 8
RULE = LocalUpdates(steps=10, batch=4, codec="auto").rule(SGD(0.1))
MILLION = 1_000_000

rates = st.floats(1e3, 1e10)
elements = st.integers(1, 10**9)
seconds = st.floats(1e-3, 1e4)
codecs = st.sampled_from(LADDER)


def up(rate: float, shared: float = 0.0, peers: int = 1) -> Way:
    return Way("up", rate, shared, peers)


def share(way: Way, codec: Codec, count: int, compute: float) -> float:
    taken = way.seconds(framed_bytes(codec, count))
    return taken / (taken + compute)


# --- choosing


@given(rates, elements, seconds, codecs)
def test_what_is_chosen_fits_into_a_round_or_is_the_smallest(
    rate: float, count: int, compute: float, current: Codec
) -> None:
    way = up(rate)
    chosen = choose(way, LADDER, count, compute, current).codec
    fits = way.seconds(framed_bytes(chosen, count)) <= links.LEAST_SECONDS
    assert fits or share(way, chosen, count, compute) <= links.SHARE / 2 or chosen == Codec.INT4


@given(rates, st.floats(1.0, 1000.0), elements, seconds, codecs)
def test_a_faster_link_never_costs_digits(
    rate: float, factor: float, count: int, compute: float, current: Codec
) -> None:
    slow = choose(up(rate), LADDER, count, compute, current).codec
    fast = choose(up(rate * factor), LADDER, count, compute, current).codec
    assert LADDER.index(fast) <= LADDER.index(slow)


@given(rates, elements, seconds, codecs, st.floats(0.71, 1.41))
def test_a_choice_stands_when_links_change_a_little(
    rate: float, count: int, compute: float, current: Codec, change: float
) -> None:
    """Whatever a link was, if it then goes up and down by less than half, nothing goes back and forth."""
    one = choose(up(rate), LADDER, count, compute, current).codec
    other = choose(up(rate * change), LADDER, count, compute, one).codec
    assert choose(up(rate), LADDER, count, compute, other).codec == other


def test_the_reason_says_what_the_more_exact_codec_would_cost() -> None:
    found = choose(up(12 * MBIT), LADDER, MILLION, 40.0, Codec.FP32)
    assert found == (Codec.INT8, "int8 up: fp16 would take 3.2 % of a round at 12 Mbit/s")
    easy = choose(up(1000 * MBIT), LADDER, MILLION, 20.0, Codec.FP32)
    assert easy == (Codec.FP32, "fp32 up: 0.16 % of a round at 1 Gbit/s")
    hopeless = choose(up(1 * MBIT), LADDER, MILLION, 1.0, Codec.FP32)
    assert hopeless.reason.endswith("at 1 Mbit/s, and this still takes 81 %")


def test_the_servers_link_is_shared_by_all() -> None:
    alone = choose(up(100 * MBIT, 100 * MBIT, 1), LADDER, MILLION, 20.0, Codec.FP32)
    thirty = choose(up(100 * MBIT, 100 * MBIT, 30), LADDER, MILLION, 20.0, Codec.FP32)
    assert (alone.codec, thirty.codec) == (Codec.FP32, Codec.INT4)
    assert "3.33 Mbit/s, the server's link shared by 30" in thirty.reason


@given(st.lists(rates, min_size=1, max_size=40))
def test_a_few_slow_links_do_not_decide(some: list[float]) -> None:
    found = low(some)
    assert min(some) <= found <= max(some)
    assert sum(rate < found for rate in some) <= links.QUANTILE * len(some)


def test_tiny_transfers_are_not_worth_a_digit() -> None:
    """A round of milliseconds on loopback: its messages take as long with any codec."""
    assert choose(up(100e6), LADDER, 100_000, 0.01, Codec.FP32).codec == Codec.FP32


# --- measuring


@given(st.lists(st.tuples(st.integers(1, 10**9), st.floats(1e-3, 100.0)), min_size=1, max_size=50))
def test_a_rate_lies_between_those_of_its_transfers(transfers: list[tuple[int, float]]) -> None:
    rate = Rate()
    for count, taken in transfers:
        rate.add(count, taken)
    single = [count / taken for count, taken in transfers]
    assert min(single) * 0.999 <= rate.rate <= max(single) * 1.001


def test_the_servers_link_is_seen_when_most_move_something_at_once() -> None:
    link = ServerLink()
    link.add(1000, 1.0)
    link.close(peers=4)
    assert link.rate == 0.0, "one transfer says nothing about what all share"
    for _ in range(4):
        link.add(1000, 2.0)
    link.close(peers=4)
    assert link.rate == 2000.0


def test_the_clock_of_the_server_may_stand_anywhere() -> None:
    """The same events give the same decisions, hours earlier or later: only durations count."""
    runs = []
    for start in (0.0, 7 * 3600.0, 1.7e9):
        world = World(samples=300, target=32, elements=MILLION)
        world.now = start + 1000.0
        world.add_peer("a")
        world.handle(e.Measured("a", "up", 1 << 17, 0.25))
        world.run_rounds(3)
        grants = [message.seconds for _, message in told(world, m.Grant) if isinstance(message, m.Grant)]
        runs.append((world.state.peers["a"].link.up.rate, [round(seconds, 3) for seconds in grants]))
    assert runs[0] == runs[1] == runs[2]


def test_bandwidth_that_a_peer_claims_counts_for_nothing() -> None:
    """It gets as long for its upload as what it really moved says, and the session's codecs do not depend on it."""
    worlds = []
    for claims in (False, True):
        world = World(samples=300, target=32, elements=MILLION)
        liar = world.add_peer("liar", bandwidth=1e4, bytes=100_000)
        world.handle(e.Measured("liar", "up", 1 << 17, 13.0))
        if claims:
            world.handle(e.Said("liar", m.Progress(1e9, 1e9, 0.0, 1 << 60, 1 << 60)))
            world.handle(e.Said("liar", m.Heartbeat(answer=1, filler="." * 1000)))
        world.run_rounds(4)
        peer = world.state.peers["liar"]
        worlds.append((peer.upload_rate, peer.link.up.rate, [g.seconds for _, g in told(world, m.Grant)]))  # type: ignore[attr-defined]
        assert liar.computed
    assert worlds[0] == worlds[1]
    assert worlds[0][0] == pytest.approx(1e4, rel=0.2)


def test_a_first_upload_has_the_time_that_a_slow_link_needs() -> None:
    def first_grant(rate: float) -> float:
        world = World(samples=300, target=32)
        world.add_peer("a", bytes=5_000_000, bandwidth=1e9)
        world.handle(e.Measured("a", "up", int(rate), 1.0))
        world.run_rounds(1)
        return next(message.seconds for _, message in told(world, m.Grant))  # type: ignore[attr-defined]

    assert first_grant(1e5) == pytest.approx(100.0)
    assert first_grant(1e8) == pytest.approx(10.0), "an idle link says little of one that a class shares"


# --- the session's choice, round by round


def class_of(rates: dict[str, float], rule: RoundRule = RULE, changes: tuple[StrategyChange, ...] = ()) -> State:
    """A session whose peers have been measured once."""
    state = new_state("cs101", rule, SessionSettings(), 1000, 0, 4, changes=changes, elements=MILLION)
    for name, rate in rates.items():
        handle(state, e.MemberJoined(name, "peer"), 0.0)
        state.peers[name].synced = True
        measure(state, name, rate)
    state.crowd = Crowd(len(rates), len(rates))
    return state


def measure(state: State, name: str, rate: float, count: int = 1 << 20) -> None:
    for way in ("up", "down"):
        handle(state, e.Measured(name, way, count, count / rate), 0.0)  # type: ignore[arg-type]


def commit(state: State, round_: int, computing: float = 40.0) -> list[Any]:
    """What follows from a committed round in which everybody computed for so long."""
    contributors = tuple(
        Contributor(place, place, name, 4, ((0, 4),), round_ - 1, 1.0, 4, {}, seconds=computing)
        for place, name in enumerate(state.peers, start=1)
    )
    rule = state.rule_of(round_)
    record = RoundRecord(
        "cs101", 1, round_, 1, contributors, 4, (), BookState(), (), 0.1, 4, 0.0, strategy=rule.strategy
    )
    return links.after_commit(state, record)


def apply(state: State, round_: int, effects: list[Any]) -> None:
    for effect in effects:
        changes = with_choice(state.first_rule, state.changes, round_, effect)
        if changes is not None:
            handle(state, e.ChangeStrategy(changes, ""), 0.0)


def codecs_of(state: State, round_: int) -> tuple[Codec, Codec]:
    stream = state.rule_of(round_).stream(Stream.GRADIENT)
    return stream.up, stream.down


def test_the_first_measured_round_decides_at_once() -> None:
    state = class_of({"a": 12 * MBIT, "b": 12 * MBIT, "c": 12 * MBIT})
    effects = commit(state, 1)
    assert effects == [SetCodecs(Codec.INT8, Codec.INT8, effects[0].reason)]
    assert effects[0].reason.startswith("int8 up: fp16 would take 3.2 % of a round at 12 Mbit/s; int8 down: ")
    apply(state, 2, effects)
    assert codecs_of(state, 1) == (Codec.FP32, Codec.FP32)
    assert codecs_of(state, 2) == (Codec.INT8, Codec.INT8)
    assert links.reason_of(state, 2) == effects[0].reason
    assert commit(state, 2) == []


def test_a_choice_is_changed_only_when_some_rounds_in_a_row_say_so() -> None:
    state = class_of({"a": 12 * MBIT})
    apply(state, 2, commit(state, 1))
    for round_ in range(2, 20):
        # One fast round between slow ones, again and again.
        measure(state, "a", (1000 if round_ % 2 else 12) * MBIT, 1 << 10)
        assert commit(state, round_) == []
    for round_ in range(20, 40):
        measure(state, "a", 1000 * MBIT, 1 << 28)
        effects = commit(state, round_)
        if effects:
            break
    assert round_ == 22
    assert effects[0].up == Codec.FP32


def test_one_slow_peer_does_not_cost_everybody_digits() -> None:
    rates = {f"peer-{number}": 1000 * MBIT for number in range(8)}
    state = class_of({**rates, "slow": MBIT})
    assert commit(state, 1) == []
    assert state.choosing.words.startswith("fp32 up: ")


def test_only_codecs_that_everybody_knows_are_chosen() -> None:
    state = class_of({"a": MBIT, "b": MBIT})
    handle(state, e.MemberJoined("old", "peer", codecs=(1, 2, 3, 4, 5)), 0.0)
    state.peers["old"].synced = True
    (effect,) = commit(state, 1)
    assert (effect.up, effect.down) == (Codec.INT8, Codec.INT8)


def test_nothing_is_chosen_for_rules_that_say_their_codecs() -> None:
    plain = msgspec.structs.replace(RULE, auto=False)
    assert commit(class_of({"a": MBIT}, plain), 1) == []


def test_what_a_person_has_decided_for_a_round_stays() -> None:
    change = StrategyChange(2, msgspec.structs.replace(RULE, inner_steps=99))
    wanted = SetCodecs(Codec.INT4, Codec.INT4, "slow")
    assert with_choice(RULE, (change,), 2, wanted) is None
    later = with_choice(RULE, (StrategyChange(9, change.rule),), 2, wanted)
    assert later is not None
    assert [(one.round, one.reason, one.rule.inner_steps) for one in later] == [(2, "slow", 10), (9, "", 99)]


def test_a_session_chooses_writes_it_down_and_says_it() -> None:
    """From end to end: the record of each round has its codecs and why, and the log has one line for the change."""
    rule = RoundRule("EveryStep", SGD(lr=0.1), target_batch=64, auto=True)
    world = World(samples=1000, elements=10 * MILLION, rule=rule)
    for name in ("a", "b"):
        world.add_peer(name)
        for way in ("up", "down"):
            world.handle(e.Measured(name, way, 1 << 20, (1 << 20) / MBIT))  # type: ignore[arg-type]
    world.run_rounds(5)
    first, last = world.records[0], world.records[-1]
    assert (first.up, first.down, first.codecs_because) == ("fp32", "fp32", "")
    assert (last.up, last.down) == ("int4", "int4")
    assert "int4 up: int8 would take" in last.codecs_because
    said = [note.text for note in world.notes if "int4 up" in note.text]
    assert len(said) == 1
    assert said[0].startswith("From round ")
    world.restart()
    world.run_rounds(1)
    assert world.records[-1].up == "int4"
    world.finish_checks()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_what_is_made_under_one_codec_counts_only_where_that_codec_holds(seed: int) -> None:
    """Links that become slow and fast again while slow peers are a round late: whatever codec a round had, all that it
    was merged of had been made for it."""
    rule = LocalUpdates(steps=8, batch=4, grace=1.0, quorum=0.5, staleness=1, codec="auto").rule(SGD(0.1))
    world = World(samples=1000, elements=10 * MILLION, seed=seed, rule=rule)
    for name, speed in (("a", 16.0), ("b", 12.0), ("late", 3.0)):
        world.add_peer(name, speed)
    for fast in (False, True, False):
        rate = 1e9 if fast else MBIT
        for _ in range(6):
            for name in world.peers:
                for way in ("up", "down"):
                    world.handle(e.Measured(name, way, 1 << 24, (1 << 24) / rate))  # type: ignore[arg-type]
            world.run_rounds(1)
    assert {record.up for record in world.records} >= {"fp32", "int4"}
    for record in world.records:
        held = world.state.rule_of(record.round).streams
        for contributor in record.contributors:
            assert world.state.rule_of(contributor.base_version + 1).streams == held
    world.finish_checks()
