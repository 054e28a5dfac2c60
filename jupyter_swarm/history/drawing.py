"""What is drawn of a history, panel by panel, onto a matplotlib figure that the caller gives; pyplot is never used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from ..protocol.errors import SettingError
from .marks import draw_marks, draw_strategies
from .runs import Run, held_out, runs_of
from .themes import DASHES, Theme, ThemeName, theme_of

Array = npt.NDArray[Any]

_BINS = 100
"""A curve of more rounds is drawn as so many means, and every round as a thin line behind them."""
_LOG_RATIO = 30.0
_QUIET = {"held_out_loss", "held_out_perplexity", "held_out_count"}
"""Held-out metrics without a panel of their own: the loss is in the first, and says what the perplexity says."""


class Pen(msgspec.Struct, frozen=True):
    """What a panel needs to know of how to draw. size: of the text, in points."""

    theme: Theme
    size: float

    def line(self, number: int) -> dict[str, Any]:
        """Colour and dashes of the line `number` of several."""
        colors = self.theme.series
        return {"color": colors[number % len(colors)], "linestyle": DASHES[number // len(colors) % len(DASHES)]}


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
    metrics. live: small text, the first three panels at most. Raises `SettingError`.
    """
    pen = Pen(theme_of(theme), 9.5 if live else 13.0)
    runs, label = runs_of(dataset, x)
    chosen = list(panels if panels is not None else _usual(dataset)[: 3 if live else None])
    figure.clear()
    figure.set_facecolor(pen.theme.background)
    axes = _axes(figure, len(chosen), pen)
    for panel, one in zip(chosen, axes, strict=True):
        _panel(panel, dataset)(one, runs, pen)
        _style(one, pen)
        one.set_ylim(bottom=None if panel == "loss" or panel.startswith("held_out") else 0.0)
    last = max((float(run.x[-1]) for run in runs if run.x.size), default=0.0)
    first = min((run.start for run in runs if run.x.size), default=0.0)
    for one in axes:
        one.set_xlim(first, last if last > first else first + 1.0)
        one.tick_params(labelbottom=one is axes[-1])
    axes[-1].set_xlabel(label)
    axes[-1].xaxis.set_major_locator(MaxNLocator(8, integer=x != "time"))
    if x != "time":
        axes[-1].xaxis.set_major_formatter(EngFormatter(sep=" "))
    if last == 0.0:
        axes[0].text(0.5, 0.5, "no rounds yet", transform=axes[0].transAxes, ha="center", color=pen.theme.muted)
    elif len(runs) == 1:
        draw_strategies(axes, runs[0], pen.theme, pen.size)
        draw_marks(axes[-1], runs[0], pen.theme, pen.size)
    figure.text(
        axes[0].get_position().x0, 1 - 0.9 * _em(figure, pen)[1], _title(dataset, runs),
        color=pen.theme.text, size=pen.size * 1.15, weight="bold", va="top",
    )  # fmt: skip


def _usual(dataset: xr.Dataset) -> list[str]:
    return ["loss", *[str(name) for name in held_out(dataset).data_vars if name not in _QUIET], "speed"]


def _panel(name: str, dataset: xr.Dataset) -> Callable[[Axes, list[Run], Pen], None]:
    known = {"loss": _loss, "speed": _speed, "share": _share, "waiting": _waiting, "bytes": _bytes}
    if name in known:
        return known[name]
    if name in held_out(dataset):
        return lambda axes, runs, pen: _held_out(axes, runs, pen, name)
    names = ", ".join([*known, *map(str, held_out(dataset).data_vars)])
    raise SettingError(f"There is no panel {name!r}.", todo=f"Choose of {names}.")


def _em(figure: Figure, pen: Pen) -> tuple[float, float]:
    """The text's size as a share of the figure's width and height."""
    width, height = figure.get_size_inches()
    return pen.size / 72 / width, pen.size / 72 / height


def _axes(figure: Figure, count: int, pen: Pen) -> list[Axes]:
    """Fixed margins, measured in text sizes: what is drawn anew each second must not move, nor be laid out again."""
    across, down = _em(figure, pen)
    heights = [1.5, *[1.0] * (count - 1)]
    grid = figure.add_gridspec(
        count, 1, left=6.0 * across, right=1 - 9.5 * across, top=1 - 4.2 * down, bottom=3.8 * down,
        hspace=0.16, height_ratios=heights,
    )  # fmt: skip
    return [figure.add_subplot(grid[row]) for row in range(count)]


