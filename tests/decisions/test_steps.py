"""Rounds of steps: who makes how many, who is waited for and how long, what counts late."""

from __future__ import annotations

import msgspec

from jupyter_swarm.decisions import events as e
from jupyter_swarm.decisions.explain import explain
from jupyter_swarm.protocol import messages as m
from jupyter_swarm.protocol.rules import SGD, AdamW, RoundRule, Schedule, StrategyChange, lateness
from tests.decisions.world import OWN, World, told

BATCH = 4
STEPS = RoundRule(
    "LocalUpdates", SGD(lr=0.7), work="steps", contribution="pseudo_gradient", inner_steps=50, inner_batch=BATCH,
    inner_optimizer=AdamW(lr=0.01, schedule=Schedule("linear", total_samples=100_000)), quorum=0.5, grace=10.0,
    staleness=1,
)  # fmt: skip
EVERY = RoundRule("EveryStep", SGD(lr=0.1), target_batch=64)


def classroom(speeds: dict[str, float], **options: object) -> World:
    """Peers of these speeds (samples a second), after two rounds in which their speeds were measured."""
    world = World(10_000, rule=options.pop("rule", STEPS), minimum_peers=len(speeds), **options)  # type: ignore[arg-type]
    world.latency = (0.001, 0.002)
    for name, speed in speeds.items():
        world.add_peer(name, speed)
    world.run_rounds(2)
    return world


def test_slow_peers_make_fewer_steps_and_all_are_done_at_about_the_same_time():
    world = classroom({"fast": 40.0, "half": 20.0, "slow": 8.0})
    world.run_rounds(4)
    record = world.records[-1]
    weights = {part.peer: part.weight for part in record.contributors}
    assert weights["fast"] == 50 * BATCH
    assert abs(weights["half"] - 25 * BATCH) <= 2 * BATCH
    assert abs(weights["slow"] - 10 * BATCH) <= 2 * BATCH
    assert {part.waited_for for part in record.contributors if part.peer != "slow"} <= {"the commit", "its upload"}
    world.finish_checks()


def test_whoever_is_called_contributes_what_it_has():
    world = classroom({"a": 40.0, "b": 40.0, "c": 40.0})
    world.peers["c"].speed = 10.0
    world.run_rounds(1)
    weights = {part.peer: part.weight for part in world.records[-1].contributors}
    assert weights["a"] == weights["b"] == 50 * BATCH
    assert 0 < weights["c"] < 20 * BATCH
    assert weights["c"] % BATCH == 0
    world.finish_checks()


def test_a_peer_that_stops_is_waited_for_as_long_as_it_is_worth_and_counts_one_round_later():
    world = classroom({"a": 40.0, "b": 40.0, "c": 40.0})
    world.run(1.0)
    stopped = world.peers["c"]
    assert stopped.computing is not None
    stopped.stopped = True
    number = world.state.round.number
    assert world.run(60.0, lambda: len(world.state.round.accepted) == 2, tick=0.1)
    began = world.state.round.closing
    word, reason = explain(world.state, world.now)
    assert word == "training"
    assert "waiting for c: 2.5 s of grace left" in reason
    assert world.run(60.0, lambda: world.state.version >= number, tick=0.1)
    # 50 steps of 4 samples are missing; the others could take 80 samples in a second.
    assert 2.5 <= world.state.closed_at - began < 2.7
    assert {part.peer for part in world.records[-1].contributors} == {"a", "b"}
    assert world.records[-1].book.pool, "what it holds is leased again after a restart"
    stopped.go_on()
    world.run_rounds(2)
    late = [part for part in world.records[number].contributors if part.peer == "c" and part.base_version == number - 1]
    assert len(late) == 1
    assert {part.waited_for for part in world.records[number].contributors if part.peer != "c"} == {"c"}
    assert all(part.waiting > 2.5 for part in world.records[number].contributors if part.peer != "c")
    world.finish_checks()


