import subprocess
import sys

import msgspec
import pytest
import torch
from torch import nn

from jupyter_swarm.optim import SGD, AdamW, Nesterov, OptimizerRule
from jupyter_swarm.optim.torch_optimizer import RuleOptimizer
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.rules import Codec, RoundRule
from jupyter_swarm.shards.gradients import GradientSum
from jupyter_swarm.shards.layout import layout_of
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.strategies import EveryStep

from ..shards.rounds import commit, frames_of, holder_of, stage_all


def test_the_rule_survives_json_and_says_what_was_asked() -> None:
    rule = EveryStep(target_batch=64, clip_norm=1.0, up=Codec.FP16, down=Codec.INT8).rule(AdamW(1e-3))
    assert msgspec.json.decode(msgspec.json.encode(rule), type=RoundRule) == rule
    gradient = rule.stream(Stream.GRADIENT)
    assert (rule.target_batch, rule.clip_norm, gradient.up, gradient.down) == (64, 1.0, Codec.FP16, Codec.INT8)
    assert rule.stream(Stream.BUFFER).up == Codec.FP32


def test_settings_and_strategies_come_without_torch() -> None:
    code = (
        "import sys, jupyter_swarm.optim as o, jupyter_swarm.strategies as s;"
        "s.EveryStep(8).rule(o.Nesterov(0.7)); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("optimizer", [SGD(0.1), Nesterov(0.05), AdamW(1e-2)])
def test_twenty_rounds_of_three_peers_are_twenty_steps_of_one_process(optimizer: OptimizerRule) -> None:
    torch.manual_seed(0)

    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.LayerNorm(16), nn.Linear(16, 4))

    first = network()
    layout = layout_of(first)
    peers = [GradientSum(layout, network()) for _ in range(3)]
    views = [FlatVector.of(layout, first) for _ in peers]
    holder = holder_of(views[0], EveryStep(target_batch=24).rule(optimizer))
    alone = RuleOptimizer(first.parameters(), optimizer)
    data = torch.randn(20, 24, 8)
    labels = torch.randint(0, 4, (20, 24))
    for round in range(1, 21):
        x, y = data[round - 1], labels[round - 1]
        alone.zero_grad()
        nn.functional.cross_entropy(first(x), y).backward()
        alone.step()
        weights = {}
        for number, (peer, part) in enumerate(zip(peers, (slice(0, 4), slice(4, 14), slice(14, 24)), strict=True)):
            peer.start(views[number])
            peer.begin_lease()
            nn.functional.cross_entropy(peer.model(x[part]), y[part], reduction="sum").backward()
            peer.end_lease()
            stage_all([holder], frames_of(peer.finish()[0], holder.rule, number, round), number, round)
            weights[number] = part.stop - part.start
        commit([holder], views, weights, round)
    assert len({view.digest_all() for view in views}) == 1
    expected = FlatVector.of(layout, first).sections[Stream.PARAMETERS]
    difference = float((views[0].sections[Stream.PARAMETERS] - expected).norm() / expected.norm())
    assert difference < 1e-5
