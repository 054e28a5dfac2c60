"""A blob is what its name says."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from jupyter_swarm.protocol.errors import Refusal, StoreError
from jupyter_swarm.store.blobs import Blobs

DATA = b"some recipe" * 100
ADDRESS = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path)


def test_a_blob_sent_in_pieces_is_seen_when_it_is_whole(blobs: Blobs) -> None:
    with blobs.writer(ADDRESS, len(DATA)) as writer:
        for start in range(0, len(DATA), 300):
            writer.write(memoryview(DATA)[start : start + 300])
        assert not blobs.exists(ADDRESS)
        writer.finish()
    assert blobs.exists(ADDRESS)
    assert blobs.size(ADDRESS) == len(DATA)
    assert blobs.read(ADDRESS) == DATA
    with blobs.open(ADDRESS) as file:
        assert file.read() == DATA


def test_the_same_blob_from_two_at_once_is_one(blobs: Blobs) -> None:
    first, second = blobs.writer(ADDRESS, 10_000), blobs.writer(ADDRESS, 10_000)
    for writer in (first, second):
        writer.write(DATA)
    for writer in (first, second):
        writer.finish()
    assert [path.name for path in blobs.folder.iterdir()] == [ADDRESS]
    assert blobs.put(DATA) == ADDRESS


def test_other_bytes_than_announced_are_refused_and_removed(blobs: Blobs) -> None:
    writer = blobs.writer(ADDRESS, 10_000)
    writer.write(DATA[:-1])
    with pytest.raises(Refusal, match="not those that were announced"):
        writer.finish()
    assert list(blobs.folder.iterdir()) == []


def test_more_than_the_limit_is_refused_as_soon_as_it_comes(blobs: Blobs) -> None:
    writer = blobs.writer(ADDRESS, len(DATA) - 1)
    writer.write(DATA[:500])
    with pytest.raises(Refusal, match="larger than 1099 bytes"):
        writer.write(DATA[500:])
    assert list(blobs.folder.iterdir()) == []


@pytest.mark.parametrize("address", ["", "../" * 20 + "etc", "A" * 64, ADDRESS + "\n", ADDRESS[:-1], "a/" * 32])
def test_what_is_no_address_reaches_no_file(blobs: Blobs, address: str) -> None:
    for use in (blobs.exists, blobs.size, blobs.open, blobs.read, blobs.remove, lambda a: blobs.writer(a, 1)):
        with pytest.raises(Refusal, match="not the address of a blob"):
            use(address)


def test_a_missing_blob_is_an_error(blobs: Blobs) -> None:
    assert not blobs.exists(ADDRESS)
    for use in (blobs.size, blobs.open, blobs.read):
        with pytest.raises(StoreError):
            use(ADDRESS)


def test_a_blob_that_changed_on_the_disk_is_not_given_out_as_the_same(blobs: Blobs) -> None:
    blobs.put(DATA)
    (blobs.folder / ADDRESS).write_bytes(DATA[:-1])
    with pytest.raises(StoreError, match="damaged"):
        blobs.read(ADDRESS)


def test_blobs_of_long_ago_are_found_and_removed_and_no_other_file(blobs: Blobs) -> None:
    for data in (DATA, b"fresh"):
        blobs.put(data)
    (blobs.folder / "notes.txt").write_bytes(b"")
    for name in (ADDRESS, "notes.txt"):
        os.utime(blobs.folder / name, (1000.0, 1000.0))
    assert blobs.untouched(1000.0) == set()
    assert blobs.untouched(1001.0) == {ADDRESS}
    for _ in range(2):
        blobs.remove(ADDRESS)
    assert {path.name for path in blobs.folder.iterdir()} == {hashlib.sha256(b"fresh").hexdigest(), "notes.txt"}


def test_a_full_disk_leaves_no_part_of_a_blob(small_disk) -> None:
    blobs = Blobs(small_disk.folder)
    with small_disk.full(), pytest.raises(StoreError, match="disk is full"):
        blobs.put(DATA)
    assert list(small_disk.folder.iterdir()) == []
    assert blobs.put(DATA) == ADDRESS


def test_an_upload_cut_off_by_a_kill_is_cleaned_up(blobs: Blobs, killed_at: Callable[[str, str], None]) -> None:
    blobs.put(b"other")
    killed_at(
        "mid-rename",
        "from pathlib import Path\n"
        "from jupyter_swarm.store.blobs import Blobs\n"
        f"Blobs(Path({str(blobs.folder)!r})).put({DATA!r})\n",
    )
    assert not blobs.exists(ADDRESS)
    assert len(list(blobs.folder.iterdir())) == 2
    blobs.recover()
    assert [path.name for path in blobs.folder.iterdir()] == [hashlib.sha256(b"other").hexdigest()]
