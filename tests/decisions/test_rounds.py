"""One rule of a round at a time, with the reason in words."""

from __future__ import annotations

import pytest

from jupyter_swarm.decisions import events as e
from jupyter_swarm.decisions.explain import explain, explain_peer
from jupyter_swarm.protocol import messages as m
from jupyter_swarm.protocol.rules import SessionSettings
from tests.decisions.world import OWN, World, free_count, told


def reason(world: World) -> str:
    return explain(world.state, world.now)[1]


def notes(world: World, text: str) -> list[str]:
    return [note.text for note in world.notes if text in note.text]


def test_rounds_are_committed_and_every_sample_is_used_once():
    world = World(samples=1000, target=64)
    for name in ("a", "b", "c"):
        world.add_peer(name)
    world.run_rounds(20)
    assert world.state.samples_done == 20 * 64
    assert {contributor.peer for record in world.records for contributor in record.contributors} == {"a", "b", "c"}
    world.finish_checks()


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
    assert explain_peer(world.state, world.state.peers["bad"])[0] == "paused"
    world.run_rounds(3)
    world.peers["bad"].lies = False
    world.handle(e.PausePeer("bad", "ann", resume=True))
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


def test_settings_hold_from_the_next_round_on():
    world = World(samples=1000, target=64)
    world.add_peer("a")
    world.run(60, lambda: bool(world.state.book.leases))
    world.handle(e.Change(SessionSettings(target_batch=16), "ann"))
    world.add_holder("h1")
    world.run_rounds(2)
    assert [record.target for record in world.records] == [64, 16]


def test_the_session_ends_after_its_rounds_with_an_evaluation():
    world = World(samples=1000, target=64, held_out=100, rounds=5, evaluate_every=2)
    for name in ("a", "b"):
        world.add_peer(name)
    assert world.run(600, lambda: world.state.phase == "finished")
    assert world.status == "finished"
    assert [(result.version, result.count) for result in world.evaluated] == [(v, 100) for v in (0, 2, 4, 5)]
    assert all(result.metrics == {"loss": 2.0} for result in world.evaluated)
    assert explain(world.state, world.now) == ("finished", "finished after 5 rounds: all 5 rounds are done")


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
    world.failing = set(range(100))
    world.run(20)
    assert not world.state.peers["a"].paused or "leases failed" in world.state.peers["a"].paused


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


def test_the_last_evaluation_is_not_waited_for_for_ever():
    world = World(samples=1000, target=16, held_out=1000, rounds=2)
    world.add_peer("a")
    assert world.run(600, lambda: world.state.phase == "finishing")
    world.peers["a"].hung = True
    assert "evaluating version 2" in reason(world)
    assert world.run(3600, lambda: world.state.phase == "finished")


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
        world.handle(e.PausePeer("a", "ann"))
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


def test_a_peer_that_fetches_the_parameters_again_gives_back_what_it_had():
    world = World(samples=1000, target=64)
    world.add_peer("a")
    world.add_peer("b")
    assert world.run(60, lambda: any(lease.peer == "a" for lease in world.state.book.leases.values()))
    world.handle(e.Said("a", m.WantSnapshot(1)))
    assert all(lease.peer != "a" for lease in world.state.book.leases.values())
    assert explain_peer(world.state, world.state.peers["a"]) == ("joining", "fetching the parameters")
    assert OWN in world.state.holders


def test_all_peers_paused_says_who_and_why():
    world = World(samples=1000, target=64)
    world.add_peer("a")
    world.run(10)
    world.handle(e.PausePeer("a", "ann"))
    world.run(60)
    assert reason(world) == "all peers are paused: a (by ann)"
    world.handle(e.PausePeer("a", "ann", resume=True))
    world.run_rounds(1)


def test_samples_that_failed_on_the_only_peer_left_are_not_kept_for_one_that_is_paused():
    world = World(samples=1000, target=16)
    world.failing = {3}
    world.add_peer("a")
    world.add_peer("b")
    world.run(10, lambda: bool(notes(world, "could not compute")))
    avoiding = next(note.member for note in world.notes if "could not compute" in note.text)
    other = "b" if avoiding == "a" else "a"
    world.handle(e.PausePeer(other, "ann"))
    world.run_rounds(1, 120)


def test_a_lone_peer_that_did_not_announce_once_is_asked_again():
    world = World(samples=1000, target=16)
    world.add_peer("a", silent=True)
    assert world.run(200, lambda: bool(notes(world, "it did not announce")))
    world.peers["a"].silent = False
    world.peers["a"].leases = []
    world.run_rounds(1, 300)


def test_samples_that_failed_are_not_kept_for_a_peer_that_never_asks():
    world = World(samples=1000, target=16)
    world.failing = {20}
    world.add_peer("a")
    world.add_peer("b")
    assert world.run(60, lambda: world.state.phase == "recording", 0.1)
    world.peers["b"].hung = True
    world.run_rounds(2, 120)
    assert world.state.book.skipped


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
