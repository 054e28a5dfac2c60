"""What a peer does in answer to each message: catch up, compute leases, contribute, apply commits.

One thread calls everything here. Whatever carries another generation, round or attempt than the one under way is late
and is ignored. A commit voids the gradients that are being computed, for they belong to the round before. It does not
void steps: how far they have come is kept beside the view, and may count one round later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
from torch import nn

from ..link import Upload
from ..protocol import failpoints
from ..protocol.errors import LayoutError, LinkError, RecipeError, Refusal
from ..protocol.frames import Kind
from ..protocol.messages import (
    Abort,
    Accepted,
    Announce,
    Commit,
    ContributeNow,
    Control,
    Dropped,
    Evaluated,
    Grant,
    LeaseDone,
    LeaseGrant,
    Message,
    Resync,
    Settings,
    SnapshotOffer,
    Status,
    Strategy,
    Synced,
    ToMember,
    ViewDigest,
    WantSnapshot,
    WantWork,
    Welcome,
)
from ..protocol.rules import RoundRule
from ..shards.gradients import GradientSum
from ..shards.incoming import SnapshotSet
from ..shards.outgoing import Envelope, FrameWriter, contribution_bytes, contribution_frames
from ..shards.vector import FlatVector
from .arrivals import Arrivals, SnapshotArrived
from .compute import Cancelled, Computer, LeaseFailed, LossSum
from .inbox import Inbox
from .record import Record
from .stopwatch import Stopwatch

FAILURES = 3
"""So many leases that fail in a row pause this peer."""
_RESYNCS = 3
_UPLOAD_END_SECONDS = 10.0


class Port(Protocol):
    """What a member needs of its link."""

    def send(self, message: Message) -> bool: ...

    def send_frames(self, frames: Iterable[tuple[memoryview, ...]]) -> Upload: ...


class _Contribution(NamedTuple):
    """What was announced and is not decided. base: the version that it was computed from. vector: None if what was
    computed came out as no numbers, and the announcement said so."""

    key: int
    vector: FlatVector | None
    base: int


class _Work:
    """What was computed since the last contribution: leases of one attempt at one round, all from version `base`."""

    def __init__(self, base: int = -1) -> None:
        self.base = base
        self.attempt = (0, 0)
        self.leases: list[int] = []
        self.loss = LossSum()
        self.steps = 0


class Member:
    """One peer of one session, from its first `Welcome` on. Raises `LayoutError` if its model is not the session's."""

    def __init__(
        self,
        port: Port,
        record: Record,
        computer: Computer,
        welcome: Welcome,
        inbox: Inbox,
    ) -> None:
        _check(computer, welcome)
        self.layout = welcome.layout
        self.version = -1
        self.generation = 0
        self.paused = ""
        self.computer = computer
        self.view = FlatVector.of(welcome.layout, computer.model)
        self.arrivals = Arrivals(welcome.layout, inbox.rule_of, welcome.spec.session, inbox.put)
        self._spec = welcome.spec
        self._inbox = inbox
        self._port = port
        self._record = record
        self._syncing = True
        self._offer: SnapshotOffer | None = None
        self._view_lock = threading.Lock()
        self._work = _Work()
        self._fresh = False
        self._contribution: _Contribution | None = None
        self._upload: Upload | None = None
        self._writer = FrameWriter()
        self._key = 0
        self._failures = 0
        self._resyncs = 0
        self._stopwatch = Stopwatch()
        self._handlers: dict[type, Callable[[Any], None]] = {
            SnapshotOffer: self._offered,
            LeaseGrant: self._lease,
            ContributeNow: self._contribute,
            Grant: self._granted,
            Accepted: self._accepted,
            Dropped: self._dropped,
            Commit: self._commit,
            Abort: self._abort,
            Evaluated: self._evaluated,
            Status: self._status,
            Settings: self._settings,
            Strategy: self._strategy,
            Resync: lambda message: self._resync(message.reason),
        }

    def handle(self, message: ToMember) -> None:
        """Do what `message` asks for."""
        handler = self._handlers.get(type(message))
        if handler is not None and getattr(message, "generation", 0) == self.generation:
            handler(message)

    @property
    def rule(self) -> RoundRule:
        """The rule of the round that comes after the view's version."""
        return self._spec.rule_of(self.version + 1)

    # --- catching up

    def welcome(self, welcome: Welcome) -> None:
        """A connection stands. Leases and contributions of an earlier one have gone back to the coordinator."""
        if welcome.layout.digest != self.layout.digest or welcome.spec.rule != self._spec.rule:
            raise LayoutError("The session on the server is another one now.", todo="Join again.")
        self._spec = welcome.spec
        still_good = welcome.generation == self.generation and not self._syncing
        self.generation = welcome.generation
        settings = welcome.spec.settings
        self._record.set(
            peer=welcome.peer,
            name=welcome.name,
            samples_done=welcome.samples_done,
            rounds=settings.rounds,
            predictions=welcome.spec.rule.predictions,
        )
        if self.paused:
            self._port.send(Control("pause"))
        if still_good:
            # The rounds since then are in the server's journal.
            self._forget_work()
            self.arrivals.reset(self.generation)
            self._synced(self.version)
        else:
            self._catch_up()

    def _catch_up(self) -> None:
        self._forget_work()
        self.arrivals.reset(self.generation)
        self._syncing = True
        self._offer = None
        self._record.set(state="syncing", reason="fetching the current parameters")
        self._port.send(WantSnapshot(self.generation))

    def _offered(self, offer: SnapshotOffer) -> None:
        if not self._syncing:
            return
        self._offer = offer
        snapshot = SnapshotSet(self.view, self.arrivals.session, self.generation, offer.number, offer.digests)
        missing = snapshot.missing
        if not missing:
            self._synced(offer.version)
            return
        # Until the last chunk is in, the view is a mixture.
        self.version = -1
        self.arrivals.expect(snapshot, offer.number)
        self._port.send(WantSnapshot(self.generation, offer.number, missing))

    def snapshot_arrived(self, event: SnapshotArrived) -> None:
        """The view is complete, or a chunk of it was bad."""
        if self._offer is None or event.number != self._offer.number:
            return
        if event.problem:
            self._resync(event.problem)
        else:
            self._synced(self._offer.version)

    def _synced(self, version: int) -> None:
        self._syncing = False
        self._offer = None
        self.version = version
        self.arrivals.has(version)
        self._begin()
        self._record.set(version=self.version, strategy=self.rule.strategy)
        self._idle("")
        self._port.send(Synced(self.generation, self.version, self.view.digest_all()))
        self._want_work()

    def _resync(self, reason: str) -> None:
        self._resyncs += 1
        self._record.note(f"Fetching the parameters again: {reason}")
        if self._resyncs == _RESYNCS:
            self._record.note("This peer does not keep up: its connection is too slow, or breaks again and again.")
        self._catch_up()

    # --- work

    def _want_work(self) -> None:
        if not self.paused and not self._syncing:
            self._port.send(WantWork(self.generation, self.version))

    def _lease(self, lease: LeaseGrant) -> None:
        if lease.round != self.version + 1:
            return
        compute = self._evaluate if lease.kind == "evaluate" else self._train
        try:
            with self._stopwatch.computing():
                done = compute(lease)
        except Cancelled:
            return
        except LeaseFailed as error:
            done = LeaseDone(self.generation, lease.lease, failed=error.what)
            self._record.note(f"A lease failed on this peer: {error}")
        self._failures = self._failures + 1 if done.failed else 0
        self._port.send(done)
        self._tell_speed()
        if self._failures >= FAILURES:
            self.pause(f"its last {FAILURES} leases failed: {done.failed}")
        self._want_work()

    def _idle(self, reason: str) -> None:
        """Nothing is being computed."""
        self._record.set(state="paused" if self.paused else "waiting", reason=self.paused or reason)

    def _train(self, lease: LeaseGrant) -> LeaseDone:
        other_attempt = self._work.leases and self._work.attempt != (lease.round, lease.attempt)
        if self._contribution is not None or other_attempt:
            self._forget_work()
        self._begin()
        self._work.attempt = (lease.round, lease.attempt)
        self._record.set(state="training", reason="")
        if self.rule.work == "steps":
            return self._steps(lease)
        loss = self.computer.gradient(
            lease.start, lease.stop, lambda: self._inbox.has("voids gradients"), own=lease.own
        )
        self._count(loss, steps=0)
        self._work.leases.append(lease.lease)
        return LeaseDone(self.generation, lease.lease)

    def _steps(self, lease: LeaseGrant) -> LeaseDone:
        """Make the lease's steps, or those that there is time for. What is computed when a step fails stays."""
        computed = 0
        failed = ""
        steps = self.computer.steps(
            lease.start, lease.stop, lease.learning_rate, lambda: self._inbox.has("voids steps"), own=lease.own
        )
        try:
            while computed < lease.stop - lease.start and not self.paused and not self._inbox.has("ends steps"):
                loss = next(steps)
                self._count(loss, steps=1)
                computed += loss.samples
                self._tell_speed()
        except LeaseFailed as error:
            failed = error.what
            self._record.note(f"A step failed on this peer: {error}")
        except Cancelled:
            # Steps before this one have changed the model already.
            self._forget_work()
            raise
        if computed:
            self._work.leases.append(lease.lease)
        return LeaseDone(self.generation, lease.lease, failed=failed, computed=computed)

    def _count(self, loss: LossSum, steps: int) -> None:
        self._fresh = False
        self._work.loss = self._work.loss.plus(loss)
        self._work.steps += steps
        self._stopwatch.count(loss.samples, steps)

    def _evaluate(self, lease: LeaseGrant) -> LeaseDone:
        sums, count = self.computer.evaluate(
            self.view, lease.start, lease.stop, lambda: self._inbox.has("voids evaluation")
        )
        return LeaseDone(self.generation, lease.lease, sums=sums, count=count)

    def _begin(self) -> None:
        """Unless something is computed already: the live model gets the view's numbers, nothing is summed."""
        if self._work.leases:
            return
        other = self.computer.follow(self.rule, self.version + 1)
        if other or not self._fresh:
            self.computer.worker.start(self.view)
            self._fresh = True
        self._work = _Work(self.version)

    def _forget_work(self) -> None:
        """The leases and the contribution under way are no longer this peer's."""
        self._end_upload()
        self._contribution = None
        self._work = _Work()
        self._fresh = False

    def _tell_speed(self) -> None:
        report = self._stopwatch.report()
        if report is not None:
            self._port.send(report)
            self._record.set(samples_per_second=report.samples_per_second, samples_here=self._stopwatch.done.samples)

    # --- contributing

    def _contribute(self, message: ContributeNow) -> None:
        if (message.round, message.attempt) == self._work.attempt and self._work.leases:
            self._announce()

    def _announce(self) -> None:
        """Make a contribution of what is computed."""
        work = self._work
        vector, norms = self._finish()
        self._key += 1
        self._contribution = _Contribution(self._key, vector, work.base)
        round_, attempt = work.attempt
        size = contribution_bytes(self.layout, self._spec.rule_of(round_), round_)
        announcement = Announce(
            self.generation, round_, attempt, self._key, work.base, tuple(work.leases), norms, work.loss.total,
            work.loss.samples, size, work.steps,
        )  # fmt: skip
        self._work = _Work()
        self._fresh = False
        self._idle("its contribution waits for its turn to be sent")
        self._port.send(announcement)

    def _finish(self) -> tuple[FlatVector | None, dict[str, float]]:
        worker = self.computer.worker
        try:
            return worker.finish() if isinstance(worker, GradientSum) else worker.finish(self.view)
        except Refusal as error:
            # An announcement without norms is refused, and its leases go back.
            self._record.note(str(error))
            return None, {}

    def _granted(self, grant: Grant) -> None:
        if self._contribution is None or grant.key != self._contribution.key or self._upload is not None:
            return
        vector = self._contribution.vector
        if vector is None:
            return
        envelope = Envelope(Kind.CONTRIBUTION, self.arrivals.session, self.generation, grant.round, grant.number)
        frames = contribution_frames(self._writer, envelope, vector, self._spec.rule_of(grant.round))
        half = sum(len(shard.chunks()) for shard in self.layout.trained_shards) // 2
        self._idle("sending its contribution")
        self._upload = self._port.send_frames(_reaching_half(half, frames))

    def _accepted(self, message: Accepted) -> None:
        if self._contribution is None or message.key != self._contribution.key:
            return
        late = self._contribution.base < self.version
        self._end_upload()
        self._contribution = None
        self._idle("its contribution is in: the round is being finished")
        if late:
            self._begin()

    def _dropped(self, message: Dropped) -> None:
        if self._contribution is not None and message.key == self._contribution.key:
            self._forget_work()
            self._record.note(f"A contribution of this peer did not count: {message.reason}.")

    def _end_upload(self) -> None:
        """Nothing is sent after this: the numbers that were being sent may be overwritten."""
        if self._upload is None:
            return
        self._upload.cancel()
        if not self._upload.wait(_UPLOAD_END_SECONDS):
            raise LinkError("The connection does not let go of a contribution.", todo="Join again.")
        self._upload = None

    # --- what the coordinator decides

    def _commit(self, commit: Commit) -> None:
        # One that comes while a snapshot is being fetched is sent again after it.
        if self._syncing or commit.round <= self.version:
            return
        packets = self.arrivals.packets_of(commit.round, commit.attempt)
        if packets is None or commit.round != self.version + 1:
            self._resync(f"the packets of round {commit.round} are not all here.")
            return
        self._keep_late(commit.round)
        with self._view_lock:
            packets.apply(self.view)
            self.version = commit.round
        self._resyncs = 0
        # What follows is done while the answer is on its way.
        self._want_work()
        if self._contribution is None:
            self._begin()
        self._add_round(commit)
        self._tell_speed()
        shard = self.layout.shards[commit.digest_shard]
        self._port.send(ViewDigest(self.generation, self.version, shard.index, self.view.digest(shard)))

    def _keep_late(self, round_: int) -> None:
        """Before the view becomes that of `round_`: what this peer has computed can still count if it is steps."""
        now, next_ = self._spec.rule_of(round_), self._spec.rule_of(round_ + 1)
        if now.work == next_.work == "steps" and next_.staleness and now.contribution == next_.contribution:
            if self._work.leases:
                self._announce()
            self._work = _Work()
            self._fresh = False
        else:
            self._forget_work()

    def _add_round(self, commit: Commit) -> None:
        here = self._stopwatch.lap()
        done = self._spec.rule_of(commit.round)
        self._record.add_round(
            {
                "round": commit.round,
                "loss": commit.mean_loss,
                "learning_rate": commit.learning_rate,
                "samples_done": commit.samples_done,
                "contributions": commit.contributions,
                "strategy": done.strategy,
                "samples": here.samples,
                "steps": here.steps,
                "computing": here.computing,
                "waiting": here.waiting,
            }
        )
        self._record.set(samples_here=self._stopwatch.done.samples, strategy=self.rule.strategy)

    def _abort(self, abort: Abort) -> None:
        self.arrivals.drop(abort.round, abort.attempt)
        # All leases have gone back, those of a contribution that is a round late too.
        self._forget_work()
        self._record.note(f"Round {abort.round} starts again: {abort.reason}.")
        self._want_work()

    def _status(self, message: Status) -> None:
        if not self._syncing and not self.paused:
            self._record.set(state=message.state, reason=message.reason)

    def _strategy(self, message: Strategy) -> None:
        self._spec = msgspec.structs.replace(self._spec, changes=message.changes)
        for change in message.changes:
            if change.round > self.version:
                self._record.note(f"From round {change.round} on: {change.rule.strategy}.")

    def _settings(self, message: Settings) -> None:
        self._record.set(rounds=message.settings.rounds)

    def _evaluated(self, message: Evaluated) -> None:
        self._record.add_evaluation(message.version, message.metrics, message.count)

    # --- what the user wants

    def digest(self) -> str:
        """SHA-256 of the view between two commits; from any thread."""
        with self._view_lock:
            return self.view.digest_all()

    def copy_to(self, model: nn.Module) -> bool:
        """Give the view between two commits to `model`; from any thread. False: there is no whole view yet."""
        with self._view_lock:
            if self.version >= 0 and not self._syncing:
                self.view.copy_to(model)
                return True
        return False

    def pause(self, reason: str) -> None:
        """Take no more leases. What is computed already is still contributed."""
        self.paused = reason
        self._record.set(state="paused", reason=reason)
        self._port.send(Control("pause"))

    def resume(self) -> None:
        """Take leases again."""
        self.paused = ""
        self._failures = 0
        self._idle("")
        self._port.send(Control("resume"))
        self._want_work()


def _check(computer: Computer, welcome: Welcome) -> None:
    difference = computer.layout.difference(welcome.layout)
    if difference:
        raise LayoutError(
            "The model that this recipe builds here is not the session's.",
            f"First model: here, second: the session's. In them, {difference}.",
            "Install the package versions that the instructor has, then join again.",
        )
    samples = computer.samples
    if samples != (welcome.spec.samples, welcome.spec.held_out):
        raise RecipeError(
            "The data that this recipe loads here is not the session's.",
            f"Training and held-out samples: {samples} here, {(welcome.spec.samples, welcome.spec.held_out)} there.",
            "Compare the data files and package versions with the instructor's.",
        )


_T = TypeVar("_T")


def _reaching_half(index: int, frames: Iterable[_T]) -> Iterator[_T]:
    for number, frame in enumerate(frames):
        if number == index:
            failpoints.reach("mid-upload")
        yield frame
