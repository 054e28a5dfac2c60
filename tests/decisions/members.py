"""Members as the protocol says: what they have in common, and holders."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from jupyter_swarm.decisions import events as e
from jupyter_swarm.protocol import messages as m
from jupyter_swarm.protocol.records import ShardDigest
from jupyter_swarm.protocol.standing import Standing

if TYPE_CHECKING:
    from tests.decisions.world import World


class Member:
    """One end of a connection to the server."""

    role: ClassVar[Literal["peer", "holder"]]
    own = 0

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
        world, standing = self.world, self.world.standings.get(self.id, Standing())
        world.handle(e.MemberJoined(self.id, self.role, world.shown(self.id), own_samples=self.own, standing=standing))
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


class FakeHolder(Member):
    """A holder. With `fails` it cannot compute the next version; `slow`: it needs so many seconds more to."""

    role = "holder"

    def __init__(self, world: World, id_: str) -> None:
        super().__init__(world, id_)
        self.fails = False
        self.slow = 0.0
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
                self.soon(self.slow + self.world.delay(1.0), lambda: self._prepare(message))
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
