"""A session that never was: the real decisions, a virtual clock, thousands of virtual peers.

Nothing here decides: every event goes through `decisions.reducer.handle`, and what comes out is done as coordinator,
links and peers would do it. Messages take half a round trip, bytes share the server's link and have each peer's own,
steps take what the machine's speed says. Peers may be unequal, and go and come back. With the same seed the same
happens.
"""

from __future__ import annotations

import math
import random
import statistics
import time

import msgspec

from ..decisions import events as e
from ..decisions.effects import Effect, Place, Tell, TellPeers, WriteRecord
from ..decisions.reducer import handle
from ..decisions.state import new_state
from ..protocol import messages as m
from ..protocol.errors import SettingError
from ..protocol.layout import SHARD_ELEMENTS
from ..protocol.records import RoundRecord, ShardDigest
from .clock import Clock, SharedLink
from .formulas import traffic_of
from .scenario import Link, Machine, Scenario, check
from .virtual import VirtualPeer

_SAMPLES = 1 << 40
_SERVER = "server"
_TICK = 1.0
_MOST_STILL = 3600.0
"""After so many seconds without a commit, and ten rounds' worth, a session is taken to stand still."""
_JOIN_WITHIN = 1.0


class Trial(msgspec.Struct, frozen=True):
    """How the simulated session goes.

    rounds: counted ones, after a first in which nobody's speed is known. churn: share of the peers that goes in a
    second; away: mean seconds until one is back. spread: sigma of the log-normal distribution by which speeds and links
    differ around the scenario's (0: not at all). seed: of all that is drawn.
    """

    rounds: int = 10
    churn: float = 0.0
    away: float = 20.0
    spread: float = 0.0
    seed: int = 0


class Report(msgspec.Struct, frozen=True):
    """What was seen. Seconds are virtual, but for `decisions_per_second`.

    seconds: of a round, each. shares: of its time here that each peer computed, sorted. waits: seconds that a
    peer had nothing to do between two rounds, median and longest. counted, possible: samples that made a version, and
    that the peers who were here could have computed. drops: contributions that did not count. departures: how often
    somebody went; median_join: seconds from coming until following the session. missed: most rounds in a row that went
    without a peer which followed the session. contributors: peers in each round. decisions: events handled,
    `decisions_per_second` in a second of one of this machine's cores.
    """

    peers: int
    seconds: tuple[float, ...]
    shares: tuple[float, ...]
    median_wait: float
    longest_wait: float
    counted: int
    possible: float
    drops: int
    departures: int
    median_join: float
    missed: int
    contributors: tuple[int, ...]
    decisions: int
    decisions_per_second: float

    @property
    def round_seconds(self) -> float:
        """Of the mean round."""
        return statistics.fmean(self.seconds)

    @property
    def share(self) -> float:
        """Of the time that the mean peer computed."""
        return statistics.fmean(self.shares) if self.shares else 0.0

    @property
    def goodput(self) -> float:
        """Samples that counted ÷ samples possible."""
        return self.counted / self.possible


def simulate(scenario: Scenario, trial: Trial) -> Report:
    """Let a session run. Raises `SettingError` for what cannot be, or if it comes to a standstill."""
    check(scenario)
    if not (trial.rounds > 0 and 0 <= trial.churn < math.inf and trial.away >= 0 and 0 <= trial.spread <= 3):
        raise SettingError(
            f"A trial of {trial.rounds} rounds, churn {trial.churn:g}, spread {trial.spread:g}.",
            todo="Choose 1 round or more, a churn of 0 or more, a spread from 0 to 3.",
        )
    return Session(scenario, trial).run()


