"""A plan as a table for people."""

from __future__ import annotations

from ..protocol.layout import Stream
from ..protocol.rules import steps_of
from .advice import Advice
from .formulas import Round, first_lease
from .scenario import Scenario
from .simulator import Report, Trial

_MEGABIT = 125_000.0


def described(scenario: Scenario, plan: Round, helps: list[Advice], because: str = "") -> str:
    """What a round costs, what limits it, what would help. because: why the codecs are what they are."""
    count = len(scenario.peers)
    gradient = scenario.rule.stream(Stream.GRADIENT)
    traffic = plan.traffic
    rows = [
        ("strategy", f"{scenario.rule.strategy}, {_work(scenario)}"),
        ("model", f"{scenario.parameters:,} parameters, {data(4.0 * scenario.parameters)} in fp32"),
        ("peers", f"{count} with {_links([(one.link.up, one.link.down) for one in scenario.peers])} up / down"),
        ("server", f"{_links([(scenario.server.up, scenario.server.down)])} up / down"),
        ("", ""),
        ("up", f"{data(traffic.up)} from each peer a round ({gradient.up.name}), {_fewer(scenario, traffic.up)}"),
        ("down", f"{data(traffic.down)} to each peer a round ({gradient.down.name}), {_fewer(scenario, traffic.down)}"),
        ("at the server", f"{data(count * traffic.up)} in, {data(count * traffic.down)} out: {count} times a peer's"),
        *([("codecs", because)] if because else []),
        ("", ""),
    ]
    rows += [(name, f"{_seconds(value):>9}   {_bar(value, plan)}") for name, value in plan.phases.items()]
    beside = " (all but computing and handling goes on beside the steps)" if scenario.rule.overlap else ""
    rows += [
        ("a round", f"{_seconds(plan.seconds):>9}{beside}"),
        ("", ""),
        ("computing", f"{plan.share:.1%} of the time; {plan.speed:.3g} samples a second of all peers together"),
        ("limited by", plan.limits),
    ]
    rows += [("mind", text) for text in _first_lease(scenario)]
    lines = [f"{name:<15}{text}".rstrip() for name, text in rows]
    lines += ["", "What would help:" if helps else "Nothing that would help much was found."]
    lines += [f"  {number}. {one}" for number, one in enumerate(helps, 1)]
    return "\n".join(lines)


def _first_lease(scenario: Scenario) -> list[str]:
    if scenario.rule.work == "samples":
        return []
    seconds, allowed = first_lease(scenario)
    if seconds <= allowed:
        return []
    lost = f"a peer's first steps take {_seconds(seconds)}, and count as lost after {_seconds(allowed)}"
    return [f"{lost} while its speed is not known: set lease_seconds={round(1.5 * seconds)}"]


def data(size: float) -> str:
    """Bytes, with the unit that fits."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} B"


def _work(scenario: Scenario) -> str:
    rule, settings = scenario.rule, scenario.settings
    if rule.work == "steps":
        part = f", which exchanges one of {rule.fragments} parts" if rule.fragments > 1 else ""
        return f"{steps_of(rule, settings)} inner steps of {rule.inner_batch} samples a round{part}"
    return f"one step a round on {settings.target_batch or rule.target_batch} samples, which the peers share"


def _links(links: list[tuple[float, float]]) -> str:
    shown = []
    for rates in zip(*links, strict=True):
        low, high = (f"{rate / _MEGABIT:g}" for rate in (min(rates), max(rates)))
        shown.append(low if low == high else f"{low} to {high}")
    return f"{shown[0]} / {shown[1]} Mbit/s"


def _fewer(scenario: Scenario, size: int) -> str:
    times = 4 * scenario.parameters / size
    return "as many as fp32 has" if times < 1.05 else f"{times:.4g} times fewer than fp32"


def _seconds(value: float) -> str:
    if value >= 0.9995:
        return f"{value:.4g} s" if value < 1000 else f"{value:,.0f} s"
    return f"{1000 * value:.3g} ms"


def _bar(value: float, plan: Round) -> str:
    return "█" * round(30 * min(value / max(plan.phases.values()), 1.0))


def compared(plan: Round, trial: Trial, report: Report) -> str:
    """What the simulator saw, beside the formulas."""
    heads = ("", "formulas", "simulated")
    goodput = f"{report.goodput:.1%}"
    rows = [
        ("seconds a round", f"{plan.seconds:.4g}", f"{report.round_seconds:.4g}"),
        ("share of time computing", f"{plan.share:.1%}", f"{report.share:.1%}"),
        ("samples counted ÷ possible", "", goodput),
        ("samples a round", f"{plan.samples:,}", f"{report.counted / len(report.seconds):,.0f}"),
    ]
    widths = [max(len(row[place]) for row in (heads, *rows)) for place in range(3)]
    lines = [
        f"Simulated: {len(report.seconds)} rounds of the real decisions, {report.peers:,} peers"
        f"{_unequal(trial)}{_churn(trial, report)}, seed {trial.seed}."
    ]
    lines += [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}".rstrip() for a, b, c in (heads, *rows)]
    shares = report.shares or (0.0,)
    lines += [
        f"Peers compute {shares[0]:.1%} (least) to {shares[-1]:.1%} (most) of their time; between two rounds they wait "
        f"{_seconds(report.median_wait)} (median), {_seconds(report.longest_wait)} (longest).",
        f"{_starved(report)} {report.drops} contributions did not count.{_joins(report)}",
        f"{report.decisions:,} decisions, {report.decisions_per_second:,.0f} a second of one core here.",
    ]
    return "\n".join(lines)


def _unequal(trial: Trial) -> str:
    return f" of unequal speed and links (spread {trial.spread:g})" if trial.spread else ""


def _churn(trial: Trial, report: Report) -> str:
    return f", {60 * trial.churn:.0%} gone each minute ({report.departures} times somebody went)" if trial.churn else ""


def _joins(report: Report) -> str:
    if not report.median_join:
        return ""
    return f" Who comes back needs {_seconds(report.median_join)} (median) to fetch the parameters."


def _starved(report: Report) -> str:
    if not report.missed:
        return "Every peer that was there contributed to every round."
    return f"Nobody who was there went without contributing for more than {report.missed} rounds in a row."
