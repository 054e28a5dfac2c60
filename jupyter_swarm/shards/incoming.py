"""What a peer does with the frames it receives: packets are kept aside until the commit, snapshots go into a view."""

from __future__ import annotations

import hashlib

from torch import Tensor

from ..protocol.errors import Refusal
from ..protocol.frames import Buffer, Header, Kind, payload_of, read_header
from ..protocol.layout import CHUNK_ELEMENTS, Layout, Shard, Stream, section_of
from ..protocol.rules import LOSSLESS, Codec, RoundRule
from ..protocol.sizes import due
from .carried import packet_codecs
from .codecs import check_length, decode, decoded, new_scratch
from .outgoing import exact_codec
from .vector import FlatVector, sha256


def check_place(layout: Layout, header: Header) -> Shard:
    """The shard that a frame is part of. Raises `Refusal` unless the frame is exactly one of that shard's chunks."""
    if header.shard >= len(layout.shards):
        raise Refusal(f"A frame is for shard {header.shard}; there are {len(layout.shards)}.")
    shard = layout.shards[header.shard]
    if header.stream != Stream.OPTIMIZER and section_of(header.stream) != shard.stream:
        raise Refusal(f"A frame of shard {header.shard} carries {header.stream.name}, not {shard.stream.name}.")
    inside = shard.start <= header.start < shard.stop and (header.start - shard.start) % CHUNK_ELEMENTS == 0
    if not inside or header.count != min(CHUNK_ELEMENTS, shard.stop - header.start):
        raise Refusal(
            f"A frame has the elements {header.start} to {header.start + header.count}, "
            f"which is no chunk of shard {header.shard}."
        )
    return shard


def add_packet(codec: Codec, payload: Buffer, values: Tensor, scratch: Tensor) -> None:
    """Take a packet's chunk into `values`: replace them if the codec is lossless, else add the decoded step.

    Holders and peers do this with the same code, so that master's view and peers' views stay the same bits.
    """
    if codec in LOSSLESS:
        decode(codec, payload, values)
    else:
        values.add_(decoded(codec, payload, values.numel(), scratch))


class PacketSet:
    """The packets of one attempt at a round, as they came. Nothing touches the view before `apply`."""

    def __init__(self, layout: Layout, rule: RoundRule, session: int, generation: int, round: int, attempt: int):
        self.layout = layout
        self.round = round
        self.attempt = attempt
        self._identity = (Kind.PACKET, session, generation, round, attempt, rule.fragment_of(round))
        self._codecs = packet_codecs(rule)
        shards = [shard for shard in layout.shards if shard.stream in self._codecs]
        self._places = {start: (shard, count) for shard in shards for start, count in due(shard, rule, round)}
        self._frames: dict[int, tuple[Header, Buffer]] = {}

    @property
    def expected(self) -> int:
        """How many frames there are."""
        return len(self._places)

    @property
    def complete(self) -> bool:
        """Whether every part of every shard that the round changes is here."""
        return len(self._frames) == self.expected

    def add(self, frame: Buffer) -> bool:
        """Keep a frame (the object itself, not a copy); returns `complete`. Raises `Refusal`, `ProtocolError`."""
        header = read_header(frame)
        identity = (header.kind, header.session, header.generation, header.round, header.attempt, header.fragment)
        if identity != self._identity:
            raise Refusal(f"A frame does not belong to attempt {self.attempt} at round {self.round}.")
        shard, count = self._places.get(header.start, (None, 0))
        if shard is None or (header.shard, header.count) != (shard.index, count):
            raise Refusal(
                f"Elements {header.start} to {header.start + header.count} of shard {header.shard} are nothing that "
                f"round {self.round} changes."
            )
        if header.stream != shard.stream or self._codecs[shard.stream] != header.codec:
            raise Refusal(f"The rule sends no {header.stream.name} in {header.codec.name}.")
        if header.start in self._frames:
            raise Refusal(f"The packet from element {header.start} on came twice.")
        check_length(header.codec, payload_of(frame), header.count)
        self._frames[header.start] = (header, frame)
        return self.complete

    def apply(self, view: FlatVector) -> None:
        """Bring `view` from version `round - 1` to `round`. Raises `Refusal` before any change if packets lack."""
        if not self.complete:
            raise Refusal(f"Round {self.round} has {len(self._frames)} of {self.expected} packets.")
        scratch = new_scratch()
        for header, frame in self._frames.values():
            values = view.slice(header.stream, header.start, header.count)
            add_packet(header.codec, payload_of(frame), values, scratch)


class SnapshotSet:
    """Makes `view` the snapshot whose chunk digests are `digests`; only the chunks that differ are `missing`.

    Chunks are checked before they are written, so what has come stays good when the connection does not.
    """

    def __init__(self, view: FlatVector, session: int, generation: int, number: int, digests: tuple[str, ...]) -> None:
        self.view = view
        self._identity = (Kind.SNAPSHOT, session, generation, number)
        places = view.chunks()
        if len(digests) != len(places):
            raise Refusal(f"A snapshot of {len(digests)} chunks was offered; the layout has {len(places)}.")
        self._wanted: dict[int, tuple[int, str]] = {}
        for index, ((shard, start, count), digest) in enumerate(zip(places, digests, strict=True)):
            if sha256(view.slice(shard.stream, start, count)) != digest:
                self._wanted[start] = (index, digest)

    @property
    def missing(self) -> tuple[int, ...]:
        """The numbers of the chunks that are still to come, in order."""
        return tuple(sorted(index for index, _ in self._wanted.values()))

    def add(self, frame: Buffer) -> bool:
        """Take one chunk; returns whether the view is complete. Raises `Refusal`, `ProtocolError`."""
        header = read_header(frame)
        if (header.kind, header.session, header.generation, header.number) != self._identity:
            raise Refusal("A frame does not belong to the snapshot that was asked for.")
        shard = check_place(self.view.layout, header)
        payload = payload_of(frame)
        if header.stream != shard.stream or header.codec != exact_codec(shard.stream):
            raise Refusal(f"A frame of values carries {header.stream.name} in {header.codec.name}.")
        if header.start in self._wanted:
            _, digest = self._wanted[header.start]
            if hashlib.sha256(payload).hexdigest() != digest:
                raise Refusal(
                    f"The chunk from element {header.start} on was damaged on its way.", todo="Ask for it again."
                )
            decode(header.codec, payload, self.view.slice(header.stream, header.start, header.count))
            del self._wanted[header.start]
        return not self._wanted
