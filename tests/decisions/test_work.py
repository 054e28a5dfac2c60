"""Who computes what: leases by speed, what fails or does not come back, who is waited for."""

from __future__ import annotations

import pytest

from jupyter_swarm.decisions import events as e
from jupyter_swarm.decisions import work
from jupyter_swarm.decisions.effects import Effect
from jupyter_swarm.decisions.explain import explain_peer
from jupyter_swarm.decisions.state import Peer, State
from jupyter_swarm.protocol import messages as m
from jupyter_swarm.protocol.rules import SessionSettings
from tests.decisions.world import OWN, World, notes, reason, told


def test_a_faster_peer_gets_more_and_all_end_together():
    world = World(samples=5000, target=512)
    slow, fast = world.add_peer("slow", 8.0), world.add_peer("fast", 64.0)
    world.run_rounds(2)
    slow.computed = fast.computed = 0
    before = world.now
    world.run_rounds(6)
    assert 4 < fast.computed / slow.computed < 16
    seconds = (world.now - before) / 6
    assert seconds < 1.6 * 512 / (8 + 64), "about as fast as both peers together"


def test_a_peer_that_has_nothing_left_contributes_at_once():
    world = World(samples=100, target=10)
    world.add_peer("a")
    world.run_rounds(1)
    calls = list(told(world, m.ContributeNow))
    assert calls[0][0] == "a"
    assert len(calls) == 1


def test_a_lease_that_fails_twice_is_skipped_listed_and_replaced():
    world = World(samples=1000, target=64)
    world.failing = {10}
    for name in ("a", "b"):
        world.add_peer(name)
    world.run_rounds(1)
    [skip] = world.records[0].skips
    assert skip.range[0] <= 10 < skip.range[1]
    assert skip.reason == "its loss is nan"
    assert skip.range[1] - skip.range[0] <= 8, "few good samples go with a bad one"
    assert world.records[0].samples == 64
    assert world.records[0].book.cursor == 64 + skip.range[1] - skip.range[0]
    assert notes(world, "They are skipped")
    assert not world.state.peers["a"].paused
    assert not world.state.peers["b"].paused
    world.finish_checks()


def test_a_lease_that_failed_is_tried_by_another_peer():
    world = World(samples=1000, target=64)
    world.add_peer("broken", breaks=True)
    world.add_peer("good")
    world.run_rounds(3)
    assert all(not record.skips for record in world.records)
    assert "its last 3 leases failed: its loss is nan" in world.state.peers["broken"].paused


def test_samples_that_spoil_a_gradient_are_skipped_alone():
    world = World(samples=1000, target=64)
    world.poison = {10}
    for name in ("a", "b", "c"):
        world.add_peer(name)
    world.run_rounds(1)
    [skip] = world.records[0].skips
    assert skip.range[0] <= 10 < skip.range[1]
    assert skip.range[1] - skip.range[0] <= 8
    assert skip.reason == "not finite"
    world.run_rounds(3)


def test_a_lone_peer_that_fails_everything_is_paused_before_it_skips_much():
    world = World(samples=1000, target=64)
    world.add_peer("a", breaks=True)
    assert world.run(120, lambda: bool(world.state.peers["a"].paused))
    assert world.state.book.skipped <= 16
    assert "all peers are paused: a (its last 3 leases failed" in reason(world)


def test_samples_that_failed_on_the_only_peer_left_are_not_kept_for_one_that_is_paused():
    world = World(samples=1000, target=16)
    world.failing = {3}
    world.add_peer("a")
    world.add_peer("b")
    world.run(10, lambda: bool(notes(world, "could not compute")))
    avoiding = next(note.member for note in world.notes if "could not compute" in note.text)
    other = "b" if avoiding == "a" else "a"
    world.steer(other, "pause")
    world.run_rounds(1, 120)


def test_samples_that_failed_are_not_kept_for_a_peer_that_never_asks():
    world = World(samples=1000, target=16)
    world.failing = {20}
    world.add_peer("a")
    world.add_peer("b")
    assert world.run(60, lambda: world.state.phase == "recording", 0.1)
    world.peers["b"].hung = True
    world.run_rounds(2, 120)
    assert world.state.book.skipped


def test_a_late_joiner_takes_part_in_the_round_under_way():
    world = World(samples=1000, target=512)
    world.add_peer("a", 8.0)
    world.run(10)
    world.add_peer("b", 64.0)
    world.run_rounds(1)
    assert {contributor.peer for contributor in world.records[0].contributors} == {"a", "b"}


def test_what_a_lost_peer_had_goes_to_others_and_what_was_accepted_counts():
    world = World(samples=1000, target=64)
    for name in ("a", "b"):
        world.add_peer(name)
    assert world.run(60, lambda: len(world.state.round.accepted) == 1)
    accepted = world.state.round.contributions[world.state.round.accepted[0]].peer
    world.lose(accepted)
    world.run_rounds(1)
    assert accepted in {contributor.peer for contributor in world.records[0].contributors}
    assert "is gone (no answer)" in notes(world, accepted)[-1]


