"""A file is there whole or as it was before, whatever happens to the writing."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from jupyter_swarm.protocol import failpoints
from jupyter_swarm.protocol.errors import StoreError
from jupyter_swarm.store.atomic import AtomicFile, disk_errors, remove_temporaries

from .writing import write_file


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_replaced_by_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_file(path, b"old and longer")
    write_file(path, b"ne", bytearray(b"w"), memoryview(b"er"))
    assert path.read_bytes() == b"newer"
    assert names(tmp_path) == {"state"}


def test_bytes_written_before_can_be_replaced_and_writing_goes_on_at_the_end(tmp_path: Path) -> None:
    with AtomicFile(tmp_path / "state") as file:
        file.write(b"....")
        file.overwrite(1, b"ab")
        file.write(b"!")
        file.commit()
    assert (tmp_path / "state").read_bytes() == b".ab.!"
    assert file.size == 5


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"old")

    def write() -> None:
        with AtomicFile(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"state"}


@pytest.mark.parametrize("size", [2000, 2 << 20], ids=["refused at commit", "refused at write"])
def test_a_full_disk_leaves_the_old_file_and_says_so(small_disk, size: int) -> None:
    path = small_disk.folder / "state"
    path.write_bytes(b"old")
    with small_disk.full(), pytest.raises(StoreError, match="disk is full") as refused:
        write_file(path, bytes(size))
    assert "Free some space" in refused.value.todo
    assert str(path) in refused.value.why
    assert path.read_bytes() == b"old"
    assert names(small_disk.folder) == {"state"}
    write_file(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_refused_right_names_the_folder_and_what_to_give(tmp_path: Path, number: int) -> None:
    with pytest.raises(StoreError) as refused, disk_errors("write", tmp_path / "state"):
        raise OSError(number, os.strerror(number))
    assert "right to read and write" in refused.value.todo
    assert str(tmp_path) in refused.value.todo


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="could not write state") as refused:
        write_file(tmp_path / "gone" / "state", b"new")
    assert "gone" in refused.value.why


def test_writing_needs_no_folder_that_can_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "O_DIRECTORY", raising=False)
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(handle))
    write_file(tmp_path / "state", b"new")
    assert (tmp_path / "state").read_bytes() == b"new"
    assert len(synced) == 1


@pytest.mark.skipif(not hasattr(os, "O_DIRECTORY"), reason="folders are not opened here")
def test_the_bytes_are_durable_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append(stat.S_ISDIR(os.fstat(handle).st_mode)))
    monkeypatch.setattr(failpoints, "hook", seen.append)
    write_file(tmp_path / "state", b"new")
    assert seen == [False, "mid-rename", True]


@pytest.mark.skipif(not hasattr(os, "O_DIRECTORY"), reason="folders are not opened here")
def test_a_file_system_that_cannot_sync_folders_is_good_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, folder = os.fsync, tmp_path.stat()

    def refuse_folders(handle: int) -> None:
        if os.path.samestat(os.fstat(handle), folder):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(handle)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    write_file(tmp_path / "state", b"new")
    assert (tmp_path / "state").read_bytes() == b"new"


def test_a_process_killed_before_the_rename_leaves_the_old_file(
    tmp_path: Path, killed_at: Callable[[str, str], None]
) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"old")
    killed_at(
        "mid-rename",
        "from pathlib import Path\n"
        "from jupyter_swarm.store.atomic import AtomicFile\n"
        f"with AtomicFile(Path({str(path)!r})) as file:\n"
        "    file.write(b'new')\n"
        "    file.commit()\n",
    )
    assert path.read_bytes() == b"old"
    (left,) = names(tmp_path) - {"state"}
    assert (tmp_path / left).read_bytes() == b"new", "the rename came before the bytes were on the disk"
    remove_temporaries(tmp_path)
    assert names(tmp_path) == {"state"}
