"""The panels of a figure: each draws one thing of one run, or of several, and returns the values to be seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import EngFormatter

from ..protocol.errors import SettingError
from .rows import HELD_OUT
from .runs import Run, held_out
from .themes import DASHES, Theme

Array = npt.NDArray[Any]

_BINS = 100
"""A curve of more rounds is drawn as at most so many means, and every round as a thin line behind them."""
_FAINT = 30
"""Of so many peers, at most, the own losses are drawn."""
_HELD_OUT_LOSS = f"{HELD_OUT}loss"
_NO_PANEL = {_HELD_OUT_LOSS, f"{HELD_OUT}perplexity"}
"""Held-out metrics without a panel of their own: the loss is in the first, and says what the perplexity says."""


class Pen(msgspec.Struct, frozen=True):
    """What a panel needs to know of how to draw. size: of the text, in points. letters: of a name that there is room
    for."""

    theme: Theme
    size: float
    letters: int

    def line(self, number: int) -> dict[str, Any]:
        """Colour and dashes of the line `number` of several."""
        colors = self.theme.series
        return {"color": colors[number % len(colors)], "linestyle": DASHES[number // len(colors) % len(DASHES)]}

    def name(self, text: str, less: int = 0) -> str:
        """As much of a peer's or a run's name as there is room for."""
        letters = self.letters - less
        text = drawable(text if len(text) <= letters else f"{text[: letters - 1]}…")
        return f" {text}" if text.startswith("_") else text  # which else would be a label that no legend has


Panel = Callable[[Axes, list[Run], Pen], Array]


def drawable(text: str) -> str:
    """With a box for each letter that the font does not have: matplotlib would draw that, too, but warn each time."""
    font = get_font(findfont(FontProperties()))
    return "".join(letter if font.get_char_index(ord(letter)) else "□" for letter in text)


def usual_panels(dataset: xr.Dataset) -> list[str]:
    """Loss, the held-out metrics, speed."""
    return ["loss", *[str(name) for name in held_out(dataset).data_vars if name not in _NO_PANEL], "speed"]


def panel_of(name: str, dataset: xr.Dataset) -> Panel:
    """What draws the panel of this name. Raises `SettingError`."""
    if name in _PANELS:
        return _PANELS[name]
    metrics = [str(metric) for metric in held_out(dataset).data_vars]
    if name in metrics:
        return lambda axes, runs, pen: _metric(axes, runs, pen, name)
    raise SettingError(f"There is no panel {name!r}.", todo=f"Choose of {', '.join([*_PANELS, *metrics])}.")


def _loss(axes: Axes, runs: list[Run], pen: Pen) -> Array:
    """Training loss by round, its means, and the held-out loss; lower is better."""
    shown = [np.zeros(0)]
    for number, run in enumerate(runs):
        shown.append(_training(axes, run, pen, number))
        shown.append(_evaluations(axes, run, pen, _HELD_OUT_LOSS, number))
    axes.set_ylabel("loss")
    _legend(axes, pen)
    return np.concatenate(shown)


def _training(axes: Axes, run: Run, pen: Pen, number: int) -> Array:
    """Every round, and means if there are many. Where several runs were evaluated, that is what they are told by."""
    line = pen.line(number) if run.name else {"color": pen.theme.training}
    rows = np.flatnonzero(np.isfinite(run.dataset.loss.values))
    loss: Array = run.dataset.loss.values[rows]
    evaluated = _HELD_OUT_LOSS in run.dataset and bool(run.dataset[_HELD_OUT_LOSS].notnull().any())
    if run.name and evaluated:
        axes.plot(run.x[rows], loss, **line, linewidth=0.8, alpha=0.35)
        return loss
    label = pen.name(run.name) or "training"
    if not len(rows):
        return loss
    starts = _starts(run.x[rows])
    middles = np.add.reduceat(run.x[rows], starts) / np.diff([*starts, len(rows)])
    if not run.name:
        _peers_training(axes, run, pen, rows, starts, middles)
    if len(rows) <= _BINS:
        axes.plot(run.x[rows], loss, **line, linewidth=2.0, marker="o" if len(rows) == 1 else "", label=label)
        return loss
    axes.plot(run.x[rows], loss, **line, linewidth=0.8, alpha=0.4)
    sums, counts = (run.dataset[name].sum("peer").values[rows] for name in ("loss_sum", "loss_count"))
    means = np.add.reduceat(sums, starts) / np.add.reduceat(counts, starts)
    axes.plot(middles, means, **line, linewidth=2.4, label=label)
    return loss


def _peers_training(axes: Axes, run: Run, pen: Pen, rows: Array, starts: Array, middles: Array) -> None:
    """Each peer's own loss, faintly and behind the others', in the colour that it has where the peers' parts are."""
    loss = run.dataset.peer_loss.values[rows]
    if loss.shape[1] < 2:
        return
    counts = np.where(np.isfinite(loss), run.dataset.loss_count.values[rows], 0)
    sums, counts = (np.add.reduceat(part, starts) for part in (np.where(counts, loss, 0.0) * counts, counts))
    own = dict(zip(_colored(run, pen), pen.theme.series, strict=False))
    muted = run.dataset.coords.get("muted", np.zeros(loss.shape[1], bool))
    for place in _by_samples(run)[:_FAINT]:
        if muted[place]:
            continue
        known = counts[:, place] > 0
        color = own.get(place, pen.theme.others)
        axes.plot(
            middles[known], sums[known, place] / counts[known, place],
            color=color, linewidth=1.0, alpha=0.5, zorder=1.5, marker="." if known.sum() == 1 else "",
        )  # fmt: skip


