"""A plan as a figure: what a round consists of, how links change the share of computing, what the simulator saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from msgspec.structs import replace

from ..history.figure import Picture
from ..history.themes import DASHES, DPI, THEMES, Theme, ThemeName
from ..peer.planning import MEGABIT, Planned
from ..plan.formulas import round_of
from ..plan.scenario import Link, Machine, Scenario
from ..protocol.errors import SettingError

_SIZE = 13.0
_WIDTH, _PANEL = 11.0, 3.9
_FACTORS = np.geomspace(0.05, 20.0, 33)
_APART = 0.062
"""Names of lines are at least this part of the axis from each other."""


def figure_of(planned: Planned, theme: ThemeName = "light") -> Picture:
    """The figure, which a notebook shows as it is."""
    panels = [_phases, _links] + ([_shares] if planned.report is not None else [])
    figure = Picture(figsize=(_WIDTH, _PANEL * len(panels)), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.15, w_pad=0.1)  # type: ignore[union-attr, call-arg]
    colors = THEMES[theme]
    figure.set_facecolor(colors.background)
    for axes, draw_panel in zip(np.atleast_1d(figure.subplots(len(panels))), panels, strict=True):
        _style(axes, colors)
        draw_panel(axes, planned, colors)
    return figure


def draw(planned: Planned, file: Path) -> None:
    """Write the figure to a PNG, SVG or PDF file. Raises `SettingError` if that cannot be."""
    try:
        figure_of(planned).savefig(file)
    except (OSError, ValueError) as error:
        raise SettingError(
            f"The figure cannot be written to {file}.",
            str(error),
            "Choose a file in a folder that is there; its name ends in .png, .svg or .pdf.",
        ) from None


def _style(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor(theme.background)
    axes.tick_params(colors=theme.text, labelsize=0.9 * _SIZE, which="both", length=0)
    axes.grid(True, color=theme.grid, linewidth=1.0)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _title(axes: Axes, theme: Theme, text: str) -> None:
    axes.set_title(text, loc="left", color=theme.text, fontsize=1.1 * _SIZE, fontweight="bold", pad=12)


def _label(axes: Axes, theme: Theme, x: str, y: str = "") -> None:
    axes.set_xlabel(x, color=theme.text, fontsize=_SIZE)
    axes.set_ylabel(y, color=theme.text, fontsize=_SIZE)


def _phases(axes: Axes, planned: Planned, theme: Theme) -> None:
    """Seconds of each phase of a round."""
    scenario, plan = planned.scenario, planned.round
    names, seconds = list(plan.phases), list(plan.phases.values())
    colors = [theme.training if name == "computing" else theme.held_out for name in names]
    axes.barh(names, seconds, color=colors, height=0.62)
    for place, value in enumerate(seconds):
        axes.text(value, place, f"  {value:.3g} s", va="center", color=theme.text, fontsize=0.9 * _SIZE)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlim(0, 1.15 * max(seconds))
    count = len(scenario.peers)
    _title(
        axes, theme,
        f"{scenario.rule.strategy}, {count} peers, {scenario.parameters:,} parameters: "
        f"{plan.share:.0%} of the time computing",
    )  # fmt: skip
    _label(axes, theme, f"seconds in a round of {plan.seconds:.3g} s")


def _links(axes: Axes, planned: Planned, theme: Theme) -> None:
    """Share of the time computing, by how fast the links are, of all strategies."""
    scenario = planned.scenario
    rules = {scenario.rule.strategy: scenario.rule} | {rule.strategy: rule for rule in planned.others.values()}
    uplink = scenario.peers[0].link.up / MEGABIT
    ends = []
    for number, (name, rule) in enumerate(rules.items()):
        shares = [100 * round_of(_with_links(replace(scenario, rule=rule), factor)).share for factor in _FACTORS]
        color = theme.series[number]
        axes.plot(uplink * _FACTORS, shares, color=color, linewidth=2.6, linestyle=DASHES[number % len(DASHES)])
        ends.append((shares[-1], name, color))
    axes.plot(uplink, 100 * planned.round.share, "o", color=theme.text, markersize=9, zorder=5)
    axes.annotate(
        f"this plan: {planned.round.share:.0%}", (uplink, 100 * planned.round.share), (10, -16),
        textcoords="offset points", color=theme.text, fontsize=0.9 * _SIZE,
    )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(uplink * _FACTORS[0], uplink * _FACTORS[-1])
    axes.set_ylim(0, 103)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _name_lines(axes, theme, ends)
    _title(axes, theme, "Share of the time computing, by the speed of the links")
    _label(axes, theme, "a peer's uplink in Mbit/s, all other links in proportion", "computing, %")


def _with_links(scenario: Scenario, factor: float) -> Scenario:
    def faster(link: Link) -> Link:
        return Link(factor * link.up, factor * link.down)

    machines = {machine: Machine(machine.speed, faster(machine.link)) for machine in set(scenario.peers)}
    peers = tuple(machines[machine] for machine in scenario.peers)
    return replace(scenario, peers=peers, server=faster(scenario.server))


def _name_lines(axes: Axes, theme: Theme, ends: list[tuple[float, str, str]]) -> None:
    """Names beside the ends of lines, apart from each other."""
    low, high = axes.get_ylim()
    place = high
    for value, name, color in sorted(ends, reverse=True):
        place = min(value, place - _APART * (high - low))
        at = (place - low) / (high - low)
        for x, text, ink in ((1.01, "●", color), (1.035, name, theme.text)):
            axes.text(x, at, text, transform=axes.transAxes, color=ink, va="center", fontsize=0.95 * _SIZE)


def _shares(axes: Axes, planned: Planned, theme: Theme) -> None:
    """How many of the simulated peers computed for which share of their time."""
    report: Any = planned.report
    shares = 100 * np.asarray(report.shares)
    low, high = max(shares.min() - 2, 0), min(shares.max() + 2, 100)
    axes.hist(shares, bins=np.linspace(low, high, 25).tolist(), color=theme.training, edgecolor=theme.background)
    expected = 100 * planned.round.share
    axes.axvline(expected, color=theme.held_out, linewidth=2.4, linestyle=DASHES[1])
    low, high = min(low, expected - 2), min(max(high, expected + 2), 101)
    on_the_right = expected > (low + high) / 2
    axes.annotate(
        "formulas, without churn\nand with equal peers", (expected, 0.95), (-8 if on_the_right else 8, 0),
        xycoords=axes.get_xaxis_transform(), textcoords="offset points", va="top", color=theme.held_out,
        ha="right" if on_the_right else "left", fontsize=0.9 * _SIZE,
    )  # fmt: skip
    axes.set_xlim(low, high)
    trial = planned.trial
    _title(
        axes, theme,
        f"Simulated: {len(report.seconds)} rounds, {report.peers:,} peers, spread {trial.spread:g}, "
        f"{60 * trial.churn:.0%} gone each minute",
    )  # fmt: skip
    _label(axes, theme, "computing, % of the time here", "peers")
