"""Data, models and disks that are not as they should be, with real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.disks import filled, small_disk_at

from .account import account_for
from .classroom import classroom, until
from .recipes import CHUNKS, LOCAL, MANY_SHARDS, Size


@pytest.mark.parametrize("size", [MANY_SHARDS, LOCAL], ids=lambda size: size.name)
def test_a_peer_whose_losses_are_nan_pauses_and_the_others_do_its_work(size: Size, tmp_path: Path) -> None:
    with classroom(tmp_path, size) as room:
        room.start("ann")
        room.wait_version(2)
        room.start("bob", FAULTS_NAN_CHANCE="1")
        until(lambda: room.report("bob").state == "paused", room.describe)
        assert "The loss is nan" in " ".join(room.report("bob").notes)
        peers = {peer["name"]: peer for peer in room.status()["peers"]}
        assert peers["bob"]["state"] == "paused"
        room.end("bob")
        digests = room.finish()
    account = account_for(room, digests, [])
    assert account.problems() == []
    assert account.samples_skipped == 0
    contributors = {contributor.peer for record in room.recorded() for contributor in record.contributors}
    assert contributors == {peers["ann"]["id"]}


@pytest.mark.parametrize("size", [MANY_SHARDS, LOCAL], ids=lambda size: size.name)
def test_samples_that_are_always_nan_are_skipped_and_listed(size: Size, tmp_path: Path) -> None:
    bad = {"FAULTS_BAD_SAMPLES": "7 100"}
    with classroom(tmp_path, size) as room:
        room.start("ann", **bad)
        room.start("bob", **bad)
        digests = room.finish(more=8)
    account = account_for(room, digests, [])
    assert account.problems() == []
    skips = [skip for record in room.recorded() for skip in record.skips]
    assert skips
    assert all("nan" in skip.reason for skip in skips)
    assert account.samples_skipped == room.recorded()[-1].book.skipped


def test_a_peer_with_another_model_is_told_the_first_difference(tmp_path: Path) -> None:
    with classroom(tmp_path) as room:
        room.start("bob", FAULTS_WIDER="1")
        until(lambda: room.report("bob").state == "failed", room.describe)
        assert "body.0.weight" in room.report("bob").error
        room.end("bob")
        room.start("ann")
        digests = room.finish()
    assert account_for(room, digests, []).problems() == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB of its own."""
    with small_disk_at(tmp_path / "disk", "24m") as folder:
        yield folder


def test_a_full_disk_pauses_the_session_which_goes_on_when_there_is_room(tmp_path: Path, small_disk: Path) -> None:
    with classroom(tmp_path, CHUNKS, storage=small_disk / "store") as room:
        room.start("ann")
        room.start("bob")
        room.wait_version(2)
        with filled(small_disk):
            until(lambda: room.status()["state"] == "paused", room.describe)
            status = room.status()
        assert "disk is full" in status["reason"]
        room.client.act(room.session, "resume")
        digests = room.finish()
        finished = room.status()["version"]
    account = account_for(room, digests, [])
    assert account.problems() == []
    assert account.rounds == finished > status["version"]


def test_a_server_that_dies_on_a_full_disk_has_lost_nothing(tmp_path: Path, small_disk: Path) -> None:
    with classroom(tmp_path, CHUNKS, storage=small_disk / "store") as room:
        room.start("ann")
        room.wait_version(2)
        with filled(small_disk):
            until(lambda: room.status()["state"] == "paused", room.describe)
            room.kill("server")
        before = room.recorded()
        room.start_server()
        if room.status()["state"] == "paused":
            room.client.act(room.session, "resume")
        digests = room.finish()
    assert before
    assert account_for(room, digests, before).problems() == []


@pytest.fixture
def disk_for_checkpoints(tmp_path: Path) -> Iterator[Path]:
    """A disk of 48 MiB: what checkpoints fill of it can hold all rounds that pass before the next snapshot is there."""
    with small_disk_at(tmp_path / "disk", "48m") as folder:
        yield folder


def test_checkpoints_that_fill_the_disk_cost_no_round_and_can_be_deleted(
    tmp_path: Path, disk_for_checkpoints: Path
) -> None:
    with classroom(tmp_path, CHUNKS, storage=disk_for_checkpoints / "store", checkpoint_rounds=1) as room:
        room.start("ann")
        until(lambda: room.status()["state"] == "paused", room.describe)
        assert "disk is full" in room.status()["reason"]
        first, *others = room.client.checkpoints(room.session)
        for checkpoint in others:
            room.client.delete_checkpoint(room.session, checkpoint["number"])
        room.client.change(room.session, {"checkpoint_rounds": 0})
        room.client.act(room.session, "resume")
        digests = room.finish()
        kept = room.client.checkpoints(room.session)
    assert others
    assert [(one["version"], one["name"]) for one in kept] == [
        (first["version"], first["name"]),
        (kept[-1]["version"], "final"),
    ]
    assert account_for(room, digests, []).problems() == []
