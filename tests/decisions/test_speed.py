"""The measured speed does not depend on how much a peer happens to be given."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_swarm.decisions.speed import MOST, Timing
from tests.decisions.world import World


@given(
    speed=st.floats(1.0, 1e4),
    fixed=st.floats(0.0, 0.2),
    usual=st.floats(0.1, 1e5) | st.just(0.0),
    sizes=st.lists(st.integers(1, 400), min_size=20, max_size=60),
)
def test_the_fixed_part_of_a_lease_is_told_apart(speed, fixed, usual, sizes):
    timing = Timing()
    for size in sizes:
        timing.add(size, fixed + size / speed)
    certain = timing.samples / timing.seconds
    found = timing.speed(usual)
    assert found >= certain * (1 - 1e-6)
    assert found <= MOST * max(usual, certain)
    if statistics.stdev(sizes) > 100 and speed / 3 < usual < 3 * speed:
        assert found == pytest.approx(speed, rel=0.4)


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0.0, 100.0)), max_size=50), st.floats(0.0, 1e6))
def test_any_times_give_a_speed_that_can_be_used(leases, usual):
    timing = Timing()
    for samples, seconds in leases:
        timing.add(samples, seconds)
    assert (timing.speed(usual) > 0) == bool(leases)
    assert timing.speed(usual) < float("inf")


@pytest.mark.parametrize(
    ("speed", "least", "most"),
    [
        pytest.param(60.0, 0.3, 0.7, id="computing takes the time"),
        pytest.param(500.0, 0.05, 0.95, id="messages take the time"),
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
