"""Single peers: paused, slowed and resumed by the instructor, whatever they themselves want."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_swarm.decisions.explain import explain_peer
from jupyter_swarm.protocol import messages as m
from jupyter_swarm.protocol.errors import SettingError
from jupyter_swarm.protocol.rules import SGD, RoundRule
from jupyter_swarm.protocol.standing import Standing, steered
from tests.decisions.world import World, notes, reason, told

STEPS = RoundRule(
    "LocalUpdates", SGD(lr=0.7), work="steps", contribution="pseudo_gradient", inner_steps=20, inner_batch=4,
    inner_optimizer=SGD(lr=0.1), quorum=0.5, grace=10.0, staleness=1,
)  # fmt: skip


def classroom(*names: str, rule: RoundRule | None = None) -> World:
    world = World(samples=100_000, target=64, rule=rule)
    world.latency = (0.001, 0.002)
    for name in names:
        world.add_peer(name)
    world.run_rounds(3)
    return world


def says(world: World, name: str) -> tuple[str, str]:
    return explain_peer(world.state, world.state.peers[name], world.now)


def grants(world: World, name: str) -> int:
    return sum(member == name for member, _ in told(world, m.LeaseGrant))


@pytest.mark.parametrize("rule", [None, STEPS])
def test_a_peer_that_the_instructor_has_paused_gets_nothing_whatever_it_asks(rule):
    world = classroom("a", "b", rule=rule)
    world.steer("a", "pause")
    before = grants(world, "a")
    world.peers["a"].resume()
    world.run_rounds(3)
    assert says(world, "a") == ("paused", "paused by the instructor")
    world.lose("a", comes_back=True)
    world.run(25.0)
    assert says(world, "a") == ("paused", "paused by the instructor")
    assert grants(world, "a") == before
    assert world.state.crowd.active == 1
    world.steer("a", "resume")
    world.run_rounds(2)
    assert grants(world, "a") > before
    world.finish_checks()


def test_what_a_paused_peer_has_computed_still_counts():
    world = classroom("a", "b")
    assert world.run(60, lambda: any(lease.peer == "a" and lease.state == "done" for lease in leases(world)), 0.01)
    world.steer("a", "pause")
    world.run_rounds(1)
    assert "a" in {part.peer for part in world.records[-1].contributors}
    assert not world.state.peers["a"].leases


def leases(world: World):
    return world.state.book.leases.values()


def test_the_instructors_pause_and_ones_own_end_separately():
    world = classroom("a", "b")
    world.peers["a"].pause()
    world.run(1.0)
    assert says(world, "a") == ("paused", "paused by itself")
    world.steer("a", "pause")
    assert says(world, "a") == ("paused", "paused by the instructor")
    world.steer("a", "resume")
    assert says(world, "a") == ("paused", "paused by itself")
    assert notes(world, "no longer paused by the instructor, but by itself")
    world.peers["a"].resume()
    world.run(1.0)
    assert says(world, "a")[0] != "paused"


def test_resuming_lifts_the_servers_own_pause_too():
    world = World(samples=1000, target=64)
    world.add_peer("a", breaks=True)
    assert world.run(120, lambda: bool(world.state.peers["a"].paused))
    assert says(world, "a")[1].startswith("paused: its last 3 leases failed")
    assert world.state.peers["a"].paused_by == "the server"
    world.steer("a", "mute")
    assert world.state.peers["a"].paused
    world.peers["a"].breaks = False
    world.steer("a", "resume")
    world.run_rounds(1)


@pytest.mark.parametrize("rule", [None, STEPS])
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_slowed_peer_does_its_share_and_holds_nobody_up(rule, share):
    world = classroom("a", "b", "c", rule=rule)
    began, version = world.now, world.state.version
    world.run_rounds(10)
    usual = (world.now - began) / 10
    world.steer("a", "slow", share)
    for peer in world.peers.values():
        peer.computed = 0
    began = world.now
    world.run(100 * usual)
    rounds = world.state.version - version - 10
    others = (world.peers["b"].computed + world.peers["c"].computed) / 2
    assert 0.3 * share < world.peers["a"].computed / others < 1.5 * share
    assert (world.now - began) / rounds < 1.7 * usual
    world.finish_checks()


def test_a_slowed_peer_that_is_alone_goes_on_and_says_why_it_waits():
    world = classroom("a")
    world.steer("a", "slow", 0.1)
    assert notes(world, "a is slowed to 10% of its share by the instructor.")
    assert world.run(60, lambda: says(world, "a")[1].startswith("slowed to 10% by the instructor"), 0.1)
    assert "resting, slowed by the instructor: a (" in reason(world)
    world.run_rounds(2, 1000)
    assert any("the instructor" in part.waited_for for part in world.records[-1].contributors)
    world.steer("a", "slow", 1.0)
    world.run(1.0)
    assert not any("slowed" in text for text in (reason(world), *says(world, "a")))


def test_the_last_evaluation_does_not_wait_for_a_rest():
    world = World(samples=1000, target=64, held_out=50, rounds=3)
    world.add_peer("a")
    world.run_rounds(1)
    world.steer("a", "slow", 0.01)
    assert world.run(4000, lambda: world.state.phase == "finished")
    assert world.evaluated[-1].version == 3


def test_a_muted_name_is_in_no_line_from_then_on():
    world = classroom("a", "rude word")
    world.steer("rude word", "mute")
    said = len(world.notes)
    world.steer("rude word", "pause")
    world.steer("rude word", "slow", 0.5)
    world.lose("rude word", comes_back=True)
    world.run_rounds(2)
    later = [note.text for note in world.notes[said:]]
    assert any("somebody is paused by the instructor" in text for text in later)
    assert not any("rude" in text for text in [*later, reason(world)])
    world.steer("rude word", "unmute")
    assert world.notes[-1].text == "The name of rude word is shown again."


def test_who_is_gone_when_the_name_is_muted_has_left_it_nowhere():
    world = classroom("a", "rude word")
    world.state.closed_by = world.state.peers["a"].waited_for = "b, rude word"
    world.lose("rude word")
    world.steer("rude word", "mute")
    assert world.state.closed_by == world.state.peers["a"].waited_for == "b, somebody"


@pytest.mark.parametrize("rule", [None, STEPS])
@pytest.mark.parametrize("phase", ["open", "preparing", "recording"])
def test_a_peer_that_is_removed_holds_up_no_round_whenever_it_is(rule, phase):
    world = classroom("a", "b", rule=rule)
    assert world.run(60, lambda: world.state.phase == phase, 0.001)
    world.steer("a", "remove")
    world.run_rounds(3)
    assert {part.peer for part in world.records[-1].contributors} == {"b"}
    assert list(world.state.peers) == ["b"]
    world.finish_checks()


@given(st.lists(st.tuples(st.sampled_from(["pause", "resume", "slow", "mute", "unmute"]), st.floats(0.01, 1.0))))
def test_each_decision_changes_its_own_matter_only(decisions):
    standing = Standing()
    for action, share in decisions:
        standing = steered(standing, action, share)
    last = {action: number for number, (action, _) in enumerate(decisions)}
    shares = [share for action, share in decisions if action == "slow"]
    assert standing.paused == (last.get("pause", -1) > last.get("resume", -1))
    assert standing.muted == (last.get("mute", -1) > last.get("unmute", -1))
    assert standing.slowed == (shares[-1] if shares and shares[-1] < 1 else 0.0)
    assert not standing.removed


@pytest.mark.parametrize("share", [0.0, -1.0, 1.1, float("nan")])
def test_a_share_is_a_share(share):
    with pytest.raises(SettingError, match="Choose a share"):
        steered(Standing(), "slow", share)
