"""The holder: keeps shards of the global state, merges contributions into them, takes the optimizer's step.

No sockets: it is driven by the protocol's messages, from one thread. A version is made beside the one that stands:

    stage ...  ->  merge  ->  step  ->  install        the new version stands
                                    ->  revert         the old one does, bit for bit

What a holder computes depends on the old state, the staged bytes and the order in `Prepare` alone, and every shard is
computed by itself: the result is the same bits in whichever order frames came and however shards are spread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..optim.slices import slot_names
from ..protocol.errors import Refusal
from ..protocol.frames import Buffer, Kind, payload_of, read_header, session_tag
from ..protocol.layout import Layout, Shard, Stream
from ..protocol.messages import Adopt, Expect, Prepare, Staged
from ..protocol.records import ShardDigest
from ..protocol.rules import RoundRule
from .attempt import Attempt
from .carried import carries_over, check_streams
from .codecs import new_scratch
from .held import HeldShard, Incoming, group_ranges
from .outgoing import Envelope, FrameWriter, exact_codec
from .staging import Staging
from .vector import FlatVector, sha256


class Holder:
    """Holds shards of `layout` for one session, under one `rule` until `change_rule`.

    Raises `SettingError` for a rule it cannot follow.
    """

    def __init__(self, layout: Layout, rule: RoundRule, session: str) -> None:
        check_streams(rule)
        self.layout = layout
        self.rule = rule
        self.generation = 0
        self.version = 0
        self.step_number = 0
        self._tag = session_tag(session)
        self._groups = group_ranges(layout)
        self._held: dict[int, HeldShard] = {}
        self._view_digests: dict[int, str] = {}
        self._incoming = Incoming(layout, self._new_held)
        self._staging: dict[int, Staging] = {}
        self._merged: Attempt | None = None
        self._prepared: Attempt | None = None
        self._writer = FrameWriter(kept=False)
        self._scratch = new_scratch()

    def change_rule(self, rule: RoundRule) -> None:
        """From the next round on `rule` holds; called between `install` and the next round's first `expect`, and before
        STATE frames of shards that are held under it. The rule that holds already changes nothing.

        The view stays, bit for bit. The optimizer goes on with its state where that `carries_over`, else from zeros and
        step 1. Raises `SettingError` for a rule that cannot be followed; then the old one holds.
        """
        if rule == self.rule:
            return
        check_streams(rule)
        keep = carries_over(self.rule, rule)
        self.rule = rule
        for index, old in self._held.items():
            self._held[index] = self._new_held(old.shard)
            self._held[index].take_over(old, slots=keep)
        if not keep:
            self.step_number = 0
        self._incoming.clear()
        self.revert()

    # --- taking shards over

    def load(self, vector: FlatVector, shards: Iterable[int]) -> None:
        """Give the holder the values of `shards`, with fresh optimizer slots; they are held from `adopt` on."""
        for index in shards:
            self._incoming.put(index, vector.shard(self.layout.shards[index]))

    def take_state(self, frame: Buffer) -> None:
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
        self.revert()
        self.generation, self.version, self.step_number = message.generation, message.version, message.step

    def _new_held(self, shard: Shard) -> HeldShard:
        return HeldShard(shard, self.rule, self._groups)

    # --- contributions

    def expect(self, message: Expect) -> Staged | None:
        """Take frames of a granted contribution from now on. Returns `Staged` at once if no shard held takes part."""
        self._check_turn(message.generation, message.round)
        staging = Staging(message.number, self.layout, self.rule, message.round, self._held)
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

    @property
    def digests(self) -> tuple[ShardDigest, ...]:
        """What describes the packets of the prepared version, if there is one."""
        return self._prepared.digests if self._prepared is not None else ()

    def merge(self, prepare: Prepare) -> float:
        """Merge the contributions in the order given; returns the sum of squares of the merged gradient held here, or
        0.0 where nothing clips.

        Raises `Refusal` if a contribution is not all here or the result is not finite.
        """
        self._check_turn(prepare.generation, prepare.round)
        slots = slot_names(self.rule.optimizer)
        if slot_names(prepare.optimizer) != slots:
            raise Refusal(
                "The optimizer needs other state than the round's rule says.",
                why=f"It keeps {slot_names(prepare.optimizer)} instead of {slots} for each parameter.",
            )
        if prepare.total_weight <= 0 or sum(weight for _, weight in prepare.contributions) <= 0:
            raise Refusal(f"Round {prepare.round} has nothing to merge.")
        for number, _ in prepare.contributions:
            if number not in self._staging or not self._staging[number].complete:
                raise Refusal(f"Contribution {number} is not all here.")
        self._merged = self._prepared = None
        changing = [held for held in self._held.values() if held.changes]
        attempt = Attempt(prepare, self.rule, changing, self._staging, self._tag, self.step_number + 1)
        square = attempt.merge()
        self._merged = attempt
        return square

    def step(self, prepare: Prepare, norm: float) -> Iterator[memoryview]:
        """Take the step from what `merge` left; yields the packets' frames, each in memory of its own.

        `norm` is the L2 norm of the merged gradient over all holders, used if `clip_norm` is set. When the iterator is
        exhausted, `digests` describes the packets and `install` is allowed. Raises `Refusal` if a result is not finite.
        """
        attempt = self._merged
        if attempt is None or attempt.prepare != prepare:
            raise Refusal(f"Attempt {prepare.attempt} at round {prepare.round} has not been merged.")
        self._merged = None
        yield from attempt.step(norm)
        self._prepared = attempt

    def install(self) -> None:
        """Make the prepared version the version. Raises `Refusal` if no step has been completed."""
        if self._prepared is None:
            raise Refusal("There is no prepared version to install.")
        for held in self._held.values():
            held.flip()
        # Where packets carry all values, theirs is the view's digest.
        digests = self.digests if self.rule.fragments == 1 else ()
        self._view_digests = {one.shard: one.sha256 for one in digests if not self._held[one.shard].lossy}
        self.version += 1
        self.step_number += 1
        self.revert()

    def revert(self) -> None:
        """Forget what was prepared and staged; the version that stands is as it was."""
        self._staging.clear()
        self._merged = self._prepared = None

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
            codec = exact_codec(shard.stream)
            for number, values in enumerate(held.current.parts()):
                stream = shard.stream if number == 0 else Stream.OPTIMIZER
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
