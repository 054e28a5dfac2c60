"""A world for the decisions to run in: a virtual clock, and peers and holders that behave as the protocol says.

Messages take time, in order on each connection; what is on its way when a connection breaks is lost. Every event that
reaches the decisions is kept with its time, so that a run can be replayed, and `Rules` looks at the state after
each of them.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterable, Iterator

import msgspec

from jupyter_swarm.decisions import events as e
from jupyter_swarm.decisions.effects import Disconnect, Effect, Note, Place, Tell, TellPeers, WriteRecord
from jupyter_swarm.decisions.reducer import handle
from jupyter_swarm.decisions.state import Piece, State, new_state
from jupyter_swarm.protocol import messages as m
from jupyter_swarm.protocol.records import RoundRecord, ShardDigest
from jupyter_swarm.protocol.rules import SGD, RoundRule, SessionSettings, StrategyChange
from tests.decisions.rules import Rules

OWN = "own"
"""The server's own holder: there from the start, never lost."""
NORM = 0.5
"""Of every sample's gradient, so that a contribution's norm is this times its weight."""
HARD = 1000.0
"""The gradients of the samples in `World.hard` are so many times as large."""


class World:
    """One session from its opening on, over any number of server starts."""

    def __init__(
        self,
        samples: int = 1000,
        target: int = 64,
        held_out: int = 0,
        shards: int = 4,
        seed: int = 0,
        clip_norm: float = 0.0,
        rule: RoundRule | None = None,
        changes: tuple[StrategyChange, ...] = (),
        **settings: float,
    ) -> None:
        self.now = 1000.0
        self.random = random.Random(seed)
        self.latency = (0.01, 0.2)
        self.samples, self.held_out, self.shards = samples, held_out, shards
        self.hard: set[int] = set()
        self.rule = rule or RoundRule("EveryStep", SGD(lr=0.1), target_batch=target, clip_norm=clip_norm)
        self.changes = changes
        self.settings = SessionSettings(**settings)  # type: ignore[arg-type]
        self.peers: dict[str, FakePeer] = {}
        self.holders: dict[str, FakeHolder] = {}
        self.records: list[RoundRecord] = []
        self.evaluated: list[m.Evaluated] = []
        self.notes: list[Note] = []
        self.status = ""
        self.failing: set[int] = set()
        """Samples that no peer can compute."""
        self.poison: set[int] = set()
        """Samples with which a contribution is refused by the holders."""
        self.rules = Rules()
        self.disk_full = False
        self.generation = 0
        self.generations: list[tuple[bytes, list[tuple[e.AnyEvent, float]], list[list[Effect]]]] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._next_timer = 0
        self.start()

    # --- the server

    def start(self) -> None:
        """The server starts: nothing is left but the records."""
        self.generation += 1
        last = self.records[-1] if self.records else None
        self.state = new_state(
            "cs101", self.rule, self.settings, self.samples, self.held_out, self.shards, self.generation, last,
            self.changes,
        )  # fmt: skip
        self.generations.append((msgspec.json.encode(self.state), [], []))
        for member in [*self.peers.values(), *self.holders.values()]:
            member.disconnect()
            self.after(self.delay(), member.connect)
        self.add_holder(OWN)

    def restart(self) -> None:
        """The server is killed and starts again; so is its own holder."""
        self.settings = self.state.next_settings or self.state.settings
        self.changes = self.state.changes
        self.holders.pop(OWN).disconnect()
        self.start()

    def handle(self, event: e.AnyEvent) -> list[Effect]:
        """Let an event reach the decisions, carry out what they want, look whether all is well."""
        _, log, outcomes = self.generations[-1]
        log.append((event, self.now))
        before = self.state.generation, self.state.phase
        self.state, effects = handle(self.state, event, self.now)
        outcomes.append(list(effects))
        for effect in effects:
            self._carry_out(effect)
        if effects or not isinstance(event, e.Tick) or before != (self.state.generation, self.state.phase):
            self.rules.check(self.state, self.records, self.now)
        return effects

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Tell():
                if effect.member in self.members:
                    self.members[effect.member].later(effect.message)
            case TellPeers():
                self._tell_peers(effect.message)
            case Place():
                self.server_later(lambda: self.handle(e.Placed(effect.number)), self.delay(5.0))
            case WriteRecord():
                self.server_later(lambda: self._write(effect.record), self.delay(2.0))
            case Disconnect():
                self.members[effect.member].disconnect()
                self.handle(e.MemberLost(effect.member, effect.reason))
            case Note():
                self.notes.append(effect)

    def _tell_peers(self, message: m.Message) -> None:
        if isinstance(message, m.Evaluated):
            self.evaluated.append(message)
        elif isinstance(message, m.Status):
            self.status = message.state
        for peer in self.peers.values():
            if peer.connected and (peer.live or not isinstance(message, m.Commit | m.Abort)):
                peer.later(message)

    def _write(self, record: RoundRecord) -> None:
        if record is not self.state.round.record:
            return
        if self.disk_full:
            self.handle(e.RecordFailed(record.round, record.attempt, "the disk is full"))
            return
        assert record.round == len(self.records) + 1, "a round is committed once, and none is left out"
        self.records.append(record)
        self.server_later(lambda: self.handle(e.Recorded(record.round, record.attempt)), self.delay())

    def said(self, member: str, message: m.FromMember) -> None:
        """A message has arrived. The driver catches peers up before it says that they are synced."""
        if isinstance(message, m.Synced) and member in self.peers:
            peer = self.peers[member]
            peer.live = True
            for number in range(message.version + 1, self.state.version + 1):
                peer.later(m.Commit(self.generation, number, 1, 0, 1, None, 0.1, 0))
        self.handle(e.Said(member, message))

    # --- time

    def delay(self, most: float = 0.0) -> float:
        """Some seconds: a message's way, or up to `most`."""
        low, high = self.latency
        return self.random.uniform(low, most or high)

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        """Do something in so many seconds."""
        self._next_timer += 1
        heapq.heappush(self._timers, (self.now + seconds, self._next_timer, do))

    def server_later(self, do: Callable[[], object], seconds: float) -> None:
        """The same, unless the server is killed before."""
        generation = self.generation
        self.after(seconds, lambda: do() if self.generation == generation else None)  # type: ignore[arg-type, return-value]

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False, tick: float = 1.0) -> bool:
        """Let time pass, with a tick each second, until `until` holds (then True) or the time is over (False)."""
        end = self.now + seconds
        next_tick = self.now + tick
        while not until():
            due = min(self._timers[0][0] if self._timers else end, next_tick, end)
            self.now = max(due, self.now)
            if self._timers and self._timers[0][0] <= self.now:
                heapq.heappop(self._timers)[2]()
            elif self.now >= next_tick:
                next_tick += tick
                self.handle(e.Tick())
            else:
                return False
        return True

    def run_rounds(self, rounds: int, seconds: float = 3600.0) -> None:
        """Let time pass until so many more rounds are committed; fails if they are not in time."""
        version = self.state.version + rounds
        done = self.run(seconds, lambda: self.state.version >= version)
        assert done, f"version {self.state.version} of {version} after {seconds} s: {self.state.phase}"

    # --- members

    @property
    def members(self) -> dict[str, Member]:
        """Who has a connection."""
        return {member.id: member for member in [*self.peers.values(), *self.holders.values()] if member.connected}

    def add_peer(self, name: str, speed: float = 16.0, **habits: object) -> FakePeer:
        """A peer joins."""
        peer = self.peers[name] = FakePeer(self, name, speed)
        for habit, value in habits.items():
            assert hasattr(peer, habit)
            setattr(peer, habit, value)
        peer.connect()
        return peer

    def add_holder(self, name: str) -> FakeHolder:
        """A holder joins."""
        holder = self.holders[name] = FakeHolder(self, name)
        holder.connect()
        return holder

    def lose(self, name: str, comes_back: bool = False) -> None:
        """A member's connection breaks."""
        member = self.members[name]
        member.disconnect()
        self.handle(e.MemberLost(name, "no answer"))
        if comes_back:
            self.after(self.delay(20.0), member.connect)
        else:
            self.peers.pop(name, None)
            self.holders.pop(name, None)

    # --- what a run must have kept

    def finish_checks(self) -> None:
        """Every position is accounted for, and the same events give the same decisions."""
        self.rules.check_end(self.state)
        for initial, log, outcomes in self.generations:
            state = msgspec.json.decode(initial, type=State)
            text = msgspec.json.encode(log)
            read = msgspec.json.decode(text, type=list[tuple[e.AnyEvent, float]])
            assert read == log
            for (event, now), outcome in zip(read, outcomes, strict=True):
                state, effects = handle(state, event, now)
                assert effects == outcome
        assert state == self.state
        assert msgspec.json.decode(msgspec.json.encode(state), type=State) == state


