"""Joins, leaves, crashes, server restarts, failures, late and repeated messages, in any order.

`Rules` looks at the state after every event. At the end everything that a person can put right is put right, and
the round must then be committed within a bounded time; all samples must be accounted for, and a replay agree.

`HYPOTHESIS_PROFILE=deep` searches for longer than a test run may take.
"""

from __future__ import annotations

import os
from typing import ClassVar

import msgspec
import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from jupyter_swarm.decisions import events as e
from jupyter_swarm.protocol import messages as m
from jupyter_swarm.protocol.rules import SGD, RoundRule, StrategyChange
from tests.decisions.world import OWN, World

PATIENCE = 4 * 3600.0
"""Virtual seconds in which a round must be committed, however many peers hang, lie or trickle."""
SEED = int(os.environ.get("HYPOTHESIS_SEED", "0")) or int.from_bytes(os.urandom(4), "big")
DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
SETTINGS = settings(
    max_examples=3000 if DEEP else 120,
    stateful_step_count=120 if DEEP else 40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
SECONDS = 0 if DEEP else 900
"""Not how long it may take, which is some seconds, but how long a busy machine may need, and to shrink what failed."""
REPEATED = (m.WantWork, m.LeaseDone, m.Announce, m.Synced, m.Staged, m.StageFailed, m.PartialNorm, m.Prepared)
NAMES = st.sampled_from(["p1", "p2", "p3", "p4", "p5"])
pick = st.integers(0, 10**6)


class AnyOrder(RuleBasedStateMachine):
    """One holder: the server's own."""

    others: tuple[str, ...] = ()
    clip_norm = 0.0
    strategy: ClassVar[dict[str, object]] = {}
    world: World

    @initialize(
        number=pick, batch=st.sampled_from([1, 7, 64]), samples=st.sampled_from([64, 300]), minimum=st.integers(1, 2),
        held_out=st.sampled_from([0, 50]), budget=st.sampled_from([1, 2500, 1 << 30]), bad=st.booleans(),
    )  # fmt: skip
    def open(self, number, batch, samples, minimum, held_out, budget, bad):
        self.world = World(
            samples, batch, held_out, 4, number, self.clip_norm,
            minimum_peers=minimum, evaluate_every=2, upload_bytes=budget, **self.strategy,
        )  # fmt: skip
        if bad:
            self.world.failing, self.world.poison = {5, 42}, {23}
        for name in ("q1", "q2"):
            self.world.add_peer(name)

    def teardown(self):
        if not hasattr(self, "world"):
            return
        self.put_right()
        self.world.finish_checks()

    def put_right(self):
        """What a class would do: resume, make room on the disk, see that more healthy peers are here than needed."""
        world = self.world
        world.disk_full = False
        for holder in world.holders.values():
            holder.fails = False
        minimum = (world.state.next_settings or world.state.settings).minimum_peers
        world.handle(e.Resume("the instructor"))
        healthy = [name for name, peer in world.peers.items() if peer.healthy]
        for name in healthy:
            world.steer(name, "slow", 1.0)
            world.steer(name, "resume")
        for number in range(minimum + 1 - len(healthy)):
            world.add_peer(f"healthy{number}")
        version = world.state.version
        ended = world.run(PATIENCE, lambda: world.state.version > version or world.state.phase == "finished", 5.0)
        assert ended, f"version {version} for ever: {world.state}"

    @property
    def going_on(self):
        return self.world.state.phase != "finished"

    # --- members

    @rule(name=NAMES, speed=st.sampled_from([0.05, 2.0, 16.0, 500.0]), rate=st.sampled_from([50.0, 1e6]))
    def a_peer_joins(self, name, speed, rate):
        if name not in self.world.peers and not self.world.removed(name):
            self.world.add_peer(name, speed, bandwidth=rate)

    @rule(name=NAMES, habit=st.sampled_from(["hung", "breaks", "lies", "silent"]), on=st.booleans())
    def a_peer_behaves_badly(self, name, habit, on):
        if name in self.world.peers:
            setattr(self.world.peers[name], habit, on)

    @rule(number=pick, comes_back=st.sampled_from([True, True, False]))
    def a_connection_breaks(self, number, comes_back):
        names = [name for name in self.world.members if name != OWN]
        if names:
            self.world.lose(names[number % len(names)], comes_back)

    @rule(number=pick)
    def a_peer_connects_a_second_time(self, number):
        """The old connection is not known to be dead yet."""
        names = [name for name in self.world.members if name in self.world.peers]
        if names:
            peer = self.world.peers[names[number % len(names)]]
            peer.disconnect()
            peer.connect()

    @rule(number=pick)
    def a_peer_fetches_the_parameters_again(self, number):
        peers = [p for p in self.world.peers.values() if p.connected and not (p.hung or p.stopped)]
        if peers:
            peers[number % len(peers)].fetch_again()

    @rule(number=pick)
    def a_peer_leaves(self, number):
        names = [name for name in self.world.members if name in self.world.peers]
        if names:
            name = names[number % len(names)]
            self.world.handle(e.Said(name, m.Goodbye("left")))
            self.world.lose(name)

    @rule(number=pick, resume=st.booleans())
    def a_peer_pauses_or_resumes(self, number, resume):
        peers = [peer for peer in self.world.peers.values() if peer.connected]
        if peers:
            peer = peers[number % len(peers)]
            (peer.resume if resume else peer.pause)()

    # --- the server

    @rule(durable=st.booleans())
    def the_server_is_killed(self, durable):
        if durable:
            self.world.run(2.0)
        self.world.restart()

    @rule()
    def the_disk_is_full(self):
        """For a while; somebody makes room and resumes the session."""
        self.world.disk_full = True
        self.world.after(30.0, self.somebody_makes_room)

    def somebody_makes_room(self):
        self.world.disk_full = False
        self.world.handle(e.Resume("ann"))

    @rule(number=pick, fails=st.booleans())
    def a_holder_cannot_compute(self, number, fails):
        holders = list(self.world.holders.values())
        holders[number % len(holders)].fails = fails

    # --- people

    @rule(seconds=st.sampled_from([1.0, 100.0]))
    def the_session_is_paused(self, seconds):
        self.world.handle(e.Pause("ann"))
        self.world.after(seconds, lambda: self.world.handle(e.Resume("ann")))

    @rule(name=NAMES, action=st.sampled_from(["pause", "resume", "mute", "unmute"]))
    def the_instructor_steers_a_peer(self, name, action):
        self.world.steer(name, action)

    @rule(name=NAMES, share=st.sampled_from([0.1, 0.5, 1.0]))
    def the_instructor_slows_a_peer(self, name, share):
        self.world.steer(name, "slow", share)

    @rule(name=NAMES, while_=st.sampled_from(["", "open", "preparing", "recording", "finishing"]))
    def the_instructor_removes_a_peer(self, name, while_):
        """Also in the middle of a merge or of its record's being written."""
        if not while_ or self.world.run(30.0, lambda: self.world.state.phase == while_):
            self.world.steer(name, "remove")

    @rule(batch=st.sampled_from([0, 3, 64]), minimum=st.sampled_from([1, 1, 2, 3]))
    def settings_change(self, batch, minimum):
        now = self.world.state.settings
        fields = {name: getattr(now, name) for name in now.__struct_fields__}
        changed = type(now)(**fields | {"target_batch": batch, "minimum_peers": minimum})
        self.world.handle(e.Change(changed, "ann"))

    @precondition(lambda self: self.world.state.version >= 3)
    @rule()
    def the_session_is_ended(self):
        self.world.handle(e.Finish("ann"))

    # --- time and messages

    @invariant()
    def a_moment_passes(self):
        if hasattr(self, "world"):
            self.run(self.world.random.choice([0.0, 0.0, 0.1, 1.0, 5.0]))

    @rule(seconds=st.sampled_from([0.05, 0.5, 2.0, 5.0, 20.0]))
    def time_passes(self, seconds):
        self.run(seconds)

    @rule(seconds=st.sampled_from([65.0, 400.0]))
    def much_time_passes(self, seconds):
        self.run(seconds, tick=5.0)

    def run(self, seconds, tick=1.0):
        """Some time, or a few rounds."""
        world, version = self.world, self.world.state.version
        world.run(seconds, lambda: world.state.version >= version + 4, tick)

    @rule(number=pick)
    def a_message_comes_again(self, number):
        """Late, twice, out of order: anything that a member, here or gone, ever said to this server or an older one."""
        said = [
            event
            for _, log, _ in self.world.generations
            for event, _ in log
            if isinstance(event, e.Said) and isinstance(event.message, REPEATED)
        ]
        if said:
            self.world.handle(said[-1 - number % len(said)])

    @rule(number=pick)
    def the_driver_repeats_itself(self, number):
        state = self.world.state
        for event in (e.Placed(state.placing - 1), e.Placed(state.placing), e.Tick(), e.MemberLost("nobody", "")):
            if not (isinstance(event, e.Placed) and state.phase == "placing"):
                self.world.handle(event)
        version, attempt = state.round.number, state.round.attempt
        if state.phase != "recording":
            self.world.handle(e.Recorded(version - number % 2, attempt))
            self.world.handle(e.RecordFailed(version - number % 2, attempt, "late"))

    @rule(lease=st.integers(0, 40), what=st.integers(0, 5))
    def somebody_talks_nonsense(self, lease, what):
        state = self.world.state
        where = (state.generation, state.round.number, state.round.attempt)
        nonsense: list[m.FromMember] = [
            m.LeaseDone(state.generation, lease),
            m.Announce(*where, 10**6, state.version, (lease, lease), {"gradient": 1.0}, 1.0, 1, 10**18),
            m.Announce(*where, 10**6, state.version + 1, (lease,), {"gradient": -1.0}, 1.0, -1, -5),
            m.Prepared(*where, ()),
            m.WantWork(state.generation, 10**6),
            m.Staged(state.generation, lease, {"gradient": 1.0}),
        ]
        if "p1" in self.world.members and self.world.peers["p1"].hung:
            self.world.handle(e.Said("p1", nonsense[what]))


class AnyOrderManyHolders(AnyOrder):
    """The server's own holder and others that come and go."""

    others = ("h1", "h2", "h3", "h4")
    clip_norm = 1.0

    @rule(name=st.sampled_from(others))
    def a_holder_joins(self, name):
        if name not in self.world.holders:
            self.world.add_holder(name)

    @rule(number=pick)
    def a_holder_dies_while_recording(self, number):
        others = [name for name in self.world.holders if name != OWN and self.world.holders[name].connected]
        if others and self.world.run(30.0, lambda: self.world.state.phase == "recording"):
            alive = [name for name in others if name in self.world.members]
            if alive:
                self.world.lose(alive[number % len(alive)])

    @rule(number=pick)
    def a_holder_hangs(self, number):
        others = [holder for holder in self.world.holders.values() if holder.id != OWN]
        if others:
            others[number % len(others)].hung = True


STEPS = RoundRule(
    "LocalUpdates", SGD(lr=0.7), work="steps", contribution="pseudo_gradient", inner_steps=5, inner_batch=4,
    inner_optimizer=SGD(lr=0.1), quorum=0.5, grace=10.0, staleness=1,
)  # fmt: skip
STREAM = msgspec.structs.replace(STEPS, strategy="StreamingLocalUpdates", staleness=0, fragments=2, overlap=True)
EVERY = RoundRule("EveryStep", SGD(lr=0.1), target_batch=16)


class AnyOrderOfSteps(AnyOrder):
    """Rounds of steps: peers stop and go on, are late, and have data of their own."""

    strategy: ClassVar[dict[str, object]] = {"rule": STEPS, "own_samples": 8}

    @rule(number=pick, seconds=st.sampled_from([3.0, 30.0, 300.0]))
    def a_peer_stops_for_a_while(self, number, seconds):
        peers = [peer for peer in self.world.peers.values() if not peer.stopped]
        if peers:
            peer = peers[number % len(peers)]
            peer.stopped = True
            self.world.after(seconds, peer.go_on)

    @rule(name=NAMES)
    def a_peer_with_its_own_data_joins(self, name):
        if name not in self.world.peers and not self.world.removed(name):
            self.world.add_peer(name, own=100)


class AnyOrderOfStreams(AnyOrderOfSteps):
    """Steps go on while a round is finished."""

    strategy: ClassVar[dict[str, object]] = {"rule": STREAM, "own_samples": 8}


class AnyOrderOfStrategies(AnyOrderOfSteps):
    """The strategy changes, by hand and by a schedule."""

    strategy: ClassVar[dict[str, object]] = {"rule": EVERY, "changes": (StrategyChange(3, STEPS),), "own_samples": 8}

    @rule(
        kind=st.sampled_from([STEPS, STREAM, EVERY]), ahead=st.sampled_from([1, 1, 3]),
        staleness=st.sampled_from([0, 1, 2]),
    )  # fmt: skip
    def the_strategy_changes(self, kind, ahead, staleness):
        state = self.world.state
        new = msgspec.structs.replace(STEPS, staleness=staleness) if kind is STEPS else kind
        change = StrategyChange(state.round.number + ahead, new)
        before = tuple(old for old in state.changes if old.round < change.round)
        self.world.handle(e.ChangeStrategy((*before, change), "ann"))


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize(
    "machine", [AnyOrder, AnyOrderManyHolders, AnyOrderOfSteps, AnyOrderOfStreams, AnyOrderOfStrategies]
)
def test_any_order(machine):
    print(f"HYPOTHESIS_SEED={SEED}")
    run_state_machine_as_test(seed(SEED)(machine), settings=SETTINGS)