@pytest.mark.parametrize("phase", ["leased", "done", "announced", "granted"])
def test_a_peer_that_dies_at_any_moment_costs_nothing_but_its_work(phase):
    world = World(samples=1000, target=64, upload_bytes=1)
    for name in ("a", "b", "c"):
        world.add_peer(name, bandwidth=1000.0)
    dying: list[str] = []

    def reached() -> bool:
        leases = [lease.peer for lease in world.state.book.leases.values() if lease.state == phase]
        sent = [c.peer for c in world.state.round.contributions.values() if c.state == phase]
        dying[:] = leases + sent
        return bool(dying)

    assert world.run(60, reached, 0.05)
    world.lose(dying[0])
    world.run_rounds(2)
    assert all(c.peer != dying[0] for record in world.records for c in record.contributors)
    world.finish_checks()


def test_a_peer_that_was_told_to_contribute_and_does_not_loses_its_samples():
    world = World(samples=1000, target=64)
    world.add_peer("silent", silent=True)
    world.add_peer("good")
    world.run_rounds(1, 300)
    assert notes(world, "silent: it did not announce its contribution in time")


def test_a_lone_peer_that_did_not_announce_once_is_asked_again():
    world = World(samples=1000, target=16)
    world.add_peer("a", silent=True)
    assert world.run(200, lambda: bool(notes(world, "it did not announce")))
    world.peers["a"].silent = False
    world.peers["a"].leases = []
    world.run_rounds(1, 300)


def test_an_overdue_lease_goes_to_another_peer():
    world = World(samples=1000, target=64)
    world.add_peer("stuck", hung=False)
    world.add_peer("good")
    world.run(60, lambda: any(lease.peer == "stuck" for lease in world.state.book.leases.values()))
    world.peers["stuck"].hung = True
    assert "stuck (" in reason(world)
    world.run_rounds(1)
    assert notes(world, "stuck: it did not finish")
    world.run_rounds(3)


def test_a_peer_too_slow_for_its_first_lease_gets_a_fitting_one():
    world = World(samples=1000, target=64)
    world.add_peer("slow", 0.2)
    world.run_rounds(2, 3600)
    assert not world.state.peers["slow"].paused


def test_the_session_waits_for_enough_peers_and_says_so():
    world = World(samples=1000, target=64, minimum_peers=2)
    world.run(10)
    assert reason(world) == "waiting for peers: nobody has joined yet"
    world.add_peer("a")
    world.run(30)
    assert reason(world) == "waiting for peers: 1 of 2 are ready"
    assert world.state.version == 0
    world.add_peer("b")
    world.run_rounds(2)
    world.run(0.5)
    world.lose("b")
    version = world.state.version
    world.run(200)
    assert world.state.version <= version + 1
    assert reason(world) == "waiting for peers: 1 of 2 are ready"
    world.handle(e.Change(SessionSettings(minimum_peers=1), "ann"))
    world.run_rounds(1)


def test_a_paused_peer_contributes_what_it_has_and_gets_no_more():
    world = World(samples=1000, target=64)
    paused = world.add_peer("a")
    world.add_peer("b")
    assert world.run(60, lambda: any(lease.peer == "a" for lease in world.state.book.leases.values()))
    paused.pause()
    world.run_rounds(3)
    assert any(c.peer == "a" for c in world.records[0].contributors)
    assert all(c.peer == "b" for c in world.records[2].contributors)
    paused.resume()
    world.run_rounds(3)
    assert any(c.peer == "a" for c in world.records[-1].contributors)


def test_all_peers_paused_says_who_and_why():
    world = World(samples=1000, target=64)
    world.add_peer("a")
    world.run(10)
    world.steer("a", "pause")
    world.run(60)
    assert reason(world) == "all peers are paused: a (by the instructor)"
    world.steer("a", "resume")
    world.run_rounds(1)


def test_a_peer_that_fetches_the_parameters_again_gives_back_what_it_had():
    world = World(samples=1000, target=64)
    world.add_peer("a")
    world.add_peer("b")
    assert world.run(60, lambda: any(lease.peer == "a" for lease in world.state.book.leases.values()))
    world.handle(e.Said("a", m.WantSnapshot(1)))
    assert all(lease.peer != "a" for lease in world.state.book.leases.values())
    assert explain_peer(world.state, world.state.peers["a"], world.now) == ("joining", "fetching the parameters")
    assert OWN in world.state.holders


def test_a_class_that_comes_in_is_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch):
    """Not all of those who wait whenever another comes; and then they all get work."""
    served: list[str] = []
    serve = work.serve

    def counted(state: State, peer: Peer, now: float) -> list[Effect]:
        served.append(peer.id)
        return serve(state, peer, now)

    monkeypatch.setattr(work, "serve", counted)
    world = World(samples=1000, target=80, minimum_peers=40)
    for number in range(39):
        world.add_peer(f"peer-{number}")
    world.run(5.0)
    assert len(served) <= 2 * 39
    world.add_peer("last")
    world.run_rounds(2)
    assert {contributor.peer for record in world.records for contributor in record.contributors} == set(
        world.state.peers
    )