class Member:
    """One end of a connection to the server."""

    role: str

    def __init__(self, world: World, id_: str) -> None:
        self.world = world
        self.id = id_
        self.connected = False
        self.hung = False
        self.generation = 0
        self._connection = 0
        self._free_at = {"up": 0.0, "down": 0.0}

    def connect(self) -> None:
        """Say hello on a new connection."""
        here = self.world.peers.get(self.id) or self.world.holders.get(self.id)
        if self.connected or here is not self:
            return
        self.connected = True
        self.generation = self.world.generation
        role = "peer" if isinstance(self, FakePeer) else "holder"
        own = getattr(self, "own", 0)
        self.world.handle(e.MemberJoined(self.id, role, self.id, own_samples=own))  # type: ignore[arg-type]
        if self.connected:
            self.welcome()

    def welcome(self) -> None:
        """The connection stands."""

    def disconnect(self) -> None:
        """What is on its way in either direction is lost."""
        self.connected = False
        self._connection += 1

    def soon(self, seconds: float, do: Callable[[], None]) -> None:
        """Do something in so many seconds, if the connection still stands then."""
        connection = self._connection
        self.world.after(seconds, lambda: do() if self._connection == connection and not self.hung else None)

    def _ordered(self, way: str, do: Callable[[], None]) -> None:
        at = max(self._free_at[way], self.world.now + self.world.delay())
        self._free_at[way] = at
        self.soon(at - self.world.now, do)

    def later(self, message: m.Message) -> None:
        """A message from the server is on its way."""
        self._ordered("down", lambda: self.receive(message))

    def say(self, message: m.FromMember) -> None:
        """Send a message to the server."""
        if self.connected and not self.hung:
            self._ordered("up", lambda: self.world.said(self.id, message))

    def receive(self, message: m.Message) -> None:
        """A message from the server."""
        raise NotImplementedError


