"""What a peer does in answer to each message: catch up, compute leases, contribute, apply commits.

One thread calls everything here. Whatever carries another generation, round or attempt than the one under way is late
and is ignored.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import nn

from ..link import Upload
from ..protocol import failpoints
from ..protocol.errors import LayoutError, LinkError, RecipeError
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
    Synced,
    ToMember,
    ViewDigest,
    WantSnapshot,
    WantWork,
    Welcome,
)
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
    """What was announced and is not decided."""

    key: int
    vector: FlatVector


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
        self.arrivals = Arrivals(welcome.layout, welcome.spec.rule, welcome.spec.session, inbox.put)
        self._rule = welcome.spec.rule
        self._inbox = inbox
        self._port = port
        self._record = record
        self._syncing = True
        self._offer: SnapshotOffer | None = None
        self._view_lock = threading.Lock()
        self._leases: list[int] = []
        self._loss = LossSum()
        self._attempt = (0, 0)
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
            Resync: lambda message: self._resync(message.reason),
        }

    def handle(self, message: ToMember) -> None:
        """Do what `message` asks for."""
        handler = self._handlers.get(type(message))
        if handler is not None and getattr(message, "generation", 0) == self.generation:
            handler(message)

    # --- catching up

    def welcome(self, welcome: Welcome) -> None:
        """A connection stands. Leases and contributions of an earlier one have gone back to the coordinator."""
        if welcome.layout.digest != self.layout.digest or welcome.spec.rule != self._rule:
            raise LayoutError("The session on the server is another one now.", todo="Join again.")
        still_good = welcome.generation == self.generation and not self._syncing
        self.generation = welcome.generation
        settings = welcome.spec.settings
        self._record.set(
            peer=welcome.peer, name=welcome.name, samples_done=welcome.samples_done, rounds=settings.rounds
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
        self._record.set(version=self.version)
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
        try:
            done = self._evaluate(lease) if lease.kind == "evaluate" else self._train(lease)
            self._failures = 0
        except Cancelled:
            return
        except LeaseFailed as error:
            done = LeaseDone(self.generation, lease.lease, failed=error.what)
            self._record.note(f"A lease failed on this peer: {error}")
            self._failures += 1
        self._port.send(done)
        if self._failures >= FAILURES:
            self.pause(f"its last {FAILURES} leases failed: {done.failed}")
        self._want_work()

    def _idle(self, reason: str) -> None:
        """Nothing is being computed."""
        self._record.set(state="paused" if self.paused else "waiting", reason=self.paused or reason)

    def _train(self, lease: LeaseGrant) -> LeaseDone:
        if self._attempt != (lease.round, lease.attempt):
            if self._leases or self._contribution is not None:
                self._forget_work()
            self._attempt = (lease.round, lease.attempt)
        if not self._leases:
            self._begin()
        self._record.set(state="training", reason="")
        with self._stopwatch.computing(lease.stop - lease.start):
            loss = self.computer.gradient(lease.start, lease.stop, lambda: self._inbox.voids("train"))
        self._fresh = False
        self._loss = self._loss.plus(loss)
        self._leases.append(lease.lease)
        return LeaseDone(self.generation, lease.lease)

    def _evaluate(self, lease: LeaseGrant) -> LeaseDone:
        with self._stopwatch.computing(0):
            sums, count = self.computer.evaluate(
                self.view, lease.start, lease.stop, lambda: self._inbox.voids("evaluate")
            )
        return LeaseDone(self.generation, lease.lease, sums=sums, count=count)

    def _begin(self) -> None:
        """The live model gets the view's numbers, the sum of gradients is zero."""
        if not self._fresh:
            self.computer.sum.start(self.view)
            self._fresh = True

    def _forget_work(self) -> None:
        """The leases and the contribution under way are no longer this peer's."""
        self._end_upload()
        self._contribution = None
        self._leases.clear()
        self._loss = LossSum()
        self._fresh = False

    # --- contributing

    def _contribute(self, message: ContributeNow) -> None:
        if (message.round, message.attempt) != self._attempt or not self._leases:
            return
        vector, norms = self.computer.sum.finish()
        self._key += 1
        self._contribution = _Contribution(self._key, vector)
        announcement = Announce(
            self.generation, message.round, message.attempt, self._key, self.version, tuple(self._leases), norms,
            self._loss.total, self._loss.samples, contribution_bytes(self.layout, self._rule),
        )  # fmt: skip
        self._leases.clear()
        self._loss = LossSum()
        self._fresh = False
        self._idle("its contribution waits for its turn to be sent")
        self._port.send(announcement)

    def _granted(self, grant: Grant) -> None:
        if self._contribution is None or grant.key != self._contribution.key or self._upload is not None:
            return
        envelope = Envelope(Kind.CONTRIBUTION, self.arrivals.session, self.generation, grant.round, grant.number)
        vector = self._contribution.vector
        frames = contribution_frames(self._writer, envelope, vector, self._rule)
        half = sum(len(shard.chunks()) for shard in self.layout.trained_shards) // 2
        self._idle("sending its contribution")
        self._upload = self._port.send_frames(_reaching_half(half, frames))

    def _accepted(self, message: Accepted) -> None:
        if self._contribution is not None and message.key == self._contribution.key:
            self._end_upload()
            self._contribution = None
            self._idle("waiting for the other peers")

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
        self._forget_work()
        with self._view_lock:
            packets.apply(self.view)
            self.version = commit.round
        self._resyncs = 0
        # What follows is done while the answer is on its way.
        self._want_work()
        self._begin()
        self._record.add_round(
            {
                "round": commit.round,
                "loss": commit.mean_loss,
                "learning_rate": commit.learning_rate,
                "samples_done": commit.samples_done,
                "contributions": commit.contributions,
            }
        )
        report = self._stopwatch.report()
        if report is not None:
            self._port.send(report)
        self._record.set(samples_here=self._stopwatch.samples)
        shard = self.layout.shards[commit.digest_shard]
        self._port.send(ViewDigest(self.generation, self.version, shard.index, self.view.digest(shard)))

    def _abort(self, abort: Abort) -> None:
        self.arrivals.drop(abort.round, abort.attempt)
        if (abort.round, abort.attempt) == self._attempt:
            self._forget_work()
        self._record.note(f"Round {abort.round} starts again: {abort.reason}.")
        self._want_work()

    def _status(self, message: Status) -> None:
        if not self._syncing and not self.paused:
            self._record.set(state=message.state, reason=message.reason)

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
