"""The held-out part is measured piece by piece, each version by itself."""

from __future__ import annotations

from jupyter_swarm.decisions.explain import explain
from tests.decisions.world import World, notes, reason


def test_an_evaluation_does_not_depend_on_one_peer():
    world = World(samples=1000, target=64, held_out=100)
    world.add_peer("a")
    world.add_peer("b")
    kinds = ["evaluate"]
    assert world.run(60, lambda: any(lease.kind in kinds for lease in world.state.book.leases.values()))
    world.lose(next(lease.peer for lease in world.state.book.leases.values() if lease.kind == "evaluate"))
    world.run_rounds(1)
    assert world.evaluated[0].count == 100


def test_held_out_samples_that_fail_are_left_out_and_pause_nobody():
    world = World(samples=1000, target=64, held_out=100, evaluate_every=1)
    world.failing = {10}
    for name in ("a", "b"):
        world.add_peer(name)
    world.run(120, lambda: bool(world.evaluated))
    assert 0 < world.evaluated[0].count < 100
    assert notes(world, "They are left out")
    world.run_rounds(2)
    assert world.state.book.cursor > 100, "only the held-out samples of these numbers are still to come"
    world.failing = set(range(100))
    before = len(notes(world, "They are left out"))
    world.run_rounds(3)
    assert len(notes(world, "They are left out")) > before
    assert not any(peer.paused for peer in world.state.peers.values())


def test_a_new_evaluation_does_not_mix_with_pieces_of_the_one_before():
    world = World(samples=1000, target=16, held_out=100, evaluate_every=1)
    slow = world.add_peer("slow", 200.0)
    world.add_peer("fast", 200.0)
    assert world.run(60, lambda: any(lease.peer == "slow" for lease in world.state.book.leases.values()))
    slow.hung = True
    world.run_rounds(3)
    assert all(0 < result.count <= 100 for result in world.evaluated)
    versions = [result.version for result in world.evaluated]
    assert versions == sorted(set(versions))


def test_what_is_left_of_an_evaluation_is_not_measured_at_a_later_version():
    world = World(samples=1000, target=16, held_out=100)
    world.add_peer("a", 200.0)
    slow = world.add_peer("b", 200.0)
    assert world.run(60, lambda: any(lease.peer == "b" for lease in world.state.book.leases.values()), 0.01)
    slow.hung = True
    world.run_rounds(2)
    assert not world.evaluated
    world.lose("b")
    [result] = world.evaluated
    assert (result.version, result.metrics) == (0, {"loss": 2.0})
    assert 0 < result.count < 100


def test_the_session_ends_after_its_rounds_with_an_evaluation():
    world = World(samples=1000, target=64, held_out=100, rounds=5, evaluate_every=2)
    for name in ("a", "b"):
        world.add_peer(name)
    assert world.run(600, lambda: world.state.phase == "finished")
    assert world.status == "finished"
    assert [(result.version, result.count) for result in world.evaluated] == [(v, 100) for v in (0, 2, 4, 5)]
    assert all(result.metrics == {"loss": 2.0} for result in world.evaluated)
    assert explain(world.state, world.now) == ("finished", "finished after 5 rounds: all 5 rounds are done")


def test_the_last_evaluation_is_not_waited_for_for_ever():
    world = World(samples=1000, target=16, held_out=1000, rounds=2)
    world.add_peer("a")
    assert world.run(600, lambda: world.state.phase == "finishing")
    world.peers["a"].hung = True
    assert "evaluating version 2" in reason(world)
    assert world.run(3600, lambda: world.state.phase == "finished")
