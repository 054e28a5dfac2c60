"""What a peer does in answer to each message: catch up, compute leases, contribute, apply commits.

One thread calls everything here. Whatever carries another generation, round or attempt than the one under way is late
and is ignored. A commit voids the gradients that are being computed, for they belong to the round before. It does not
void steps: how far they have come is kept beside the view, and may count one round later. Where a rule lets steps go
on while a round is finished, what comes for that round is handled between two steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec

from ..link import Upload
from ..protocol import messages as m
from ..protocol.errors import LayoutError, RecipeError
from ..protocol.frames import Kind
from ..protocol.rules import RoundRule, lateness
from ..shards.incoming import SnapshotSet
from ..shards.outgoing import Envelope, FrameWriter, contribution_bytes
from .arrivals import Arrivals, SnapshotArrived
from .compute import Computer
from .contribution import Contribution
from .forward import Cancelled, LeaseFailed
from .inbox import Inbox
from .memory import memory_of
from .record import Record
from .residual import Residual
from .stopwatch import Stopwatch
from .work import Work

_RESYNCS = 3
_BETWEEN_STEPS = (m.Grant, m.Accepted, m.Commit, m.Evaluated, m.Status, m.Settings, m.Strategy, m.Dropped)


class Port(Protocol):
    """What a member needs of its link."""

    def send(self, message: m.Message) -> bool: ...

    def send_frames(self, frames: Iterable[tuple[memoryview, ...]]) -> Upload: ...


class Member:
    """One peer of one session, from its first `Welcome` on. Raises `LayoutError` if its model is not the session's,
    `RecipeError` if its data are not."""

    def __init__(
        self,
        port: Port,
        record: Record,
        computer: Computer,
        welcome: m.Welcome,
        inbox: Inbox,
        residual: Residual | None = None,
    ) -> None:
        _check(computer, welcome)
        self.layout = welcome.layout
        self.generation = 0
        self.paused = ""
        self.view = computer.first_view()
        self.arrivals = Arrivals(welcome.layout, inbox.rule_of, welcome.spec.session, inbox.put)
        self._spec = welcome.spec
        self._port = port
        self._record = record
        self._syncing = True
        self._finished = self._halted = ""
        self._offer: m.SnapshotOffer | None = None
        self._resyncs = 0
        self._inbox = inbox
        self._work = Work(computer, self.view, inbox)
        self._steps_go_on = False
        self._contribution: Contribution | None = None
        self.residual = residual or computer.first_residual()
        self._key = 0
        self._writer = FrameWriter()
        self._stopwatch = Stopwatch(free_memory=lambda: memory_of(computer.device).free)
        self._handlers: dict[type, Callable[[Any], None]] = {
            m.SnapshotOffer: self._offered,
            m.LeaseGrant: self._lease,
            m.ContributeNow: self._contribute,
            m.Grant: self._granted,
            m.Accepted: self._accepted,
            m.Dropped: self._dropped,
            m.Commit: self._commit,
            m.Abort: self._abort,
            m.Evaluated: self._evaluated,
            m.Status: self._status,
            m.Settings: self._settings,
            m.Strategy: self._strategy,
            m.Resync: lambda message: self._resync(message.reason),
        }

    def handle(self, message: m.ToMember) -> None:
        """Do what `message` asks for."""
        handler = self._handlers.get(type(message))
        if handler is not None and getattr(message, "generation", 0) == self.generation:
            handler(message)

    @property
    def rule(self) -> RoundRule:
        """The rule of the round that comes after the view's version."""
        return self._spec.rule_of(self.view.version + 1)

    # --- catching up

    def welcome(self, welcome: m.Welcome) -> None:
        """A connection stands. Leases and contributions of an earlier one have gone back to the coordinator."""
        if welcome.layout.digest != self.layout.digest or welcome.spec.rule != self._spec.rule:
            raise LayoutError("The session on the server is another one now.", todo="Join again.")
        self._spec = welcome.spec
        same = welcome.generation == self.generation
        if not same:
            self.residual.stands_at(welcome.version, others_count=False)
        self.residual.welcome(welcome)
        still_good = same and not self._syncing
        self.generation = welcome.generation
        self._finished = self._halted = ""
        settings = welcome.spec.settings
        self._record.set(
            peer=welcome.peer,
            name=welcome.name,
            samples_done=welcome.samples_done,
            rounds=settings.rounds,
            predictions=welcome.spec.rule.predictions,
        )
        if self.paused:
            self._port.send(m.Control("pause"))
        if still_good:
            # The rounds since then are in the server's journal.
            self._forget_work()
            self.arrivals.reset(self.generation)
            self._synced(self.view.version)
        else:
            self._catch_up()

    def _catch_up(self) -> None:
        self._forget_work()
        self.arrivals.reset(self.generation)
        self._syncing = True
        self._offer = None
        self._work.view_lost()
        self._record.set(state="syncing", reason="fetching the current parameters")
        self._port.send(m.WantSnapshot(self.generation))

    def _offered(self, offer: m.SnapshotOffer) -> None:
        if not self._syncing:
            return
        self._offer = offer
        snapshot = SnapshotSet(self.view.vector, self.arrivals.session, self.generation, offer.number, offer.digests)
        missing = snapshot.missing
        if not missing:
            self._synced(offer.version)
            return
        self.view.set_version(-1)
        self.arrivals.expect(snapshot, offer.number)
        self._port.send(m.WantSnapshot(self.generation, offer.number, missing))

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
        self.residual.stands_at(version)
        self.view.set_version(version)
        self.arrivals.has(version)
        self._work.begin(self.rule)
        self._record.set(version=version, strategy=self.rule.strategy)
        self._idle("for work from the server")
        self._port.send(m.Synced(self.generation, version, self.view.digest()))
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
            self._port.send(m.WantWork(self.generation, self.view.version))

    def _lease(self, lease: m.LeaseGrant) -> None:
        goes_on = self.rule.overlap  # the strategy may change between two steps
        if self._syncing or lease.round - self.view.version not in ((1, 2) if goes_on else (1,)):
            return
        compute = self._work.evaluate if lease.kind == "evaluate" else self._train
        try:
            with self._stopwatch.computing():
                done = compute(lease)
        except Cancelled:
            if goes_on:
                self._want_work()
            return
        except LeaseFailed as error:
            done = m.LeaseDone(self.generation, lease.lease, failed=error.what)
            self._record.note(f"A lease failed on this peer: {error}")
        self._port.send(done)
        self._tell_speed()
        self._want_work()

    def _train(self, lease: m.LeaseGrant) -> m.LeaseDone:
        rule = self._spec.rule_of(lease.round)
        if self._contribution is not None and not rule.overlap:
            self._forget_work()
        if not self.paused:  # a lease that was on its way when the user paused this peer
            self._record.set(state="training", reason="")
        self._steps_go_on = rule.overlap
        try:
            return self._work.train(lease, rule, bool(self.paused), self._computed)
        finally:
            self._steps_go_on = False

    def _computed(self, samples: int) -> None:
        self._stopwatch.count(samples)
        self._tell_speed()
        while self._steps_go_on and (message := self._inbox.take_if(_BETWEEN_STEPS)) is not None:
            self.handle(message)  # type: ignore[arg-type]

    def _tell_speed(self) -> None:
        report = self._stopwatch.report()
        if report is not None:
            self._port.send(report)
            self._record.set(samples_per_second=report.samples_per_second, samples_here=self._stopwatch.done.samples)

    def _idle(self, reason: str) -> None:
        """Nothing is being computed."""
        if self._steps_go_on:
            return
        if self._finished:
            self._record.set(state="finished", reason=self._finished)
        else:
            stands = self.paused or self._halted
            self._record.set(state="paused" if stands else "waiting", reason=stands or reason)

    def _forget_work(self) -> None:
        """The leases and the contribution under way are no longer this peer's."""
        if self._contribution is not None:
            self.residual.lost(self._contribution.encoded)
        self._end_contribution()
        self._work.forget()

    # --- contributing

    def _contribute(self, message: m.ContributeNow) -> None:
        if (message.round, message.attempt) == self._work.attempt and self._work.leases:
            self._announce()

    def _announce(self) -> None:
        """Make a contribution of what is computed."""
        work = self._work
        self._end_contribution()
        vector, norms = work.finish()
        round_, attempt = work.attempt
        encoded = None
        if vector is not None:
            encoded = self.residual.encode(vector, self._spec.rule_of(round_), work.base)
        if encoded is not None:
            norms = {**norms, "gradient": encoded.norm}
        self._key += 1
        size = contribution_bytes(self.layout, self._spec.rule_of(round_), round_)
        announcement = m.Announce(
            self.generation, round_, attempt, self._key, work.base, tuple(work.leases), norms, work.loss.total,
            work.loss.samples, size, work.steps,
        )  # fmt: skip
        self._contribution = Contribution(self._key, work.base, vector, encoded)
        work.forget()
        self._idle("its contribution waits for its turn to be sent")
        self._port.send(announcement)
        if self._spec.rule_of(round_).overlap:
            self._want_work()

    def _under_way(self, key: int) -> Contribution | None:
        """The contribution that was announced as `key`, unless it is decided."""
        return self._contribution if self._contribution is not None and self._contribution.key == key else None

    def _granted(self, grant: m.Grant) -> None:
        contribution = self._under_way(grant.key)
        if contribution is not None:
            self._idle("sending its contribution")
            envelope = Envelope(Kind.CONTRIBUTION, self.arrivals.session, self.generation, grant.round, grant.number)
            contribution.upload(self._port.send_frames, self._writer, envelope, self._spec.rule_of(grant.round))

    def _accepted(self, message: m.Accepted) -> None:
        contribution = self._under_way(message.key)
        if contribution is None:
            return
        self._end_contribution()
        self.residual.accepted(contribution.round, contribution.encoded)
        self._idle("its contribution is in: the round is being finished")
        if contribution.base < self.view.version and not self._steps_go_on:
            self._work.begin(self.rule)

    def _dropped(self, message: m.Dropped) -> None:
        if self._under_way(message.key) is not None:
            self._forget_work()
            self._record.note(f"A contribution of this peer did not count: {message.reason}.")

    def _end_contribution(self) -> None:
        if self._contribution is not None:
            self._contribution.end()
            self._contribution = None

    # --- what the coordinator decides

    def _commit(self, commit: m.Commit) -> None:
        # One that comes while a snapshot is being fetched is sent again after it.
        if self._syncing or commit.round <= self.view.version:
            return
        packets = self.arrivals.packets_of(commit.round, commit.attempt)
        if packets is None or commit.round != self.view.version + 1:
            self._resync(f"the packets of round {commit.round} are not all here.")
            return
        self._keep_late(commit.round)
        self.view.apply(packets)
        self._work.mix(commit.round)
        self.residual.stands_at(commit.round)
        self._resyncs = 0
        if not self._steps_go_on:
            # What follows is done while the answer is on its way.
            self._want_work()
            if self._contribution is None:
                self._work.begin(self.rule)
        self._record.set(
            version=commit.round,
            loss=commit.mean_loss,
            samples_done=commit.samples_done,
            samples_here=self._stopwatch.done.samples,
            strategy=self.rule.strategy,
        )
        self._tell_speed()
        shard = self.layout.shards[commit.digest_shard]
        self._port.send(m.ViewDigest(self.generation, commit.round, shard.index, self.view.shard_digest(shard)))

    def _keep_late(self, round_: int) -> None:
        """Before the view becomes that of `round_`: what this peer has computed can still count if it is steps."""
        made, rule = self._spec.rule_of(round_), self._spec.rule_of(round_ + 1)
        sent = self._contribution
        ahead = self._work.attempt[0] == round_ + 1 or (sent is not None and sent.base == round_)
        if rule.overlap and made == rule and ahead:
            return
        if lateness(made, rule) > 0:
            if self._work.leases:
                self._announce()
            self._work.forget()
        else:
            self._forget_work()

    def _abort(self, abort: m.Abort) -> None:
        self.arrivals.drop(abort.round, abort.attempt)
        # All leases have gone back, those of a contribution that is a round late too.
        self._forget_work()
        self.residual.stands_at(abort.round - 1, others_count=False)
        self._record.note(f"Round {abort.round} starts again: {abort.reason}.")
        self._want_work()

    def _status(self, message: m.Status) -> None:
        self._finished = message.reason if message.state == "finished" else ""
        if self._finished:
            self.residual.finished()
        self._halted = message.reason if message.state == "paused" else ""
        # Until the parameters are here, that is what it waits for.
        if not self._syncing and (self._finished or not self.paused):
            self._record.set(state=message.state, reason=message.reason)

    def _strategy(self, message: m.Strategy) -> None:
        self._spec = msgspec.structs.replace(self._spec, changes=message.changes)
        for change in message.changes:
            if change.round > self.view.version:
                self._record.note(f"From round {change.round} on: {change.reason or change.rule.strategy}.")

    def _settings(self, message: m.Settings) -> None:
        self._record.set(rounds=message.settings.rounds)

    def _evaluated(self, message: m.Evaluated) -> None:
        self._record.set(metrics=message.metrics)

    # --- what the user wants

    def pause(self, reason: str) -> None:
        """Take no more leases. What is computed already is still contributed."""
        self.paused = reason
        self._idle("")
        self.residual.rests(True)
        self._port.send(m.Control("pause"))

    def resume(self) -> None:
        """Take leases again."""
        self.paused = ""
        self.residual.rests(False)
        self._idle("for work from the server")
        self._port.send(m.Control("resume"))
        self._want_work()


def _check(computer: Computer, welcome: m.Welcome) -> None:
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