def _style(axes: Axes, pen: Pen) -> None:
    theme = pen.theme
    axes.set_facecolor(theme.background)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.text, labelsize=pen.size * 0.9, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.muted)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(theme.text)
        label.set_size(pen.size)
    figure = axes.figure
    axes.yaxis.set_label_coords(-4.6 * pen.size / 72 * figure.dpi / axes.bbox.width, 0.5)
    legend = axes.get_legend()
    if legend is not None:
        legend.set_frame_on(False)
        for text in legend.get_texts():
            text.set_color(theme.text)
            text.set_size(pen.size * 0.9)


def _legend(axes: Axes, reverse: bool = False) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if reverse:
        handles, labels = handles[::-1], labels[::-1]
    labels = [text if len(text) < 16 else f"{text[:14]}…" for text in labels]
    axes.legend(
        handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.4, handletextpad=0.5,
        borderaxespad=0.6, labelspacing=0.35,
    )  # fmt: skip


def _title(dataset: xr.Dataset, runs: list[Run]) -> str:
    if len(runs) > 1:
        return f"{len(runs)} runs"
    peers, rounds = dataset.sizes["peer"], int((dataset["round"] > 0).sum())
    counted = f"{peers} peer{'s' * (peers != 1)}, {rounds} round{'s' * (rounds != 1)}"
    return f"{dataset.attrs.get('title', 'A training run')}: {counted}"


# --- panels


def _loss(axes: Axes, runs: list[Run], pen: Pen) -> None:
    """Training loss by round, its means, and the held-out loss; lower is better."""
    for number, run in enumerate(runs):
        line = pen.line(number) if run.name else {"color": pen.theme.training}
        _training(axes, run, pen, line)
        if "held_out_loss" in run.dataset:
            _evaluations(axes, run, pen, "held_out_loss", line if run.name else {"color": pen.theme.held_out})
    shown = np.concatenate([line.get_ydata() for line in axes.lines] or [[]]).astype(float)  # type: ignore[arg-type]
    shown = shown[np.isfinite(shown)]
    if shown.size and shown.min() > 0 and shown.max() / shown.min() > _LOG_RATIO:
        axes.set_yscale("log")
    axes.set_ylabel("loss")
    _legend(axes)


def _training(axes: Axes, run: Run, pen: Pen, line: dict[str, Any]) -> None:
    loss = run.dataset.loss.values
    known = np.isfinite(loss)
    if not known.any():
        return
    many = known.sum() > _BINS
    label = f"{run.name} training" if run.name else "training"
    if run.name and "held_out_loss" in run.dataset and np.isfinite(run.dataset.held_out_loss.values).any():
        label = "_"
    style = {"linewidth": 0.8, "alpha": 0.4} if many else {"linewidth": 2.0, "label": label}
    if known.sum() == 1:
        style["marker"] = "o"
    if run.name:
        style["alpha"] = 0.35
    axes.plot(run.x[known], loss[known], **{**line, **style})
    if many and label != "_":
        sums = run.dataset.loss_sum.sum("peer").values[known]
        counts = run.dataset.loss_count.sum("peer").values[known]
        starts = _starts(len(sums))
        means = np.add.reduceat(sums, starts) / np.add.reduceat(counts, starts)
        middles = np.add.reduceat(run.x[known], starts) / np.diff([*starts, len(sums)])
        axes.plot(middles, means, **line, linewidth=2.4, label=label)


def _evaluations(axes: Axes, run: Run, pen: Pen, name: str, line: dict[str, Any]) -> None:
    values = run.dataset[name].values
    known = np.isfinite(values)
    if not known.any():
        return
    few = known.sum() <= 40
    axes.plot(
        run.x[known], values[known], **line, linewidth=2.6, marker="o", markersize=pen.size * (0.42 if few else 0.22),
        label=f"{run.name or 'held-out'}\n{values[known][-1]:.4g}", clip_on=False,
    )  # fmt: skip


def _held_out(axes: Axes, runs: list[Run], pen: Pen, name: str) -> None:
    for number, run in enumerate(runs):
        if name in run.dataset:
            _evaluations(axes, run, pen, name, pen.line(number) if run.name else {"color": pen.theme.held_out})
    axes.set_ylabel(name.replace("held_out_", "held-out\n").replace("_", " "))
    _legend(axes)


