"""A held shard's memory, in two sides: the version that stands and the one that is being made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..optim.slices import Slice, slot_names
from ..protocol.errors import Refusal
from ..protocol.frames import Buffer, Header
from ..protocol.layout import Layout, ParameterGroup, Shard, Stream
from ..protocol.rules import LOSSLESS, RoundRule
from .carried import section_rules
from .codecs import decode
from .incoming import check_place
from .outgoing import exact_codec
from .vector import storage_dtype


class GroupRange(NamedTuple):
    """The elements [start, stop) of the parameters' section, all in one parameter group."""

    start: int
    stop: int
    group: ParameterGroup


class Side:
    """One version of a shard. `view` is what the peers have, `master` what the optimizer steps from: the same memory
    unless packets lose digits."""

    def __init__(self, shard: Shard, slots: int, lossy: bool) -> None:
        dtype = storage_dtype(shard.stream)
        self.master = torch.zeros(shard.count, dtype=dtype)
        self.slots = tuple(torch.zeros(shard.count, dtype=dtype) for _ in range(slots))
        self.view = torch.zeros(shard.count, dtype=dtype) if lossy else self.master

    def part(self, start: int, stop: int) -> Slice:
        """What the optimizer works on, elements [start, stop) of the shard."""
        return Slice(self.master, self.slots).part(start, stop)

    def parts(self) -> list[Tensor]:
        """All numbers of this side: the view, the optimizer's slots, the master if it differs from the view."""
        return [self.view, *self.slots] + ([self.master] if self.master is not self.view else [])


class HeldShard:
    """Both sides of a shard; a shard that no round changes has one.

    groups: the parameters' section cut by parameter group, of which the shard keeps its part.
    """

    def __init__(self, shard: Shard, rule: RoundRule, groups: Iterable[GroupRange]) -> None:
        stream_rule = section_rules(rule).get(shard.stream)
        slots = len(slot_names(rule.optimizer)) if shard.stream == Stream.PARAMETERS else 0
        self.shard = shard
        self.groups = [each for each in groups if each.start < shard.stop and shard.start < each.stop]
        self.changes = stream_rule is not None
        self.lossy = stream_rule is not None and stream_rule.down not in LOSSLESS
        self.current = Side(shard, slots, self.lossy)
        self.next = Side(shard, slots, self.lossy) if self.changes else self.current

    def flip(self) -> None:
        """The side that was being made becomes the one that stands."""
        self.current, self.next = self.next, self.current

    def keep(self) -> None:
        """Let the version that is being made begin as the one that stands, where a round changes only part of it."""
        for new, old in zip(self.next.parts(), self.current.parts(), strict=True):
            new.copy_(old)

    def take_over(self, old: HeldShard, slots: bool) -> None:
        """Take the version that stands from `old`; its optimizer slots only if `slots`.

        What the peers have stays what it is. A master goes on only where packets still lose digits: the one packet's
        rounding error that it differs by is given up.
        """
        for mine, theirs in zip(self.current.slots, old.current.slots if slots else (), strict=False):
            mine.copy_(theirs)
        self.current.view.copy_(old.current.view)
        if self.lossy:
            self.current.master.copy_(old.current.master)


def group_ranges(layout: Layout) -> list[GroupRange]:
    """The parameters' section, cut where the parameter group changes."""
    ranges: list[GroupRange] = []
    for tensor in layout.tensors:
        if tensor.stream == Stream.PARAMETERS:
            group = layout.groups[tensor.group]
            joins = bool(ranges) and ranges[-1].group == group
            start = ranges.pop().start if joins else tensor.start
            ranges.append(GroupRange(start, tensor.start + tensor.count, group))
    return ranges


class Incoming:
    """Shards that are being handed over, until they are adopted."""

    def __init__(self, layout: Layout, new_held: Callable[[Shard], HeldShard]) -> None:
        self._layout = layout
        self._new_held = new_held
        self._shards: dict[int, HeldShard] = {}
        self._chunks: dict[int, dict[int, set[int]]] = {}

    def put(self, index: int, values: Tensor) -> None:
        """The whole view of a shard."""
        held = self._begun(index)
        held.current.view.copy_(values)
        self._chunks[index].setdefault(0, set()).update(start for start, _ in held.shard.chunks())

    def take(self, header: Header, payload: Buffer) -> None:
        """One chunk of a shard's view, slots or master. Raises `Refusal` or `ProtocolError` if it is out of place."""
        shard = check_place(self._layout, header)
        held = self._begun(header.shard)
        is_slot = header.stream == Stream.OPTIMIZER
        part = header.number + 1 if is_slot else 0
        parts = held.current.parts()
        if part >= len(parts):
            raise Refusal(f"Shard {header.shard} has no optimizer slot {header.number}.")
        if header.codec != exact_codec(shard.stream) or not (is_slot or header.stream == shard.stream):
            raise Refusal(f"State of shard {header.shard} carries {header.stream.name} in {header.codec.name}.")
        decode(header.codec, payload, parts[part][header.start - shard.start :][: header.count])
        self._chunks[header.shard].setdefault(part, set()).add(header.start)

    def finished(self, shards: Collection[int], held: Mapping[int, HeldShard]) -> dict[int, HeldShard]:
        """Those of `shards` that came. Raises `Refusal` unless each came whole or, if nothing of it came, is `held`.

        Slots of which nothing came are zero; a master of which nothing came is the view.
        """
        came = {}
        for index in shards:
            if index not in self._shards:
                if index not in held:
                    raise Refusal(f"Shard {index} is to be held, but its numbers did not come.")
                continue
            shard, parts = self._shards[index], self._chunks[index]
            expected = len(shard.shard.chunks())
            if 0 not in parts or any(len(starts) != expected for starts in parts.values()):
                raise Refusal(f"Shard {index} is to be held, but only part of its numbers came.")
            if shard.lossy and len(shard.current.slots) + 1 not in parts:
                shard.current.master.copy_(shard.current.view)
            came[index] = shard
        return came

    def clear(self) -> None:
        """Forget what came."""
        self._shards.clear()
        self._chunks.clear()

    def _begun(self, index: int) -> HeldShard:
        if index not in self._shards:
            self._shards[index] = self._new_held(self._layout.shards[index])
            self._chunks[index] = {}
        return self._shards[index]
