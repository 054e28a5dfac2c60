"""Contributions of unusual size: refused where they are a peer's doing, believed where the samples are the cause."""

from __future__ import annotations

import pytest

from jupyter_swarm.protocol.messages import LeaseGrant
from tests.decisions.world import World, told


@pytest.mark.parametrize("peers", [1, 2, 4])
def test_hard_samples_are_learnt_from_not_skipped(peers):
    """A model that has nearly learnt its samples has tiny gradients on most and large ones on a few."""
    world = World(samples=400, target=16)
    for number in range(peers):
        world.add_peer(f"peer-{number}")
    world.run_rounds(10)
    world.hard = set(range(0, 400, 40))
    world.run_rounds(50)
    assert any("times the usual one" in note.text for note in world.notes), "the case did not come up"
    assert world.state.book.skipped == 0
    assert not any(peer.paused for peer in world.state.peers.values())
    world.finish_checks()


def test_the_usual_norm_falls_slowly_so_that_rare_large_ones_still_count():
    world = World(samples=1000, target=16)
    world.add_peer("a")
    world.run_rounds(10)
    usual = world.state.usual_norm
    for _ in range(60):
        world.state.recent_norms = [usual / 100] * 51
        world.run_rounds(1)
    assert world.state.usual_norm > 0.5 * usual


def test_samples_that_fail_are_not_leased_again_one_by_one():
    """Batch-norm cannot train on a single sample."""
    world = World(samples=1000, target=23)
    world.failing = {7, 30}
    world.add_peer("a")
    world.add_peer("b")
    world.run_rounds(4)
    grants = [message for _, message in told(world, LeaseGrant)]
    assert all(grant.stop - grant.start > 1 for grant in grants)
    assert world.state.book.skipped