class FakePeer(Member):
    """A peer. `speed` in samples per second, `bandwidth` in bytes per second; `breaks`: no lease succeeds here;
    `lies`: what it sends is not what it announces; `own`: so many samples of its own; `stopped`: it does nothing until
    it goes on, and nobody notices."""

    def __init__(self, world: World, id_: str, speed: float) -> None:
        super().__init__(world, id_)
        self.speed = speed
        self.bandwidth = 1e6
        self.bytes = 1000
        self.breaks = self.lies = self.silent = self.paused = self.stopped = False
        self.own = 0
        self.missed: list[m.Message] = []
        self.live = False
        self.version = -1
        self.key = 0
        self.computed = 0
        self._forget()
        self._task = 0

    def welcome(self) -> None:
        self.live = self.stopped = False
        self.missed = []
        self._forget()
        self._sync()

    def _sync(self) -> None:
        self.say(m.WantSnapshot(self.generation))
        self.version = self.world.state.version
        self.soon(self.world.delay(3.0), self._synced)

    def _synced(self) -> None:
        self.say(m.Synced(self.generation, self.version, ""))
        self._want_work()

    def _want_work(self) -> None:
        if not self.paused:
            self.say(m.WantWork(self.generation, self.version))

    def go_on(self) -> None:
        """It was stopped, and is no longer: whatever came meanwhile is there."""
        self.stopped = False
        missed, self.missed = self.missed, []
        for message in missed:
            self.receive(message)

    def _forget(self) -> None:
        self.leases: list[m.LeaseGrant] = []
        self.computing: m.LeaseGrant | None = None
        self.attempt = (0, 0)
        self.announced = 0
        self.upload = 0

    def pause(self, reason: str = "") -> None:
        """The user pauses this peer."""
        self.paused = True
        self.say(m.Control("pause"))

    def resume(self) -> None:
        """The user resumes it."""
        self.paused = False
        self.say(m.Control("resume"))
        self._want_work()

    def receive(self, message: m.Message) -> None:
        if getattr(message, "generation", self.generation) != self.generation:
            return
        if self.stopped:
            self.missed.append(message)
            return
        match message:
            case m.LeaseGrant():
                assert message.round == self.version + 1, "work is for the version that the peer has"
                self._compute(message)
            case m.ContributeNow() if self.computing is not None:
                self._stop_early(message)
            case m.ContributeNow():
                self._announce(message)
            case m.Grant():
                self._send(message)
            case m.Accepted() | m.Dropped() if message.key == self.announced:
                self.announced = self.upload = 0
            case m.Abort():
                if (message.round, message.attempt) == self.attempt or self._steps(message.round):
                    self._forget()
                self._task += 1
                self._want_work()
            case m.Commit() if message.round == self.version + 1:
                if not self._steps(message.round):
                    self._forget()
                self.version += 1
                self._want_work()
            case _:
                pass

    def _steps(self, round: int) -> bool:
        return self.world.state.rule_of(round).work == "steps"

    def _stop_early(self, call: m.ContributeNow) -> None:
        """Others wait: end with the step under way, and contribute what there is."""
        lease, batch = self.computing, self.world.state.rule_of(call.round).inner_batch
        assert lease is not None
        whole = math.ceil((lease.stop - lease.start) / batch)
        steps = min(math.ceil((self.world.now - self.began) * self.speed / batch), whole)
        self._task += 1
        task, until = self._task, self.began + steps * batch / self.speed

        def stop() -> None:
            if task == self._task:
                self._done(lease, min(steps * batch, lease.stop - lease.start))
                self._announce(call)

        if until <= self.world.now:
            stop()
        else:
            self.soon(until - self.world.now, stop)

    def _compute(self, lease: m.LeaseGrant) -> None:
        if self.attempt != (lease.round, lease.attempt):
            self._forget()
            self.attempt = (lease.round, lease.attempt)
        if lease.kind == "train":
            self._task += 1
            if self._steps(lease.round):
                self.computing, self.began = lease, self.world.now
        task = self._task
        self.soon(
            (lease.stop - lease.start) / self.speed,
            lambda: self._done(lease) if task == self._task or lease.kind == "evaluate" else None,
        )

    def _made_steps(self, lease: m.LeaseGrant, count: int) -> None:
        self.computing = None
        batch = self.world.state.rule_of(lease.round).inner_batch
        bad = self.world.failing if not lease.own else set()
        failing = [p for p in range(lease.start, lease.start + count) if p % self.world.samples in bad]
        failed = "its loss is nan" if self.breaks or failing else ""
        if failed:
            count = 0 if self.breaks else (failing[0] - lease.start) // batch * batch
        if count:
            self.leases.append(msgspec.structs.replace(lease, stop=lease.start + count))
        self.computed += count
        self.say(m.LeaseDone(self.generation, lease.lease, failed, computed=count))
        self._want_work()

    def _done(self, lease: m.LeaseGrant, part: int = -1) -> None:
        if self.stopped:
            self.world.after(1.0, lambda: self._done(lease, part) if self.computing is lease else None)
            return
        count = lease.stop - lease.start
        if lease.kind == "train" and self._steps(lease.round):
            self._made_steps(lease, count if part < 0 else part)
            return
        inside = {position % self.world.samples for position in range(lease.start, lease.stop)}
        failed = "its loss is nan" if self.breaks or inside & self.world.failing else ""
        if lease.kind == "evaluate":
            sums = {"loss": 2.0 * count} if not failed else {}
            self.say(m.LeaseDone(self.generation, lease.lease, failed, sums, count if not failed else 0))
        else:
            if not failed:
                self.leases.append(lease)
                self.computed += count
            self.say(m.LeaseDone(self.generation, lease.lease, failed))
        self._want_work()

    def _announce(self, call: m.ContributeNow) -> None:
        if (call.round, call.attempt) != self.attempt or not self.leases or self.silent:
            return
        base = self.leases[0].round - 1 if self._steps(call.round) else self.version
        self.key += 1
        self.announced = self.key
        weight = sum(lease.stop - lease.start for lease in self.leases)
        leases = tuple(lease.lease for lease in self.leases)
        self.say(
            m.Announce(
                self.generation, call.round, call.attempt, self.key, base, leases,
                {"gradient": self._norm(self.leases)}, 1.0 * weight, weight, self.bytes,
            )
        )  # fmt: skip
        self.sending, self.leases = self.leases, []

    def _norm(self, leases: Iterable[m.LeaseGrant]) -> float:
        """Gradients of all samples point the same way; those of hard ones are far larger."""
        positions = (position for lease in leases for position in range(lease.start, lease.stop))
        return sum(NORM * (HARD if position % self.world.samples in self.world.hard else 1.0) for position in positions)

    def _send(self, grant: m.Grant) -> None:
        if grant.key != self.announced:
            return
        self.upload = grant.number
        square = (self._norm(self.sending) * (3.0 if self.lies else 1.0)) ** 2
        inside = {
            position % self.world.samples for lease in self.sending for position in range(lease.start, lease.stop)
        }
        for holder in [holder for holder in self.world.holders.values() if holder.connected]:
            shards = len(self.world.state.holders[holder.id].shards)
            part = square * shards / self.world.shards
            self.soon(self.bytes / self.bandwidth, self._arrives(holder, grant.number, part, inside))

    def _arrives(self, holder: FakeHolder, number: int, square: float, inside: set[int]) -> Callable[[], None]:
        def arrive() -> None:
            # Frames go through the server, after the `Expect` that it sent.
            if self.upload == number and holder.connected:
                holder.stage_later(number, square, "not finite" if inside & self.world.poison else "")

        return arrive


