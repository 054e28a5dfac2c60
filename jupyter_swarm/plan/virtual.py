"""Virtual peers: they say what real ones say, when real ones would, and compute nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from ..protocol import messages as m
from .clock import Do, SharedLink, Transfer
from .scenario import Machine

if TYPE_CHECKING:
    from .simulator import Session

_NORM = 1.0
"""Of the gradient of every sample, and of all steps of a contribution."""


class VirtualPeer:
    """One peer. here: its kernel runs; live: it has the parameters and follows the session."""

    def __init__(self, session: Session, name: str, machine: Machine) -> None:
        self.session, self.name, self.machine = session, name, machine
        self.here = self.live = False
        self.connection = 0
        self.version = -1
        self.key = 0
        self.transfers: set[Transfer] = set()
        self._task = 0
        self._forget()
        self.here_since = self.live_since = self.idle_since = -1.0
        self.missed = 0
        """Rounds in a row that went without it while it was live."""

    def _forget(self) -> None:
        self.leases: list[m.LeaseGrant] = []
        self.computing: m.LeaseGrant | None = None
        self.began = 0.0
        self.attempt = (0, 0)
        self.announced = 0

    # --- coming and going

    def connect(self) -> None:
        """Its kernel joins: it fetches the parameters, but for those that everybody builds from the seed."""
        self.here, self.here_since = True, self.session.now
        self._forget()
        self.session.joined(self)
        self.say(m.WantSnapshot(self.session.generation))
        self._fetch(self.session.state.version, self.session.snapshot_bytes if self.session.state.version else 0)

    def _fetch(self, version: int, size: int) -> None:
        self.version = version
        if size:
            self.down(size, self._fetched)
        else:
            self.soon(self.session.half_trip, self._fetched)

    def _fetched(self) -> None:
        """What was committed meanwhile is in the journal."""
        missing = self.session.state.version - self.version
        if missing:
            self._fetch(self.session.state.version, missing * self.session.traffic.down)
            return
        self.session.joins.append(self.session.now - self.here_since)
        self.live, self.live_since, self.idle_since = True, self.session.now, self.session.now
        self.say(m.Synced(self.session.generation, self.version, ""))
        self._want_work()

    def leave(self) -> None:
        """Its kernel is killed."""
        self.session.leaves(self)
        self.here = self.live = False
        self.connection += 1
        self._task += 1
        self.computing = None
        for transfer in self.transfers:
            transfer.link.lose(transfer)
        self.transfers.clear()

    # --- messages and bytes

    def say(self, message: m.FromMember) -> None:
        """A message to the server, on its way."""
        self.soon(self.session.half_trip, self.session.said, self.name, message)

    def soon(self, seconds: float, do: Do, *arguments: object) -> None:
        """Call something later, if this connection still stands then."""
        self.session.clock.after(seconds, self._if_here, self.connection, do, arguments)

    def _if_here(self, connection: int, do: Do, arguments: tuple[object, ...]) -> None:
        if connection == self.connection:
            do(*arguments)

    def down(self, size: int, then: Do, *arguments: object) -> None:
        """Receive so many bytes."""
        self._transfer(self.session.server_up, size, size / self.machine.link.down, then, arguments)

    def up(self, size: int, then: Do, *arguments: object) -> None:
        """Send so many bytes."""
        self._transfer(self.session.server_down, size, size / self.machine.link.up, then, arguments)

    def _transfer(self, link: SharedLink, size: int, own: float, then: Do, arguments: tuple[object, ...]) -> None:
        def done() -> None:
            self.transfers.discard(transfer)
            self.soon(self.session.half_trip, then, *arguments)

        transfer = link.send(size, own, done)
        self.transfers.add(transfer)

    def _want_work(self) -> None:
        self.say(m.WantWork(self.session.generation, self.version))

    def receive(self, message: m.Message) -> None:
        """A message from the server is here."""
        match message:
            case m.LeaseGrant():
                self._compute(message)
            case m.ContributeNow() if self.computing is not None:
                self._stop_early(message)
            case m.ContributeNow():
                self._contribute(message)
            case m.Grant() if message.key == self.announced:
                self.up(self.session.traffic.up, self.session.staged, message.number)
            case m.Accepted() if message.key == self.announced:
                self.announced = 0
            case m.Dropped():
                self._dropped(message)
            case m.Abort():
                self._forget()
                self._task += 1
                self._want_work()
            case m.Commit() if message.round == self.version + 1:
                self.version = message.round
                self.soon(self.session.handling, self._committed, message.round)
            case _:
                pass

    def _dropped(self, message: m.Dropped) -> None:
        self.session.drops += 1
        if message.key == self.announced:
            self.announced = 0
            if self.session.rule.overlap:
                self._forget()
                self._task += 1
                self._want_work()

    def _committed(self, round: int) -> None:
        rule = self.session.rule
        if rule.overlap:
            if self.attempt[0] == round + 1:
                if self.computing is None:
                    self._want_work()
                return
            self._forget()
            self._task += 1
        elif rule.work == "samples":
            self._forget()
            self._task += 1
        self._want_work()

    # --- computing

    def _compute(self, lease: m.LeaseGrant) -> None:
        if self.attempt != (lease.round, lease.attempt):
            announced = self.announced if self.session.rule.overlap else 0
            self._forget()
            self.announced = announced
            self.attempt = (lease.round, lease.attempt)
            self.session.begins(self)
        self._task += 1
        self.computing, self.began = lease, self.session.now
        count = lease.stop - lease.start
        self.soon(count / self.machine.speed, self._done, self._task, lease, count)

    def _stop_early(self, call: m.ContributeNow) -> None:
        """Others wait: end with the step under way, and contribute what there is."""
        lease, batch = self.computing, self.session.rule.inner_batch
        if lease is None or self.session.rule.work == "samples":
            return
        whole = lease.stop - lease.start
        steps = math.ceil((self.session.now - self.began) * self.machine.speed / batch)
        count = min(max(steps, 0) * batch, whole)
        self._task += 1
        rest = self.began + count / self.machine.speed - self.session.now
        self.soon(max(rest, 0.0), self._stopped, self._task, lease, count, call)

    def _stopped(self, task: int, lease: m.LeaseGrant, count: int, call: m.ContributeNow) -> None:
        if task == self._task:
            self._done(task, lease, count)
            self._contribute(call)

    def _done(self, task: int, lease: m.LeaseGrant, count: int) -> None:
        if task != self._task:
            return
        self.computing = None
        self.session.computed(self, count)
        if count:
            self.leases.append(msgspec.structs.replace(lease, stop=lease.start + count))
        computed = count if self.session.rule.work == "steps" else -1
        self.say(m.LeaseDone(self.session.generation, lease.lease, computed=computed))
        self._want_work()

    def _contribute(self, call: m.ContributeNow) -> None:
        if (call.round, call.attempt) != self.attempt or not self.leases:
            return
        session, rule = self.session, self.session.rule
        self.key += 1
        self.announced = self.key
        weight = sum(lease.stop - lease.start for lease in self.leases)
        norm = _NORM if rule.work == "steps" else _NORM * weight
        base = self.leases[0].round - 1 if rule.work == "steps" else self.version
        leases = tuple(lease.lease for lease in self.leases)
        self.leases = []
        announcement = m.Announce(
            session.generation, call.round, call.attempt, self.key, base, leases, {"gradient": norm}, 1.0 * weight,
            weight, session.traffic.up,
        )  # fmt: skip
        self.say(announcement)
        if rule.overlap:
            self._want_work()
