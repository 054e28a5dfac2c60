"""A coordinator by hand: one holder, and messages that a test sends when it wants to, to members without a network."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

from jupyter_swarm.link import Upload
from jupyter_swarm.peer.compute import Computer, prepare
from jupyter_swarm.peer.inbox import Inbox, Pause
from jupyter_swarm.peer.member import Member
from jupyter_swarm.peer.recipe import Data, Recipe
from jupyter_swarm.peer.record import Record
from jupyter_swarm.peer.residual_file import ResidualFile
from jupyter_swarm.protocol.frames import Kind, session_tag
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.messages import (
    Adopt,
    Announce,
    Commit,
    ContributeNow,
    Expect,
    Grant,
    LeaseDone,
    LeaseGrant,
    Message,
    Prepare,
    SnapshotOffer,
    Strategy,
    WantSnapshot,
    Welcome,
)
from jupyter_swarm.protocol.rules import RoundRule, SessionSettings, SessionSpec, StrategyChange, rule_of
from jupyter_swarm.shards.holder import Holder
from jupyter_swarm.shards.incoming import PacketSet
from jupyter_swarm.shards.outgoing import Envelope, FrameWriter, value_frames
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.strategies import rules_of

RECIPE = """
import torch
from torch import nn
from jupyter_swarm import (
    AdamW, Codec, Data, EveryStep, LocalUpdates, Recipe, Sophia, SparseLocalUpdates, StreamingLocalUpdates, WarmStart,
)

def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 6, generator=generator)
    y = (x[:, 0] > 0).long()
    return Data(train=(x[:30], y[:30]), held_out=(x[30:], y[30:]))

def model():
    return nn.Sequential(nn.Linear(6, 8), NORM, nn.ReLU(), nn.Linear(8, 2))

def loss(model, batch):
    x, y = batch
    return nn.functional.cross_entropy(model(x), y)

def accuracy(model, batch):
    x, y = batch
    return (model(x).argmax(1) == y).float().mean()

recipe = Recipe(
    name="toy", model=model, data=data, loss=loss, optimizer=AdamW(lr=0.01), strategy=EveryStep(target_batch=12),
    metrics={"accuracy": accuracy}, micro_batch=5, rounds=4, evaluate_every=2, seed=3,
)
"""
PLAIN = RECIPE.replace("NORM", "nn.Identity()")
# Normalises over four numbers of each sample too, so that a lease of one sample has a variance.
NORMED = RECIPE.replace("NORM", "nn.Sequential(nn.Unflatten(1, (2, 4)), nn.BatchNorm1d(2), nn.Flatten())")
EVERY_STEP = "EveryStep(target_batch=12)"
STEPS = "LocalUpdates(steps=4, batch=3)"


def local(text: str = PLAIN, strategy: str = STEPS) -> Recipe:
    """With another strategy than every step."""
    return Recipe.from_source(text.replace(EVERY_STEP, strategy, 1))


class Wire:
    """A member's link: remembers what was sent."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.frames: list[bytes] = []

    def send(self, message: Message) -> bool:
        self.sent.append(message)
        return True

    def send_frames(self, frames: Iterable[tuple[memoryview, ...]]) -> Upload:
        upload = Upload(frames)
        while (parts := upload.pull()) is not None:
            self.frames.append(b"".join(parts))
        upload.end()
        return upload

    def last(self, kind: type[Message]) -> Message:
        return next(message for message in reversed(self.sent) if isinstance(message, kind))

    def take(self, kind: type[Message]) -> list[Message]:
        """What was sent of one kind, which is then forgotten."""
        found = [message for message in self.sent if isinstance(message, kind)]
        self.sent = [message for message in self.sent if not isinstance(message, kind)]
        return found


