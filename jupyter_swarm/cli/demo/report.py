"""What the demo says at its end, in the terminal and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console

from ...protocol.errors import StoreError
from . import figure
from .findings import Loss, Stored, account, joined_in, loss_of

if TYPE_CHECKING:
    from .story import Played

FIGURE = "demo.png"


def give(
    stored: Stored, played: Played, output: Path, report_file: Path | None, seconds: float, console: Console
) -> int:
    """Draw the figure, print what was found, write the report; returns 0 if all numbers are as promised, else 1."""
    from .story import KILLED, LATE

    accounting = account(stored.records, stored.samples)
    killed = loss_of(stored, KILLED)
    late = joined_in(stored, LATE)
    digests = {**played.digests, "server's disk": stored.digest}
    equal = len(set(digests.values())) == 1 and set(played.versions.values()) == {len(stored.records)}
    marks = {LATE: ("joins", late)} | ({KILLED: ("SIGKILL", killed.round)} if killed else {})
    accuracy = [row.mean for row in sorted(stored.metrics, key=lambda row: row.version)
                if row.name == "held_out_accuracy"]  # fmt: skip
    facts: dict[str, Any] = {
        "rounds": len(stored.records),
        "held_out_accuracy": accuracy[-1] if accuracy else None,
        "training_loss": stored.records[-1].mean_loss,
        "seconds_training": played.seconds,
        "seconds": seconds,
        "digests": digests,
        "digests_equal": equal,
        "accounting": accounting,
        "killed": killed,
        "killed_held_a_lease": played.held_a_lease,
        "late_joined_in_round": late,
        "samples_by_peer": _samples_by_peer(stored),
        "loss_by_round": [record.mean_loss for record in stored.records],
        "events": [event.text for event in stored.events],
        "figure": str(output / FIGURE),
    }
    try:
        output.mkdir(parents=True, exist_ok=True)
        figure.draw(stored, marks, output / FIGURE)
        if report_file is not None:
            report_file.parent.mkdir(parents=True, exist_ok=True)
            report_file.write_bytes(msgspec.json.format(msgspec.json.encode(facts), indent=2))
    except OSError as error:
        raise StoreError("The figure or the report cannot be written.", str(error), "Choose another place.") from None
    _print(facts, killed, console)
    return 0 if equal and accounting.exact else 1


def _samples_by_peer(stored: Stored) -> dict[str, int]:
    counts = dict.fromkeys(stored.names.values(), 0)
    for record in stored.records:
        for contributor in record.contributors:
            counts[stored.names[contributor.peer]] += contributor.weight
    return counts


def _print(facts: dict[str, Any], killed: Loss | None, console: Console) -> None:
    def row(label: str, value: object) -> None:
        console.print(f"{label:<24} {value}", soft_wrap=True, markup=False)

    accounting, accuracy = facts["accounting"], facts["held_out_accuracy"]
    console.print()
    row("held-out accuracy", "not measured" if accuracy is None else f"{accuracy:.1%}")
    row("rounds", f"{facts['rounds']} in {facts['seconds_training']:.1f} s, loss {facts['training_loss']:.4f}")
    for name, digest in facts["digests"].items():
        row(f"digest, {name}", digest)
    row("all digests equal", "yes" if facts["digests_equal"] else "NO")
    row(
        "samples",
        f"{accounting.drawn} drawn ({accounting.epochs} whole epochs of {accounting.samples} and a part): "
        f"{accounting.consumed} consumed, {accounting.skipped} skipped, {accounting.waiting} to be leased again",
    )
    row(
        "every one exactly once", "yes" if accounting.exact else f"NO: twice {accounting.twice}, lost {accounting.lost}"
    )
    row("computed by", ", ".join(f"{name} {count}" for name, count in facts["samples_by_peer"].items()))
    if killed is None:
        row("the killed peer", "its end is not on record")
    else:
        leased = ", ".join(f"{start} to {stop - 1}" for start, stop in killed.leased) or "nothing"
        row("the killed peer", f"died in round {killed.round}; it had leased samples: {leased}")
        for part in killed.taken:
            row("", f"{part.start} to {part.stop - 1} were computed by {part.peer}, in round {part.round}")
    row("the late peer", f"joined in round {facts['late_joined_in_round']}")
    row("figure", facts["figure"])
