"""A history as a file: netCDF 4 (which is HDF5), readable by whatever reads either."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import xarray as xr

from ..protocol.errors import StoreError


def save_history(dataset: xr.Dataset, path: str | Path) -> Path:
    """Write a history under `path` whole, or leave what was there; returns the path. Raises `StoreError`."""
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".tmp")
    except OSError as error:
        raise _not_written(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        dataset.to_netcdf(temporary, engine="h5netcdf", format="NETCDF4")
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def open_history(path: str | Path) -> xr.Dataset:
    """The history that `.swarm.save` wrote, all of it in memory. Raises `StoreError`."""
    path = Path(path)
    if not path.is_file():
        raise StoreError(
            f"There is no file {path}.", todo="Check the path; a relative one starts at the notebook's folder."
        )
    try:
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            loaded: xr.Dataset = dataset.load()
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(
            f"{path.name} cannot be read as a history.", str(error), "Save it again with history().swarm.save(path)."
        ) from error
    if "round" not in loaded.dims or "loss" not in loaded:
        raise StoreError(
            f"{path.name} is no history.", "It has no loss by round.", "Open a file that history().swarm.save() wrote."
        )
    return loaded


def _not_written(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"The history was not saved as {path.name}; a file that was there before is as it was.",
        f"{error.strerror or error} ({path})",
        f"Check that the folder {path.parent} exists, that you may write there, and that its disk has space.",
    )