def _evaluations(axes: Axes, run: Run, pen: Pen, name: str, number: int) -> Array:
    if name not in run.dataset:
        return np.zeros(0)
    rows = np.flatnonzero(np.isfinite(run.dataset[name].values))
    values: Array = run.dataset[name].values[rows]
    if len(rows):
        line = pen.line(number) if run.name else {"color": pen.theme.held_out}
        size = pen.size * (0.42 if len(rows) <= 40 else 0.2)
        axes.plot(
            run.x[rows], values, **line, linewidth=2.6, marker="o", markersize=size,
            label=f"{pen.name(run.name) or 'held-out'}\n{values[-1]:.4g}", clip_on=False,
        )  # fmt: skip
    return values


def _metric(axes: Axes, runs: list[Run], pen: Pen, name: str) -> Array:
    shown = [_evaluations(axes, run, pen, name, number) for number, run in enumerate(runs)]
    axes.set_ylabel(name.removeprefix(HELD_OUT).replace("_", " "))
    _legend(axes, pen)
    return np.concatenate([np.zeros(0), *shown])


def _speed(axes: Axes, runs: list[Run], pen: Pen) -> Array:
    """Samples a second by the clock on the wall: what each peer adds to the class."""
    shown = [np.zeros(0)]
    for number, run in enumerate(runs):
        rows, starts, edges = _pieces(run, np.isfinite(run.dataset.seconds.values))
        seconds = _sums(run.dataset.seconds.values[rows], starts)
        speed = _sums(run.dataset.samples.values[rows], starts) / np.maximum(seconds, 1e-9)[:, None]
        shown.append(_parts_of(axes, run, pen, speed, edges, number))
    axes.set_ylabel("samples/s")
    axes.yaxis.set_major_formatter(_compact)
    _legend(axes, pen, reverse=True)
    return np.concatenate(shown)


def _share(axes: Axes, runs: list[Run], pen: Pen) -> Array:
    """Who computed which part of the samples; of several runs, the part of whoever computed most."""
    shown = [np.zeros(0)]
    for number, run in enumerate(runs):
        rows, starts, edges = _pieces(run, run.dataset.samples.values.sum(1) > 0)
        samples = _sums(run.dataset.samples.values[rows], starts)
        shares = 100.0 * samples / samples.sum(1, keepdims=True)
        if run.name and shares.size:
            shares = shares.max(1, keepdims=True)
        shown.append(_parts_of(axes, run, pen, shares, edges, number))
    axes.set_ylabel("largest share [%]" if runs and runs[0].name else "share [%]")
    _legend(axes, pen, reverse=True)
    return np.concatenate(shown)


def _waiting(axes: Axes, runs: list[Run], pen: Pen) -> Array:
    """Which part of the peers' time had no work in it, all peers together."""
    shown = [np.zeros(0)]
    for number, run in enumerate(runs):
        computing, waiting = (run.dataset[name].sum("peer").values for name in ("computing", "waiting"))
        rows, starts, edges = _pieces(run, computing + waiting > 0)
        idle, busy = _sums(waiting[rows], starts), _sums(computing[rows], starts)
        shown.append(100.0 * idle / (idle + busy))
        line = pen.line(number) if run.name else {"color": pen.theme.training}
        _steps(axes, edges, shown[-1], label=pen.name(run.name) or "all peers", **line)
    axes.set_ylabel("waiting [%]")
    _legend(axes, pen)
    return np.concatenate(shown)


