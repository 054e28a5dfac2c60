"""Holders that come and go while a class trains."""

from __future__ import annotations

from pathlib import Path

from .account import account_for
from .classroom import HOLDER, classroom, until
from .recipes import LOSSY, MOMENTUM
from .scenarios import run_moments


def test_shards_are_handed_over_under_way_with_the_optimizers_state(tmp_path: Path) -> None:
    """Every round, momentum and all, is as if one process had held everything all the time."""
    with classroom(tmp_path, MOMENTUM) as room:
        room.start("ann")
        room.start("bob")
        for number in (1, 2):
            room.wait_version(4 * number)
            room.start(f"{HOLDER}-{number}")
            until(lambda holders=1 + number: len(room.status()["holders"]) == holders, room.describe)
        digests = room.finish(more=5)
    account = account_for(room, digests, [])
    assert account.problems() == []
    assert account.samples_skipped == 0


def test_a_holder_that_leaves_in_good_order_costs_no_round(tmp_path: Path) -> None:
    with classroom(tmp_path) as room:
        room.start_holder()
        room.start("ann")
        room.wait_version(3)
        room.end(HOLDER)
        digests = room.finish()
        assert room.status()["holders"] == ["server"]
    assert account_for(room, digests, []).problems() == []


def test_with_lossy_codecs_all_views_stay_the_same_bits(tmp_path: Path) -> None:
    account = run_moments(1, 4, tmp_path, LOSSY)
    assert account.digests_equal
    assert account.rounds_lost == account.rounds_torn == account.samples_lost == account.samples_twice == 0
    assert account.relative_error < 0.05
