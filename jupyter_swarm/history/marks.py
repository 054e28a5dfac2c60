"""What happened on the way, marked in a figure: strategies, who came and went, who paused what."""

from __future__ import annotations

import re

import numpy as np
from matplotlib.axes import Axes

from .panels import Pen, drawable
from .runs import Run

_NAMED = 6
"""So many marks are written out; more are dots."""
_ROWS = 3
_LETTERS = 15
"""So much of a name is written."""
_NEAR = 0.16
"""Names of strategies closer than this share of the axis would overlap."""
_KINDS = (
    (re.compile(r"^The server goes on"), "server restarted", "D"),
    (re.compile(r"^(?P<who>.+) joined\b"), "{} joined", "^"),
    (re.compile(r"^(?P<who>.+) is gone\b"), "{} gone", "v"),
    (re.compile(r"^(?P<who>.+) is paused\b"), "{} pauses", "s"),
    (re.compile(r"^(?P<who>.+) goes on\b"), "{} goes on", ">"),
    (re.compile(r"^Paused by\b"), "paused", "s"),
    (re.compile(r"^Resumed by\b"), "resumed", ">"),
)
"""Lines of the session's log that are marked: what is written, and the shape of the dot."""
_SETTING = re.compile(r" changed the settings .*?\b(learning_rate|inner_steps|target_batch) \S+ → (\S+?)\.?(?:,|$)")
"""Of the settings, those that a curve shows."""


def draw_strategies(axes: list[Axes], run: Run, pen: Pen) -> None:
    """The name of each strategy over the first panel, where it begins, and a line through all panels at a change."""
    names = run.dataset.strategy.values
    begins = _begins(run)
    low, high = axes[0].get_xlim()
    shown = -np.inf
    for at in begins:
        place = run.edges[at]
        if at != begins[0]:
            for one in axes:
                one.axvline(place, color=pen.theme.text, linewidth=1.4, linestyle=(0, (4, 3)))
        share = (place - low) / (high - low)
        if share - shown < _NEAR:
            continue
        axes[0].annotate(
            drawable(str(names[at])), (share, 1.0), (0, 3), xycoords="axes fraction", textcoords="offset points",
            color=pen.theme.muted, size=pen.size * 0.85, va="bottom", parse_math=False,
        )  # fmt: skip
        shown = share


def _begins(run: Run) -> list[int]:
    """The rows at which a strategy begins."""
    names = run.dataset.strategy.values
    rounds = np.flatnonzero(names != "").tolist()
    befores = [None, *rounds[:-1]]
    return [at for before, at in zip(befores, rounds, strict=True) if before is None or names[before] != names[at]]


def draw_marks(axes: Axes, run: Run, pen: Pen) -> None:
    """Who came, went or paused between the first round and the last; in words while there are few of them."""
    marks = _marks(run, pen)
    if not marks:
        return
    theme, size = pen.theme, pen.size
    low, high = axes.get_xlim()
    points = size * 0.8 / 72 * axes.figure.dpi
    line, letter = 1.25 * points / axes.bbox.height, 0.6 * points / axes.bbox.width
    shares = [(place - low) / (high - low) for place, _, _ in marks]
    spans = [_span(share, letter * (len(text) + 2)) for share, (_, text, _) in zip(shares, marks, strict=True)]
    rows = _rows_of(spans) if len(marks) <= _NAMED else [None] * len(marks)
    axes.set_ylim(top=axes.get_ylim()[1] / max(1.0 - line * (max(row or 0 for row in rows) + 1), 0.4))
    for (place, text, shape), share, span, row in zip(marks, shares, spans, rows, strict=True):
        height = 1.0 - line * ((row or 0) + 0.5)
        axes.axvline(place, color=theme.muted, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.plot(
            [share], [height], marker=shape, markersize=size * 0.45, color=theme.text, transform=axes.transAxes,
            clip_on=False, zorder=4,
        )  # fmt: skip
        if row is not None:
            right = span[0] < share
            axes.annotate(
                text, (share, height), (-6 if right else 6, 0), xycoords="axes fraction", textcoords="offset points",
                ha="right" if right else "left", va="center", size=size * 0.8, color=theme.text, parse_math=False,
            )  # fmt: skip


def _span(share: float, width: float) -> tuple[float, float]:
    """From where to where a text goes: to the left of its mark if there is no room to the right."""
    return (share - width, share) if share + width > 1.0 else (share, share + width)


def _rows_of(spans: list[tuple[float, float]]) -> list[int | None]:
    """In which row to write each text, so that none overlap; None where there is no room."""
    taken: list[list[tuple[float, float]]] = [[] for _ in range(_ROWS)]
    rows: list[int | None] = []
    for left, right in spans:
        free = (row for row in range(_ROWS) if all(right < begin or end < left for begin, end in taken[row]))
        rows.append(next(free, None))
        if rows[-1] is not None:
            taken[rows[-1]].append((left, right))
    return rows


def _marks(run: Run, pen: Pen) -> list[tuple[float, str, str]]:
    """Place, text and shape of each mark, from left to right."""
    ended = run.dataset.time.values[-1:]
    changed = {int(run.dataset["round"].values[at]) for at in _begins(run)}
    found = []
    columns = (run.dataset[f"event_{name}"].values for name in ("time", "round", "text"))
    for time, round, text in zip(*columns, strict=True):
        place = float(run.at(np.array([time]))[0])
        if place <= run.start or not ended.size or time > ended[0]:
            continue
        mark = _mark(str(text), pen)
        # Settings that come with another strategy are not marked beside its name.
        if mark and not (_SETTING.search(str(text)) and round + 1 in changed):
            found.append((place, *mark))
    return sorted(found)


def _mark(text: str, pen: Pen) -> tuple[str, str] | None:
    """Text and shape for a line of the log, if it is marked."""
    for pattern, words, shape in _KINDS:
        if match := pattern.search(text):
            return words.format(pen.name(match.groupdict().get("who", ""), pen.letters - _LETTERS)), shape
    setting = _SETTING.search(text)
    return (f"{setting[1]} {setting[2]}", "D") if setting else None
