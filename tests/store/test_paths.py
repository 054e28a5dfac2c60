"""Folders and files have the names that a restart looks for, and no id leads out of the root."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from jupyter_swarm.protocol.errors import StoreError
from jupyter_swarm.store.paths import StoreRoot, round_file, rounds_in, snapshot_file, snapshots_in


def test_a_root_is_made_with_what_it_needs_and_found_again(tmp_path: Path) -> None:
    root = StoreRoot(tmp_path / "deep" / "swarm")
    folder = root.session("cs101-7f3a")
    assert folder.is_dir()
    assert root.blobs.is_dir()
    assert folder.parent == root.root == root.database.parent
    assert StoreRoot(tmp_path / "deep" / "swarm").session("cs101-7f3a") == folder


@pytest.mark.skipif(os.name != "posix", reason="other systems keep rights otherwise")
def test_only_the_owner_may_look_into_a_root(tmp_path: Path) -> None:
    root = StoreRoot(tmp_path / "swarm")
    for folder in (root.root, root.blobs, root.session("a")):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("session", ["", "..", "a/b", "../a", "a\\b", "A", "-a", "a\n", "a" * 65, "a.b", "é", "c:"])
def test_an_id_that_is_none_makes_no_folder(tmp_path: Path, session: str) -> None:
    root = StoreRoot(tmp_path / "swarm")
    with pytest.raises(StoreError, match="cannot be the id"):
        root.session(session)
    assert [path.name for path in root.root.iterdir()] == ["blobs"]


def test_a_root_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="could not make the folder") as refused:
        StoreRoot(tmp_path / "file" / "swarm")
    assert str(tmp_path / "file") in refused.value.why


def test_rounds_and_snapshots_are_found_in_the_order_of_numbers_among_other_files(tmp_path: Path) -> None:
    for number in (10, 9, 100):
        round_file(tmp_path, number).write_bytes(b"")
        snapshot_file(tmp_path, number).write_bytes(b"")
    for other in ("round-7.packets.x.tmp", "xround-7.packets", "snapshot--1.safetensors", "notes.txt"):
        (tmp_path / other).write_bytes(b"")
    assert rounds_in(tmp_path) == snapshots_in(tmp_path) == [9, 10, 100]