def _bytes(axes: Axes, runs: list[Run], pen: Pen) -> Array:
    """Bytes so far, all peers together; down is dashed."""
    shown = [np.zeros(0)]
    for number, run in enumerate(runs):
        color = pen.line(number)["color"] if run.name else pen.theme.training
        for name, style in (("bytes_up", "solid"), ("bytes_down", (0, (3, 1.5)))):
            shown.append(np.cumsum(run.dataset[name].sum("peer").values))
            label = " ".join(filter(None, [pen.name(run.name, 5), name.removeprefix("bytes_")]))
            axes.plot(run.x, shown[-1], color=color, linestyle=style, linewidth=2.2, label=label)
    axes.set_ylabel("sent so far")
    axes.yaxis.set_major_formatter(EngFormatter("B", sep=" "))
    _legend(axes, pen)
    return np.concatenate(shown)


_PANELS: dict[str, Panel] = {"loss": _loss, "speed": _speed, "share": _share, "waiting": _waiting, "bytes": _bytes}


# --- pieces of rounds


def _starts(x: Array) -> Array:
    """Where the pieces of rounds that end at these places begin: of many, as many as are equally wide on the axis. (Of
    a thinned history the newest rounds stand apart.)"""
    if len(x) <= _BINS:
        return np.arange(len(x))
    pieces = np.floor((x - x[0]) / max(x[-1] - x[0], 1e-9) * (_BINS - 1e-6))
    return np.flatnonzero(np.diff(pieces, prepend=-1.0))


def _pieces(run: Run, known: Array) -> tuple[Array, Array, Array]:
    """The rounds that are known, where each piece of them begins, and the pieces' edges on the x axis."""
    rows = np.flatnonzero(known)
    starts = _starts(run.x[rows])
    edges = np.concatenate([run.edges[rows[starts]], [run.x[rows[-1]]]]) if len(rows) else np.zeros(1)
    return rows, starts, edges


def _sums(values: Array, starts: Array) -> Array:
    return np.add.reduceat(values, starts) if len(starts) else values.astype(float)


def _steps(axes: Axes, edges: Array, values: Array, **style: Any) -> None:
    if len(values):
        axes.plot(edges, [*values, values[-1]], drawstyle="steps-post", linewidth=2.2, **style)


def _parts_of(axes: Axes, run: Run, pen: Pen, heights: Array, edges: Array, number: int) -> Array:
    """heights: (pieces, peers). One run: the peers' parts on each other; those who computed least are one part if the
    colours do not suffice. One of several runs: a line. Returns what is highest."""
    totals: Array = heights.sum(1)
    if run.name or not len(heights):
        _steps(axes, edges, totals, label=pen.name(run.name), **pen.line(number))
        return totals
    colors, own = pen.theme.series, _colored(run, pen)
    parts = [(pen.name(str(run.dataset.peer.values[place])), heights[:, place]) for place in own]
    rest = [place for place in range(heights.shape[1]) if place not in own]
    if rest:
        parts.append((f"{len(rest)} other{'s' * (len(rest) > 1)}", heights[:, rest].sum(1)))
    floor = np.zeros(len(edges))
    for (name, height), color in zip(parts, (*colors, pen.theme.others), strict=False):
        top = floor + np.append(height, height[-1])
        axes.fill_between(edges, floor, top, step="post", facecolor=color, linewidth=0.0, label=name)
        floor = top
    return totals


def _by_samples(run: Run) -> Array:
    """The peers' places, whoever computed most first."""
    order: Array = np.argsort(-run.dataset.samples.values.sum(0), kind="stable")
    return order


def _colored(run: Run, pen: Pen) -> list[int]:
    """The places of the peers that have a colour of their own, in the order of the colours."""
    return sorted(map(int, _by_samples(run)[: len(pen.theme.series)]))


def _compact(value: float, _: float | None = None) -> str:
    """0.5, 250, 12.5 k."""
    return f"{value:g}" if abs(value) < 1000 else str(EngFormatter(sep=" ")(value))


def _legend(axes: Axes, pen: Pen, reverse: bool = False) -> None:
    """Right of the panel."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        step = -1 if reverse else 1
        legend = axes.legend(
            handles[::step], labels[::step], loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.4,
            handletextpad=0.5, borderaxespad=0.6, labelspacing=0.35, frameon=False, fontsize=pen.size * 0.9,
            labelcolor=pen.theme.text,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)
