"""What a peer computes its contributions with, by the rule that holds."""

from __future__ import annotations

from torch import nn

from ..protocol.layout import Layout
from ..protocol.rules import RoundRule
from ..shards.gradients import GradientSum
from ..shards.pseudo_gradient import PseudoGradient
from ..shards.streaming import StreamingPseudoGradient

Worker = GradientSum | PseudoGradient


def worker(rule: RoundRule, layout: Layout, model: nn.Module) -> Worker:
    """The half of the strategy that computes: gradient sums, or steps of its own and how far they came."""
    if rule.overlap:
        return StreamingPseudoGradient(layout, model, rule)
    if rule.contribution == "pseudo_gradient":
        return PseudoGradient(layout, model, rule)
    return GradientSum(layout, model)