class Session:
    """One session, its server, and who is around it."""

    def __init__(self, scenario: Scenario, trial: Trial) -> None:
        self.scenario, self.trial, self.rule = scenario, trial, scenario.rule
        self.clock = Clock()
        self.random = random.Random(trial.seed)
        self.traffic = traffic_of(scenario.rule, scenario.parameters)
        self.snapshot_bytes = 4 * scenario.parameters
        self.half_trip = scenario.trip / 2
        self.handling = scenario.handling_seconds
        self.server_up = SharedLink(self.clock, scenario.server.up)
        self.server_down = SharedLink(self.clock, scenario.server.down)
        self.shards = -(-scenario.parameters // SHARD_ELEMENTS)
        settings = msgspec.structs.replace(scenario.settings, rounds=0, evaluate_every=0)
        self.state = new_state("", scenario.rule, settings, _SAMPLES, 0, self.shards, elements=scenario.parameters)
        self.generation = self.state.generation
        self.peers = {
            f"peer-{number}": VirtualPeer(self, f"peer-{number}", self._unequal(machine))
            for number, machine in enumerate(scenario.peers, 1)
        }
        self.drops = self.departures = self.decisions = self.missed = 0
        self.deciding = 0.0
        self._arrived: dict[str, tuple[int, bool]] = {}
        self._commits: list[float] = []
        self._records: list[RoundRecord] = []
        self._waits: list[float] = []
        self.joins: list[float] = []
        self._computed: dict[str, float] = dict.fromkeys(self.peers, 0.0)
        self._lived: dict[str, float] = dict.fromkeys(self.peers, 0.0)
        self._possible = 0.0

    @property
    def now(self) -> float:
        return self.clock.now

    def _unequal(self, machine: Machine) -> Machine:
        if not self.trial.spread:
            return machine
        speed, up, down = (self.random.lognormvariate(0.0, self.trial.spread) for _ in range(3))
        return Machine(machine.speed * speed, Link(machine.link.up * up, machine.link.down * down))

    # --- running

    def run(self) -> Report:
        """From the opening to the last round."""
        self.handle(e.MemberJoined(_SERVER, "holder"))
        for peer in self.peers.values():
            within = self.random.uniform(0.0, _JOIN_WITHIN) if self.trial.spread or self.trial.churn else 0.0
            self.clock.after(within, self._comes, peer)
        self.clock.after(_TICK, self._tick)
        while len(self._commits) <= self.trial.rounds:
            self.clock.step()
        return self._report()

    def _check_that_it_goes_on(self) -> None:
        last = self._commits[-1] if self._commits else 0.0
        usual = 10 * (self._commits[-1] - self._commits[0]) / max(len(self._commits) - 1, 1) if self._commits else 0.0
        alone = max(self.rule.inner_steps * self.rule.inner_batch, self.rule.target_batch)
        if self.now - last > max(_MOST_STILL, usual, 100 * alone / self.scenario.peers[0].speed):
            raise SettingError(
                f"The simulated session stands still after {len(self._commits)} rounds.",
                "What peers send does not come through in time, or nobody stays long enough.",
                "Choose faster links, a smaller model or less churn.",
            )

    def _tick(self) -> None:
        self.handle(e.Tick())
        self._check_that_it_goes_on()
        self.clock.after(_TICK, self._tick)

    def _comes(self, peer: VirtualPeer) -> None:
        peer.connect()
        if self.trial.churn:
            self.clock.after(self.random.expovariate(self.trial.churn), self._goes, peer)

    def _goes(self, peer: VirtualPeer) -> None:
        self.departures += 1
        peer.leave()
        self.handle(e.MemberLost(peer.name, "killed"))
        self.clock.after(self.random.expovariate(1 / max(self.trial.away, 1e-3)), self._comes, peer)

    def handle(self, event: e.AnyEvent) -> None:
        """Let the decisions decide, and do what they want."""
        start = time.thread_time()
        self.state, effects = handle(self.state, event, self.now)
        self.deciding += time.thread_time() - start
        self.decisions += 1
        for effect in effects:
            self._do(effect)

    def _do(self, effect: Effect) -> None:
        match effect:
            case Tell() if effect.member == _SERVER:
                self._hold(effect.message)
            case Tell():
                peer = self.peers[effect.member]
                peer.soon(self.half_trip, peer.receive, effect.message)
            case TellPeers():
                self._tell_peers(effect.message)
            case Place():
                self.clock.after(0.0, self.handle, e.Placed(effect.number))
            case WriteRecord():
                self.clock.after(self.scenario.recording, self._record, effect.record)
            case _:
                pass

    def said(self, member: str, message: m.FromMember) -> None:
        """A message has reached the server."""
        self.handle(e.Said(member, message))

    def joined(self, peer: VirtualPeer) -> None:
        """A connection stands."""
        self.handle(e.MemberJoined(peer.name, "peer"))

    # --- the server's holder, and its disk

    def staged(self, number: int) -> None:
        """All of a contribution is here."""
        contribution = self.state.round.contributions.get(number)
        if contribution is not None:
            # The first byte came half a round trip after the grant was on its way for as long.
            seconds = self.now - contribution.granted_at - self.scenario.trip
            self.handle(e.Measured(contribution.peer, "up", contribution.bytes, seconds))
            squares = {stream: norm**2 for stream, norm in contribution.norms.items()}
            self.said(_SERVER, m.Staged(self.generation, number, squares))

    def _hold(self, message: m.Message) -> None:
        match message:
            case m.Prepare():
                seconds = self.scenario.merging_seconds(len(message.contributions))
                self.clock.after(seconds, self._merged, message)
            case m.ClipBy():
                self._send_packets(message.round, message.attempt)
            case _:
                pass

    def _merged(self, message: m.Prepare) -> None:
        if self._is_void(message.round, message.attempt):
            return
        if message.clip_norm:
            self.said(_SERVER, m.PartialNorm(self.generation, message.round, message.attempt, 1.0))
        else:
            self._send_packets(message.round, message.attempt)

    def _is_void(self, round: int, attempt: int) -> bool:
        current = self.state.round
        return (round, attempt) != (current.number, current.attempt) or self.state.phase != "preparing"

    def _send_packets(self, round: int, attempt: int) -> None:
        for peer in self.peers.values():
            if peer.live:
                self._arrived[peer.name] = (round, False)
                peer.down(self.traffic.down, self._packets_here, peer, round)
        digests = tuple(ShardDigest(shard, 0, "") for shard in range(self.shards))
        self.said(_SERVER, m.Prepared(self.generation, round, attempt, digests))

    def _packets_here(self, peer: VirtualPeer, round: int) -> None:
        if self.state.version >= round:
            peer.receive(self._commit)
        else:
            self._arrived[peer.name] = (round, True)

    def _tell_peers(self, message: m.Message) -> None:
        """A commit comes behind its packets."""
        if isinstance(message, m.Commit):
            self._commit = message
            for peer in self.peers.values():
                if not peer.live:
                    continue
                round, here = self._arrived.get(peer.name, (0, False))
                if round != message.round:  # it was not yet here when they were sent
                    peer.down(self.traffic.down, peer.receive, message)
                elif here:
                    peer.soon(self.half_trip, peer.receive, message)
        elif isinstance(message, m.Abort):
            for peer in self.peers.values():
                if peer.live:
                    peer.soon(self.half_trip, peer.receive, message)

    def _record(self, record: RoundRecord) -> None:
        if record is not self.state.round.record:
            return
        self._look_at(record)
        self.handle(e.Recorded(record.round, record.attempt))

    # --- what is seen

    def _look_at(self, record: RoundRecord) -> None:
        first = not self._commits
        last = self.now if first else self._commits[-1]
        self._commits.append(self.now)
        if first:
            self._begin_to_count()
            return
        self._records.append(record)
        took_part = {contributor.peer for contributor in record.contributors}
        for peer in self.peers.values():
            if peer.name in took_part or not peer.live or peer.live_since > last:
                peer.missed = 0
            else:
                peer.missed += 1
                self.missed = max(self.missed, peer.missed)

    def _begin_to_count(self) -> None:
        self._waits.clear()
        self.joins.clear()
        self._possible, self.departures, self.drops = 0.0, 0, 0
        for peer in self.peers.values():
            self._computed[peer.name] = self._lived[peer.name] = 0.0
            peer.here_since = peer.live_since = self.now
            peer.began = max(peer.began, self.now)

    def begins(self, peer: VirtualPeer) -> None:
        """A peer has got work of another round."""
        self._waits.append(self.now - peer.idle_since)

    def computed(self, peer: VirtualPeer, count: int) -> None:
        """A peer has computed a lease, or so many samples of it."""
        self._computed[peer.name] += self.now - peer.began
        peer.idle_since = self.now

    def leaves(self, peer: VirtualPeer) -> None:
        """A peer goes: what it could have computed until now."""
        if peer.computing is not None:
            self._computed[peer.name] += self.now - peer.began
        if peer.live:
            self._lived[peer.name] += self.now - peer.live_since
        self._possible += peer.machine.speed * (self.now - peer.here_since)
        peer.missed = 0

    def _report(self) -> Report:
        for peer in self.peers.values():
            if peer.here:
                self.leaves(peer)
        shares = sorted(
            min(self._computed[name] / lived, 1.0) for name, lived in self._lived.items() if lived > 0
        )  # fmt: skip
        return Report(
            peers=len(self.peers),
            seconds=tuple(after - before for before, after in zip(self._commits, self._commits[1:], strict=False)),
            shares=tuple(shares),
            median_wait=statistics.median(self._waits) if self._waits else 0.0,
            longest_wait=max(self._waits, default=0.0),
            counted=sum(record.samples for record in self._records),
            possible=self._possible,
            drops=self.drops,
            departures=self.departures,
            median_join=statistics.median(self.joins) if self.joins else 0.0,
            missed=self.missed,
            contributors=tuple(len(record.contributors) for record in self._records),
            decisions=self.decisions,
            decisions_per_second=self.decisions / max(self.deciding, 1e-9),
        )
