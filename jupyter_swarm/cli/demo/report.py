"""What the demo says at its end, in the terminal and as JSON."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from ...protocol.errors import StoreError
from .findings import Accounting, Loss, Stored, account, joined_in, loss_of
from .kept import Kept
from .phases import Phase, Rate, phases, rate
from .plans import Plan
from .played import KILLED, LATE, Played

FILE = "report.json"
_LABEL = 24
_PANEL = 58
"""Columns of each text; two fit beside each other in a wide terminal."""


class Facts(msgspec.Struct, frozen=True):
    """All that was found. goal_met: None without a goal. together: rounds in which all peers were there; alone: tokens
    per second of one process, speedup: together ÷ alone."""

    recipe: str
    constants: dict[str, Any]
    peers: int
    rounds: int
    held_out: dict[str, float]
    goal: float
    unit: str
    goal_met: bool | None
    training_loss: float
    seconds_training: float
    seconds: float
    digests: dict[str, str]
    digests_equal: bool
    accounting: Accounting
    phases: list[Phase]
    tokens_per_second: list[float]
    bytes_per_token: list[float]
    alone: float | None
    alone_threads: int | None
    together: Rate | None
    speedup: float | None
    killed: Loss | None
    killed_held_a_lease: bool
    late_joined_in_round: int
    samples_by_peer: dict[str, int]
    kept: Kept
    before: str
    after: str
    loss_by_round: list[float]
    events: list[str]


def facts_of(plan: Plan, stored: Stored, played: Played, kept: Kept, seconds: float) -> Facts:
    """What follows from what lies on disk and from what the demo has seen."""
    killed, late = loss_of(stored, KILLED), joined_in(stored, LATE)
    digests = {**played.digests, "server's disk": stored.digest}
    held_out: dict[str, float] = {}
    for row in sorted(stored.metrics, key=lambda row: row.version):
        if row.name.startswith("held_out_"):
            held_out[row.name.removeprefix("held_out_")] = row.mean
    found = phases(stored)
    alone = played.alone[0] * stored.predictions if played.alone else None
    together = rate(stored, late + 1, killed.round - 1) if killed and late + 1 < killed.round else None
    return Facts(
        recipe=plan.recipe,
        constants=plan.constants,
        peers=plan.peers,
        rounds=len(stored.records),
        held_out=held_out,
        goal=plan.goal,
        unit=plan.unit,
        goal_met=held_out.get("loss", math.inf) <= plan.goal if plan.goal else None,
        training_loss=stored.records[-1].mean_loss,
        seconds_training=played.seconds,
        seconds=seconds,
        digests=digests,
        digests_equal=len(set(digests.values())) == 1 and set(played.versions.values()) == {len(stored.records)},
        accounting=account(stored.records, stored.samples),
        phases=found,
        tokens_per_second=[phase.rate.tokens_per_second for phase in found],
        bytes_per_token=[phase.bytes_per_token for phase in found],
        alone=alone,
        alone_threads=played.alone[1] if played.alone else None,
        together=together,
        speedup=together.tokens_per_second / alone if together and alone else None,
        killed=killed,
        killed_held_a_lease=played.held_a_lease,
        late_joined_in_round=late,
        samples_by_peer=_samples_by_peer(stored),
        kept=kept,
        before=played.before,
        after=played.after,
        loss_by_round=[record.mean_loss for record in stored.records],
        events=[event.text for event in stored.events],
    )


def as_promised(facts: Facts) -> bool:
    """Whether the demo shows what it is to show."""
    return facts.digests_equal and facts.accounting.exact and facts.kept.verified and facts.goal_met is not False


def write(facts: Facts, path: Path) -> None:
    """All of it as JSON. Raises `StoreError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(facts), indent=2))
    except OSError as error:
        raise StoreError("The report cannot be written.", str(error), "Choose another place by --report.") from None


def show(facts: Facts, console: Console) -> None:
    """What matters of it, in the terminal."""
    if facts.after:
        _show_texts(facts, console)
    console.print()
    for label, value in (*_learnt(facts), *_speeds(facts), *_same(facts), *_samples(facts), *_left(facts)):
        console.print(f"{label:<{_LABEL}} {value}", soft_wrap=True, markup=False)


def _show_texts(facts: Facts, console: Console) -> None:
    width = min(_PANEL, console.width)
    texts = (("before training", facts.before), (f"after {facts.rounds} rounds", facts.after))
    panels = [Panel(Text(text.strip(), overflow="fold"), title=title, width=width) for title, text in texts]
    console.print(Columns(panels, padding=(0, 1)))


_Rows = list[tuple[str, str]]


def _learnt(facts: Facts) -> _Rows:
    rows = []
    for name, value in facts.held_out.items():
        text = f"{value:.1%}" if name == "accuracy" else f"{value:.4g} {facts.unit}".rstrip()
        if name == "loss" and facts.unit:
            text += f" (perplexity {math.exp(value):.3g})"
        if name == "loss" and facts.goal_met is not None:
            text += f"; at most {facts.goal:g}: {'yes' if facts.goal_met else 'NO'}"
        rows.append((f"held-out {name}", text))
    parts = ", ".join(
        f"{phase.last - phase.first + 1} of {phase.strategy} in {phase.rate.seconds:.1f} s" for phase in facts.phases
    )
    return [*rows, ("rounds", f"{facts.rounds} in {facts.seconds_training:.1f} s ({parts})")]


def _speeds(facts: Facts) -> _Rows:
    if facts.alone is None:
        return []
    rows = [("tokens/s, one alone", f"{facts.alone:,.0f} (with {facts.alone_threads} thread, nobody else at work)")]
    for phase in facts.phases:
        rows.append((f"tokens/s, {phase.strategy}", f"{phase.rate.tokens_per_second:,.0f}"))
    if facts.together and facts.speedup:
        speed, first, last = facts.together.tokens_per_second, facts.together.first, facts.together.last
        rows.append(
            (
                f"{facts.peers} together ÷ alone",
                f"{speed:,.0f} ÷ {facts.alone:,.0f} = {facts.speedup:.2f} (rounds {first} to {last}, one thread each, "
                "evaluations included)",
            )
        )
    sizes = [f"{phase.bytes_per_token:,.4g} in {phase.strategy}" for phase in facts.phases]
    if len(facts.phases) == 2:
        many, few = facts.bytes_per_token
        sizes.append(f"{many / few:.0f} times fewer")
    rows.append(("bytes per token", ", ".join(sizes)))
    for phase in facts.phases:
        for name, made in phase.inner_steps.items():
            rows.append((f"inner steps, {name}", " ".join(map(str, made))))
    return rows


def _same(facts: Facts) -> _Rows:
    rows = [(f"digest, {name}", digest) for name, digest in facts.digests.items()]
    rows.append(("all digests equal", "yes" if facts.digests_equal else "NO"))
    right = "opens, every byte checked; its numbers are those of the last version"
    rows.append(("checkpoint", right if facts.kept.verified else f"NO: {facts.kept.problem}"))
    return rows


def _samples(facts: Facts) -> _Rows:
    found, killed = facts.accounting, facts.killed
    wrong = f"NO: twice {found.twice}, lost {found.lost}"
    rows = [
        (
            "samples",
            f"{found.drawn:,} drawn of {found.samples:,} ({found.epochs} whole epochs): {found.consumed:,} consumed, "
            f"{found.skipped} skipped, {found.waiting} to be leased again",
        ),
        ("every one exactly once", "yes" if found.exact else wrong),
        ("computed by", ", ".join(f"{name} {count:,}" for name, count in facts.samples_by_peer.items())),
    ]
    if killed is None:
        rows.append(("the killed peer", "its end is not on record"))
    else:
        leased = ", ".join(f"{start} to {stop - 1}" for start, stop in killed.leased) or "nothing"
        rows.append(("the killed peer", f"died in round {killed.round}; it had leased samples: {leased}"))
        for part in killed.taken:
            text = f"{part.start} to {part.stop - 1} were computed by {part.peer}, in round {part.round}"
            rows.append(("", text))
    rows.append(("the late peer", f"joined in round {facts.late_joined_in_round}"))
    return rows


def _left(facts: Facts) -> _Rows:
    kept = facts.kept
    rows = [("kept", kept.figure), ("", kept.history), ("", kept.checkpoint), ("", kept.sample)]
    return [*[row for row in rows if row[1]], ("all of it took", f"{facts.seconds:.0f} s")]


def _samples_by_peer(stored: Stored) -> dict[str, int]:
    counts = dict.fromkeys(stored.names.values(), 0)
    for record in stored.records:
        for contributor in record.contributors:
            counts[stored.names[contributor.peer]] += contributor.weight
    return counts