def test_what_comes_later_than_that_is_dropped_and_computed_by_others():
    world = classroom({"a": 40.0, "b": 40.0, "c": 40.0})
    world.run(1.0)
    stopped = world.peers["c"]
    lease = stopped.computing
    stopped.stopped = True
    world.run_rounds(3)
    assert lease is not None
    consumed = {p for record in world.records for part in record.contributors for r in part.leases for p in range(*r)}
    assert set(range(lease.start, lease.stop)) <= consumed
    stopped.go_on()
    world.run_rounds(3)
    reasons = [message.reason for member, message in told(world, m.Dropped) if member == "c"]
    assert len(reasons) == 1
    assert "more than 1 rounds late" in reasons[0]
    assert "c" in {part.peer for part in world.records[-1].contributors}
    assert not world.state.peers["c"].strikes, "it is not to blame"
    world.finish_checks()


def test_an_upload_under_way_is_not_left_behind():
    world = classroom({"a": 40.0, "b": 40.0})
    world.peers["b"].bandwidth = 300.0
    world.run_rounds(2)
    assert {part.peer for part in world.records[-1].contributors} == {"a", "b"}


def test_the_inner_learning_rate_follows_the_samples_of_all():
    world = classroom({"a": 40.0, "b": 40.0})
    grants = [message for _, message in told(world, m.LeaseGrant)]
    assert grants[0].learning_rate == 0.01
    assert grants[-1].learning_rate == 0.01 * (1 - 400 / 100_000)
    assert world.records[-1].learning_rate == 0.7
    assert world.records[-1].inner_learning_rate == 0.01 * (1 - world.records[0].book.consumed / 100_000)
    world.handle(e.Change(msgspec.structs.replace(world.state.settings, learning_rate=0.5, inner_steps=5), "ann"))
    world.run_rounds(2)
    assert world.records[-1].inner_learning_rate > 0.49
    assert {part.steps for part in world.records[-1].contributors} <= {0, 5}
    assert {part.weight for part in world.records[-1].contributors} == {5 * BATCH}


def test_the_strategy_changes_by_a_schedule_and_by_hand():
    world = classroom({"a": 40.0, "b": 40.0}, rule=EVERY, changes=(StrategyChange(4, STEPS),))
    world.run_rounds(3)
    world.handle(e.ChangeStrategy((*world.state.changes, StrategyChange(7, EVERY)), "ann"))
    world.run_rounds(3)
    named = [record.strategy for record in world.records]
    assert named == ["EveryStep"] * 3 + ["LocalUpdates"] * 3 + ["EveryStep"] * 2
    assert [message.changes for _, message in told(world, m.Strategy)] == [world.state.changes], "holders are told"
    assert any("From round 4 on the strategy is LocalUpdates" in note.text for note in world.notes)
    world.restart()
    world.run_rounds(1)
    assert world.records[-1].strategy == "EveryStep"
    world.finish_checks()


def test_own_data_counts_up_to_the_limit_and_leaves_the_sessions_alone():
    world = classroom({"a": 40.0, "b": 40.0}, own_samples=60)
    world.add_peer("private", 40.0, own=500)
    world.run_rounds(4)
    parts = [part for record in world.records for part in record.contributors if part.peer == "private"]
    assert parts
    assert all(part.leases == () and part.own == part.weight <= 60 for part in parts)
    assert any(part.weight == 60 for part in parts)
    world.finish_checks()


def test_own_data_waits_while_rounds_own_their_samples():
    world = classroom({"a": 40.0}, rule=EVERY, own_samples=60)
    world.add_peer("private", 40.0, own=500)
    world.run_rounds(3)
    assert {part.peer for record in world.records for part in record.contributors} == {"a"}


def test_a_failing_step_costs_its_own_samples_only():
    world = classroom({"a": 40.0, "b": 40.0}, held_out=0)
    position = world.state.book.cursor + 90
    world.failing = {position}
    world.run_rounds(8)
    skips = [skip.range for record in world.records for skip in record.skips]
    assert skips == [(start, stop) for start, stop in skips if start <= position < stop]
    assert sum(stop - start for start, stop in skips) <= BATCH
    world.finish_checks()


