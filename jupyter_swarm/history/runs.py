"""The runs in a dataset, one by one, and their x axes."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import xarray as xr

from ..protocol.errors import SettingError
from .rows import HELD_OUT

Array = npt.NDArray[Any]
Axis = Literal["round", "samples", "time"]

_SPANS = ((120.0, 1.0, "s"), (7200.0, 60.0, "min"), (float("inf"), 3600.0, "h"))


class Run(msgspec.Struct, frozen=True):
    """One run: its name among others ('' if it is alone), its rounds, where each of them ends on the x axis, and where
    the first begins."""

    name: str
    dataset: xr.Dataset
    x: Array
    start: float

    @property
    def edges(self) -> Array:
        """Where the rounds begin, and where the last one ends."""
        return np.concatenate([[self.start], self.x])

    def at(self, times: Array) -> Array:
        """The places of moments (datetime64) on the x axis; before the first commit it is the start."""
        ends = self.dataset.time.values
        known = ~np.isnat(ends)
        ours = ends[known].astype("datetime64[ns]").astype(np.int64)
        moments = times.astype("datetime64[ns]").astype(np.int64)
        return np.interp(moments, ours, self.x[known], left=self.start) if ours.size else np.zeros(len(times))


def split(dataset: xr.Dataset) -> dict[str, xr.Dataset]:
    """By name; a dataset of one run has the name ''. Rounds and peers that a run does not have are left out."""
    if "run" not in dataset.dims:
        return {"": dataset}
    found = {}
    for name in dataset["run"].values:
        one = dataset.sel(run=name)
        rounds = (one.contributions > 0) | ((one["round"] == 0) & held_out(one).to_array().notnull().any("variable"))
        one = one.isel(round=np.flatnonzero(rounds.values), event=np.flatnonzero(one.event_text.values != ""))
        found[str(name)] = one.isel(peer=np.flatnonzero(one.samples.sum("round").values))
    return found


def held_out(dataset: xr.Dataset) -> xr.Dataset:
    """The held-out metrics."""
    return dataset[[name for name in dataset.data_vars if str(name).startswith(HELD_OUT)]]


def runs_of(dataset: xr.Dataset, axis: str) -> tuple[list[Run], str]:
    """The runs and what to write at their common x axis. Raises `SettingError` for another axis."""
    found = split(dataset)
    if axis == "round":
        ends = {name: one["round"].values.astype(float) for name, one in found.items()}
        return [
            Run(name, found[name], x, max(float(x[0]) - 1, 0.0) if x.size else 0.0) for name, x in ends.items()
        ], axis
    if axis == "samples":
        return [_by_samples(name, one) for name, one in found.items()], axis
    if axis != "time":
        raise SettingError(f"There is no axis {axis!r}.", todo="Choose x='round', 'samples' or 'time'.")
    passed = {name: _passed(one) for name, one in found.items()}
    longest = max((float(x[-1]) for x in passed.values() if x.size), default=0.0)
    divisor, unit = next((divisor, unit) for limit, divisor, unit in _SPANS if longest < limit)
    return [Run(name, found[name], x / divisor, 0.0) for name, x in passed.items()], f"time since the start [{unit}]"


def _by_samples(name: str, dataset: xr.Dataset) -> Run:
    """A run that is seen from a later round on begins where the round before ended."""
    ends = dataset.samples_done.values.astype(float)
    first = (dataset.samples - dataset.own_samples).sum("peer").values[:1]
    return Run(name, dataset, ends, max(float((ends[:1] - first).sum()), 0.0))


def _passed(dataset: xr.Dataset) -> Array:
    """Seconds from the start of the first round, if that is known, else from its end."""
    times = dataset.time.values
    known = ~np.isnat(times)
    result = np.zeros(len(times))
    if known.any():
        first = dataset.seconds.values[known][0]
        result[known] = (times[known] - times[known][0]) / np.timedelta64(1, "s") + np.nan_to_num(first)
    return result
