"""Real processes are killed at the worst moments; afterwards everything is accounted for.

A few kills of the whole matrix, which `python -m tests.faults` runs.
"""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from .account import account_of
from .classroom import HOLDER, SERVER, classroom
from .recipes import CHUNKS, LOCAL, MANY_SHARDS, WARM, WARM_ROUNDS, Size
from .scenarios import MATRIX, VICTIM, Kill, run_kill, run_late, run_moments

SOME = [
    Kill("mid-upload", VICTIM, 1, 3),
    Kill("half-delivered", VICTIM, 2, 3),
    Kill("half-delivered", SERVER, 1, 3, CHUNKS),
    Kill("recorded", SERVER, 2, 4),
    Kill("mid-rename", SERVER, 1, 7, note=" of a snapshot"),
    Kill("prepared", HOLDER, 2, 3),
    Kill("mid-snapshot", HOLDER, 2, 1),
    Kill("mid-checkpoint", SERVER, 1, 2),
    Kill("mid-upload", VICTIM, 1, 2, LOCAL),
    Kill("before-record", SERVER, 1, 3, LOCAL),
    Kill("recorded", SERVER, 1, WARM_ROUNDS, WARM),
    Kill("prepared", HOLDER, 2, WARM_ROUNDS + 1, WARM),
]


@pytest.mark.parametrize("kill", SOME, ids=str)
def test_a_kill_loses_and_tears_nothing(kill: Kill, tmp_path: Path) -> None:
    assert kill in MATRIX
    assert run_kill(kill, tmp_path).problems() == []


@pytest.mark.parametrize("size", [MANY_SHARDS, LOCAL], ids=lambda size: size.name)
def test_kills_at_random_moments_lose_and_tear_nothing(size: Size, tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    assert run_moments(seed, 4, tmp_path, size).problems() == [], f"seed {seed}"


def test_a_contribution_that_is_a_round_late_counts_once(tmp_path: Path) -> None:
    assert run_late("recorded:2", tmp_path).problems() == []


def test_a_server_that_stops_in_good_order_is_missed_and_goes_on(tmp_path: Path) -> None:
    with classroom(tmp_path) as room:
        room.start("ann")
        room.start("bob")
        room.wait_version(3)
        room.end(SERVER)
        before = room.recorded()
        room.start_server()
        digests = room.finish()
    account = account_of(room, room.recorded(), digests, before)
    assert account.problems() == []
    assert len(before) >= 3
    assert account.generations == 2


def test_the_account_would_notice(tmp_path: Path) -> None:
    """The checks of all tests here, with records that are not true."""
    with classroom(tmp_path) as room:
        room.start("ann")
        digests = room.finish()
        assert len(room.client.checkpoints(room.session)) == 1
    records = room.recorded()
    assert account_of(room, records, digests, records).problems() == []
    second, third = records[1:3]
    (contributor,) = second.contributors
    half = msgspec.structs.replace(contributor, leases=contributor.leases[:1])
    again = msgspec.structs.replace(third, contributors=second.contributors)
    fewer = msgspec.structs.replace(third, digests=third.digests[1:])

    def words(*changed: object) -> str:
        told = [records[0], *changed, *records[1 + len(changed) :]]
        return "; ".join(account_of(room, told, digests, records).problems())  # type: ignore[arg-type]

    assert "samples_lost" in words(msgspec.structs.replace(second, contributors=(half,)))
    assert "relative error" in words(msgspec.structs.replace(second, contributors=(half,)))
    assert "samples_twice" in words(second, again)
    assert "rounds_torn" in words(second, fewer)
    assert "rounds_lost" in words(second, fewer)
    wrong = account_of(room, records, {**digests, "bob": "0" * 64}, records)
    assert wrong.problems() == ["digests differ"]
    (final,) = room.checkpoints()
    (room.storage / "blobs" / final.manifest).unlink()
    assert account_of(room, records, digests, records).problems() == ["checkpoints_torn: 1"]
