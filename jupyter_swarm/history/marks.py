"""What happened on the way, marked in a figure: strategies, who came and went, who paused what."""

from __future__ import annotations

import re

import numpy as np
from matplotlib.axes import Axes

from .runs import Run
from .themes import Theme

_NAMED = 6
"""So many marks are written out; more are dots."""
_ROWS = 3
_NEAR = 0.16
"""Texts closer than this share of the axis would overlap."""
_KINDS = (
    (re.compile(r"^(?P<who>.+) joined\b"), "{} joined", "^"),
    (re.compile(r"^(?P<who>.+) is gone\b"), "{} gone", "v"),
    (re.compile(r"^(?P<who>.+) is paused\b"), "{} pauses", "s"),
    (re.compile(r"^(?P<who>.+) goes on\b"), "{} goes on", ">"),
    (re.compile(r"^Paused by\b"), "paused", "s"),
    (re.compile(r"^Resumed by\b"), "resumed", ">"),
    (re.compile(r"changed the settings"), "new settings", "D"),
    (re.compile(r"^The server goes on"), "server restarted", "D"),
)
"""Lines of the session's log that are marked: what is written, and the shape of the dot."""


def draw_strategies(axes: list[Axes], run: Run, theme: Theme, size: float) -> None:
    """The name of each strategy over the first panel, where it begins, and a line through all panels at a change."""
    names = run.dataset.strategy.values
    rounds = np.flatnonzero(names != "")
    begins = [
        at for before, at in zip([None, *rounds], rounds, strict=False) if before is None or names[before] != names[at]
    ]
    low, high = axes[0].get_xlim()
    shown = -np.inf
    for at in begins:
        place = run.edges[at]
        if at != begins[0]:
            for one in axes:
                one.axvline(place, color=theme.text, linewidth=1.4, linestyle=(0, (4, 3)))
        share = (place - low) / (high - low)
        if share - shown < _NEAR:
            continue
        axes[0].annotate(
            str(names[at]), (share, 1.0), (0, 3), xycoords="axes fraction", textcoords="offset points",
            color=theme.muted, size=size * 0.85, va="bottom",
        )  # fmt: skip
        shown = share


def draw_marks(axes: Axes, run: Run, theme: Theme, size: float) -> None:
    """Who came, went or paused between the first round and the last; in words while there are few of them."""
    marks = _marks(run)
    if not marks:
        return
    low, high = axes.get_xlim()
    line = 1.25 * size * 0.8 / 72 / (axes.bbox.height / axes.figure.dpi)
    named = len(marks) <= _NAMED
    shares = [(place - low) / (high - low) for place, _, _ in marks]
    rows = _rows_of(shares) if named else [0] * len(marks)
    axes.set_ylim(top=axes.get_ylim()[1] / max(1.0 - line * (max(rows) + 1), 0.4))
    for (place, text, shape), share, row in zip(marks, shares, rows, strict=True):
        height = 1.0 - line * (row + 0.5)
        axes.axvline(place, color=theme.muted, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.plot(
            [share], [height], marker=shape, markersize=size * 0.45, color=theme.text, transform=axes.transAxes,
            clip_on=False, zorder=4,
        )  # fmt: skip
        if named:
            right = share > 0.8
            axes.annotate(
                text, (share, height), (-6 if right else 6, 0), xycoords="axes fraction", textcoords="offset points",
                ha="right" if right else "left", va="center", size=size * 0.8, color=theme.text,
            )  # fmt: skip


def _rows_of(shares: list[float]) -> list[int]:
    """In which row to write each text, so that neighbours do not overlap while there is room."""
    last = [-np.inf] * _ROWS
    rows = []
    for share in shares:
        rows.append(next((row for row in range(_ROWS) if share - last[row] > _NEAR * 1.6), int(np.argmin(last))))
        last[rows[-1]] = share
    return rows


def _marks(run: Run) -> list[tuple[float, str, str]]:
    """Place, text and shape of each mark, from left to right."""
    ended = run.dataset.time.values[-1:]
    found = []
    columns = (run.dataset.event_time.values, run.dataset.event_text.values)
    for time, text in zip(*columns, strict=True):
        place = float(run.at(np.array([time]))[0])
        if place <= run.start or not ended.size or time > ended[0]:
            continue
        for pattern, words, shape in _KINDS:
            match = pattern.search(str(text))
            if match:
                found.append((place, words.format(match.groupdict().get("who", "")), shape))
                break
    return sorted(found)
