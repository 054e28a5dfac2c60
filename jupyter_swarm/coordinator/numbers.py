"""The numbers of one session on the server: its own holder, the view that joiners get, the state on disk.

All methods run in one thread that is not the event loop's (`SessionRuntime` sees to it), because they move whole
models; but `packets`, `pin_frames` and `take_state`, which touch nothing that the others change. What they compute is
handed back through their results or through the functions given to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch

from ..optim.slices import slot_names
from ..protocol import failpoints
from ..protocol.errors import LayoutError, StoreError
from ..protocol.frames import Buffer, Kind, payload_of, read_header, session_tag
from ..protocol.layout import Layout, Stream
from ..protocol.messages import Adopt, Prepare
from ..protocol.records import ShardDigest
from ..protocol.rules import SessionSpec
from ..shards.carried import carries_over, check_streams
from ..shards.codecs import decode
from ..shards.holder import Holder
from ..shards.incoming import PacketSet
from ..shards.outgoing import Envelope, FrameWriter, exact_codec, value_frames
from ..shards.vector import FlatVector, storage_dtype
from ..store import snapshots
from ..store.journal import Journal

State = dict[str, torch.Tensor]
"""A whole state by shard and part: "3.0" is shard 3's view, "3.1" its first optimizer slot, and so on; what a holder
sends as STATE frames, and what a snapshot holds."""


class Pin(NamedTuple):
    """An immutable copy of the view for joiners, with the digest of each chunk and of the whole."""

    number: int
    version: int
    view: FlatVector
    chunk_digests: tuple[str, ...]
    digest: str


class Numbers:
    """Built once per session and server start; `restore` brings it to the last recorded version.

    At version v everything is as the rule of round v + 1 wants it: the holder's slots, and those of a snapshot of v.
    `spec` may be replaced, from any thread, by one whose changes begin after the round under way. Raises
    `SettingError` for rules that no holder can follow.
    """

    def __init__(self, spec: SessionSpec, layout: Layout, folder: Path, generation: int) -> None:
        for rule in (spec.rule, *(change.rule for change in spec.changes)):
            check_streams(rule)
        self.spec = spec
        self.layout = layout
        self.folder = folder
        self.generation = generation
        self.holder = Holder(layout, spec.rule_of(1), spec.session)
        self.journal = Journal(folder)
        self.version = 0
        self.optimizer_step = 0
        self._tag = session_tag(spec.session)
        self._view: FlatVector | None = None
        self._loaded: State = {}
        self._pins = 0
        self._writer = FrameWriter(kept=False)

    # --- the disk

    def restore(self, last_round: int, initial: bytes | None) -> str:
        """Load snapshot and journal; returns in words what of the optimizer's state is lost, or ''.

        `initial` is the founder's first parameters (safetensors), for a session without a snapshot. Raises
        `StoreError`, `LayoutError`.
        """
        rounds = self.journal.recover(last_round)
        if snapshots.latest(self.folder) is None:
            self._save_first(initial)
        newest = snapshots.latest(self.folder) or 0
        facts, self._loaded = snapshots.load(self.folder, newest)
        view = FlatVector(self.layout)
        for shard in self.layout.shards:
            view.shard(shard).copy_(self._loaded[f"{shard.index}.0"])
        for number in rounds:
            self._replay(number, view)
        self._view = view
        self.version = last_round
        self.holder.change_rule(self.spec.rule_of(last_round + 1))
        self.optimizer_step = facts.step if self._carries_over(newest) else 0
        self._loaded = self._at_version(newest, self._loaded)
        if not self._carries_over(newest):
            return f"the optimizer's state begins anew: the strategy has changed since the snapshot of version {newest}"
        return f"the optimizer's state is {last_round - newest} rounds older" if last_round > newest else ""

    def _at_version(self, version: int, state: State) -> State:
        """What a snapshot of `version` is good for now: later its optimizer's slots only, if the rule has not changed
        to one that cannot use them. The master then begins as the view."""
        if version == self.version:
            return state
        if not self._carries_over(version):
            return {}
        slots = len(slot_names(self.spec.rule_of(version + 1).optimizer))
        parameters = {shard.index for shard in self.layout.shards if shard.stream == Stream.PARAMETERS}
        places = {name: tuple(int(number) for number in name.split(".")) for name in state}
        return {
            name: state[name] for name, (index, part) in places.items() if index in parameters and 1 <= part <= slots
        }

    def _carries_over(self, version: int) -> bool:
        """Whether the optimizer's state of `version` is of use now."""
        begun = (change.round for change in self.spec.changes if version + 1 < change.round <= self.version + 1)
        return all(carries_over(self.spec.rule_of(round - 1), self.spec.rule_of(round)) for round in begun)

    def _save_first(self, initial: bytes | None) -> None:
        if initial is None:
            raise StoreError("The session has neither a snapshot nor first parameters.", todo="Open a new session.")
        view = FlatVector(self.layout)
        try:
            view.load(safetensors.torch.load(initial))
        except (safetensors.SafetensorError, KeyError, RuntimeError) as error:
            raise LayoutError("The session's first parameters cannot be read.", str(error)) from None
        self.save(0, {f"{shard.index}.0": view.shard(shard) for shard in self.layout.shards}, step=0)

    def _replay(self, number: int, view: FlatVector) -> None:
        packets: PacketSet | None = None
        for frame in self.journal.read_round(number):
            header = read_header(frame)
            if packets is None:
                packets = PacketSet(
                    self.layout, self.spec.rule_of(number), self._tag, header.generation, number, header.attempt
                )
            packets.add(frame)
        if packets is not None:
            packets.apply(view)

    def save(self, version: int, state: State, step: int, keep_after: int | None = None) -> None:
        """Write a snapshot; keep packets of rounds after `keep_after`. Raises `StoreError`; then the older stays."""
        missing = [shard.index for shard in self.layout.shards if f"{shard.index}.0" not in state]
        if missing:
            raise StoreError(f"Nobody holds shard {missing[0]} at the moment.")
        facts = snapshots.SnapshotFacts(version, self.generation, step, self.layout.digest)
        snapshots.save(self.folder, state, facts, keep_after)

    def state_on_disk(self) -> State:
        """What the newest snapshot holds that is of use now. Raises `StoreError`."""
        facts, state = snapshots.load(self.folder, snapshots.latest(self.folder) or 0)
        return self._at_version(facts.version, state)

    # --- shards handed over

    def own_state(self) -> tuple[int, int, State]:
        """Version, optimizer step and a copy of everything that the server's own holder holds."""
        state: State = {}
        for frame in self.holder.state_frames():
            self.take_state(frame, state)
        return self.version, self.optimizer_step, state

    def take_state(self, frame: Buffer, state: State) -> None:
        """Copy one STATE frame into `state`."""
        header = read_header(frame)
        shard = self.layout.shards[header.shard]
        part = header.number + 1 if header.stream == Stream.OPTIMIZER else 0
        values = state.get(f"{shard.index}.{part}")
        if values is None:
            values = state[f"{shard.index}.{part}"] = torch.zeros(shard.count, dtype=storage_dtype(shard.stream))
        decode(header.codec, payload_of(frame), values[header.start - shard.start :][: header.count])

    def restored_state(self) -> State:
        """What `restore` has read: the view as of now, and the optimizer's slots as of the snapshot."""
        loaded, self._loaded = self._loaded, {}
        view = self.view()
        return loaded | {f"{shard.index}.0": view.shard(shard) for shard in self.layout.shards}

    def adopt(self, shards: tuple[int, ...], state: State) -> None:
        """Let the server's holder hold `shards`, and the constants, which no other holder keeps; those that it does
        not hold yet come from `state`."""
        constants = tuple(shard.index for shard in self.layout.shards if shard.stream == Stream.CONSTANT)
        for frame in self.state_frames({*shards, *constants} - set(self.holder.shards), state):
            self.holder.take_state(frame)
        self.holder.adopt(Adopt(self.generation, self.version, self.optimizer_step, shards + constants))

    def state_frames(self, shards: Iterable[int], state: State) -> Iterator[memoryview]:
        """STATE frames of `shards` out of `state`, to be handed to a holder."""
        wanted = set(shards)
        for name, values in state.items():
            index, part = (int(number) for number in name.split("."))
            if index not in wanted:
                continue
            shard = self.layout.shards[index]
            stream = shard.stream if part == 0 else Stream.OPTIMIZER
            envelope = Envelope(Kind.STATE, self._tag, self.generation, self.version, max(part - 1, 0))
            for start, count in shard.chunks():
                values_of = values[start - shard.start :][:count]
                yield self._writer.frame(envelope, stream, exact_codec(shard.stream), index, start, values_of)

    # --- a round

    def step(self, prepare: Prepare, norm: float, send: Callable[[Buffer], None]) -> tuple[ShardDigest, ...]:
        """Compute the next version of the server's own shards; each packet goes to `send` as soon as it is ready."""
        for frame in self.holder.step(prepare, norm):
            send(frame)
        failpoints.reach("prepared")
        return self.holder.digests

    def install(self, packets: PacketSet, digest_shard: int) -> str:
        """The round is committed; returns the digest of one shard of the view."""
        self.holder.install()
        self.version += 1
        self.holder.change_rule(self.spec.rule_of(self.version + 1))
        self.optimizer_step = self.holder.step_number
        if self._view is not None:
            packets.apply(self._view)
        return self.digest(digest_shard)

    def keep_view(self, keep: bool) -> None:
        """Keep a copy of the whole view beside the holder (needed while others hold shards), or let it go."""
        if keep and self._view is None:
            self._view = self.view()
        elif not keep:
            self._view = None

    def view(self) -> FlatVector:
        """A copy of the view at the current version."""
        view = FlatVector(self.layout)
        if self._view is not None:
            view.copy_from(self._view)
        else:
            self.holder.copy_view(view)
        return view

    def version_and_view(self) -> tuple[int, FlatVector]:
        """The current version and a copy of its view."""
        return self.version, self.view()

    def digest(self, shard: int) -> str:
        """SHA-256 of one shard of the view."""
        return self._view.digest(self.layout.shards[shard]) if self._view else self.holder.view_digest(shard)

    def pin(self) -> Pin:
        """An immutable copy of the view for those who join at this version."""
        self._pins += 1
        view = self.view()
        return Pin(self._pins, self.version, view, view.chunk_digests(), view.digest_all())

    def pin_frames(self, pin: Pin, chunks: tuple[int, ...]) -> Iterator[memoryview]:
        """The SNAPSHOT frames of the wanted chunks."""
        envelope = Envelope(Kind.SNAPSHOT, self._tag, self.generation, pin.version, pin.number)
        return value_frames(FrameWriter(kept=False), envelope, pin.view, set(chunks))

    def packets(self, round: int, attempt: int) -> PacketSet:
        """Where the packets of an attempt are collected."""
        return PacketSet(self.layout, self.spec.rule_of(round), self._tag, self.generation, round, attempt)
