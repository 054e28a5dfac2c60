"""A round's packets come back as they were written, or not at all."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_swarm.protocol.errors import StoreError
from jupyter_swarm.protocol.frames import HEADER_BYTES, MAX_FRAME_BYTES
from jupyter_swarm.store.journal import Journal
from jupyter_swarm.store.paths import round_file, rounds_in, snapshot_file, snapshots_in

from .writing import write_round

FRAMES = st.lists(st.binary(min_size=HEADER_BYTES, max_size=200), max_size=6)


def frame(fill: int, size: int = 200) -> bytes:
    return bytes([fill]) * size


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("session")


@given(frames=FRAMES, cut=st.integers(0, 200))
def test_frames_come_back_as_they_were_written(folder: Path, frames: list[bytes], cut: int) -> None:
    write_round(folder, 7, ([memoryview(f)[:cut], memoryview(f)[cut:]] for f in frames))
    assert list(Journal(folder).read_round(7)) == frames


@given(data=st.data(), frames=FRAMES)
def test_a_damaged_file_gives_frames_that_were_written_and_then_an_error(
    folder: Path, data: st.DataObject, frames: list[bytes]
) -> None:
    journal = Journal(folder)
    write_round(folder, 7, frames)
    path = round_file(folder, 7)
    whole = path.read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, min(len(whole), start + 300)))
    inside = st.builds(lambda a, b: whole[min(a, b) : max(a, b)], *[st.integers(0, len(whole))] * 2)
    damaged = whole[:start] + data.draw(st.binary(max_size=20) | inside) + whole[stop:]
    path.write_bytes(damaged)
    read = []
    try:
        for each in journal.read_round(7):
            read.append(bytes(each))
    except StoreError:
        assert damaged != whole
        assert read == frames[: len(read)]
    else:
        assert damaged == whole


def test_a_file_cut_after_a_whole_frame_is_noticed(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    write_round(tmp_path, 1, [frame(1), frame(2)])
    path = round_file(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(StoreError, match="damaged") as damaged:
        list(journal.read_round(1))
    assert "ends after" in damaged.value.why


def test_one_round_does_not_pass_for_another(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    write_round(tmp_path, 1, [frame(1)])
    round_file(tmp_path, 1).rename(round_file(tmp_path, 2))
    with pytest.raises(StoreError, match="damaged"):
        list(journal.read_round(2))
    with pytest.raises(StoreError, match="could not read"):
        list(journal.read_round(1))


def test_one_frame_is_in_memory_at_a_time(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    write_round(tmp_path, 1, (frame(i, 1 << 20) for i in range(16)))
    tracemalloc.start()
    try:
        count = sum(1 for _ in journal.read_round(1))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 16
    assert peak < 2.5 * (1 << 20)


@pytest.mark.parametrize("size", [0, HEADER_BYTES - 1, MAX_FRAME_BYTES + 1])
def test_what_is_no_frame_is_refused_and_the_round_forgotten(tmp_path: Path, size: int) -> None:
    writer = Journal(tmp_path).begin_round(1)
    writer.append(frame(1))
    with pytest.raises(StoreError, match="cannot be stored"):
        writer.append(bytes(size))
    assert names(tmp_path) == set()


def test_packets_that_come_one_by_one_are_seen_only_when_finished(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with journal.begin_round(1) as writer:
        writer.append(frame(1))
        assert rounds_in(tmp_path) == []
        writer.append([frame(2, 64), frame(3)])
        writer.finish()
    assert list(journal.read_round(1)) == [frame(1), frame(2, 64) + frame(3)]


def test_an_attempt_that_is_discarded_leaves_nothing_and_the_next_one_replaces_a_finished_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    writer = journal.begin_round(1)
    writer.append(frame(1))
    writer.discard()
    assert names(tmp_path) == set()
    write_round(tmp_path, 1, [frame(1)])
    write_round(tmp_path, 1, [frame(2)])
    assert list(journal.read_round(1)) == [frame(2)]


def test_a_full_disk_leaves_nothing_of_the_round_and_all_of_the_one_before(small_disk) -> None:
    journal = Journal(small_disk.folder)
    write_round(small_disk.folder, 1, [frame(1)])
    writer = journal.begin_round(2)
    writer.append(frame(2))
    with small_disk.full(), pytest.raises(StoreError, match="disk is full"):
        writer.append(frame(2, 50_000))
    assert names(small_disk.folder) == {"round-1.packets"}
    with small_disk.full(), pytest.raises(StoreError, match="disk is full"):
        write_round(small_disk.folder, 2, [frame(2, 5000)])
    assert names(small_disk.folder) == {"round-1.packets"}
    assert list(journal.read_round(1)) == [frame(1)]
    write_round(small_disk.folder, 2, [frame(2, 5000)])
    assert journal.recover(2) == range(1, 3)


def test_recovery_keeps_what_is_recorded_and_not_yet_in_a_snapshot(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for i in range(1, 7):
        write_round(tmp_path, i, [frame(i)])
    for version in (1, 3):
        snapshot_file(tmp_path, version).write_bytes(b"")
    (tmp_path / "round-7.packets.x.tmp").write_bytes(frame(7))
    assert journal.recover(5) == range(4, 6)
    assert rounds_in(tmp_path) == [4, 5]
    assert snapshots_in(tmp_path) == [3]
    assert len(names(tmp_path)) == 3


def test_recovery_of_a_new_session_has_nothing_to_do(tmp_path: Path) -> None:
    assert not Journal(tmp_path).recover(0)


def test_recovery_says_which_recorded_round_has_no_packets(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for i in (1, 2, 4):
        write_round(tmp_path, i, [frame(i)])
    with pytest.raises(StoreError, match="packets of round 3 are missing"):
        journal.recover(4)


def test_recovery_refuses_a_snapshot_of_a_round_that_is_not_recorded(tmp_path: Path) -> None:
    snapshot_file(tmp_path, 5).write_bytes(b"")
    with pytest.raises(StoreError, match="only 4 rounds are recorded"):
        Journal(tmp_path).recover(4)


def test_a_server_killed_before_the_rename_recovers_to_the_round_before(
    tmp_path: Path, killed_at: Callable[[str, str], None]
) -> None:
    journal = Journal(tmp_path)
    write_round(tmp_path, 1, [frame(1)])
    killed_at(
        "mid-rename",
        "from pathlib import Path\n"
        "from jupyter_swarm.store.journal import Journal\n"
        f"with Journal(Path({str(tmp_path)!r})).begin_round(2) as writer:\n"
        "    writer.append(bytes(200))\n"
        "    writer.finish()\n",
    )
    assert len(names(tmp_path)) == 2
    assert journal.recover(1) == range(1, 2)
    assert names(tmp_path) == {"round-1.packets"}
    assert list(journal.read_round(1)) == [frame(1)]
