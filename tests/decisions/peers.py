"""Peers as the protocol says, with their bad habits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from jupyter_swarm.protocol import messages as m
from tests.decisions.members import FakeHolder, Member

if TYPE_CHECKING:
    from tests.decisions.world import World

NORM = 0.5
"""Of every sample's gradient, so that a contribution's norm is this times its weight."""
HARD = 1000.0
"""The gradients of the samples in `World.hard` are so many times as large."""


class FakePeer(Member):
    """A peer. `speed` in samples per second, `bandwidth` in bytes per second; `breaks`: no lease succeeds here;
    `lies`: what it sends is not what it announces; `own`: so many samples of its own; `stopped`: it does nothing until
    it goes on, and nobody notices."""

    role = "peer"

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

    @property
    def healthy(self) -> bool:
        """Whether a class can count on it: it is here, behaves well, and is neither slow nor paused by its user."""
        bad = self.hung or self.breaks or self.lies or self.silent or self.paused or self.stopped
        return self.connected and not bad and not self.own and self.speed > 1.0 and self.bandwidth > 1e5

    def welcome(self) -> None:
        self.live = self.stopped = False
        self.missed = []
        self._forget()
        self._sync()

    def fetch_again(self) -> None:
        """Its view is wrong: it fetches the parameters, on the same connection."""
        self.live = False
        self._forget()
        self._task += 1
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
                early = message.round == self.version + 2 and self._goes_on(self.version + 1)
                assert early or message.round == self.version + 1, "work is for the version that the peer has"
                self._compute(message)
            case m.ContributeNow() if self.computing is not None:
                self._stop_early(message)
            case m.ContributeNow():
                self._announce(message)
            case m.Grant():
                self._send(message)
            case m.Accepted() if message.key == self.announced:
                self.announced = self.upload = 0
            case m.Dropped() if message.key == self.announced:
                self.announced = self.upload = 0
                if self._goes_on(self.version + 1):
                    # What it has done for the next round since then goes back as well.
                    self._forget()
                    self._task += 1
                    self._want_work()
            case m.Abort():
                if (message.round, message.attempt) == self.attempt or self._steps(message.round):
                    self._forget()
                self._task += 1
                self._want_work()
            case m.Commit() if message.round == self.version + 1:
                self._committed(message.round)
            case _:
                pass

    def _committed(self, round: int) -> None:
        self.version += 1
        if self._goes_on(round):
            if self.attempt[0] == round + 1 and self._goes_on(round + 1):
                if self.computing is None:
                    self._want_work()
                return
            self._forget()
            self._task += 1
        elif not self._steps(round):
            self._forget()
        self._want_work()

    def _goes_on(self, round: int) -> bool:
        return self.world.state.rule_of(round).overlap

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
            under_way = (self.announced, self.upload) if self._goes_on(lease.round) else (0, 0)
            self._forget()
            self.announced, self.upload = under_way
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
        if self._goes_on(call.round):
            self._want_work()

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
