"""One attempt at a round: the staged contributions become one, the optimizer takes its step, packets are written."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch

from ..optim.slices import Rates, update, update_hessian
from ..protocol.errors import Refusal
from ..protocol.frames import Kind, payload_of
from ..protocol.layout import Stream
from ..protocol.messages import Prepare
from ..protocol.records import ShardDigest
from ..protocol.rules import RoundRule, Sophia, StreamRule
from ..protocol.sizes import due
from .carried import section_rules
from .codecs import new_scratch
from .held import HeldShard
from .incoming import add_packet
from .merging import merge
from .outgoing import Envelope, FrameWriter
from .staging import Staging
from .vector import square_sum


class Attempt:
    """Makes the next side of the shards `held` from the one that stands, which stays as it is: `merge`, then `step`.

    session: its tag in frames. step_number: of the optimizer's step, from 1. `digests` describes the packets, once
    `step` is exhausted.
    """

    def __init__(
        self,
        prepare: Prepare,
        rule: RoundRule,
        held: Collection[HeldShard],
        staging: Mapping[int, Staging],
        session: int,
        step_number: int,
    ) -> None:
        self.prepare = prepare
        self.digests: tuple[ShardDigest, ...] = ()
        self._rule = rule
        self._rules = section_rules(rule)
        self._held = held
        self._staging = staging
        self._step_number = (step_number - 1) // rule.fragments + 1  # a fragment has its turn every so many rounds
        self._clips = prepare.clip_norm > 0
        self._hessian = next((one for one in rule.streams_of(prepare.round) if one.stream == Stream.HESSIAN), None)
        self._envelope = Envelope(
            Kind.PACKET, session, prepare.generation, prepare.round, attempt=prepare.attempt,
            fragment=rule.fragment_of(prepare.round),
        )  # fmt: skip
        self._writer = FrameWriter(kept=False)
        self._scratch = new_scratch()

    def merge(self) -> float:
        """Merge the contributions; returns the sum of squares of the merged gradient.

        Where nothing clips, nobody waits for that sum: 0.0 is returned, and `step` merges, each chunk just before it is
        needed. Raises `Refusal` if the result is not finite.
        """
        if self._rule.fragments > 1:
            for held in self._held:
                held.keep()
        if not self._clips:
            return 0.0
        chunks = ((held, *chunk) for held in self._held for chunk in self._due(held))
        return math.fsum(self._merge(*chunk) for chunk in chunks)

    def step(self, norm: float) -> Iterator[memoryview]:
        """Take the step, by `norm` if it clips; yields the packets' frames, each in memory of its own. Raises `Refusal`
        if a result is not finite."""
        # As torch.nn.utils.clip_grad_norm_.
        scale = min(1.0, self.prepare.clip_norm / (norm + 1e-6)) if self._clips else 1.0
        digests = []
        with ThreadPoolExecutor(1, thread_name_prefix="swarm-digest") as beside:
            for held in self._held:
                digest, size = hashlib.sha256(), 0
                for start, count in self._due(held):
                    if not self._clips:
                        self._merge(held, start, count)
                    if held.shard.stream == Stream.PARAMETERS:
                        if self._hessian is not None:
                            self._merge_hessian(self._hessian, held, start, count)
                        self._optimize(held, start, count, scale)
                    frame = self._packet(held, start, count)
                    beside.submit(digest.update, payload_of(frame))
                    size += len(payload_of(frame))
                    yield frame
                digests.append((held.shard.index, size, digest))
        self.digests = tuple(ShardDigest(index, size, digest.hexdigest()) for index, size, digest in digests)

    def _due(self, held: HeldShard) -> list[tuple[int, int]]:
        return due(held.shard, self._rule, self.prepare.round)

    def _merge(self, held: HeldShard, start: int, count: int) -> float:
        """Merge one chunk into the next master. Returns the sum of squares if it is of the gradient. Raises `Refusal`
        if that is not finite."""
        rule = self._rules[held.shard.stream]
        into = held.next.master[start - held.shard.start :][:count]
        merge(self.prepare, rule, self._staging, start, into, self._scratch)
        square = square_sum(into) if rule.stream == Stream.GRADIENT else 0.0
        if not math.isfinite(square):
            raise Refusal(f"The merged gradient of round {self.prepare.round} is not finite.")
        return square

    def _merge_hessian(self, rule: StreamRule, held: HeldShard, start: int, count: int) -> None:
        """Merge one chunk of the Hessian estimate into the next side's slot. Raises `Refusal` if the result is not
        finite."""
        prepare, optimizer = self.prepare, self.prepare.optimizer
        assert isinstance(optimizer, Sophia)
        first = start - held.shard.start
        old, new = held.current.part(first, first + count), held.next.part(first, first + count)
        hessian = new.slots[1]
        merge(prepare, rule, self._staging, start, hessian, self._scratch)
        update_hessian(optimizer, hessian, prepare.total_weight * self._rule.predictions, old, new)
        if not math.isfinite(float(hessian.sum())):
            raise Refusal(f"The Hessian estimate of round {prepare.round} is not finite.")

    def _optimize(self, held: HeldShard, start: int, count: int, scale: float) -> None:
        """The optimizer's step on one chunk, whose merged gradient lies where the new parameters go."""
        optimizer = self.prepare.optimizer
        for begin, end, group in held.groups:
            first, last = max(begin, start) - held.shard.start, min(end, start + count) - held.shard.start
            if first >= last:
                continue
            old, new = held.current.part(first, last), held.next.part(first, last)
            if self._hessian is not None:
                old = old._replace(slots=(old.slots[0], new.slots[1]))
            if scale < 1.0:
                new.parameters.mul_(scale)
            # How far inner steps came has their group's learning rate in it already.
            faster = group.learning_rate_scale if self._rule.contribution == "gradient_sum" else 1.0
            rates = Rates(
                self.prepare.learning_rate * faster,
                optimizer.weight_decay * group.weight_decay_scale,
                self._step_number,
            )
            update(optimizer, rates, new.parameters, old, new)
            if not math.isfinite(float(new.parameters.sum())):
                raise Refusal(
                    f"Round {self.prepare.round} would make parameters that are not finite.",
                    todo="Lower the learning rate.",
                )

    def _packet(self, held: HeldShard, start: int, count: int) -> memoryview:
        shard, codec = held.shard, self._rules[held.shard.stream].down
        part = slice(start - shard.start, start - shard.start + count)
        master = held.next.master[part]
        if not held.lossy:
            return self._writer.frame(self._envelope, shard.stream, codec, shard.index, start, master)
        delta = torch.sub(master, held.current.view[part], out=held.next.view[part])
        frame = self._writer.frame(self._envelope, shard.stream, codec, shard.index, start, delta)
        view = held.next.view[part].copy_(held.current.view[part])
        add_packet(codec, payload_of(frame), view, self._scratch)
        return frame
