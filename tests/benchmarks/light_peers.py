"""A crowd of light peers in one process: `python -m tests.benchmarks.light_peers LINK PEERS SECONDS [WATCH VIEWERS]`.

Each has a WebSocket of its own to a real server and speaks all of the protocol; what they would compute is made up: a
contribution is always the same noise, its loss falls as losses do, and a round's work lasts until SECONDS after the
last one's; with 0 seconds, until all have got theirs, so that each contributes to each round. They share one copy of
the parameters. The session must be paused until all are in, which is printed. They end when the connection does.

By the link WATCH so many viewers read whatever the session pushes.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import sys
import time

import torch
import websockets.asyncio.client as websockets

from jupyter_swarm.protocol import messages as m
from jupyter_swarm.protocol.frames import HEADER_BYTES, Kind, read_header, session_tag
from jupyter_swarm.protocol.invites import INVITE_HEADER, Invite, parse_invite
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.rules import RoundRule, rule_of
from jupyter_swarm.shards.gradients import norms_of
from jupyter_swarm.shards.incoming import PacketSet, SnapshotSet
from jupyter_swarm.shards.outgoing import Envelope, FrameWriter, contribution_frames
from jupyter_swarm.shards.vector import FlatVector

from .harness import allow_sockets

DEVICES = ("cpu", "cuda:0 NVIDIA T4", "mps", "cuda:0 NVIDIA GeForce RTX 4060 Laptop GPU")
ALL_IN = "all are in"
_AT_ONCE = 20
_NOISE = 1e-4
_LAST_SECONDS = 0.5
"""A round without a pace waits no longer for peers that have got no work."""


class Shared:
    """What all peers have in common: the parameters at the newest version that any of them is at, and the pace."""

    def __init__(self, welcome: m.Welcome, peers: int, round_seconds: float) -> None:
        self.spec = welcome.spec
        self.generation = welcome.generation
        self.tag = session_tag(welcome.spec.session)
        self.view = FlatVector(welcome.layout)
        self.noise = FlatVector(welcome.layout)
        self.noise.sections[Stream.PARAMETERS].normal_(std=_NOISE, generator=torch.Generator().manual_seed(0))
        self.norms = norms_of(self.noise)
        self.version = -1
        self._peers = peers
        self._round_seconds = round_seconds
        self._leased = 0, 0
        self._all_leased = asyncio.Event()
        self._packets: PacketSet | None = None
        self._seen: set[bytes] = set()
        self._digests: dict[int, str] = {}
        self._ends: dict[int, float] = {}

    def rule(self, round: int) -> RoundRule:
        """What holds for that round."""
        return rule_of(self.spec.rule, self.spec.changes, round)

    def end_of(self, round: int) -> float:
        """When that round's work is done, by `time.monotonic`."""
        if round not in self._ends:
            last = max(self._ends.values(), default=0.0)
            self._ends = {round: max(last + self._round_seconds, time.monotonic())}
        return self._ends[round]

    async def all_leased(self, round: int) -> None:
        """A peer has got its work of that round: wait until as many have as there are, or no more get any."""
        if self._leased[0] != round:
            self._all_leased.set()
            self._leased, self._all_leased = (round, 0), asyncio.Event()
        everybody = self._all_leased
        self._leased = round, self._leased[1] + 1
        if self._leased[1] >= self._peers:
            everybody.set()
        while not everybody.is_set():
            before = self._leased
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(everybody.wait(), _LAST_SECONDS)
            if self._leased == before:
                everybody.set()

    async def work(self, round: int, part: float) -> None:
        """Compute for `part` of the time that is left of that round, or as long as all have to."""
        if self._round_seconds:
            await asyncio.sleep((self.end_of(round) - time.monotonic()) * part)
        else:
            await self.all_leased(round)

    def take(self, frame: bytes) -> None:
        """A packet, unless it has come to another peer already."""
        header = read_header(frame)
        key = bytes(frame[:HEADER_BYTES])
        if header.kind != Kind.PACKET or header.round <= self.version or key in self._seen:
            return
        if self._packets is None or (self._packets.round, self._packets.attempt) != (header.round, header.attempt):
            self._packets = PacketSet(
                self.view.layout, self.rule(header.round), self.tag, self.generation, header.round, header.attempt
            )
            self._seen.clear()
        self._seen.add(key)
        self._packets.add(frame)

    def digest_after(self, commit: m.Commit) -> str:
        """Of the shard that is asked for, at the version that is committed."""
        if self.version < commit.round:
            assert self._packets is not None
            self._packets.apply(self.view)
            self.version = commit.round
            digest = self.view.digest(self.view.layout.shards[commit.digest_shard])
            self._digests = {commit.round - 1: self._digests.get(commit.round - 1, ""), commit.round: digest}
        return self._digests[commit.round]


