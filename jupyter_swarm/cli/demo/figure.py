"""The demo's figure: loss, held-out accuracy and who computed what, round by round."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .findings import Stored

_INCHES = (9.0, 8.0)
_DPI = 110
_COLORS = ("tab:gray", "tab:orange", "tab:red", "tab:purple", "tab:cyan", "tab:olive", "tab:brown", "tab:pink")


def draw(stored: Stored, marks: dict[str, tuple[str, int]], path: Path) -> None:
    """Write the figure as PNG. marks: for some peers what happened to them, and in which round."""
    # By name, so that the same part has the same color in every run; in the order of joining, as the heights are.
    by_name = sorted(stored.names.values())
    colors = {name: _COLORS[by_name.index(name) % len(_COLORS)] for name in stored.names.values()}
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

    _shares(shares, stored, colors)
    shares.set_xlabel("round")
    for axes in (loss, accuracy, shares):
        axes.grid(alpha=0.3)
        for name, (_, round_) in marks.items():
            axes.axvline(round_, color=colors[name], linestyle="--", linewidth=1.5)
    for line, (name, (text, round_)) in enumerate(marks.items()):
        loss.annotate(
            f"{name}: {text}", (round_, 0.96 - 0.12 * line), (4, 0), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="top", color=colors[name],
        )  # fmt: skip
    figure.suptitle(f"One model, {len(stored.names)} kernels, {len(stored.records)} rounds")
    figure.savefig(path)


def _shares(axes: Axes, stored: Stored, colors: dict[str, str]) -> None:
    """Samples of each round by who computed them, stacked."""
    heights = [
        [sum(part.weight for part in record.contributors if part.peer == member) for record in stored.records]
        for member in stored.names
    ]
    rounds = [record.round for record in stored.records]
    axes.stackplot(rounds, heights, labels=list(colors), colors=list(colors.values()), step="mid", alpha=0.85)
    axes.set_ylabel("samples computed by")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
