"""Which shards a round carries, in which order, and with which codec; what of that a rule may ask for."""

from __future__ import annotations

from ..optim.slices import slot_names
from ..protocol.errors import SettingError
from ..protocol.layout import Layout, Shard, Stream, section_of
from ..protocol.rules import Codec, RoundRule, Sophia, StreamRule


def carried(layout: Layout, rule: RoundRule, round: int) -> list[tuple[StreamRule, Shard]]:
    """What a contribution to `round` consists of: every shard of every stream that is due, in the rule's order."""
    return [
        (stream_rule, shard)
        for stream_rule in rule.streams_of(round)
        for shard in layout.shards
        if shard.stream == section_of(stream_rule.stream)
    ]


def section_rules(rule: RoundRule) -> dict[Stream, StreamRule]:
    """Section of the flat vector -> how it is merged and sent. Sections that are not in it stay as they are."""
    return {section_of(one.stream): one for one in rule.streams if one.stream != Stream.HESSIAN}


def packet_codecs(rule: RoundRule) -> dict[Stream, Codec]:
    """Section of the flat vector -> codec of its packets."""
    return {section: one.down for section, one in section_rules(rule).items()}


def name_of(stream: Stream) -> str:
    """The stream's name as in messages and records, where norms are keyed by it."""
    return stream.name.lower()


def carries_over(old: RoundRule, new: RoundRule) -> bool:
    """Whether the optimizer's state under `old` is of use under `new`: the same slots, filled from the same kind of
    contribution (the momentum of gradients would throw an optimizer of pseudo-gradients far off)."""
    return slot_names(old.optimizer) == slot_names(new.optimizer) and old.contribution == new.contribution


def check_streams(rule: RoundRule) -> None:
    """Raises `SettingError` for streams that cannot be merged: unknown ones, counters in another codec than INT64, a
    Hessian estimate that the optimizer does not use or lacks."""
    estimates = isinstance(rule.optimizer, Sophia)
    streams = {stream_rule.stream for stream_rule in rule.streams}
    known = {Stream.GRADIENT, Stream.BUFFER, Stream.COUNTER} | ({Stream.HESSIAN} if estimates else set())
    if streams - known:
        names = ", ".join(stream.name for stream in sorted(streams - known))
        raise SettingError(f"{type(rule.optimizer).__name__} does not use the stream {names}.")
    if estimates and (Stream.HESSIAN not in streams or rule.contribution != "gradient_sum"):
        raise SettingError(
            f"{rule.strategy} gives Sophia no Hessian estimates to step shared parameters with.",
            todo="Use Sophia with EveryStep, or for the inner steps of LocalUpdates.",
        )
    for stream_rule in rule.streams:
        of_steps = stream_rule.stream == Stream.GRADIENT and rule.contribution == "pseudo_gradient"
        if (stream_rule.feedback or stream_rule.up == Codec.TOPK) and not of_steps:
            raise SettingError(
                f"{rule.strategy} cannot send {stream_rule.stream.name} sparsely, or with error feedback.",
                todo="Use SparseLocalUpdates, or another codec without feedback.",
            )
        if stream_rule.up == Codec.TOPK and not stream_rule.feedback:
            raise SettingError(
                "Without error feedback TOPK would lose most of what is learnt.", todo="Set feedback=0.95."
            )
        if stream_rule.feedback and rule.fragments > 1:
            raise SettingError(
                f"{rule.strategy} cannot keep what a codec loses of parameters that it exchanges in parts.",
                todo="Choose fragments=1 or feedback=0.",
            )
        counts = section_of(stream_rule.stream) == Stream.COUNTER
        codecs = (stream_rule.up, stream_rule.down)
        if any((codec == Codec.INT64) != counts for codec in codecs):
            raise SettingError(
                f"The stream {stream_rule.stream.name} cannot travel in {codecs[0].name} and {codecs[1].name}.",
                todo="Counters travel in INT64, everything else in another codec.",
            )