class LightPeer:
    """One connection; `shared` is there once it has joined."""

    shared: Shared

    def __init__(self, name: str, device: str) -> None:
        self._name = name
        self._device = device
        self._leases: list[int] = []
        self._samples = 0
        self._key = 0
        self._since = time.monotonic()
        self._random = random.Random(name)

    async def join(self, invite: Invite, shared: Shared | None, peers: int, round_seconds: float) -> Shared:
        """Connect and fetch the parameters, as a real peer does; `shared` unless this is the first."""
        url = f"ws{invite.server.removeprefix('http')}/swarm/api/sessions/{invite.session}/peer"
        headers = {INVITE_HEADER: invite.secret}
        self._socket = await websockets.connect(
            url, additional_headers=headers, compression=None, max_size=None, proxy=None, ping_interval=None
        )
        await self._say(m.Hello(m.PROTOCOL_VERSION, "0.1.0", "peer", self._name, device=self._device))
        while not isinstance(welcome := await self._next(), m.Welcome):
            pass
        self.shared = shared or Shared(welcome, peers, round_seconds)
        self._generation = welcome.generation
        await self._say(m.WantSnapshot(self._generation))
        while not isinstance(offer := await self._next(), m.SnapshotOffer):
            pass
        if self.shared.version < 0:
            await self._fetch(offer)
        assert offer.version == self.shared.version, "the session goes on while the crowd comes in"
        await self._say(m.Synced(self._generation, offer.version, self.shared.view.digest_all()))
        return self.shared

    async def _fetch(self, offer: m.SnapshotOffer) -> None:
        shared = self.shared
        wanted = SnapshotSet(shared.view, shared.tag, self._generation, offer.number, offer.digests)
        if wanted.missing:
            await self._say(m.WantSnapshot(self._generation, offer.number, wanted.missing))
        while wanted.missing:
            frame = await self._socket.recv()
            if isinstance(frame, bytes):
                wanted.add(frame)
        shared.version = offer.version

    async def run(self) -> None:
        """Take part in every round."""
        await self._say(m.WantWork(self._generation, self.shared.version))
        while True:
            message = await self._next()
            match message:
                case m.LeaseGrant():
                    await self._compute(message)
                case m.ContributeNow() if self._leases:
                    await self._announce(message)
                case m.Grant():
                    await self._upload(message)
                case m.Commit():
                    digest = self.shared.digest_after(message)
                    await self._say(m.ViewDigest(self._generation, message.round, message.digest_shard, digest))
                    await self._say(m.WantWork(self._generation, message.round))
                case m.Heartbeat(ask=number) if number:
                    await self._say(m.Heartbeat(answer=number, filler="." * message.wanted))
                case m.Refused() | m.Resync() | m.Dropped():
                    print(f"{self._name}: {message}", file=sys.stderr, flush=True)  # the benchmark's log

    async def _compute(self, lease: m.LeaseGrant) -> None:
        count = lease.stop - lease.start
        if lease.kind == "evaluate":
            loss = self._loss(lease.round)
            sums = {"loss": 1.05 * loss * count, "accuracy": (1 - 0.3 * loss) * count}
            await self._say(m.LeaseDone(self._generation, lease.lease, sums=sums, count=count))
        else:
            await self.shared.work(lease.round, self._random.uniform(0.6, 1.0))
            self._leases.append(lease.lease)
            self._samples += count
            await self._say(m.LeaseDone(self._generation, lease.lease))
        await self._say(m.WantWork(self._generation, self.shared.version))
        now = time.monotonic()
        if now - self._since > 2:
            speed = self._random.uniform(50, 60) * (1 + len(self._name) % 3)
            await self._say(m.Progress(speed, 0.8 * (now - self._since), 0.2 * (now - self._since), 1 << 29))
            self._since = now

    async def _announce(self, call: m.ContributeNow) -> None:
        self._key += 1
        loss = self._loss(call.round) * self._random.uniform(0.9, 1.1)
        rule = self.shared.rule(call.round)
        steps = -(-self._samples // rule.inner_batch) if rule.work == "steps" else 0
        await self._say(
            m.Announce(
                self._generation, call.round, call.attempt, self._key, self.shared.version, tuple(self._leases),
                self.shared.norms, loss * self._samples, self._samples, 0, steps,
            )
        )  # fmt: skip
        self._leases, self._samples = [], 0

    async def _upload(self, grant: m.Grant) -> None:
        shared = self.shared
        envelope = Envelope(Kind.CONTRIBUTION, shared.tag, self._generation, grant.round, grant.number)
        for parts in contribution_frames(FrameWriter(), envelope, shared.noise, shared.rule(grant.round)):
            await self._socket.send(b"".join(parts))

    @staticmethod
    def _loss(round: int) -> float:
        return 0.3 + 2.0 * math.exp(-round / 100)

    async def _say(self, message: m.Message) -> None:
        await self._socket.send(m.encode(message))

    async def _next(self) -> m.ToMember | None:
        data = await self._socket.recv()
        if isinstance(data, bytes):
            if hasattr(self, "shared"):
                self.shared.take(data)
            return None
        return m.read_to_member(data)


async def watching(link: str) -> None:
    """Read what is pushed to those who watch."""
    invite = parse_invite(link)
    url = f"ws{invite.server.removeprefix('http')}/swarm/api/sessions/{invite.session}/watch"
    headers = {INVITE_HEADER: invite.secret}
    async with websockets.connect(
        url, additional_headers=headers, compression=None, max_size=None, proxy=None, ping_interval=None
    ) as socket:
        async for _ in socket:
            pass


async def crowd(link: str, count: int, round_seconds: float, watch: str, viewers: int) -> None:
    """All join, then all train."""
    invite = parse_invite(link)
    peers = [LightPeer(f"student {number + 1}", DEVICES[number % len(DEVICES)]) for number in range(count)]
    shared = await peers[0].join(invite, None, count, round_seconds)
    for start in range(1, count, _AT_ONCE):
        some = peers[start : start + _AT_ONCE]
        await asyncio.gather(*(one.join(invite, shared, count, round_seconds) for one in some))
    print(ALL_IN, flush=True)
    await asyncio.gather(*(one.run() for one in peers), *(watching(watch) for _ in range(viewers)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    link, count, round_seconds, watch, viewers = [*sys.argv[1:], "", "0"][:5]
    allow_sockets(int(count) + int(viewers))
    asyncio.run(crowd(link, int(count), float(round_seconds), watch, int(viewers)))
