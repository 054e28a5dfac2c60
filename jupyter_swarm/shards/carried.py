"""Which shards a round carries, in which order, and with which codec."""

from __future__ import annotations

from ..protocol.layout import Layout, Shard, Stream, section_of
from ..protocol.rules import Codec, RoundRule, StreamRule


def carried(layout: Layout, rule: RoundRule) -> list[tuple[StreamRule, Shard]]:
    """What a contribution consists of: every shard of every stream of the rule, in the rule's order."""
    return [
        (stream_rule, shard)
        for stream_rule in rule.streams
        for shard in layout.shards
        if shard.stream == section_of(stream_rule.stream)
    ]


def packet_codecs(rule: RoundRule) -> dict[Stream, Codec]:
    """Section of the flat vector -> codec of its packets. Sections that are not in it stay as they are."""
    return {
        section_of(stream_rule.stream): stream_rule.down
        for stream_rule in rule.streams
        if stream_rule.stream != Stream.HESSIAN
    }


def name_of(stream: Stream) -> str:
    """The stream's name as in messages and records, where norms are keyed by it."""
    return stream.name.lower()
