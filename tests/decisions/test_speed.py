"""The measured speed does not depend on how much a peer happens to be given."""

from __future__ import annotations

import statistics

import pytest

from tests.decisions.world import World


@pytest.mark.parametrize(
    ("speed", "least", "most"),
    [
        pytest.param(60.0, 0.3, 0.7, id="computing takes the time"),
        pytest.param(500.0, 0.15, 0.85, id="messages take the time"),
    ],
)
def test_equal_peers_keep_about_equal_shares(speed, least, most):
    world = World(samples=10_000, target=128)
    for name in ("a", "b"):
        world.add_peer(name, speed)
    world.run_rounds(80)
    shares = [
        sum(c.weight for c in record.contributors if c.peer == "a") / record.samples for record in world.records[10:]
    ]
    assert least < min(shares) < max(shares) < most
    assert 0.35 < statistics.mean(shares) < 0.65
