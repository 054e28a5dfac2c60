"""What simulated students have instead of a model: one copy of the parameters for all, and work that only takes time.

Nothing is computed: a lease takes the time it is told to take, and the contribution is the same noise each time. What
came to all of them, as packets do, is there once, so that thirty fit into the memory of one.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import cast
from weakref import WeakValueDictionary

import torch
from torch import nn

from ..protocol.errors import LinkError
from ..protocol.frames import HEADER_BYTES
from ..protocol.layout import Layout, Shard, Stream
from ..protocol.rules import SGD, RoundRule, Sophia, StreamRule
from ..protocol.sizes import due
from ..shards.feedback import Encoded, ErrorFeedback
from ..shards.gradients import norms_of
from ..shards.incoming import PacketSet
from ..shards.vector import FlatVector, square_sum
from ..strategies.workers import Worker
from .assignment import Assignment, samples_each
from .compute import Computer
from .forward import Cancel, Cancelled, LossSum, never
from .residual import Residual
from .residual_file import ResidualFile
from .view import View

_NOISE = 1e-3
_LOOK_SECONDS = 0.05


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
        self.feedback = _SharedFeedback(layout, self.lock)

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


class _SharedFeedback(ErrorFeedback):
    """The same bytes for all students and rounds: thirty residuals would take thirty times the memory."""

    def __init__(self, layout: Layout, lock: threading.RLock) -> None:
        super().__init__(layout)
        self._lock = lock
        self._made: dict[StreamRule, Encoded] = {}

    def encode(self, contribution: FlatVector, rule: StreamRule, version: int) -> Encoded:
        with self._lock:
            if rule not in self._made:
                self._made[rule] = super().encode(contribution, rule, version)
                super().clear()
            return self._made[rule]

    def put_back(self, encoded: Encoded) -> None: ...

    def clear(self) -> None: ...


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
        self.rule = RoundRule("none yet", SGD(0.0))
        self._shared = shared

    def start(self, view: FlatVector) -> None: ...

    def finish(self, view: FlatVector, round: int = 0) -> tuple[FlatVector, dict[str, float]]:
        vector, norms = self._shared.contribution(self.hessian)
        if self.rule.fragments == 1:
            return vector, norms
        shards = [shard for shard in vector.layout.shards if shard.stream == Stream.PARAMETERS]
        parts = [part for shard in shards for part in due(shard, self.rule, round)]
        square = math.fsum(square_sum(vector.slice(Stream.PARAMETERS, *part)) for part in parts)
        return vector, {**norms, "gradient": math.sqrt(square)}


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

    @property
    def say(self) -> Callable[[str], None]:
        return self._say

    @say.setter
    def say(self, say: Callable[[str], None]) -> None:
        self._say = say

    def first_residual(self, file: ResidualFile | None = None) -> Residual:
        return Residual(self._shared.feedback)

    def first_view(self) -> View:
        return SharedView(self._shared, lambda version: self._advanced(version, self._rule.strategy))

    def follow(self, rule: RoundRule, round_: int) -> bool:
        self._rule = self._ready.rule = rule
        estimated = any(one.stream == Stream.HESSIAN for one in rule.streams_of(round_))
        self._ready.hessian = estimated and isinstance(rule.optimizer, Sophia)
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
