"""A peer written by hand over a plain WebSocket: it says and sends what no honest one would."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import msgspec
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from jupyter_swarm.peer.forward import LossSum
from jupyter_swarm.protocol import messages as m
from jupyter_swarm.protocol.frames import Kind, session_tag
from jupyter_swarm.protocol.invites import INVITE_HEADER, parse_invite
from jupyter_swarm.protocol.rules import Codec
from jupyter_swarm.shards.gradients import GradientSum
from jupyter_swarm.shards.outgoing import Envelope, FrameWriter, contribution_bytes, contribution_frames
from jupyter_swarm.shards.vector import FlatVector

from .classroom import PATIENCE, Classroom
from .member_process import computer_of

T = TypeVar("T", bound=m.Message)
Frames = list[bytes]


class Hostile:
    """One connection. `hello` joins, `work` computes all leases that it gets; then it may `announce` and `send`."""

    def __init__(self, room: Classroom, socket: ClientConnection) -> None:
        self.room = room
        self.rule = room.spec.rule
        self.computer = computer_of(room.recipe, room.settings.seed, room.size.shard_elements)
        self._socket = socket

    def say(self, message: m.Message) -> None:
        self._socket.send(m.encode(message))

    def hear(self, kind: type[T]) -> T:
        """The next message of that kind; others are not looked at, but nothing follows a refusal."""
        while True:
            text = self._socket.recv(PATIENCE)
            if isinstance(text, bytes):
                continue
            message = m.read_to_member(text)
            if isinstance(message, kind):
                return message
            assert not isinstance(message, m.Refused), message

    def is_closed(self) -> bool:
        """Whether the server closes the connection, whatever it says before."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self._socket.recv(PATIENCE)
        return True

    def hello(self, **different: Any) -> m.Welcome:
        """Join; raises AssertionError with the refusal if that is the answer."""
        hello = m.Hello(
            m.PROTOCOL_VERSION, "0.1.0", "peer", "mallory", agreed=self.room.recipe.sha256, codecs=tuple(Codec)
        )  # fmt: skip
        self.say(msgspec.structs.replace(hello, **different))
        self.welcome = self.hear(m.Welcome)
        return self.welcome

    def sync(self) -> FlatVector:
        """Have the parameters of version 0."""
        view = FlatVector.of(self.room.layout, self.computer.model)
        self.say(m.Synced(self.welcome.generation, 0, view.digest_all()))
        return view

    def work(self, computed: Callable[[m.LeaseGrant], int] = lambda lease: -1) -> None:
        """Have the parameters of version 0, take all leases of a round, and compute them as an honest peer would.
        `computed`: how many samples of a lease of steps it says that it has computed; if that can be, it has."""
        generation = self.welcome.generation
        view = self.sync()
        self.computer.worker.start(view)
        self.leases: list[int] = []
        self.loss = 0.0
        self.samples = 0
        self.steps = 0
        self.say(m.WantWork(generation, 0))
        while True:
            message = self.hear(m.Message)
            if isinstance(message, m.ContributeNow):
                self.call = message
                break
            if isinstance(message, m.LeaseGrant):
                self._compute(message, computed(message))
        worker = self.computer.worker
        self.vector, self.norms = worker.finish() if isinstance(worker, GradientSum) else worker.finish(view)
        self.encoded = self.computer.first_residual().encode(self.vector, self.rule, 0)
        if self.encoded is not None:
            self.norms = {**self.norms, "gradient": self.encoded.norm}

    def _compute(self, lease: m.LeaseGrant, computed: int) -> None:
        if lease.kind == "train":
            stop = lease.start + computed if 0 <= computed < lease.stop - lease.start else lease.stop
            losses = [*self._losses(lease, stop)]
            self.leases.append(lease.lease)
            self.loss += sum(loss.total for loss in losses)
            self.samples += sum(loss.samples for loss in losses)
            self.steps += len(losses) if self.rule.work == "steps" else 0
        self.say(m.LeaseDone(self.welcome.generation, lease.lease, computed=computed))
        self.say(m.WantWork(self.welcome.generation, 0))

    def _losses(self, lease: m.LeaseGrant, stop: int) -> Iterator[LossSum]:
        if self.rule.work == "steps":
            yield from self.computer.steps(lease.start, stop, lease.learning_rate)
        else:
            yield self.computer.gradient(lease.start, stop)

    def announce(self, **different: Any) -> None:
        """Announce what was computed, or something else."""
        announcement = m.Announce(
            self.welcome.generation, self.call.round, self.call.attempt, 1, 0, tuple(self.leases), self.norms,
            self.loss, self.samples, contribution_bytes(self.vector.layout, self.rule, self.call.round), self.steps,
        )  # fmt: skip
        self.say(msgspec.structs.replace(announcement, **different))

    def frames(self) -> Frames:
        """The frames that were granted."""
        grant = self.hear(m.Grant)
        tag = session_tag(self.room.session)
        envelope = Envelope(Kind.CONTRIBUTION, tag, grant.generation, grant.round, grant.number)
        writer = FrameWriter()
        return [
            b"".join(parts) for parts in contribution_frames(writer, envelope, self.vector, self.rule, self.encoded)
        ]

    def send(self, frames: Iterable[bytes], change: Callable[[bytes], bytes] = bytes) -> None:
        with contextlib.suppress(ConnectionClosed):
            for frame in frames:
                self._socket.send(change(frame))


@contextlib.contextmanager
def hostile(room: Classroom) -> Iterator[Hostile]:
    """A hostile peer with an honest invite; its connection is closed at the end."""
    invite = parse_invite(room.link("peer"))
    url = room.client.socket_url(room.session)
    with connect(
        url, additional_headers={INVITE_HEADER: invite.secret}, compression=None, max_size=None, proxy=None,
        ping_interval=None,
    ) as socket:  # fmt: skip
        yield Hostile(room, socket)
