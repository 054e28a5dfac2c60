"""Rounds that are committed, begin again, or are the last; settings; what a restart goes on with."""

from __future__ import annotations

import pytest

from jupyter_swarm.decisions import events as e
from jupyter_swarm.decisions.explain import explain
from jupyter_swarm.protocol.rules import SessionSettings
from tests.decisions.world import World, free_count, reason


def test_rounds_are_committed_and_every_sample_is_used_once():
    world = World(samples=1000, target=64)
    for name in ("a", "b", "c"):
        world.add_peer(name)
    world.run_rounds(20)
    assert world.state.samples_done == 20 * 64
    assert {contributor.peer for record in world.records for contributor in record.contributors} == {"a", "b", "c"}
    world.finish_checks()


def test_pause_keeps_what_is_computed_and_resume_goes_on():
    world = World(samples=1000, target=64)
    for name in ("a", "b"):
        world.add_peer(name)
    assert world.run(60, lambda: any(lease.state == "done" for lease in world.state.book.leases.values()))
    world.handle(e.Pause("ann"))
    world.run(300)
    assert world.state.version == 0
    assert explain(world.state, world.now) == ("paused", "paused: by ann")
    done = {lease.id for lease in world.state.book.leases.values() if lease.state == "done"}
    assert done
    world.handle(e.Resume("ann"))
    world.run_rounds(1)
    assert world.records[0].attempt == 1


def test_settings_hold_from_the_next_round_on():
    world = World(samples=1000, target=64)
    world.add_peer("a")
    world.run(60, lambda: bool(world.state.book.leases))
    world.handle(e.Change(SessionSettings(target_batch=16), "ann"))
    world.add_holder("h1")
    world.run_rounds(2)
    assert [record.target for record in world.records] == [64, 16]


def test_finish_ends_after_the_round_under_way():
    world = World(samples=1000, target=64)
    world.add_peer("a")
    world.run_rounds(2)
    world.run(0.3)
    world.handle(e.Finish("ann"))
    assert world.run(60, lambda: world.state.phase == "finished")
    assert world.state.version == 3
    assert world.state.ending == "stopped by ann"


@pytest.mark.parametrize("still", ["no peers", "paused", "too few", "all peers paused", "uploading alone"])
def test_finish_ends_at_once_when_nothing_moves(still):
    world = World(samples=1000, target=64)
    world.add_peer("a", bandwidth=100.0 if still == "uploading alone" else 1e6)
    world.run_rounds(1)
    world.run(1.0)
    if still == "no peers":
        world.lose("a")
    elif still == "paused":
        world.handle(e.Pause("ann"))
    elif still == "too few":
        world.handle(e.Change(SessionSettings(minimum_peers=5), "ann"))
    else:
        if still == "uploading alone":
            assert world.run(60, lambda: world.state.round.uploading > 0)
        world.steer("a", "pause")
    world.handle(e.Finish("ann"))
    assert world.run(10, lambda: world.state.phase == "finished")
    if still != "no peers":
        world.lose("a")
    world.run(10)
    world.finish_checks()


def test_finish_while_a_round_that_cannot_go_on_is_waited_for():
    world = World(samples=1000, target=64)
    world.add_peer("a")
    world.run_rounds(1)
    world.run(1.0)
    world.handle(e.Finish("ann"))
    world.lose("a")
    assert world.run(10, lambda: world.state.phase == "finished")


def test_a_record_that_cannot_be_stored_pauses_the_session_and_nothing_is_lost():
    world = World(samples=1000, target=64)
    world.add_peer("a")
    world.run_rounds(1)
    world.disk_full = True
    assert world.run(120, lambda: bool(world.state.paused))
    assert reason(world) == "paused: the disk is full"
    assert world.state.version == 1
    assert free_count(world.state.book.free) == 64
    world.disk_full = False
    world.handle(e.Resume("ann"))
    world.run_rounds(2)
    assert world.records[1].attempt == 2
    world.finish_checks()


def test_what_is_said_to_an_older_server_is_ignored():
    world = World(samples=1000, target=64)
    world.add_peer("a")
    world.run(60, lambda: bool(world.state.book.leases))
    old = [event for event, _ in world.generations[0][1] if isinstance(event, e.Said)]
    world.restart()
    assert world.run(60, lambda: bool(world.state.book.leases))
    before = str(world.state)
    for event in old:
        assert world.handle(event) == []
    assert str(world.state) == before


def test_a_server_that_starts_again_goes_on_after_the_last_record():
    world = World(samples=1000, target=64)
    world.add_peer("a")
    world.run_rounds(3)
    world.run(2.0)
    world.restart()
    world.run_rounds(3)
    assert [record.generation for record in world.records].count(2) >= 3
    assert [record.round for record in world.records] == list(range(1, len(world.records) + 1))
    world.finish_checks()