class Desk:
    """A member, its wire and its record. own: samples that stay with it. residual: where it keeps what it has not sent
    yet."""

    def __init__(self, recipe: Recipe, welcome: Welcome, own: Data | None = None, residual: Path | None = None) -> None:
        self.wire = Wire()
        self.record = Record(welcome.spec.session)
        self.inbox = Inbox()
        self.inbox.put(welcome)
        self.inbox.get()
        self.computer = prepare(recipe, welcome.spec.settings.seed, self.record.note, own=own)
        kept = self.computer.first_residual(ResidualFile(residual, self.record.note) if residual else None)
        self.member = Member(self.wire, self.record, self.computer, welcome, self.inbox, kept)

    def at_forward(self, number: int, act: Callable[[], None]) -> None:
        """Call `act` in the forward pass of that number from now on."""
        numbers = itertools.count(1)

        def hook(*args: object) -> None:
            if next(numbers) == number:
                act()

        self.computer.model.register_forward_pre_hook(hook)

    def take_all(self, count: int) -> None:
        """Let the member answer so many items of its inbox."""
        for _ in range(count):
            item = self.inbox.get()
            if isinstance(item, Pause):
                self.member.pause(item.reason)
            else:
                self.member.handle(item)  # type: ignore[arg-type]

    def done(self) -> LeaseDone:
        """The only lease that it has answered since this was asked last."""
        (message,) = self.wire.take(LeaseDone)
        assert isinstance(message, LeaseDone)
        return message


