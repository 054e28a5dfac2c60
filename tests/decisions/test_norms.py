"""Contributions of unusual size: refused where they are a peer's doing, believed where the samples are the cause."""

from __future__ import annotations

import pytest

from tests.decisions.world import World


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
