"""`.swarm` on a history: figure, file, run card, and the few numbers that people ask for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from ..protocol.errors import SettingError
from .card import RunCard, read_card
from .files import save_history
from .runs import split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .themes import ThemeName

_FILL: dict[str, Any] = {"M": np.datetime64("NaT"), "f": math.nan, "i": 0, "b": False}


@xr.register_dataset_accessor("swarm")  # type: ignore[no-untyped-call, untyped-decorator]
class SwarmAccessor:
    """What can be asked of a history, or of several along `run`, beside what xarray knows."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def plot(
        self,
        x: str = "round",
        *,
        theme: ThemeName = "light",
        panels: Sequence[str] | None = None,
        width: float = 11.0,
        height: float | None = None,
    ) -> Figure:
        """A matplotlib `Figure`, which a notebook shows by itself; `savefig(path)` keeps it.

        x: "round", "samples" or "time". theme: "light" or "dark". panels: some of "loss", "speed", "share", "waiting",
        "bytes" and the names of held-out metrics; without any the loss, those metrics and the speed. width, height:
        inches. Raises `SettingError`.
        """
        from .drawing import draw
        from .figure import Picture
        from .panels import usual_panels
        from .themes import DPI

        chosen = panels or usual_panels(self._dataset)
        figure = Picture(figsize=(width, height or 2.4 + 2.2 * len(chosen)), dpi=DPI)
        draw(figure, self._dataset, x=x, theme=theme, panels=chosen)
        return figure

    def save(self, path: str | Path) -> Path:
        """Write netCDF; `jupyter_swarm.open_history` reads it. Raises `StoreError`."""
        return save_history(self._dataset, path)

    @property
    def card(self) -> RunCard:
        """What explains the run. Raises `SettingError` for several runs: choose one by `.sel(run=name)`."""
        if "run_card" not in self._dataset or self._dataset.run_card.dims:
            raise SettingError(
                "This history has no run card of its own.", todo="Choose one run: history.sel(run=name)."
            )
        return read_card(str(self._dataset.run_card.item()))

    def speed(self) -> float:
        """Samples a second by the clock on the wall, all peers together; nan with less than two rounds.

        The first round does not count: it pays for what happens once, and in a session nobody knows when it began.
        """
        one = self._one()
        known = np.isfinite(one.seconds.values) & (one["round"].values > 1)
        seconds = float(one.seconds.values[known].sum())
        return float(one.samples.values[known].sum()) / seconds if seconds else math.nan

    def speedup(self, alone: xr.Dataset | float) -> float:
        """How many times faster the class is than one machine: samples a second ÷ those of a run alone."""
        return self.speed() / (alone.swarm.speed() if isinstance(alone, xr.Dataset) else alone)

    def share(self, peer: str | None = None, *, by_round: bool = False) -> xr.DataArray:
        """The part of all samples that each peer computed, or that `peer` did: of the run, or of each round."""
        one = self._one()
        samples = one.samples if by_round else one.samples.sum("round")
        total = samples.sum("peer")
        shares: xr.DataArray = (samples / total.where(total > 0)).rename("share")
        shares.attrs = {"units": "1", "long_name": "share of samples"}
        if peer is None:
            return shares
        if peer not in one.peer.values:
            names = ", ".join(map(str, one.peer.values))
            raise SettingError(f"There is no peer {peer!r} in this run.", todo=f"Its peers are: {names}.")
        chosen: xr.DataArray = shares.sel(peer=peer)
        return chosen

    def summary(self) -> xr.Dataset:
        """By peer: rounds, samples, share, speed, waiting, bytes, late contributions; and the run's own numbers.

        waiting_share: time without work ÷ all time. bytes_per_token: up and down; a token is one prediction, a sample
        without such is one. Of several runs, along `run`.
        """
        runs = split(self._dataset)
        if "" in runs:
            return _summary(runs[""])
        return xr.concat(
            [_summary(one) for one in runs.values()],
            _run_index(list(runs)),
            coords="different",
            compat="equals",
            join="outer",
        )

    def table(self) -> str:
        """The summary of one run as text."""
        summary = _summary(self._one())
        heads = ("rounds", "samples", "share", "samples/s", "waiting", "MB up", "MB down")
        widths = (8, 11, 8, 11, 9, 9, 9)
        lines = [f"{'peer':<18}" + "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True))]
        for name in summary.peer.values:
            row = {key: float(value) for key, value in summary.sel(peer=name).items()}
            lines.append(
                f"{str(name)[:17]:<18}{row['rounds']:>8.0f}{row['samples']:>11,.0f}{row['share']:>8.1%}"
                f"{row['samples_per_second']:>11.1f}{row['waiting_share']:>9.1%}{row['bytes_up'] / 1e6:>9.1f}"
                f"{row['bytes_down'] / 1e6:>9.1f}"
            )
        lines.append(
            f"together: {self.speed():.1f} samples/s, {float(summary.bytes_per_token):.3g} bytes per token, "
            f"{int(summary.late.sum())} late contributions"
        )
        return "\n".join(lines)

    def _one(self) -> xr.Dataset:
        if "run" in self._dataset.dims:
            raise SettingError("These are several runs.", todo="Choose one first: history.sel(run=name).swarm.")
        return self._dataset


def concat(histories: Sequence[xr.Dataset], names: Sequence[str]) -> xr.Dataset:
    """Several histories along the new dimension `run`, with the rounds and peers of all of them.

    What a run does not have is 0, NaN, NaT or '' as for a peer that took no part. Raises `SettingError` unless there is
    a name for each, and no name twice.
    """
    if not histories or len(names) != len(histories) or len(set(names)) != len(names):
        raise SettingError(
            f"{len(histories)} histories and the names {list(names)}.", todo="Pass one name for each, no two the same."
        )
    parts = [
        one.assign_coords(event=np.arange(one.sizes["event"])).drop_vars(["device", "muted"], errors="ignore")
        for one in histories
    ]
    variables = {name: variable for one in parts for name, variable in one.variables.items() if name not in one.dims}
    fill = {name: _FILL.get(variable.dtype.kind, "") for name, variable in variables.items()}
    return xr.concat(
        parts, _run_index(list(names)), data_vars="all", coords="different", join="outer", compat="equals",
        combine_attrs="drop_conflicts", fill_value=fill,
    )  # fmt: skip


def _run_index(names: list[str]) -> Any:
    return xr.DataArray(np.array(names, str), dims="run", name="run", attrs={"long_name": "run"})


def _summary(one: xr.Dataset) -> xr.Dataset:
    samples = one.samples.sum("round")
    computing, waiting = one.computing.sum("round"), one.waiting.sum("round")
    spent = computing + waiting
    moved = one.bytes_up.sum("round") + one.bytes_down.sum("round")
    tokens = int(samples.sum()) * one.swarm.card.predictions
    total = max(int(samples.sum()), 1)
    units = {
        "rounds": "round", "samples": "sample", "samples_per_second": "sample/s", "computing": "s", "waiting": "s",
        "bytes_up": "B", "bytes_down": "B", "late": "contribution", "bytes_per_token": "B",
    }  # fmt: skip
    summary = xr.Dataset(
        {
            "rounds": one.staleness.notnull().sum("round"),
            "samples": samples,
            "share": samples / total,
            "samples_per_second": samples / computing.where(computing > 0),
            "computing": computing,
            "waiting": waiting,
            "waiting_share": waiting / spent.where(spent > 0),
            "bytes_up": one.bytes_up.sum("round"),
            "bytes_down": one.bytes_down.sum("round"),
            "late": (one.staleness > 0).sum("round"),
            "bytes_per_token": int(moved.sum()) / tokens if tokens else math.nan,
        }
    )
    for name in summary.data_vars:
        summary[name].attrs = {"units": units.get(str(name), "1"), "long_name": str(name).replace("_", " ")}
    return summary