def test_without_a_quorum_the_rest_is_called_when_waiting_costs_more_than_it_lacks():
    world = classroom({"a": 40.0, "b": 40.0, "c": 40.0}, rule=msgspec.structs.replace(STEPS, quorum=1.0))
    world.peers["c"].speed = 10.0
    world.run_rounds(1)
    weights = {part.peer: part.weight for part in world.records[-1].contributors}
    assert weights["a"] == weights["b"] == 50 * BATCH
    assert 10 * BATCH < weights["c"] < 25 * BATCH
    assert world.state.round.number == world.state.version + 1
    world.peers["b"].stopped = True
    world.run_rounds(1, seconds=30.0)
    assert {part.peer for part in world.records[-1].contributors} == {"a", "c"}
    world.finish_checks()


def test_a_lone_peer_too_slow_for_its_first_lease_makes_its_steps_with_more_time():
    world = World(10_000, rule=STEPS)
    world.add_peer("slow", 2.0)
    world.run_rounds(2, 1800.0)
    assert any("did not finish 200 samples in time" in note.text for note in world.notes)
    assert not world.state.peers["slow"].paused
    world.finish_checks()


def test_a_lone_peer_that_fetches_the_parameters_again_makes_its_steps_again():
    world = World(10_000, rule=STEPS)
    peer = world.add_peer("a", 40.0)
    assert world.run(10.0, lambda: peer.computing is not None)
    peer.fetch_again()
    world.run_rounds(1, 60.0)
    world.finish_checks()


def test_nobody_is_waited_for_once_nothing_that_the_others_made_counts():
    world = classroom({"a": 40.0, "b": 40.0})
    world.run(1.0)
    world.peers["b"].stopped = True
    world.peers["a"].lies = True
    assert world.run(60.0, lambda: bool(world.state.peers["a"].strikes), 0.1)
    world.peers["a"].lies = False
    world.run_rounds(1, 30.0)
    assert {part.peer for part in world.records[-1].contributors} == {"a"}
    world.finish_checks()


def test_who_announced_in_time_is_not_to_blame_for_a_long_commit():
    world = classroom({"a": 40.0, "b": 40.0, "c": 40.0})
    world.run(1.0)
    late = world.peers["c"]
    late.stopped = True
    assert world.run(60.0, lambda: bool(world.state.round.closing), 0.1)
    number = world.state.round.number
    world.holders[OWN].slow = 90.0
    assert world.run(60.0, lambda: world.state.phase == "preparing", 0.1)
    late.go_on()
    world.run_rounds(1)
    world.holders[OWN].slow = 0.0
    world.run_rounds(1)
    assert not any("did not announce" in note.text for note in world.notes)
    assert "c" in {part.peer for part in world.records[number].contributors}


def test_contributions_are_scaled_down_to_the_median_where_the_rule_says_so():
    rule = msgspec.structs.replace(STEPS, strategy="SparseLocalUpdates", clip_to_median=True)
    world = classroom({"fast": 40.0, "half": 20.0, "slow": 8.0}, rule=rule)
    world.run_rounds(2)
    norms = {part.number: part.norms["gradient"] for part in world.records[-1].contributors}
    middle = sorted(norms.values())[1]
    prepare = [message for _, message in told(world, m.Prepare) if message.round == world.records[-1].round][-1]
    assert prepare.scales == tuple(min(1.0, middle / norm) for norm in norms.values())
    assert min(prepare.scales) < 1.0 == max(prepare.scales)
    world.finish_checks()


def test_elsewhere_nothing_is_scaled():
    world = classroom({"a": 40.0, "b": 20.0})
    assert {message.scales for _, message in told(world, m.Prepare)} == {()}


STREAM = msgspec.structs.replace(
    STEPS, strategy="StreamingLocalUpdates", staleness=0, fragments=4, overlap=True, quorum=1.0
)


