"""From announcement to acceptance: which are granted, which are refused, and why."""

from __future__ import annotations

import pytest

from jupyter_swarm.decisions import events as e
from jupyter_swarm.decisions.explain import explain_peer
from jupyter_swarm.protocol import messages as m
from tests.decisions.world import World, notes, told


def test_uploads_are_granted_in_order_within_the_budget():
    world = World(samples=300, target=30, upload_bytes=2000)
    for name in ("a", "b", "c", "d"):
        world.add_peer(name, bandwidth=500.0)
    most = 0

    def watch() -> bool:
        nonlocal most
        most = max(most, world.state.round.uploading)
        return world.state.version >= 3

    assert world.run(600, watch, 0.1)
    assert most == 2000, "two uploads of 1000 bytes at once, not three"


def test_one_upload_may_always_run_however_small_the_budget():
    world = World(samples=300, target=30, upload_bytes=1)
    world.add_peer("a")
    world.add_peer("b")
    world.run_rounds(3)


def test_a_trickling_upload_is_dropped_and_its_samples_go_to_others():
    world = World(samples=300, target=32)
    world.add_peer("fast")
    trickle = world.add_peer("trickle", bandwidth=1.0)
    world.run_rounds(2)
    dropped = [message for member, message in told(world, m.Dropped) if member == "trickle"]
    assert (
        "its upload took longer than 5 s" in dropped[0].reason or "its upload took longer than 6 s" in dropped[0].reason
    )
    assert all(contributor.peer == "fast" for record in world.records for contributor in record.contributors)
    assert trickle.computed > 0


def test_three_strikes_pause_a_peer_with_the_reason_and_it_can_go_on():
    world = World(samples=300, target=32)
    world.add_peer("good")
    world.add_peer("bad", lies=True)
    world.run(300, lambda: bool(world.state.peers["bad"].paused))
    assert "has norm" in world.state.peers["bad"].paused
    assert explain_peer(world.state, world.state.peers["bad"], world.now)[0] == "paused"
    world.run_rounds(3)
    world.peers["bad"].lies = False
    world.steer("bad", "resume")
    world.run_rounds(3)
    assert any(contributor.peer == "bad" for contributor in world.records[-1].contributors)


def test_a_norm_far_above_the_usual_one_is_refused():
    world = World(samples=300, target=16)
    peer = world.add_peer("a")
    world.run_rounds(10)
    assert world.run(60, lambda: any(lease.state == "done" for lease in world.state.book.leases.values()))
    leases = tuple(lease.id for lease in world.state.book.leases.values() if lease.state == "done")
    weight = sum(world.state.book.leases[lease].count for lease in leases)
    peer.key += 1
    world.handle(
        e.Said("a", m.Announce(1, 11, 1, peer.key, 10, leases, {"gradient": 0.5 * 16 * 20}, 1.0, weight, 1000))
    )
    assert notes(world, "its norm is 20 times the usual one (10 times are allowed)")
    world.run_rounds(1)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"base_version": 7}, "it starts from version 7"),
        ({"leases": (1, 99)}, "given to another peer"),
        ({"leases": ()}, "given to another peer"),
        ({"norms": {}}, "not a finite number"),
        ({"norms": {"gradient": -1.0}}, "negative"),
        ({"norms": {"gradient": float("inf")}}, "not a finite number"),
        ({"norms": {"gradient": 1.0, "momentum": 1.0}}, "momentum, which this session does not exchange"),
        ({"loss_sum": float("nan")}, "not a finite number"),
        ({"loss_count": -1}, "negative"),
        ({"attempt": 2}, "attempt 2 at round 1 is over"),
        ({"round": 9}, "attempt 1 at round 9 is over"),
    ],
)
def test_a_bad_announcement_is_refused_with_the_reason(change, why):
    world = World(samples=300, target=64)
    world.add_peer("a", silent=True)
    assert world.run(60, lambda: world.state.peers["a"].contribute_by > 0)
    leases = tuple(lease.id for lease in world.state.book.leases.values())
    fields = {
        "generation": 1, "round": 1, "attempt": 1, "key": 1, "base_version": 0, "leases": leases,
        "norms": {"gradient": 1.0}, "loss_sum": 1.0, "loss_count": 1, "bytes": 1000,
    }  # fmt: skip
    world.handle(e.Said("a", m.Announce(**fields | change)))
    [(member, dropped)] = told(world, m.Dropped)
    assert member == "a"
    assert why in dropped.reason
    world.peers["a"].silent = False
    world.run_rounds(1)


def test_who_repeats_a_bad_announcement_for_ever_is_paused():
    world = World(samples=300, target=16)
    world.add_peer("a")
    assert world.run(60, lambda: bool(world.state.book.leases))
    for key in range(1, 4):
        world.handle(e.Said("a", m.Announce(1, 1, 1, key, 0, (999,), {"gradient": 1.0}, 1.0, 1, 1000)))
    assert world.state.peers["a"].paused


def test_an_announcement_that_comes_twice_counts_once():
    world = World(samples=300, target=16)
    world.add_peer("a")
    world.run(60, lambda: bool(world.state.round.contributions))
    announce = next(
        event
        for event, _ in world.generations[0][1]
        if isinstance(event, e.Said) and isinstance(event.message, m.Announce)
    )
    assert world.handle(announce) == []
    world.run_rounds(1)
    assert len(world.records[0].contributors) == 1
