"""A snapshot comes back bit for bit, and replaces what came before only once it is durable."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from jupyter_swarm.protocol import failpoints
from jupyter_swarm.protocol.errors import StoreError
from jupyter_swarm.store import snapshots
from jupyter_swarm.store.journal import Journal
from jupyter_swarm.store.paths import rounds_in, snapshot_file, snapshots_in
from jupyter_swarm.store.snapshots import SnapshotFacts

from .writing import write_round

FRAME = bytes(100)


def facts(version: int) -> SnapshotFacts:
    return SnapshotFacts(version, generation=3, step=12, layout_digest="ab" * 32)


def tensors() -> dict[str, torch.Tensor]:
    return {
        "flag": torch.tensor([True, False, True]),
        "values": torch.tensor([1.5, float("nan"), -0.0, float("inf")]),
        "transposed": torch.arange(6, dtype=torch.float64).reshape(2, 3).T,
        "half": torch.randn(5, dtype=torch.bfloat16),
        "counter": torch.tensor(1 << 40),
        "trained": torch.randn(3, requires_grad=True),
        "none": torch.empty(0, 4),
        'a "quoted" ü': torch.tensor([7], dtype=torch.uint8),
    }


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype
        and a[name].shape == b[name].shape
        and torch.equal(*(x[name].detach().reshape(-1).contiguous().view(torch.uint8) for x in (a, b)))
        for name in a
    )


def test_a_snapshot_comes_back_bit_for_bit(tmp_path: Path) -> None:
    assert snapshots.latest(tmp_path) is None
    before = tensors()
    path = snapshots.save(tmp_path, before, facts(5))
    assert path == snapshot_file(tmp_path, 5)
    assert snapshots.latest(tmp_path) == 5
    read, after = snapshots.load(tmp_path, 5)
    assert read == facts(5)
    assert same(before, after)


def test_other_programs_can_read_a_snapshot(tmp_path: Path) -> None:
    before = tensors()
    assert same(before, safetensors.torch.load_file(snapshots.save(tmp_path, before, facts(5))))


def test_numbers_are_aligned_in_the_file_so_that_any_program_can_map_them(tmp_path: Path) -> None:
    whole = snapshots.save(tmp_path, tensors(), facts(5)).read_bytes()
    data = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:data])
    del header["__metadata__"]
    for name, tensor in tensors().items():
        assert (data + header[name]["data_offsets"][0]) % tensor.element_size() == 0


def test_loaded_tensors_do_not_depend_on_the_file(tmp_path: Path) -> None:
    path = snapshots.save(tmp_path, {"values": torch.ones(10_000)}, facts(5))
    _, after = snapshots.load(tmp_path, 5)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert after["values"].eq(1).all()


def test_a_dtype_that_cannot_be_stored_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"wave cannot be stored: its dtype is torch.complex64"):
        snapshots.save(tmp_path, {"wave": torch.zeros(2, dtype=torch.complex64)}, facts(1))


def test_a_new_snapshot_replaces_older_ones_and_the_rounds_that_it_contains(tmp_path: Path) -> None:
    for round in (1, 2, 3):
        write_round(tmp_path, round, [FRAME])
    snapshots.save(tmp_path, tensors(), facts(1))
    assert rounds_in(tmp_path) == [2, 3]
    snapshots.save(tmp_path, tensors(), facts(2))
    assert rounds_in(tmp_path) == [3]
    assert snapshots_in(tmp_path) == [2]


def test_the_one_before_is_kept_until_the_new_one_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_round(tmp_path, 1, [FRAME])
    write_round(tmp_path, 2, [FRAME])
    snapshots.save(tmp_path, tensors(), facts(1))
    seen = []

    def look(point: str) -> None:
        seen.append((point, snapshots_in(tmp_path), rounds_in(tmp_path)))

    monkeypatch.setattr(failpoints, "hook", look)
    snapshots.save(tmp_path, tensors(), facts(2))
    assert seen == [("mid-snapshot", [1], [2]), ("mid-rename", [1], [2])]
    assert snapshots_in(tmp_path) == [2]


def test_a_full_disk_leaves_the_snapshot_before_in_use(small_disk) -> None:
    folder = small_disk.folder
    snapshots.save(folder, tensors(), facts(1))
    write_round(folder, 2, [FRAME])
    with small_disk.full(), pytest.raises(StoreError, match="disk is full"):
        snapshots.save(folder, {"values": torch.zeros(100_000)}, facts(2))
    assert {path.name for path in folder.iterdir()} == {"snapshot-1.safetensors", "round-2.packets"}
    assert snapshots.load(folder, 1)[0] == facts(1)
    assert Journal(folder).recover(2) == range(2, 3)


@pytest.mark.parametrize("point", ["mid-snapshot", "mid-rename"])
def test_a_server_killed_while_writing_goes_on_from_the_snapshot_before(
    tmp_path: Path, killed_at: Callable[[str, str], None], point: str
) -> None:
    before = tensors()
    snapshots.save(tmp_path, before, facts(1))
    write_round(tmp_path, 2, [FRAME])
    killed_at(
        point,
        "from pathlib import Path\n"
        "import torch\n"
        "from jupyter_swarm.store import snapshots\n"
        "facts = snapshots.SnapshotFacts(2, 3, 12, '')\n"
        f"snapshots.save(Path({str(tmp_path)!r}), {{'values': torch.zeros(9_000_000)}}, facts)\n",
    )
    (left,) = tmp_path.glob("*.tmp")
    # Killed at mid-snapshot, it had written half, to the next 16 MiB; at mid-rename, all 36 MB.
    assert (18e6 < left.stat().st_size < 34e6) == (point == "mid-snapshot")
    assert Journal(tmp_path).recover(2) == range(2, 3)
    assert {path.name for path in tmp_path.iterdir()} == {"snapshot-1.safetensors", "round-2.packets"}
    assert same(snapshots.load(tmp_path, 1)[1], before)


def test_a_missing_snapshot_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="could not read snapshot-4"):
        snapshots.load(tmp_path, 4)


def test_the_snapshot_of_another_version_is_refused(tmp_path: Path) -> None:
    snapshots.save(tmp_path, tensors(), facts(5)).rename(snapshot_file(tmp_path, 6))
    with pytest.raises(StoreError, match="damaged") as damaged:
        snapshots.load(tmp_path, 6)
    assert "version 5" in damaged.value.why


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    folder = tmp_path_factory.mktemp("session")
    return folder, snapshots.save(folder, tensors(), facts(5)).read_bytes()


@given(data=st.data())
def test_a_damaged_snapshot_is_refused(stored: tuple[Path, bytes], data: st.DataObject) -> None:
    folder, whole = stored
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, min(len(whole), start + 8)))
    damaged = whole[:start] + data.draw(st.binary(max_size=8)) + whole[stop:]
    snapshot_file(folder, 5).write_bytes(damaged)
    if damaged == whole:
        snapshots.load(folder, 5)
    else:
        with pytest.raises(StoreError, match="damaged"):
            snapshots.load(folder, 5)