def test_nobody_stops_computing_while_contributions_are_on_their_way():
    """An upload takes half as long as the steps of a round: with overlap that is no time lost."""

    def seconds(rule: RoundRule) -> float:
        world = classroom({"a": 40.0, "b": 40.0, "c": 40.0}, rule=rule)
        for peer in world.peers.values():
            peer.bytes, peer.bandwidth = 2_500_000, 1e6
        world.run_rounds(2)
        began, rounds = world.now, len(world.records)
        world.run_rounds(6)
        assert all(len(record.contributors) == 3 for record in world.records[rounds:])
        world.finish_checks()
        return (world.now - began) / 6

    computing = 50 * BATCH / 40.0
    assert computing < seconds(STREAM) < 1.03 * computing
    assert 1.45 * computing < seconds(msgspec.structs.replace(STREAM, overlap=False, fragments=1))


def test_a_link_that_is_slower_than_the_steps_makes_peers_wait_for_one_round_at_most():
    world = classroom({"a": 40.0, "b": 40.0}, rule=STREAM)
    for peer in world.peers.values():
        peer.bytes, peer.bandwidth = 10_000_000, 1e6
    world.run_rounds(5)
    ahead = [lease.round - world.state.round.number for lease in world.state.book.leases.values()]
    assert set(ahead) <= {0, 1}
    world.finish_checks()


def test_whoever_contributes_too_late_loses_its_steps_of_the_next_round_too():
    world = classroom({"a": 40.0, "b": 40.0, "c": 40.0}, rule=STREAM)
    world.run(2.0)
    slow = world.peers["c"]
    slow.bandwidth = 1.0
    world.run_rounds(4)
    assert any("longer" in note.text for note in world.notes)
    slow.bandwidth = 1e6
    world.steer("c", "resume")
    world.run_rounds(3)
    assert "c" in {part.peer for part in world.records[-1].contributors}
    world.finish_checks()


def test_another_strategy_takes_back_what_was_leased_for_its_first_round():
    world = classroom({"a": 40.0, "b": 40.0}, rule=STREAM)
    for peer in world.peers.values():
        peer.bytes, peer.bandwidth = 3_000_000, 1e6
    assert world.run(60.0, lambda: any(le.round > world.state.round.number for le in world.state.book.leases.values()))
    world.handle(e.ChangeStrategy((StrategyChange(world.state.round.number + 1, EVERY),), "ann"))
    world.run_rounds(3)
    assert [record.strategy for record in world.records[-2:]] == ["EveryStep", "EveryStep"]
    world.finish_checks()


def test_no_steps_are_leased_for_a_round_that_will_not_be():
    world = classroom({"a": 40.0, "b": 40.0}, rule=STREAM, rounds=5)
    assert world.run(600.0, lambda: world.state.phase == "finished")
    assert not world.state.book.leases
    assert world.state.book.cursor == 5 * 2 * 50 * BATCH
    world.finish_checks()


def test_the_end_takes_back_what_was_leased_ahead_and_the_last_version_is_evaluated():
    world = classroom({"a": 2.0, "b": 2.0}, rule=STREAM, held_out=20)
    for peer in world.peers.values():
        peer.bytes, peer.bandwidth = 3_000_000, 1e6
    assert world.run(600.0, lambda: any(le.round > world.state.round.number for le in world.state.book.leases.values()))
    world.handle(e.Finish("ann"))
    assert world.run(600.0, lambda: world.state.phase == "finished")
    assert not world.state.book.leases
    assert world.evaluated[-1].version == world.state.version
    world.finish_checks()


def test_steps_that_are_set_are_those_between_two_exchanges_of_the_same_fragment():
    world = classroom({"a": 40.0}, rule=STREAM, inner_steps=80)
    assert {part.steps or part.weight // BATCH for record in world.records for part in record.contributors} == {20}


def test_nothing_is_late_between_streaming_and_local_updates():
    local = msgspec.structs.replace(STREAM, fragments=1, overlap=False, staleness=2)
    assert lateness(STREAM, local) == lateness(local, STREAM) == -1
    assert lateness(STREAM, STREAM) == 0
