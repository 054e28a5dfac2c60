"""What a peer computes for its next contribution, and what it measures for everybody, lease by lease."""

from __future__ import annotations

from collections.abc import Callable

from ..protocol.errors import Refusal
from ..protocol.messages import LeaseDone, LeaseGrant
from ..protocol.rules import RoundRule
from ..shards.gradients import GradientSum
from ..shards.streaming import StreamingPseudoGradient
from ..shards.vector import FlatVector
from .compute import Computer
from .forward import Cancelled, LeaseFailed, LossSum
from .inbox import Inbox, Sign
from .view import View


class Work:
    """Leases of one attempt at one round, computed from one version of the view.

    base: that version; where steps go on, the one before the round, which may still be on its way. attempt: (round,
    attempt). leases: those of which something is computed; loss and steps (inner ones) are of all of them.
    """

    base: int
    attempt: tuple[int, int]
    leases: list[int]
    loss: LossSum
    steps: int

    def __init__(self, computer: Computer, view: View, inbox: Inbox) -> None:
        self._computer = computer
        self._view = view
        self._inbox = inbox
        self.forget()

    def forget(self) -> None:
        """Nothing of what was computed is needed any more."""
        # Whether the live model is as the view and nothing is summed.
        self._fresh = False
        self._begin_at(-1)

    def begin(self, rule: RoundRule) -> None:
        """Unless something is computed already: the live model gets the view's numbers, nothing is summed."""
        if self.leases:
            return
        other = self._computer.follow(rule, self._view.version + 1)
        if other or not self._fresh:
            self._computer.worker.start(self._view.vector)
            self._fresh = True
        self._begin_at(self._view.version)

    def mix(self, round: int) -> None:
        """The result of `round` is in the view: where steps go on meanwhile, it gets into the live model now."""
        worker = self._computer.worker
        if isinstance(worker, StreamingPseudoGradient):
            worker.mix(self._view.vector, round)

    def view_lost(self) -> None:
        """The view will be another one: a live model that has gone its own way begins from that again."""
        worker = self._computer.worker
        if isinstance(worker, StreamingPseudoGradient):
            worker.lose()

    def train(self, lease: LeaseGrant, rule: RoundRule, paused: bool, each: Callable[[int], None]) -> LeaseDone:
        """Compute a lease: all of it, or those of its steps that there is time for. `each` is told after each how many
        samples are computed, and may let all be forgotten. Raises `LeaseFailed`, `Cancelled`."""
        if self.leases and self.attempt != (lease.round, lease.attempt):
            self.forget()
        self.begin(rule)
        if not self.leases:
            self.base = lease.round - 1
        self.attempt = lease.round, lease.attempt
        if rule.work == "steps":
            return self._steps(lease, "ends steps that go on" if rule.overlap else "ends steps", paused, each)
        loss = self._computer.gradient(
            lease.start, lease.stop, lambda: self._inbox.has("voids gradients"), own=lease.own
        )
        self._add(loss, steps=0)
        each(loss.samples)
        self.leases.append(lease.lease)
        return LeaseDone(lease.generation, lease.lease)

    def evaluate(self, lease: LeaseGrant) -> LeaseDone:
        """Measure the view on the lease's held-out samples. Raises as `train` does."""
        sums, count = self._computer.evaluate(
            self._view.vector, lease.start, lease.stop, lambda: self._inbox.has("voids evaluation")
        )
        return LeaseDone(lease.generation, lease.lease, sums=sums, count=count)

    def finish(self) -> tuple[FlatVector | None, dict[str, float]]:
        """What is computed, valid until more is, with its norms by stream name; (None, {}) if it is no numbers."""
        worker = self._computer.worker
        try:
            return (
                worker.finish()
                if isinstance(worker, GradientSum)
                else worker.finish(self._view.vector, self.attempt[0])
            )
        except Refusal as error:
            self._computer.say(str(error))
            return None, {}

    def _steps(self, lease: LeaseGrant, ends: Sign, paused: bool, each: Callable[[int], None]) -> LeaseDone:
        computed, failed = 0, ""
        steps = self._computer.steps(
            lease.start, lease.stop, lease.learning_rate, lambda: self._inbox.has("voids steps"), own=lease.own
        )
        try:
            while computed < lease.stop - lease.start and not (paused or self._inbox.has(ends)):
                loss = next(steps)
                self._add(loss, steps=1)
                computed += loss.samples
                each(loss.samples)
                if self.attempt != (lease.round, lease.attempt):
                    raise Cancelled
        except LeaseFailed as error:
            # What was computed before it stays.
            failed = error.what
            self._computer.say(f"A step failed on this peer: {error}")
        except Cancelled:
            # Steps before this one have changed the model already.
            self.forget()
            raise
        if computed:
            self.leases.append(lease.lease)
        return LeaseDone(lease.generation, lease.lease, failed=failed, computed=computed)

    def _add(self, loss: LossSum, steps: int) -> None:
        self._fresh = False
        self.loss = self.loss.plus(loss)
        self.steps += steps

    def _begin_at(self, version: int) -> None:
        self.base = version
        self.attempt = (0, 0)
        self.leases = []
        self.loss = LossSum()
        self.steps = 0
