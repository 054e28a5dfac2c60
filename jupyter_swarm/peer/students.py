"""The simulated students of a rehearsal: `python -m jupyter_swarm.peer.students` in a process of its own.

Each is a real `Trainer` on a real connection: it joins by the invite, fetches what a joiner fetches, takes leases,
announces, uploads contributions of the true size, receives every packet and reports digests. Two things are not real.
Nothing is computed: a lease takes the time it is told to take, and the contribution is the same noise each time. And
all of them share one copy of the parameters, and of each packet that came to all, so that thirty fit into the memory
of one.

The first line of standard input is an `Assignment`; when standard input ends, all leave. Standard output has one
`Report` a line, as JSON. The process loads no recipe code.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast
from weakref import WeakValueDictionary

import msgspec
import torch
from torch import nn

from ..link.memory import keep_buffers
from ..protocol.errors import LinkError, SwarmError
from ..protocol.frames import HEADER_BYTES
from ..protocol.invites import Invite, parse_invite
from ..protocol.layout import Layout, Shard, Stream
from ..protocol.messages import Commit
from ..protocol.rules import RoundRule, SessionSettings, Sophia
from ..shards.gradients import norms_of
from ..shards.incoming import PacketSet
from ..shards.vector import FlatVector
from ..strategies.workers import Worker
from .client import Client
from .compute import Computer
from .forward import Cancel, Cancelled, LossSum, never
from .identity import Identity
from .inbox import Item
from .offer import look_at
from .record import OVER, Record
from .trainer import Trainer
from .view import View

_NOISE = 1e-3
_LOOK_SECONDS = 0.05
_SYNCED = ("waiting", "training", "paused")


class Pace(msgspec.Struct, frozen=True):
    """How long computing takes: `sample_seconds` as measured, cut so that a round has at most `round_seconds` of it."""

    sample_seconds: float
    round_seconds: float

    def of(self, rule: RoundRule, settings: SessionSettings, peers: int) -> tuple[float, float]:
        """Seconds of computing that each of `peers` has in a round, as measured and as it is played."""
        seconds = self.sample_seconds * samples_each(rule, settings, peers)
        return seconds, min(seconds, self.round_seconds)


def samples_each(rule: RoundRule, settings: SessionSettings, peers: int) -> float:
    """The samples that each of `peers`, all as fast, computes in a round by `rule`."""
    if rule.work == "steps":
        return float((settings.inner_steps or rule.inner_steps) * rule.inner_batch)
    return (settings.target_batch or rule.target_batch) / peers


class Assignment(msgspec.Struct, frozen=True):
    """What the students are to do. agreed: the recipe's SHA-256; samples: (training, held out)."""

    link: str
    agreed: str
    peers: int
    layout: Layout
    samples: tuple[int, int]
    settings: SessionSettings
    pace: Pace
    join_seconds: float


class Joined(msgspec.Struct, frozen=True, tag=True):
    """One student is in after so many seconds, for which it fetched `fetched` bytes before it connected."""

    seconds: float
    fetched: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """One student could not join, or (`joined`) was put out later."""

    reason: str
    joined: bool


class Advanced(msgspec.Struct, frozen=True, tag=True):
    """The first student is at `version`, made by `strategy`; the bytes of all students until now, of which the class
    has sent `up` and received `down`; `memory` is of this process. time: of a clock that only goes forward."""

    version: int
    strategy: str
    time: float
    up: int
    down: int
    memory: int


Report = Joined | Failed | Advanced


class Shared:
    """What all students have in common: one copy of the parameters at the newest version that any of them is at."""

    def __init__(self, layout: Layout) -> None:
        self.lock = threading.RLock()
        self.vector = FlatVector(layout)
        self.version = 0
        self.fetched = False
        self._frames: WeakValueDictionary[bytes, memoryview] = WeakValueDictionary()
        self._digests: dict[tuple[int, int], str] = {}
        self._made: dict[bool, tuple[FlatVector, dict[str, float]]] = {}

    def only(self, frame: memoryview) -> memoryview:
        """The frame that came to another student with the same bytes, or else this one."""
        with self.lock:
            return self._frames.setdefault(bytes(frame[:HEADER_BYTES]), frame)

    def digest(self, version: int, shard: int, compute: Callable[[], str]) -> str:
        """That of a shard (-1: all) at `version`, which the first student to ask computes. '': too late for that."""
        with self.lock:
            key = version, shard
            if key not in self._digests and version == self.version:
                self._digests[key] = compute()
            return self._digests.get(key, "")

    def contribution(self, hessian: bool) -> tuple[FlatVector, dict[str, float]]:
        """What everybody sends, with its norms: noise, and the buffers as they were at first."""
        with self.lock:
            if hessian not in self._made:
                self._made[hessian] = self._make(hessian)
            return self._made[hessian]

    def _make(self, hessian: bool) -> tuple[FlatVector, dict[str, float]]:
        made = self._made.get(not hessian)
        made_vector = made[0] if made else FlatVector(self.vector.layout)
        if made is None:
            made_vector.copy_from(self.vector)
            made_vector.sections[Stream.PARAMETERS].normal_(std=_NOISE, generator=torch.Generator().manual_seed(0))
        if hessian and Stream.HESSIAN not in made_vector.sections:
            made_vector.sections[Stream.HESSIAN] = made_vector.sections[Stream.PARAMETERS].square()
        return made_vector, norms_of(made_vector, hessian)