class Classroom:
    """Plays the coordinator of one session of `recipe`."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.first, self.changes = rules_of(recipe.strategy, recipe.optimizer, recipe.predictions)
        computer = prepare(recipe, recipe.seed)
        self.layout = computer.layout
        self.spec = SessionSpec(
            name="toy", recipe="0" * 64, layout_digest=self.layout.digest, rule=self.first,
            settings=SessionSettings(seed=recipe.seed, rounds=recipe.rounds), samples=computer.samples[0],
            held_out=computer.samples[1], initial="", session="toy-1", changes=self.changes,
        )  # fmt: skip
        self.view = FlatVector.of(self.layout, computer.model)
        self.holder = Holder(self.layout, self.first, "toy-1")
        shards = tuple(shard.index for shard in self.layout.shards)
        self.holder.load(self.view, shards)
        self.holder.adopt(Adopt(1, 0, 0, shards))
        self.tag = session_tag("toy-1")
        self.version = 0
        self.position = 0
        self._lease = 0
        self._number = 0

    @property
    def rule(self) -> RoundRule:
        """The rule of the round under way."""
        return rule_of(self.first, self.changes, self.version + 1)

    def change(self, desk: Desk, *changes: StrategyChange) -> None:
        """Another strategy for rounds to come."""
        self.changes = changes
        desk.inbox.put(Strategy(1, changes))
        message = desk.inbox.get()
        assert isinstance(message, Strategy)
        desk.member.handle(message)

    def welcome(self, generation: int = 1) -> Welcome:
        return Welcome("peer-1", "Ann", "token", generation, self.version, self.spec, self.layout, 0)

    def join(self, own: Data | None = None, residual: Path | None = None) -> Desk:
        """A member that is synced."""
        desk = Desk(self.recipe, self.welcome(), own, residual)
        desk.member.welcome(self.welcome())
        self.offer(desk)
        return desk

    def offer(self, desk: Desk) -> None:
        """Answer a request for a snapshot, all of it."""
        assert desk.wire.take(WantSnapshot)
        self._number += 1
        desk.member.handle(SnapshotOffer(1, self._number, self.version, self.view.chunk_digests()))
        for want in desk.wire.take(WantSnapshot):
            assert isinstance(want, WantSnapshot)
            for frame in self.chunks(self._number, want.chunks):
                desk.member.arrivals.take(frame)
            event = desk.inbox.get()
            desk.member.snapshot_arrived(event)

    def chunks(self, number: int, chunks: tuple[int, ...]) -> Iterator[memoryview]:
        envelope = Envelope(Kind.SNAPSHOT, self.tag, 1, self.version, number)
        return value_frames(FrameWriter(), envelope, self.view, chunks)

    def lease(self, count: int, kind: str = "train", attempt: int = 1, own: bool = False) -> LeaseGrant:
        """The next `count` samples (of the held-out ones, the first)."""
        self._lease += 1
        start = 0 if kind == "evaluate" else self.position
        self.position += 0 if kind == "evaluate" else count
        inner = self.rule.inner_optimizer
        rate = inner.lr if inner and kind == "train" else 0.0
        return LeaseGrant(1, self.version + 1, attempt, self._lease, kind, start, start + count, rate, own)

    def train(self, desk: Desk, *counts: int, attempt: int = 1) -> None:
        """Lease after lease, all of which succeed."""
        for count in counts:
            desk.member.handle(self.lease(count, attempt=attempt))
            done = desk.done()
            assert not done.failed
            assert done.computed in (-1, count)

    def collect(self, desk: Desk, attempt: int = 1) -> tuple[int, int]:
        """Call for the contribution and stage it; returns (number, samples)."""
        desk.member.handle(ContributeNow(1, self.version + 1, attempt))
        announce = self.announced(desk)
        assert announce.base_version == self.version
        return self.upload(desk, announce, attempt)

    def announced(self, desk: Desk) -> Announce:
        (announce,) = desk.wire.take(Announce)
        assert isinstance(announce, Announce)
        return announce

    def upload(self, desk: Desk, announce: Announce, attempt: int = 1) -> tuple[int, int]:
        """Grant a contribution to the round under way, and stage it; returns (number, samples)."""
        self._number += 1
        self.holder.expect(Expect(1, self.version + 1, self._number))
        desk.member.handle(Grant(1, self.version + 1, attempt, announce.key, self._number, 5.0))
        assert sum(len(frame) for frame in desk.wire.frames) == announce.bytes
        staged = None
        for frame in desk.wire.frames:
            staged = self.holder.stage(frame)
        desk.wire.frames.clear()
        assert staged is not None
        assert staged.squares["gradient"] ** 0.5 == announce.norms["gradient"]
        return self._number, announce.loss_count

    def packets(self, contributions: list[tuple[int, int]], attempt: int = 1) -> list[bytes]:
        """Merge, step, install: the packets of the next version."""
        rate = self.rule.optimizer.lr
        total = sum(weight for _, weight in contributions)
        prepare = Prepare(
            1, self.version + 1, attempt, tuple(contributions), total, self.rule.optimizer, rate, self.rule.clip_norm
        )
        norm = self.holder.merge(prepare) ** 0.5
        frames = [bytes(frame) for frame in self.holder.step(prepare, norm)]
        self.holder.install()
        packets = PacketSet(self.layout, self.rule, self.tag, 1, self.version + 1, attempt)
        for frame in frames:
            packets.add(frame)
        packets.apply(self.view)
        self.version += 1
        self.holder.change_rule(self.rule)
        return frames

    def commit(self, attempt: int = 1) -> Commit:
        return Commit(1, self.version, attempt, self.position, 1, 0.5, 0.01, self.version % len(self.layout.shards))

    def deliver(self, desk: Desk, frames: list[bytes], attempt: int = 1) -> None:
        for frame in frames:
            desk.member.arrivals.take(frame)
        desk.member.handle(self.commit(attempt))

    def round(self, desk: Desk, *counts: int) -> None:
        """A whole round with one member."""
        self.train(desk, *counts)
        self.deliver(desk, self.packets([self.collect(desk)]))

    @property
    def parameters(self) -> torch.Tensor:
        """Those of the version that stands, in one row."""
        return self.view.sections[Stream.PARAMETERS]


def parameters_of(computer: Computer) -> torch.Tensor:
    """Those of its live model, in one row."""
    return FlatVector.of(computer.layout, computer.model).sections[Stream.PARAMETERS]


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return bool(torch.linalg.vector_norm(one - other) <= tolerance * torch.linalg.vector_norm(other))


def out_of_memory_above(computer: Computer, samples: int) -> None:
    """Have the model's forward pass fail as a GPU does that is too small for more samples."""
    forward = computer.model.forward

    def limited(x: torch.Tensor) -> torch.Tensor:
        if len(x) > samples:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(x)

    computer.model.forward = limited  # type: ignore[method-assign]
