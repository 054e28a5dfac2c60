"""How the staged parts of several contributions become one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..protocol.layout import Stream
from ..protocol.messages import Prepare
from ..protocol.rules import StreamRule
from .codecs import accumulate, decode, decoded
from .staging import Staging


def merge(
    prepare: Prepare, rule: StreamRule, staging: Mapping[int, Staging], start: int, into: Tensor, scratch: Tensor
) -> None:
    """Write the merged chunk of a stream that begins at `start` to `into`, in the order and with the weights of
    `prepare`. Each staged payload is read once, the sum stays in the cache."""
    weights = sum(weight for _, weight in prepare.contributions)
    for place, (number, weight) in enumerate(prepare.contributions):
        payload = staging[number].payload(rule.stream, start)
        share = weight / weights if rule.merge == "mean" else 1.0
        if prepare.scales and rule.stream == Stream.GRADIENT:
            share *= prepare.scales[place]
        if place == 0:
            decode(rule.up, payload, into)
            if share != 1.0:
                into.mul_(share)
        elif rule.merge == "maximum":
            torch.maximum(into, decoded(rule.up, payload, into.numel(), scratch), out=into)
        else:
            accumulate(rule.up, payload, share, into, scratch)
    if rule.merge == "sum":
        into.div_(prepare.total_weight)
