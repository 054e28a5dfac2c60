"""The demo's figure: loss, held-out accuracy and who computed what, round by round."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .findings import Stored

_INCHES = (9.0, 8.0)
_DPI = 110


def draw(stored: Stored, marks: dict[str, int], path: Path) -> None:
    """Write the figure as PNG. marks: what happened, and in which round."""
    figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy, shares = figure.subplots(3, 1, sharex=True)
    rounds = [record.round for record in stored.records]

    loss.plot(rounds, [record.mean_loss for record in stored.records], color="tab:blue", linewidth=1.2)
    loss.set_yscale("log")
    loss.set_ylabel("training loss\n(mean of the round)")

    points = sorted((row.version, row.mean) for row in stored.metrics if row.name == "held_out_accuracy")
    accuracy.plot([x for x, _ in points], [y for _, y in points], "o-", color="tab:green", markersize=4)
    accuracy.set_ylabel("held-out accuracy")
    if points:
        last, value = points[-1]
        accuracy.annotate(f"{value:.1%}", (last, value), (-6, -14), textcoords="offset points", ha="right")

    _shares(shares, stored)
    shares.set_xlabel("round")
    for axes in (loss, accuracy, shares):
        axes.grid(alpha=0.3)
        for number, (_, round_) in enumerate(marks.items()):
            axes.axvline(round_, color=f"C{number + 1}", linestyle="--", linewidth=1.2)
    for number, (text, round_) in enumerate(marks.items()):
        loss.annotate(
            text, (round_, 0.97), (4, 0), xycoords=("data", "axes fraction"), textcoords="offset points",
            va="top", color=f"C{number + 1}",
        )  # fmt: skip
    figure.suptitle(f"One model, {len(stored.names)} kernels, {len(stored.records)} rounds")
    figure.savefig(path)


def _shares(axes: Axes, stored: Stored) -> None:
    """Samples of each round by who computed them, stacked."""
    members = list(stored.names)
    heights = [
        [sum(part.weight for part in record.contributors if part.peer == member) for record in stored.records]
        for member in members
    ]
    rounds = [record.round for record in stored.records]
    axes.stackplot(
        rounds, heights, labels=[stored.names[member] for member in members], step="mid", alpha=0.85,
        colors=["tab:gray", "tab:orange", "tab:red", "tab:purple", "tab:cyan", "tab:olive", "tab:brown", "tab:pink"],
    )  # fmt: skip
    axes.set_ylabel("samples computed by")
    axes.legend(loc="center left", fontsize="small", framealpha=0.9)
