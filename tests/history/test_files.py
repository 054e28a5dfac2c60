"""A history on disk: the same when it comes back, whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import xarray as xr

import jupyter_swarm
from jupyter_swarm.history import build, concat
from jupyter_swarm.protocol.errors import SettingError, StoreError

from .rows import run


@pytest.mark.parametrize("history", [build(**run()), build([]), build(**run(2, 9))], ids=["usual", "empty", "nine"])
def test_a_history_comes_back_as_it_was(tmp_path: Path, history: xr.Dataset) -> None:
    path = history.swarm.save(tmp_path / "run.nc")
    xr.testing.assert_identical(jupyter_swarm.open_history(path), history)
    assert [file.name for file in tmp_path.iterdir()] == ["run.nc"]


def test_several_runs_come_back_too(tmp_path: Path) -> None:
    together = concat([build(**run()), build(**run(3, 4))], ["long", "wide"])
    together.swarm.save(tmp_path / "runs.nc")
    xr.testing.assert_identical(jupyter_swarm.open_history(tmp_path / "runs.nc"), together)


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = build(**run())
    path = history.swarm.save(tmp_path / "run.nc")
    before = path.read_bytes()

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(xr.Dataset, "to_netcdf", full)
        with pytest.raises(StoreError, match="No space left"):
            history.swarm.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(StoreError, match="folder"):
        history.swarm.save(tmp_path / "nowhere" / "run.nc")


def test_files_that_are_no_histories(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no file"):
        jupyter_swarm.open_history(tmp_path / "missing.nc")
    (tmp_path / "text.nc").write_text("not a history")
    with pytest.raises(StoreError, match="cannot be read"):
        jupyter_swarm.open_history(tmp_path / "text.nc")
    xr.Dataset({"a": 1}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(StoreError, match="no history"):
        jupyter_swarm.open_history(tmp_path / "other.nc")


def test_runs_are_put_together_by_name() -> None:
    long, wide = build(**run(6, 2)), build(**run(3, 4))
    together = concat([long, wide.drop_vars("held_out_accuracy")], ["long", "wide"])
    assert dict(together.sizes) == {"run": 2, "round": 6, "peer": 4, "event": 3}
    assert together.samples.sel(run="wide").sum() == wide.samples.sum()
    assert together.samples.dtype == long.samples.dtype
    assert together.loss.sel(run="wide").isnull().sum() == 3
    assert together.sel(run="long").swarm.card == long.swarm.card
    assert together.swarm.summary().rounds.sel(run="wide", peer="Ann") == 3
    for names in (["one"], ["a", "a"]):
        with pytest.raises(SettingError, match="no two the same"):
            concat([long, wide], names)
    with pytest.raises(SettingError, match="several runs"):
        together.swarm.speed()