class SharedView(View):
    """One student's version, and the parameters that all share."""

    def __init__(self, shared: Shared, advanced: Callable[[int], None]) -> None:
        super().__init__(shared.vector)
        self._shared = shared
        self._advanced = advanced
        self._lock = cast(threading.Lock, shared.lock)

    def set_version(self, version: int) -> None:
        if version < 0 and self._shared.fetched:
            raise LinkError("It fell behind the class.", "It would have had to fetch all parameters again.")
        self._shared.fetched |= version >= 0
        super().set_version(version)

    def apply(self, packets: PacketSet) -> None:
        with self._lock:
            first = self._shared.version < packets.round
            if first:
                packets.apply(self.vector)
                self._shared.version = packets.round
            self.version = packets.round
        if first:
            self._advanced(packets.round)

    def digest(self) -> str:
        return self._shared.digest(self.version, -1, self.vector.digest_all)

    def shard_digest(self, shard: Shard) -> str:
        return self._shared.digest(self.version, shard.index, lambda: self.vector.digest(shard))


class _Ready:
    """A worker whose contribution is made."""

    def __init__(self, shared: Shared) -> None:
        self.hessian = False
        self._shared = shared

    def start(self, view: FlatVector) -> None: ...

    def finish(self, view: FlatVector) -> tuple[FlatVector, dict[str, float]]:
        return self._shared.contribution(self.hessian)


class StandIn(Computer):
    """Takes the time that computing would take."""

    def __init__(self, assignment: Assignment, shared: Shared, advanced: Callable[[int, str], None]) -> None:
        self.layout = assignment.layout
        self.samples = assignment.samples
        self.own_samples = 0
        self.device = torch.device("cpu")
        self.model = nn.Identity()
        self._assignment = assignment
        self._shared = shared
        self._advanced = advanced
        self._ready = _Ready(shared)
        self.worker = cast(Worker, self._ready)
        self._say: Callable[[str], None] = lambda text: None
        self._sample_seconds = 0.0
        self._strategies: dict[int, str] = {}

    @property
    def say(self) -> Callable[[str], None]:
        return self._say

    @say.setter
    def say(self, say: Callable[[str], None]) -> None:
        self._say = say

    def first_view(self) -> View:
        return SharedView(self._shared, lambda version: self._advanced(version, self._rule.strategy))

    def follow(self, rule: RoundRule, round_: int) -> bool:
        self._rule = rule
        due = any(one.stream == Stream.HESSIAN for one in rule.streams_of(round_))
        self._ready.hessian = due and isinstance(rule.optimizer, Sophia)
        assignment = self._assignment
        _, seconds = assignment.pace.of(rule, assignment.settings, assignment.peers)
        self._sample_seconds = seconds / samples_each(rule, assignment.settings, assignment.peers)
        return False

    def gradient(self, start: int, stop: int, cancelled: Cancel = never, own: bool = False) -> LossSum:
        return self._take_time(stop - start, cancelled)

    def steps(
        self, start: int, stop: int, learning_rate: float, cancelled: Cancel = never, own: bool = False
    ) -> Iterator[LossSum]:
        batch = self._rule.inner_batch
        for first in range(start, stop, batch):
            yield self._take_time(min(batch, stop - first), cancelled)

    def evaluate(
        self, view: FlatVector, start: int, stop: int, cancelled: Cancel = never
    ) -> tuple[dict[str, float], int]:
        return {"loss": self._take_time(stop - start, cancelled).total}, stop - start

    def _take_time(self, samples: int, cancelled: Cancel) -> LossSum:
        until = time.monotonic() + samples * self._sample_seconds
        while not cancelled():
            rest = until - time.monotonic()
            if rest <= 0:
                return LossSum(float(samples), samples)
            time.sleep(min(rest, _LOOK_SECONDS))
        raise Cancelled


