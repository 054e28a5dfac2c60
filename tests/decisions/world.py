"""A world for the decisions to run in: a virtual clock, and peers and holders (`peers`, `members`) around them.

Messages take time, in order on each connection; what is on its way when a connection breaks is lost. Every event that
reaches the decisions is kept with its time, so that a run can be replayed, and `Rules` looks at the state after
each of them.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator

import msgspec

from jupyter_swarm.decisions import events as e
from jupyter_swarm.decisions.effects import Disconnect, Effect, Note, Place, SetCodecs, Tell, TellPeers, WriteRecord
from jupyter_swarm.decisions.explain import explain
from jupyter_swarm.decisions.links import with_choice
from jupyter_swarm.decisions.reducer import handle
from jupyter_swarm.decisions.state import Piece, State, new_state
from jupyter_swarm.protocol import messages as m
from jupyter_swarm.protocol.records import RoundRecord
from jupyter_swarm.protocol.rules import SGD, RoundRule, SessionSettings, StrategyChange
from jupyter_swarm.protocol.standing import Standing, SteerAction, steered
from tests.decisions.members import FakeHolder, Member
from tests.decisions.peers import FakePeer
from tests.decisions.rules import Rules

OWN = "own"
"""The server's own holder: there from the start, never lost."""


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
        elements: int = 0,
        **settings: float,
    ) -> None:
        self.now = 1000.0
        self.random = random.Random(seed)
        self.latency = (0.01, 0.2)
        self.samples, self.held_out, self.shards = samples, held_out, shards
        self.elements = elements
        self.hard: set[int] = set()
        self.rule = rule or RoundRule("EveryStep", SGD(lr=0.1), target_batch=target, clip_norm=clip_norm)
        self.changes = changes
        self.settings = SessionSettings(**settings)  # type: ignore[arg-type]
        self.peers: dict[str, FakePeer] = {}
        self.holders: dict[str, FakeHolder] = {}
        self.standings: dict[str, Standing] = {}
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
            self.changes, self.elements,
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
                if isinstance(effect.message, m.LeaseGrant):
                    self.rules.check_grant(self.state, effect.member, self.standings, self.now)
                if effect.member in self.members:
                    self.members[effect.member].later(effect.message)
            case TellPeers():
                self._tell_peers(effect.message)
            case Place():
                self.server_later(lambda: self.handle(e.Placed(effect.number)), self.delay(5.0))
            case WriteRecord():
                self.server_later(lambda: self._write(effect.record), self.delay(2.0))
            case SetCodecs():
                self.server_later(lambda: self._choose(effect), self.delay(2.0))
            case Disconnect():
                self.members[effect.member].disconnect()
                self.handle(e.MemberLost(effect.member, effect.reason))
            case Note():
                self.notes.append(effect)

    def _choose(self, wanted: SetCodecs) -> None:
        changes = with_choice(self.state.first_rule, self.state.changes, self.state.round.number + 1, wanted)
        if changes is not None:
            self.handle(e.ChangeStrategy(changes, ""))

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

    def steer(self, name: str, action: SteerAction, share: float = 0.5) -> None:
        """The instructor decides something about a peer, here or not; a server that starts again knows it."""
        before = self.shown(name)
        standing = self.standings[name] = steered(self.standings.get(name, Standing()), action, share)
        if action == "remove":
            if name in self.members:
                self.members[name].disconnect()
                self.handle(e.MemberLost(name, "removed by the instructor"))
            self.peers.pop(name, None)
        else:
            self.handle(e.SteerPeer(name, action, standing, self.shown(name), before))

    def removed(self, name: str) -> bool:
        """Whether the server lets nobody of that name in any more."""
        return self.standings.get(name, Standing()).removed

    def shown(self, name: str) -> str:
        """What others see of a name."""
        return "somebody" if self.standings.get(name, Standing()).muted else name

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


def reason(world: World) -> str:
    """What the session says it is doing."""
    return explain(world.state, world.now)[1]


def notes(world: World, text: str) -> list[str]:
    """The lines of the session's log that have `text` in them."""
    return [note.text for note in world.notes if text in note.text]
