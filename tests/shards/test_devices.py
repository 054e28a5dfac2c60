"""What a peer computes on another device is what it computes on the CPU, and nothing of it needs the CPU's memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jupyter_swarm.optim import SGD, AdamW
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.rules import RoundRule
from jupyter_swarm.shards.gradients import GradientSum
from jupyter_swarm.shards.layout import layout_of
from jupyter_swarm.shards.streaming import StreamingPseudoGradient
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.strategies import EveryStep, LocalUpdates, StreamingLocalUpdates
from jupyter_swarm.strategies.workers import worker

from .elsewhere import ELSEWHERE, elsewhere

DATA = torch.randn(6, 8, 4, generator=torch.Generator().manual_seed(1))
ADAM = AdamW(0.1, weight_decay=0.1)


def two_rounds(rule: RoundRule, device: torch.device) -> list[dict[Stream, torch.Tensor]]:
    """The contributions, brought to the CPU."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))
    layout = layout_of(model)
    view, work, made = FlatVector.of(layout, model), worker(rule, layout, model.to(device)), []
    for round in (1, 2):
        work.start(view)
        if isinstance(work, GradientSum):
            work.begin_lease()
            model(DATA[round].to(device)).square().sum().backward()
            work.end_lease()
            vector, _ = work.finish()
        else:
            for step in range(3):
                work.begin_step()
                model(DATA[step].to(device)).square().mean().backward()
                work.end_step(0.05)
            vector, _ = work.finish(view, round)
        assert {section.device for section in vector.sections.values()} == {device}
        made.append({stream: section.cpu().clone() for stream, section in vector.sections.items()})
        view.sections[Stream.PARAMETERS].sub_(made[-1][Stream.PARAMETERS], alpha=0.1)
        if isinstance(work, StreamingPseudoGradient):
            work.mix(view, round)
    return made


@pytest.mark.parametrize("device", ELSEWHERE, ids=str)
@pytest.mark.parametrize(
    "rule",
    [
        EveryStep(8).rule(SGD(0.1)),
        LocalUpdates(3, 8, clip_norm=0.1).rule(ADAM),
        StreamingLocalUpdates(6, 8, fragments=2).rule(ADAM),
    ],
    ids=lambda rule: rule.strategy,
)
def test_contributions_are_the_same(rule: RoundRule, device: torch.device) -> None:
    here = two_rounds(rule, torch.device("cpu"))
    with elsewhere(device):
        there = two_rounds(rule, device)
    for one, other in zip(here, there, strict=True):
        for stream, section in one.items():
            torch.testing.assert_close(other[stream], section, rtol=1e-4, atol=1e-6)