class FakeHolder(Member):
    """A holder. With `fails` it cannot compute the next version."""

    def __init__(self, world: World, id_: str) -> None:
        super().__init__(world, id_)
        self.fails = False
        self.expected: set[int] = set()
        self.staged: set[int] = set()
        self.prepare: m.Prepare | None = None
        self.installed: dict[int, tuple[tuple[int, int], ...]] = {}

    def welcome(self) -> None:
        self.expected, self.staged, self.prepare = set(), set(), None

    def stage_later(self, number: int, square: float, problem: str) -> None:
        """All of a peer's part for this holder is on its way."""
        self._ordered("down", lambda: self._stage(number, square, problem))

    def _stage(self, number: int, square: float, problem: str) -> None:
        if number not in self.expected:
            return
        self.expected.remove(number)
        if problem:
            self.say(m.StageFailed(self.generation, number, problem))
        else:
            self.staged.add(number)
            self.say(m.Staged(self.generation, number, {"gradient": square}))

    def receive(self, message: m.Message) -> None:
        match message:
            case m.Expect():
                self.expected.add(message.number)
            case m.Forget():
                self.expected.discard(message.number)
                self.staged.discard(message.number)
            case m.Revert():
                self.expected, self.staged, self.prepare = set(), set(), None
            case m.Prepare():
                # A contribution counts for all shards or for none.
                assert {number for number, _ in message.contributions} == self.staged
                self.prepare = message
                self.soon(self.world.delay(1.0), lambda: self._prepare(message))
            case m.ClipBy() if self.prepare is not None:
                self._prepared(self.prepare)
            case m.Install():
                assert self.prepare is not None
                assert (message.round, message.attempt) == (self.prepare.round, self.prepare.attempt)
                self.installed[message.round] = self.prepare.contributions
                self.staged, self.prepare = set(), None
            case _:
                pass

    def _prepare(self, message: m.Prepare) -> None:
        if self.prepare is not message:
            return
        where = (self.generation, message.round, message.attempt)
        if self.fails:
            self.say(m.PrepareFailed(*where, "the step is not finite"))
        elif message.clip_norm:
            self.say(m.PartialNorm(*where, 1.0))
        else:
            self._prepared(message)

    def _prepared(self, message: m.Prepare) -> None:
        shards = self.world.state.holders[self.id].shards
        digests = tuple(ShardDigest(shard, 4, f"{message.round}-{shard}") for shard in shards)
        self.say(m.Prepared(self.generation, message.round, message.attempt, digests))


def free_count(pieces: list[Piece]) -> int:
    """Samples in `pieces`."""
    return sum(piece.stop - piece.start for piece in pieces)


def told(world: World, kind: type[m.Message]) -> Iterator[tuple[str, m.Message]]:
    """All that members were told so far of one kind, with the member."""
    for _, _, outcomes in world.generations:
        for effects in outcomes:
            for effect in effects:
                if isinstance(effect, Tell) and isinstance(effect.message, kind):
                    yield effect.member, effect.message