class _Nobody(Identity):
    """One that nothing is kept of."""

    def __init__(self) -> None:
        self.token = ""
        self._path = self._lock = None


class Student(Trainer):
    """A trainer that shares what came to all, and counts its bytes."""

    def __init__(
        self, invite: Invite, headers: Mapping[str, str], url: str, computer: Computer, shared: Shared, agreed: str
    ) -> None:
        super().__init__(url, headers, computer, Record(invite.session), _Nobody(), agreed, "student")
        self._shared = shared

    @property
    def bytes(self) -> tuple[int, int]:
        """Sent and received so far."""
        return self._link.bytes_sent, self._link.bytes_received

    def _take_frame(self, frame: memoryview) -> None:
        super()._take_frame(self._shared.only(frame))

    def _take(self, item: Item) -> None:
        # Between applying a commit and telling its digest no other student may go on to the next version.
        with self._shared.lock if isinstance(item, Commit) else contextlib.nullcontext():
            super()._take(item)


class Class:
    """All students. report: told what happens, from any thread."""

    def __init__(self, assignment: Assignment, report: Callable[[Report], None]) -> None:
        self._assignment = assignment
        self._report = report
        self._invite = parse_invite(assignment.link)
        self._client = Client.of_member(self._invite)
        self._shared = Shared(assignment.layout)
        self._students: list[Student] = []

    def join(self) -> None:
        """One fetches all parameters; then all others come at once, as at the beginning of a class."""
        self._join_one()
        threads = [threading.Thread(target=self._join_one, daemon=True) for _ in range(self._assignment.peers - 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def leave(self) -> None:
        """All say goodbye."""
        threads = [threading.Thread(target=student.leave, args=(5.0,), daemon=True) for student in self._students]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _join_one(self) -> None:
        start = time.monotonic()
        try:
            fetched = self._fetch()
            computer = StandIn(self._assignment, self._shared, self._advanced)
            url = self._client.socket_url(self._invite.session)
            student = Student(
                self._invite, self._client.headers, url, computer, self._shared, self._assignment.agreed
            )  # fmt: skip
            self._students.append(student)
            student.start()
            self._wait_until_synced(student, start)
        except SwarmError as error:
            self._report(Failed(" ".join(str(error).split()), joined=False))
            return
        self._report(Joined(time.monotonic() - start, fetched))
        threading.Thread(target=self._watch, args=(student,), daemon=True).start()

    def _fetch(self) -> int:
        """What a joiner reads before it connects: what the session is, the recipe, the data."""
        offer, spec = look_at(self._client, self._invite.session)
        size = len(offer.source)
        if spec.data:
            with self._client.blob_pieces(self._invite.session, spec.data) as pieces:
                size += sum(map(len, pieces))
        return size

    def _wait_until_synced(self, student: Student, start: float) -> None:
        record, seconds = student.record, self._assignment.join_seconds
        rest = start + seconds - time.monotonic()
        record.wait_for(lambda s: s.state in OVER or (s.state in _SYNCED and s.version >= 0), max(rest, 0.0))
        if record.status.state in OVER or record.status.version < 0:
            student.leave(0.0)
            what = f"It was not ready within {seconds:.0f} s."
            raise record.error if isinstance(record.error, SwarmError) else LinkError(what, record.status.reason)

    def _watch(self, student: Student) -> None:
        student.record.wait_for(lambda status: status.state in OVER)
        if student.record.error is not None:
            self._report(Failed(" ".join(str(student.record.error).split()), joined=True))

    def _advanced(self, version: int, strategy: str) -> None:
        import psutil

        counts = [student.bytes for student in list(self._students)]
        up, down = (sum(one) for one in zip(*counts, strict=True))
        memory = psutil.Process().memory_info().rss
        self._report(Advanced(version, strategy, time.monotonic(), up, down, memory))


def main() -> None:
    """Play a class until standard input ends."""
    keep_buffers()
    torch.set_num_threads(1)
    assignment = msgspec.json.decode(sys.stdin.buffer.readline(), type=Assignment)
    lock = threading.Lock()

    def report(what: Any) -> None:
        with lock, contextlib.suppress(OSError, ValueError):
            sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
            sys.stdout.buffer.flush()

    students = Class(assignment, report)
    threading.Thread(target=students.join, daemon=True).start()
    # Whoever started this closes it, or is gone: then it ends too.
    sys.stdin.buffer.read()
    students.leave()


if __name__ == "__main__":
    main()
