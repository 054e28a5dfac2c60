"""Several holders: placement, joining, leaving, and rounds that fail in their arithmetic."""

from __future__ import annotations

import pytest

from jupyter_swarm.decisions import events as e
from jupyter_swarm.decisions.explain import explain
from jupyter_swarm.decisions.reducer import handle
from jupyter_swarm.decisions.state import new_state
from jupyter_swarm.protocol import messages as m
from tests.decisions.world import OWN, World


@pytest.fixture
def world():
    world = World(samples=1000, target=64, shards=4)
    world.add_holder("h1")
    world.add_peer("a")
    world.add_peer("b")
    return world


def test_shards_are_shared_in_contiguous_runs(world):
    world.run_rounds(1)
    assert world.state.placement == {0: OWN, 1: OWN, 2: "h1", 3: "h1"}
    world.finish_checks()


def test_all_holders_merge_the_same_contributions_in_the_same_order(world):
    world.run_rounds(5)
    assert world.run(5, lambda: 5 in world.holders["h1"].installed and 5 in world.holders[OWN].installed)
    own, other = world.holders[OWN].installed, world.holders["h1"].installed
    assert [own[number] for number in range(1, 6)] == [other[number] for number in range(1, 6)]


def test_more_holders_than_shards():
    world = World(samples=1000, target=64, shards=1)
    for name in ("h1", "h2"):
        world.add_holder(name)
    world.add_peer("a")
    world.run_rounds(2)
    assert world.state.holding() == [OWN]


def test_a_holder_that_joins_during_a_round_gets_shards_when_it_is_over(world):
    assert world.run(60, lambda: bool(world.state.round.contributions))
    world.add_holder("h2")
    assert "h2" not in world.state.holding()
    world.run_rounds(2)
    assert "h2" in world.state.holding()
    assert world.records[0].attempt == 1


def test_a_holder_that_joins_before_anybody_contributed_gets_shards_at_once_and_no_work_is_lost():
    world = World(samples=1000, target=64)
    world.add_peer("a", 4.0)
    assert world.run(60, lambda: bool(world.state.book.leases))
    world.add_holder("h1")
    assert world.state.phase == "placing"
    assert explain(world.state, world.now)[1] == "handing the shards to own, h1"
    world.run_rounds(1)
    assert world.records[0].attempt == 1
    assert world.records[0].samples == 64


@pytest.mark.parametrize("phase", ["open", "preparing", "recording", "placing"])
def test_a_holder_is_lost(world, phase):
    world.run_rounds(1)
    if phase == "placing":
        world.add_holder("h2")
    assert world.run(120, lambda: world.state.phase == phase, 0.1)
    version = world.state.version
    world.lose("h1")
    world.run_rounds(3)
    assert "h1" not in world.state.placement.values()
    retried = {"open": 2, "preparing": 2}.get(phase, 1)
    assert world.records[version].attempt == retried
    world.finish_checks()


def test_no_holder_is_no_reason_to_fail():
    state = new_state("s", World().rule, World().settings, 100, 0, 2)
    for event in (e.MemberJoined("h", "holder"), e.Placed(1), e.MemberLost("h", "gone"), e.Tick()):
        state, _ = handle(state, event, 1.0)
    assert "none is here" in explain(state, 1.0)[1]
    state, effects = handle(state, e.MemberJoined("h", "holder"), 2.0)
    assert effects


def test_a_round_that_cannot_be_computed_three_times_pauses_the_session(world):
    world.holders["h1"].fails = True
    assert world.run(600, lambda: bool(world.state.paused))
    assert explain(world.state, world.now)[1] == "paused: round 1 failed 3 times: the step is not finite"
    assert world.state.round.attempt == 4
    world.holders["h1"].fails = False
    world.handle(e.Resume("ann"))
    world.run_rounds(2)


def test_a_holder_that_hangs_while_preparing_is_disconnected_and_the_round_goes_on(world):
    assert world.run(60, lambda: world.state.phase == "preparing", 0.1)
    world.holders["h1"].hung = True
    assert "h1" in explain(world.state, world.now)[1]
    world.run_rounds(2, 900)
    assert "h1" not in world.state.holders
    assert world.records[0].attempt == 2


def test_of_holders_that_clip_together_only_the_one_that_hangs_is_disconnected():
    world = World(samples=1000, target=64, shards=6, clip_norm=1.0)
    for name in ("h1", "h2"):
        world.add_holder(name)
    world.add_peer("a")
    world.run_rounds(1)
    assert world.run(60, lambda: world.state.phase == "preparing", 0.1)
    world.holders["h1"].hung = True
    world.run_rounds(2, 900)
    assert "h1" not in world.state.holders
    assert "h2" in world.state.holders


def test_holders_to_which_nothing_arrives_are_disconnected_before_peers_are_paused():
    """The second one has no shards before the first one is gone."""
    world = World(samples=1000, target=64, shards=2)
    for name in ("h1", "h2"):
        world.add_holder(name)
    world.add_peer("a")
    world.run_rounds(1)
    world.holders["h1"].hung = world.holders["h2"].hung = True
    world.run_rounds(2, 900)
    assert list(world.state.holders) == [OWN]
    assert not world.state.peers["a"].paused


def test_what_only_one_holder_refuses_counts_nowhere(world):
    world.run(60, lambda: world.state.round.uploading > 0, 0.05)
    [contribution] = [c for c in world.state.round.contributions.values() if c.state == "granted"][:1]
    world.handle(e.Said("h1", m.StageFailed(1, contribution.number, "truncated")))
    world.run_rounds(1)
    assert contribution.number not in {c.contribution for c in world.records[0].contributors}


def test_an_answer_for_an_older_attempt_is_ignored(world):
    world.run_rounds(1)
    assert world.run(60, lambda: world.state.phase == "preparing", 0.1)
    for message in (m.Prepared(1, 1, 1, ()), m.Prepared(1, 2, 9, ()), m.PrepareFailed(1, 1, 1, "late")):
        assert world.handle(e.Said("h1", message)) == []
    assert world.state.phase == "preparing"


def test_a_commit_is_announced_once(world):
    world.run_rounds(1)
    assert world.handle(e.Recorded(1, 1)) == []
    assert world.handle(e.RecordFailed(1, 1, "late")) == []
    assert world.state.version == 1


def test_a_holder_that_is_lost_with_its_packets_costs_an_attempt_and_no_pause(world):
    assert world.run(120, lambda: world.state.phase == "recording", 0.01)
    # What the driver does: the packets that are missing will never come.
    record = world.state.round.record
    world.lose("h1")
    world.handle(e.RecordFailed(record.round, record.attempt, "holder h1 is gone with its packets", again=True))
    assert not world.state.paused
    world.run_rounds(2)
    assert world.records[0].attempt == 2
    assert world.state.holding() == [OWN]
