"""What the doctor found, to be read by whoever is to mend it."""

from __future__ import annotations

import msgspec


class Step(msgspec.Struct, frozen=True):
    """One thing that was looked at: whether it works, what was found, what to do about it."""

    name: str
    ok: bool
    found: str
    advice: str = ""


class Diagnosis(msgspec.Struct, frozen=True):
    """What `doctor` found, in the order in which a connection is made. Speeds in bytes/s, round trip in seconds; 0:
    not measured. `print` it; no secret is in it."""

    server: str
    steps: tuple[Step, ...]
    round_trip: float = 0.0
    up: float = 0.0
    down: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing stands in the way."""
        return all(step.ok for step in self.steps)

    def __str__(self) -> str:
        width = max(len(step.name) for step in self.steps)
        lines = [f"From this machine to {self.server}:" if self.server else "The link:"]
        for step in self.steps:
            lines.append(f"  {'ok     ' if step.ok else 'PROBLEM'}  {step.name:<{width}}  {step.found}")
            if step.advice:
                lines.append(f"{'':{width + 13}}{'->'} {step.advice}")
        lines.append("Nothing stands in the way." if self.ok else "Mend the first problem, then ask again.")
        return "\n".join(lines)

    __repr__ = __str__