def _speed(axes: Axes, runs: list[Run], pen: Pen) -> None:
    """Samples a second by the clock on the wall: what each peer adds to the class."""
    for number, run in enumerate(runs):
        known, starts, edges = _pieces(run, np.isfinite(run.dataset.seconds.values))
        if not len(starts):
            continue
        seconds = np.add.reduceat(run.dataset.seconds.values[known], starts)
        samples = np.add.reduceat(run.dataset.samples.values[known], starts, axis=0)
        speed = samples / np.maximum(seconds, 1e-9)[:, None]
        if run.name:
            axes.stairs(speed.sum(1), edges, baseline=None, **pen.line(number), linewidth=2.2, label=run.name)
        else:
            _stack(axes, run, pen, speed, edges)
    axes.set_ylabel("samples/s")
    axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
    _legend(axes, reverse=True)


def _share(axes: Axes, runs: list[Run], pen: Pen) -> None:
    """Who computed which part of the samples; of several runs, the part of the peer that computed most."""
    for number, run in enumerate(runs):
        known, starts, edges = _pieces(run, run.dataset.samples.sum("peer").values > 0)
        if not len(starts):
            continue
        samples = np.add.reduceat(run.dataset.samples.values[known], starts, axis=0)
        shares = 100.0 * samples / samples.sum(1, keepdims=True)
        if run.name:
            axes.stairs(shares.max(1), edges, baseline=None, **pen.line(number), linewidth=2.2, label=run.name)
        else:
            _stack(axes, run, pen, shares, edges)
    axes.set_ylabel("share of samples [%]" if not runs or not runs[0].name else "largest share [%]")
    _legend(axes, reverse=True)


def _waiting(axes: Axes, runs: list[Run], pen: Pen) -> None:
    """Which part of the peers' time had no work in it, all peers together."""
    for number, run in enumerate(runs):
        computing, waiting = (run.dataset[name].sum("peer").values for name in ("computing", "waiting"))
        known, starts, edges = _pieces(run, computing + waiting > 0)
        if not len(starts):
            continue
        idle, busy = np.add.reduceat(waiting[known], starts), np.add.reduceat(computing[known], starts)
        line = pen.line(number) if run.name else {"color": pen.theme.training}
        axes.stairs(100.0 * idle / (idle + busy), edges, baseline=None, **line, linewidth=2.2, label=run.name or "all")
    axes.set_ylabel("waiting [%]")
    _legend(axes)


def _bytes(axes: Axes, runs: list[Run], pen: Pen) -> None:
    """Bytes so far, all peers together."""
    for number, run in enumerate(runs):
        for name, style in (("bytes_up", "solid"), ("bytes_down", (0, (5, 2)))):
            total = np.cumsum(run.dataset[name].sum("peer").values)
            color = pen.line(number)["color"] if run.name else pen.theme.training
            label = " ".join(filter(None, [run.name, name.removeprefix("bytes_")]))
            axes.plot(run.x, total, color=color, linestyle=style, linewidth=2.2, label=label)
    axes.set_ylabel("sent so far")
    axes.yaxis.set_major_formatter(EngFormatter("B"))
    _legend(axes)


def _stack(axes: Axes, run: Run, pen: Pen, heights: Array, edges: Array) -> None:
    """heights: (pieces, peers). Peers beyond the palette are one part, those who computed least."""
    order = np.argsort(-run.dataset.samples.sum("round").values, kind="stable")
    own = sorted(order[: len(pen.theme.series)] if len(order) > len(pen.theme.series) + 1 else order)
    rest = [place for place in range(heights.shape[1]) if place not in own]
    parts = [(str(run.dataset.peer.values[place]), heights[:, place]) for place in own]
    if rest:
        parts.append((f"{len(rest)} others", heights[:, rest].sum(1)))
    floor = np.zeros(len(heights))
    for number, (name, height) in enumerate(parts):
        color = pen.theme.others if number >= len(pen.theme.series) else pen.theme.series[number]
        axes.stairs(
            floor + height, edges, baseline=floor, fill=True, facecolor=color, edgecolor=pen.theme.background,
            linewidth=0.0, label=name,
        )  # fmt: skip
        floor = floor + height


def _starts(count: int) -> Array:
    """Where the pieces of so many rounds begin."""
    return np.unique(np.linspace(0, count, min(count, _BINS), endpoint=False).astype(np.intp))


def _pieces(run: Run, known: Array) -> tuple[Array, Array, Array]:
    """The rounds that are known, where each piece of them begins, and the pieces' edges on the x axis."""
    rows = np.flatnonzero(known)
    starts = _starts(len(rows))
    if not len(rows):
        return rows, starts, np.zeros(0)
    return rows, starts, np.concatenate([run.edges[rows[starts]], [run.x[rows[-1]]]])
