"""The holder: keeps shards of the global state, merges contributions into them, takes the optimizer's step.

No sockets: it is driven by the protocol's messages, from one thread. A version is made beside the one that stands:

    stage ...  ->  merge  ->  step  ->  install        the new version stands
                                    ->  revert         the old one does, bit for bit

What a holder computes depends on the old state, the staged bytes and the order in `Prepare` alone, and every shard is
computed by itself: the result is the same bits in whichever order frames came and however shards are spread.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from ..optim.slices import Rates, Slice, slot_names, update, update_hessian
from ..protocol.errors import Refusal
from ..protocol.frames import Kind, payload_of, read_header, session_tag
from ..protocol.layout import Layout, Shard, Stream, section_of
from ..protocol.messages import Adopt, Expect, Prepare, Staged
from ..protocol.records import ShardDigest
from ..protocol.rules import LOSSLESS, Codec, RoundRule, Sophia
from .carried import carried, carries_over, check_streams, packet_codecs
from .codecs import Buffer, new_scratch
from .held import HeldShard, Incoming
from .incoming import add_packet
from .merging import merge
from .outgoing import Envelope, FrameWriter, exact_codec
from .staging import Staging
from .vector import FlatVector, sha256, square_sum


class Holder:
    """Holds shards of `layout` for one session, under one `rule` until `change_rule`.

    Raises `SettingError` for a rule it cannot follow.
    """

    def __init__(self, layout: Layout, rule: RoundRule, session: str) -> None:
        self.layout = layout
        self.generation = 0
        self.version = 0
        self.step_number = 0
        self.digests: tuple[ShardDigest, ...] = ()
        self._tag = session_tag(session)
        self._groups = _group_ranges(layout)
        self._follow(rule)
        self._held: dict[int, HeldShard] = {}
        self._view_digests: dict[int, str] = {}
        self._incoming = Incoming(layout, self._new_held)
        self._staging: dict[int, Staging] = {}
        self._merged: tuple[int, int] | None = None
        self._ready = False
        self._writer = FrameWriter(kept=False)
        self._scratch = new_scratch()

    def _follow(self, rule: RoundRule) -> None:
        check_streams(rule)
        self.rule = rule
        self._slots = slot_names(rule.optimizer)
        self._codecs = packet_codecs(rule)
        self._rules = {section_of(one.stream): one for one in rule.streams if one.stream != Stream.HESSIAN}

    def change_rule(self, rule: RoundRule) -> None:
        """From the next round on `rule` holds; called between `install` and what the next round's first `expect`, and
        before STATE frames of shards that are held under it. The rule that holds already changes nothing.

        The view stays, bit for bit. The optimizer goes on with its state where that `carries_over`, else from zeros and
        step 1. Raises `SettingError` for a rule that cannot be followed; then the old one holds.
        """
        if rule == self.rule:
            return
        keep = carries_over(self.rule, rule)
        self._follow(rule)
        for index, old in self._held.items():
            self._held[index] = self._new_held(old.shard)
            self._held[index].take_over(old, slots=keep)
        if not keep:
            self.step_number = 0
        self._incoming.clear()
        self._staging.clear()
        self._drop_attempt()

    # --- taking shards over

    def load(self, vector: FlatVector, shards: Iterable[int]) -> None:
        """Give the holder the values of `shards`, with fresh optimizer slots; they are held from `adopt` on."""
        for index in shards:
            self._incoming.put(index, vector.shard(self.layout.shards[index]))

    def take_state(self, frame: bytes | bytearray | memoryview) -> None:
        """Take one STATE frame of a shard that the next `adopt` will name. Raises `Refusal`, `ProtocolError`."""
        header = read_header(frame)
        if header.kind != Kind.STATE or header.session != self._tag:
            raise Refusal("A frame is not part of this session's state.")
        self._incoming.take(header, payload_of(frame))

    def adopt(self, message: Adopt) -> None:
        """Hold exactly `message.shards`, at its version: those that came since the last time, and those held already.

        Raises `Refusal` if a shard lacks numbers; then nothing has changed.
        """
        came = self._incoming.finished(message.shards, self._held)
        kept = {index: self._held[index] for index in message.shards if index not in came}
        if kept and message.version != self.version:
            raise Refusal(f"The shards held here are at version {self.version}, not {message.version}.")
        self._held = dict(sorted((kept | came).items()))
        self._view_digests = {}
        self._incoming.clear()
        self._staging.clear()
        self._drop_attempt()
        self.generation, self.version, self.step_number = message.generation, message.version, message.step

    def _new_held(self, shard: Shard) -> HeldShard:
        codec = self._codecs.get(shard.stream)
        names = self._slots if shard.stream == Stream.PARAMETERS else ()
        return HeldShard(
            shard, len(names), changes=codec is not None, lossy=codec is not None and codec not in LOSSLESS
        )

    # --- contributions

    def expect(self, message: Expect) -> Staged | None:
        """Take frames of a granted contribution from now on. Returns `Staged` at once if no shard held takes part."""
        self._check_turn(message.generation, message.round)
        parts = [
            (rule, shard) for rule, shard in carried(self.layout, self.rule, message.round) if shard.index in self._held
        ]
        staging = Staging(message.number, parts)
        self._staging[message.number] = staging
        return staging.report(self.generation)

    def stage(self, frame: Buffer) -> Staged | None:
        """Check a frame of a contribution and keep it, the object itself; `Staged` when it was the last one.

        Raises `Refusal` or `ProtocolError`, which say why; what was staged before stays until it is forgotten.
        """
        header = read_header(frame)
        if header.kind != Kind.CONTRIBUTION or header.session != self._tag:
            raise Refusal("A frame is not part of a contribution to this session.")
        self._check_turn(header.generation, header.round)
        staging = self._staging.get(header.number)
        if staging is None:
            raise Refusal(f"Contribution {header.number} is not expected: it was not granted, or has been dropped.")
        staging.add(header, frame, self._scratch)
        return staging.report(self.generation)

    def forget(self, number: int) -> None:
        """Drop what is staged of a contribution, if anything."""
        self._staging.pop(number, None)

    # --- a round

    def merge(self, prepare: Prepare) -> float:
        """Merge the contributions in the order given; returns the sum of squares of the merged gradient held here.

        Where nothing clips, nobody waits for that sum: 0.0 is returned, and `step` merges, each chunk just before it is
        needed. Raises `Refusal` if a contribution is not all here or the result is not finite.
        """
        self._check_turn(prepare.generation, prepare.round)
        if slot_names(prepare.optimizer) != self._slots:
            raise Refusal(
                "The optimizer needs other state than the session began with.",
                why=f"It keeps {slot_names(prepare.optimizer)} instead of {self._slots} for each parameter.",
            )
        if prepare.total_weight <= 0 or sum(weight for _, weight in prepare.contributions) <= 0:
            raise Refusal(f"Round {prepare.round} has nothing to merge.")
        for number, _ in prepare.contributions:
            if number not in self._staging or not self._staging[number].complete:
                raise Refusal(f"Contribution {number} is not all here.")
        self._drop_attempt()
        square = 0.0
        if prepare.clip_norm > 0:
            for held in self._held.values():
                if held.changes:
                    square += math.fsum(self._merge_chunk(held, *chunk, prepare) for chunk in held.shard.chunks())
        self._merged = (prepare.round, prepare.attempt)
        return square

    def _merge_chunk(self, held: HeldShard, start: int, count: int, prepare: Prepare) -> float:
        """Merge one chunk into the next master. Returns the sum of squares if it is of the gradient. Raises `Refusal`
        if that is not finite."""
        rule = self._rules[held.shard.stream]
        into = held.next.master[start - held.shard.start :][:count]
        merge(prepare, rule, self._staging, start, into, self._scratch)
        square = square_sum(into) if rule.stream == Stream.GRADIENT else 0.0
        if not math.isfinite(square):
            raise Refusal(f"The merged gradient of round {prepare.round} is not finite.")
        return square

    def _merge_hessian(self, held: HeldShard, start: int, count: int, prepare: Prepare) -> bool:
        """Merge a chunk of the Hessian estimate into the next side's slot; whether this round has one. Raises `Refusal`
        if the result is not finite."""
        due = [rule for rule in self.rule.streams_of(prepare.round) if rule.stream == Stream.HESSIAN]
        if not due or not isinstance(prepare.optimizer, Sophia):
            return False
        first = start - held.shard.start
        old, new = held.current.part(first, first + count), held.next.part(first, first + count)
        hessian = new.slots[1]
        merge(prepare, due[0], self._staging, start, hessian, self._scratch)
        update_hessian(prepare.optimizer, hessian, prepare.total_weight * self.rule.predictions, old, new)
        if not math.isfinite(float(hessian.sum())):
            raise Refusal(f"The Hessian estimate of round {prepare.round} is not finite.")
        return True

    def step(self, prepare: Prepare, norm: float) -> Iterator[memoryview]:
        """Take the step from what `merge` left; yields the packets' frames, each in memory of its own.

        `norm` is the L2 norm of the merged gradient over all holders, used if `clip_norm` is set. When the iterator is
        exhausted, `digests` describes the packets and `install` is allowed. Raises `Refusal` if a result is not finite.
        """
        if self._merged != (prepare.round, prepare.attempt):
            raise Refusal(f"Attempt {prepare.attempt} at round {prepare.round} has not been merged.")
        self._merged = None
        # As torch.nn.utils.clip_grad_norm_.
        scale = min(1.0, prepare.clip_norm / (norm + 1e-6)) if prepare.clip_norm > 0 else 1.0
        envelope = Envelope(Kind.PACKET, self._tag, self.generation, prepare.round, attempt=prepare.attempt)
        digests = []
        with ThreadPoolExecutor(1, thread_name_prefix="swarm-digest") as beside:
            for held in self._held.values():
                if not held.changes:
                    continue
                digest, size = hashlib.sha256(), 0
                for start, count in held.shard.chunks():
                    if not prepare.clip_norm > 0:
                        self._merge_chunk(held, start, count, prepare)
                    if held.shard.stream == Stream.PARAMETERS:
                        fresh = self._merge_hessian(held, start, count, prepare)
                        self._optimize(held, start, count, prepare, scale, fresh)
                    frame = self._packet(held, start, count, envelope)
                    beside.submit(digest.update, payload_of(frame))
                    size += len(payload_of(frame))
                    yield frame
                digests.append((held.shard.index, size, digest))
        self.digests = tuple(ShardDigest(index, size, digest.hexdigest()) for index, size, digest in digests)
        self._ready = True

    def _optimize(self, held: HeldShard, start: int, count: int, prepare: Prepare, scale: float, fresh: bool) -> None:
        """The optimizer's step. fresh: this round's Hessian estimate is in the next side's slot already."""
        rule = prepare.optimizer
        for begin, end, group in self._groups:
            first, last = max(begin, start) - held.shard.start, min(end, start + count) - held.shard.start
            if first >= last:
                continue
            old, new = held.current.part(first, last), held.next.part(first, last)
            if fresh:
                old = Slice(old.parameters, (old.slots[0], new.slots[1]))
            if scale < 1.0:
                new.parameters.mul_(scale)
            scales = self.layout.groups[group]
            rates = Rates(
                prepare.learning_rate * scales.learning_rate_scale,
                rule.weight_decay * scales.weight_decay_scale,
                self.step_number + 1,
            )
            # The merged gradient lies where the new parameters go.
            update(rule, rates, new.parameters, old, new)
            if not math.isfinite(float(new.parameters.sum())):
                raise Refusal(
                    f"Round {prepare.round} would make parameters that are not finite.", todo="Lower the learning rate."
                )

    def _packet(self, held: HeldShard, start: int, count: int, envelope: Envelope) -> memoryview:
        shard = held.shard
        codec = self._codecs[shard.stream]
        part = slice(start - shard.start, start - shard.start + count)
        master = held.next.master[part]
        if not held.lossy:
            return self._writer.frame(envelope, shard.stream, codec, shard.index, start, master)
        delta = torch.sub(master, held.current.view[part], out=held.next.view[part])
        frame = self._writer.frame(envelope, shard.stream, codec, shard.index, start, delta)
        view = held.next.view[part].copy_(held.current.view[part])
        add_packet(codec, payload_of(frame), view, self._scratch)
        return frame

    def install(self) -> None:
        """Make the prepared version the version. Raises `Refusal` if no step has been completed."""
        if not self._ready:
            raise Refusal("There is no prepared version to install.")
        for held in self._held.values():
            held.flip()
        # Where packets carry values, theirs is the view's digest.
        self._view_digests = {one.shard: one.sha256 for one in self.digests if not self._held[one.shard].lossy}
        self.version += 1
        self.step_number += 1
        self._staging.clear()
        self._drop_attempt()

    def revert(self) -> None:
        """Forget what was prepared and staged; the version that stands is as it was."""
        self._staging.clear()
        self._drop_attempt()

    def _drop_attempt(self) -> None:
        self._merged = None
        self._ready = False
        self.digests = ()

    # --- handing out

    @property
    def shards(self) -> tuple[int, ...]:
        """The shards held, in order."""
        return tuple(self._held)

    def copy_view(self, vector: FlatVector) -> None:
        """Write the view (what all peers have) of the shards held into `vector`."""
        for held in self._held.values():
            vector.shard(held.shard).copy_(held.current.view)

    def view_digest(self, shard: int) -> str:
        """SHA-256 of one shard of the view, to compare with peers' `ViewDigest`."""
        return self._view_digests.get(shard) or sha256(self._held[shard].current.view)

    def state_frames(self) -> Iterator[memoryview]:
        """STATE frames of all shards held: the view in its section's stream, then OPTIMIZER frames whose `number` is
        the slot's index; behind the optimizer's slots comes the master, if it differs from the view.
        """
        for held in self._held.values():
            shard = held.shard
            for number, values in enumerate(held.current.parts()):
                stream = shard.stream if number == 0 else Stream.OPTIMIZER
                codec = exact_codec(shard.stream) if number == 0 else Codec.FP32
                envelope = Envelope(Kind.STATE, self._tag, self.generation, self.version, max(number - 1, 0))
                for start, count in shard.chunks():
                    part = values[start - shard.start :][:count]
                    yield self._writer.frame(envelope, stream, codec, shard.index, start, part)

    def _check_turn(self, generation: int, round: int) -> None:
        if generation != self.generation:
            raise Refusal(
                f"This is for generation {generation} of the session, which is in generation {self.generation}."
            )
        if round != self.version + 1:
            raise Refusal(f"This is for round {round}; the holder works on round {self.version + 1}.")


def _group_ranges(layout: Layout) -> list[tuple[int, int, int]]:
    """The parameters' section cut where the parameter group changes: (start, stop, group)."""
    ranges: list[tuple[int, int, int]] = []
    for tensor in layout.tensors:
        if tensor.stream == Stream.PARAMETERS:
            joins = bool(ranges) and ranges[-1][2] == tensor.group
            start = ranges.pop()[0] if joins else tensor.start
            ranges.append((start, tensor.start + tensor.count, tensor.group))
    return ranges
