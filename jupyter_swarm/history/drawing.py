"""A history drawn onto a matplotlib figure that the caller gives. pyplot is never used, so any thread may draw.

The axes of a figure that is drawn again stay: making them anew takes longer than drawing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from .marks import draw_marks, draw_strategies
from .panels import Array, Pen, drawable, panel_of, usual_panels
from .rows import HELD_OUT
from .runs import Run, runs_of
from .themes import ThemeName, theme_of

_LOG_RATIO = 30.0
"""A loss that spans more is drawn on a logarithmic axis."""
_LIVE_PANELS = 3
_LETTERS = (15, 30)
"""There is room for so many letters of the longest name at least, and in a figure to keep at most."""


def draw(
    figure: Figure,
    dataset: xr.Dataset,
    *,
    x: str = "round",
    theme: ThemeName = "light",
    panels: Sequence[str] | None = None,
    live: bool = False,
) -> None:
    """Draw a history, or several along `run`, instead of what the figure had.

    x: "round", "samples" or "time". panels: of "loss", "speed", "share", "waiting", "bytes" and the names of held-out
    metrics. live: small text, and without `panels` three of them at most. A figure keeps its first theme. Raises
    `SettingError`.
    """
    names = dataset["run" if "run" in dataset.dims else "peer"].values
    longest = 0 if live else max(map(len, map(str, names)), default=0)
    pen = Pen(theme_of(theme), 10.5 if live else 13.0, min(max(longest, _LETTERS[0]), _LETTERS[1]))
    runs, label = runs_of(dataset, x)
    chosen = list(panels or usual_panels(dataset)[: _LIVE_PANELS if live else None])
    drawers = [panel_of(name, dataset) for name in chosen]
    axes = _axes(figure, chosen, pen)
    last = max((float(run.x[-1]) for run in runs if run.x.size), default=0.0)
    first = min((run.start for run in runs if run.x.size), default=0.0)
    for name, one, drawer in zip(chosen, axes, drawers, strict=True):
        _limit(one, drawer(one, runs, pen), name)
        one.set_xlim(first, last if last > first else first + 1.0)
        one.xaxis.set_major_locator(MaxNLocator(8, integer=x != "time"))
    axes[-1].set_xlabel(label)
    if x != "time":
        axes[-1].xaxis.set_major_formatter(EngFormatter(sep=" "))
    if last == 0.0:
        axes[0].text(0.5, 0.5, "no rounds yet", transform=axes[0].transAxes, ha="center", color=pen.theme.muted)
    elif len(runs) == 1:
        draw_strategies(axes, runs[0], pen)
        draw_marks(axes[-1], runs[0], pen)
    figure.text(
        axes[0].get_position().x0, 1 - 0.9 * _em(figure, pen)[1], _title(dataset, runs),
        color=pen.theme.text, size=pen.size * 1.15, weight="bold", va="top", parse_math=False,
    )  # fmt: skip


def _axes(figure: Figure, panels: list[str], pen: Pen) -> list[Axes]:
    """One for each panel, empty. Margins are fixed, in text sizes: what is drawn each second must not move."""
    if panels and [one.get_label() for one in figure.axes] == panels:
        for artist in [*figure.texts, *(part for one in figure.axes for part in _parts(one))]:
            artist.remove()
        return figure.axes
    figure.clear()
    figure.set_facecolor(pen.theme.background)
    across, down = _em(figure, pen)
    left, right = 5.9, 2.8 + 0.53 * pen.letters
    grid = figure.add_gridspec(
        len(panels), 1, left=left * across, right=1 - right * across, top=1 - 4.2 * down, bottom=3.6 * down,
        hspace=0.16, height_ratios=[1.5, *[1.0] * (len(panels) - 1)],
    )  # fmt: skip
    axes = [figure.add_subplot(grid[row], label=panel) for row, panel in enumerate(panels)]
    for one in axes:
        _style(one, pen)
        one.tick_params(labelbottom=one is axes[-1])
        # The ticks' labels take up to 7 letters: "-750 MB".
        one.yaxis.set_label_coords(-4.3 * across / (1 - (left + right) * across), 0.5)
    return axes


def _parts(axes: Axes) -> list[Artist]:
    legend = axes.get_legend()
    return [*axes.lines, *axes.collections, *axes.patches, *axes.texts, *([legend] if legend else [])]


def _em(figure: Figure, pen: Pen) -> tuple[float, float]:
    """The text's size as a share of the figure's width and height."""
    width, height = figure.get_size_inches()
    return pen.size / 72 / width, pen.size / 72 / height


def _limit(axes: Axes, shown: Array, panel: str) -> None:
    """The y axis for the values that are shown: losses and metrics as they lie, all else from zero."""
    shown = shown[np.isfinite(shown)]
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (0.0, 1.0)
    scale = "log" if panel == "loss" and low > 0 and high > _LOG_RATIO * low else "linear"
    if axes.get_yscale() != scale:
        axes.set_yscale(scale)
    if scale == "log":
        axes.set_ylim(low / 1.1, high * 1.1)
    elif panel == "loss" or panel.startswith(HELD_OUT):
        room = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
        axes.set_ylim(low - room, high + room)
    else:
        axes.set_ylim(0.0, 1.06 * high or 1.0)


def _style(axes: Axes, pen: Pen) -> None:
    theme = pen.theme
    axes.set_facecolor(theme.background)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=theme.text, labelsize=pen.size * 0.9, length=0)
    axes.tick_params("x", pad=pen.size * 0.45)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.muted)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(theme.text)
        label.set_fontsize(pen.size)


def _title(dataset: xr.Dataset, runs: list[Run]) -> str:
    if "run" in dataset.dims:
        return drawable(", ".join(run.name for run in runs)) if len(runs) <= 3 else f"{len(runs)} runs"
    peers, rounds = dataset.sizes["peer"], int(dataset["round"].values.max(initial=0))
    counted = f"{peers} peer{'s' * (peers != 1)}, {rounds:,} round{'s' * (rounds != 1)}"
    return f"{drawable(dataset.attrs.get('title', 'A training run'))}: {counted}"
