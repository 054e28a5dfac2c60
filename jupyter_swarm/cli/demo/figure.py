"""The demo's figure: the session's history, in the units of what is learnt."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from ...history.themes import THEMES
from .plans import Plan

_INCHES = (12.5, 10.0)
_TEXT = 13.0
_PERPLEXITIES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 30, 50, 70, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000)
_APART = 0.06
"""Ticks of the perplexity are at least this share of the axis from each other."""


def draw(history: xr.Dataset, plan: Plan, path: Path) -> None:
    """Write the figure as PNG."""
    theme = THEMES["light"]
    predictions = int(history.attrs["predictions"])
    # A speed in tokens says more than one in windows.
    shown = history.assign(samples=history.samples * predictions)
    shown.attrs["title"] = plan.title
    panels = ["loss", "held_out_accuracy", "share"] if "held_out_accuracy" in history else ["loss", "speed", "bytes"]
    figure: Figure = shown.swarm.plot("time", panels=panels, width=_INCHES[0], height=_INCHES[1])
    by_name = dict(zip(panels, figure.axes, strict=True))
    if predictions > 1 and "speed" in by_name:
        by_name["speed"].set_ylabel("tokens per second")
    if plan.unit:
        loss = by_name["loss"]
        loss.set_ylabel(plan.unit)
        if plan.goal:
            label = f"goal {plan.goal:g}"
            loss.axhline(plan.goal, color=theme.muted, linewidth=1.6, linestyle=(0, (1, 2)), label=label)
            loss.set_ylim(bottom=min(loss.get_ylim()[0], plan.goal - 0.1))
        _add_perplexity(loss)
        legend = loss.legend(loc="upper right", frameon=False, fontsize=_TEXT * 0.95, labelcolor=theme.text)
        legend.set_zorder(5)
    figure.savefig(path)


def _add_perplexity(loss: Axes) -> None:
    """exp(loss), on the right."""
    theme = THEMES["light"]
    axis = loss.secondary_yaxis("right", functions=(np.exp, lambda value: np.log(np.maximum(value, 1e-9))))
    low, high = loss.get_ylim()
    ticks: list[float] = []
    for value in _PERPLEXITIES:
        place = (math.log(value) - low) / (high - low)
        if 0 <= place <= 1 and (not ticks or math.log(value / ticks[-1]) >= _APART * (high - low)):
            ticks.append(value)
    axis.yaxis.set_major_locator(FixedLocator(ticks))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.set_ylabel("perplexity", color=theme.text, fontsize=_TEXT)
    axis.tick_params(colors=theme.text, labelsize=_TEXT * 0.9, length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
