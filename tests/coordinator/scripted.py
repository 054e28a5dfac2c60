"""A peer that follows the protocol over a real WebSocket and computes what a test can compute again by hand."""

from __future__ import annotations

from typing import Any

import msgspec
import torch
from tornado.websocket import WebSocketClientConnection

from jupyter_swarm.protocol import messages as m
from jupyter_swarm.protocol.frames import Kind, read_header, session_tag
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.rules import Codec, RoundRule, rule_of
from jupyter_swarm.shards.gradients import norms_of
from jupyter_swarm.shards.incoming import PacketSet, SnapshotSet
from jupyter_swarm.shards.outgoing import Envelope, FrameWriter, contribution_frames
from jupyter_swarm.shards.vector import FlatVector

from .server import Swarm


def computed(start: int, stop: int, count: int) -> torch.Tensor:
    """What `count` parameters get from the samples at [start, stop): the sum of one number for each."""
    positions = torch.arange(start, stop, dtype=torch.float32)
    return torch.sin(positions[:, None] + torch.arange(count, dtype=torch.float32)).sum(0)


class ScriptedPeer:
    """Joined with `join`, then driven by `train`. `heard`: all messages but packets' frames, while `keep` is True.
    `measurable`: it answers what the server asks to measure the link, which older packages do not."""

    def __init__(self, socket: WebSocketClientConnection) -> None:
        self.socket = socket
        self.heard: list[m.ToMember] = []
        self.keep = True
        self.measurable = False
        self.leases: list[int] = []
        self.samples = 0
        self.key = 0
        self.packets: PacketSet | None = None

    @classmethod
    async def join(
        cls,
        swarm: Swarm,
        session: str,
        invite: dict[str, str],
        name: str = "ann",
        codecs: tuple[int, ...] = tuple(Codec),
        measurable: bool = False,
        **hello: Any,
    ) -> ScriptedPeer:
        socket = await swarm.connect(f"sessions/{session}/peer", invite)
        assert isinstance(socket, WebSocketClientConnection), socket
        peer = cls(socket)
        peer.measurable = measurable
        await peer.say(m.Hello(m.PROTOCOL_VERSION, "0.1", "peer", name, codecs=codecs, **hello))
        welcome = await peer.hear(m.Welcome)
        peer.welcome = welcome
        peer.spec = welcome.spec
        peer.tag = session_tag(welcome.spec.session)
        peer.view = FlatVector(welcome.layout)
        peer.sum = FlatVector(welcome.layout, (Stream.PARAMETERS, Stream.BUFFER, Stream.COUNTER))
        await peer._fetch()
        return peer

    async def _fetch(self) -> None:
        generation = self.welcome.generation
        await self.say(m.WantSnapshot(generation))
        offer = await self.hear(m.SnapshotOffer)
        wanted = SnapshotSet(self.view, self.tag, generation, offer.number, offer.digests)
        if wanted.missing:
            await self.say(m.WantSnapshot(generation, offer.number, wanted.missing))
        while wanted.missing:
            frame = await self.socket.read_message()
            if isinstance(frame, bytes):
                wanted.add(frame)
        self.version = offer.version
        await self.say(m.Synced(generation, offer.version, self.view.digest_all()))
        await self.say(m.WantWork(generation, offer.version))

    async def say(self, message: m.Message) -> None:
        await self.socket.write_message(m.encode(message))

    async def hear(self, kind: type[Any]) -> Any:
        """The next message of that kind; others are heard on the way."""
        while not isinstance(message := await self._next(), kind):
            pass
        return message

    async def _next(self) -> m.ToMember | None:
        data = await self.socket.read_message()
        assert data is not None, self.heard[-3:]
        if isinstance(data, bytes):
            self._take(data)
            return None
        message = m.read_to_member(data)
        if isinstance(message, m.Heartbeat):
            if message.ask and self.measurable:
                await self.say(m.Heartbeat(answer=message.ask, filler="." * message.wanted))
            return None
        assert not isinstance(message, m.Refused | m.Resync | m.Dropped), message
        if self.keep:
            self.heard.append(message)
        return message

    def _take(self, frame: bytes) -> None:
        header = read_header(frame)
        assert header.kind == Kind.PACKET
        if self.packets is None or (self.packets.round, self.packets.attempt) != (header.round, header.attempt):
            rule = self.rule(header.round)
            layout, generation = self.view.layout, self.welcome.generation
            self.packets = PacketSet(layout, rule, self.tag, generation, header.round, header.attempt)
        self.packets.add(frame)

    def rule(self, round: int) -> RoundRule:
        return rule_of(self.spec.rule, self.spec.changes, round)

    async def train(self, version: int) -> None:
        """Work until that version is committed."""
        while self.version < version:
            message = await self._next()
            match message:
                case m.LeaseGrant():
                    await self._compute(message)
                case m.ContributeNow():
                    await self._announce(message)
                case m.Grant():
                    await self._upload(message)
                case m.Commit():
                    await self._commit(message)
                case m.Strategy():
                    self.spec = msgspec.structs.replace(self.spec, changes=message.changes)

    async def _compute(self, lease: m.LeaseGrant) -> None:
        generation = self.welcome.generation
        count = lease.stop - lease.start
        if lease.kind == "evaluate":
            await self.say(m.LeaseDone(generation, lease.lease, sums={"loss": 2.0 * count}, count=count))
        else:
            section = self.sum.sections[Stream.PARAMETERS]
            if not self.leases:
                section.zero_()
            section += computed(lease.start, lease.stop, len(section))
            self.leases.append(lease.lease)
            self.samples += count
            await self.say(m.LeaseDone(generation, lease.lease))
        await self.say(m.WantWork(generation, self.version))

    async def _announce(self, call: m.ContributeNow) -> None:
        self.key += 1
        rule = self.rule(call.round)
        steps = -(-self.samples // rule.inner_batch) if rule.work == "steps" else 0
        await self.say(
            m.Announce(
                self.welcome.generation, call.round, call.attempt, self.key, self.version, tuple(self.leases),
                norms_of(self.sum), float(self.samples), self.samples, 0, steps,
            )
        )  # fmt: skip
        self.leases, self.samples = [], 0

    async def _upload(self, grant: m.Grant) -> None:
        envelope = Envelope(Kind.CONTRIBUTION, self.tag, grant.generation, grant.round, grant.number)
        for parts in contribution_frames(FrameWriter(), envelope, self.sum, self.rule(grant.round)):
            await self.socket.write_message(b"".join(parts), binary=True)

    async def _commit(self, commit: m.Commit) -> None:
        assert self.packets is not None
        self.packets.apply(self.view)
        self.version = commit.round
        digest = self.view.digest(self.view.layout.shards[commit.digest_shard])
        await self.say(m.ViewDigest(commit.generation, commit.round, commit.digest_shard, digest))
        await self.say(m.WantWork(commit.generation, commit.round))
