"""What a rehearsal found, and what it means for a class of that size."""

from __future__ import annotations

import math
import textwrap

import msgspec

from .progress import bytes_text

_LINK = 100e6
"""Bits per second of a usual server's link, for what this machine's own network does not show."""
_LONG_SECONDS = 2.0
"""Exchange that takes less does not disturb a class, however little is computed between."""
_VERY_LONG_SECONDS = 60.0
_MOST_STEPS = 500
_LEAST_BATCH = 8
_LEAST_FREE = 0.1
_WIDTH = 100
_NAME = 12

LEFT_OUT = (
    "The students' own links and machines (theirs may be slower than this one, and differ), GPUs, and the network "
    "between them and the server. The simulated students share this machine's processors; where the server runs on it "
    "too, it will be faster without them."
)


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """Means over `rounds` rounds of one strategy.

    seconds: of a round as it was played. played, computing: seconds that each student spent (or would have, at the
    speed of this machine; 0.0 if that is not known) computing in it. up, down: bytes of all students together, to and
    from the server. batch: samples of one step, of all students or, if `local`, of each.
    """

    strategy: str
    rounds: int
    seconds: float
    played: float
    computing: float
    up: int
    down: int
    sample_seconds: float
    batch: int
    local: bool

    @property
    def exchange(self) -> float:
        """Seconds of a round in which nothing is computed."""
        return max(self.seconds - self.played, 0.0)

    @property
    def class_seconds(self) -> float:
        """Seconds of a round in a class whose machines are as fast as this one."""
        return self.exchange + self.computing

    @property
    def link_seconds(self) -> float:
        """Seconds that a link of 100 Mbit/s at the server needs for a round."""
        return max(self.up, self.down) * 8 / _LINK

    @property
    def share(self) -> float:
        """Of a round's time that is spent computing. NaN: not known."""
        return self.computing / self.class_seconds if self.computing else math.nan

    @property
    def slow(self) -> bool:
        """Whether most of the time goes into exchange here, and that is long enough to be felt."""
        return self._disturbs(self.exchange)

    @property
    def slow_link(self) -> bool:
        """Whether that would be so behind a link of 100 Mbit/s."""
        return self._disturbs(self.link_seconds)

    def _disturbs(self, exchange: float) -> bool:
        return exchange > _LONG_SECONDS and self.computing < exchange

    def line(self, memory: int) -> str:
        """How it goes."""
        speed = f"{bytes_text(self.up / self.seconds)}/s up, {bytes_text(self.down / self.seconds)}/s down"
        server = f", server {bytes_text(memory)}" if memory else ""
        return f"{self.strategy}: {self.rounds} rounds, {self.seconds:.2g} s each, {speed}{server}"


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True):
    """What simulated students found on a server.

    joined: how many of the `peers` got in, the last after `join_seconds`, each having fetched `join_bytes` (data and
    recipe) beforehand, and `parameter_bytes` more if it comes after the first round. failures: why others did not, or
    were put out. memory_…: of the server's process, in bytes: before, at most; what its machine had left at least, and
    has; all 0 if `memory_unknown` says why. slowest_answer: seconds that the server took at most to answer somebody
    else meanwhile. problems: what ended the rehearsal early.
    """

    recipe: str
    server: str
    peers: int
    joined: int = 0
    failures: tuple[str, ...] = ()
    join_seconds: float = 0.0
    join_bytes: int = 0
    parameter_bytes: int = 0
    phases: tuple[Phase, ...] = ()
    memory_before: int = 0
    memory_peak: int = 0
    memory_free: int = 0
    memory_total: int = 0
    memory_unknown: str = ""
    slowest_answer: float = 0.0
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether a class of that size can train this recipe there, if perhaps slowly."""
        return not self.objections

    @property
    def objections(self) -> tuple[str, ...]:
        """What speaks against it, in words."""
        found = list(self.problems)
        if self.failures:
            count = f"{len(self.failures)} of {self.peers} students"
            found.append(f"{count} could not join or stay: {self.failures[0]}")
        if self.memory_tight:
            found.append(
                f"The server's machine had only {bytes_text(self.memory_free)} of {bytes_text(self.memory_total)} left."
            )
        for phase in self.phases:
            if phase.slow and phase.exchange > _VERY_LONG_SECONDS:
                found.append(f"A round of {phase.strategy} takes {phase.exchange:.0f} s beyond computing.")
        return tuple(found)

    @property
    def memory_tight(self) -> bool:
        """Whether the server's machine came close to its limit."""
        return bool(self.memory_total) and self.memory_free < _LEAST_FREE * self.memory_total

    @property
    def verdict(self) -> str:
        """In a sentence."""
        if not self.ok:
            return f"A class of {self.peers} cannot train {self.recipe} here as it is."
        can = f"A class of {self.peers} can train {self.recipe} here"
        for phase in self.phases:
            if phase.slow:
                share = "" if math.isnan(phase.share) else f", {1 - phase.share:.0%} of the time,"
                return (
                    f"{can}, but slowly: {phase.exchange:.0f} s{share} of a round of {phase.strategy} go into exchange."
                )
        for phase in self.phases:
            if phase.slow_link:
                seconds = f"{phase.link_seconds:.0f} s of a round of {phase.strategy} would go into exchange"
                return f"{can}. Behind a link of 100 Mbit/s it would be slow: {seconds}."
        return f"{can}."

    @property
    def advice(self) -> tuple[str, ...]:
        """What to change."""
        slow = [phase for phase in self.phases if phase.slow or phase.slow_link]
        found = [self._fewer_exchanges(phase) for phase in slow]
        if slow or self.memory_tight:
            found.append("Choose a smaller model: bytes and memory go down with it.")
        if self.memory_tight:
            wanted = bytes_text(1.5 * (self.memory_total - self.memory_free))
            found.append(f"Host on a machine with at least {wanted} of memory (`jupyter swarm serve`).")
        elif self.failures or any(phase.slow for phase in slow):
            found.append("Host on a machine with a faster link or more processors (`jupyter swarm serve`).")
        return tuple(found)

    def _fewer_exchanges(self, phase: Phase) -> str:
        """As many steps between two exchanges as make them a tenth of the time."""
        batch = phase.batch if phase.local else max(phase.batch // self.peers, min(phase.batch, _LEAST_BATCH))
        step = phase.sample_seconds * batch
        exchange = max(phase.exchange, phase.link_seconds)
        steps = min(math.ceil(9 * exchange / step), _MOST_STEPS) if step else _MOST_STEPS
        if phase.local:
            return f"Exchange less often: steps={steps} (%swarm host steps={steps})."
        if any(other.local for other in self.phases):
            return f"Go over from {phase.strategy} to local updates sooner: fewer rounds of the warm start."
        return (
            f"Exchange less often: strategy=LocalUpdates(steps={steps}, batch={batch}) in the recipe instead of "
            f"{phase.strategy}, or a WarmStart, which goes over to it."
        )

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("joins", f"{self.joined} of {self.peers}")]
        if self.joined:
            fetched = f"; each fetched {bytes_text(self.join_bytes)} first"
            fetched += f" (whoever comes later: {bytes_text(self.parameter_bytes)} of parameters too)"
            rows[0] = ("joins", f"{rows[0][1]}, the slowest within {self.join_seconds:.1f} s{fetched}")
        for phase in self.phases:
            rows += self._rows_of(phase)
        if self.memory_unknown:
            rows.append(("memory", f"of the server not known: {self.memory_unknown}"))
        else:
            left = f"at least {bytes_text(self.memory_free)} of the machine's {bytes_text(self.memory_total)} were left"
            server = f"server {bytes_text(self.memory_before)} before, {bytes_text(self.memory_peak)} at most"
            rows.append(("memory", f"{server}; {left}"))
        if self.phases:
            rows.append(("others", f"the server answered them within {self.slowest_answer:.2g} s"))
        rows += [("objection", text) for text in self.objections]
        rows.append(("verdict", self.verdict))
        rows += [("change", text) for text in self.advice]
        return [*rows, ("left out", LEFT_OUT)]

    def _rows_of(self, phase: Phase) -> list[tuple[str, str]]:
        computing = f", {phase.computing:.2g} s of computing as on this machine" if phase.computing else ""
        bytes_ = f"{bytes_text(phase.up)} up and {bytes_text(phase.down)} down a round"
        rates = f"{bytes_text(phase.up / phase.seconds)}/s and {bytes_text(phase.down / phase.seconds)}/s as played"
        link = f"at least {phase.link_seconds:.2g} s a round if the server's link has {_LINK / 1e6:.0f} Mbit/s"
        return [
            (phase.strategy, f"{phase.class_seconds:.2g} s a round: {phase.exchange:.2g} s of exchange{computing}"),
            ("", f"{bytes_}; {rates} ({phase.rounds} rounds of {phase.seconds:.2g} s)"),
            ("", link),
        ]

    def __str__(self) -> str:
        lines = [f"Rehearsal of {self.recipe} with {self.peers} simulated students on {self.server}"]
        for name, text in self._rows():
            first, *more = textwrap.wrap(text, _WIDTH) or [""]
            lines.append(f"  {name:<{_NAME}} {first}")
            lines += [f"  {'':<{_NAME}} {rest}" for rest in more]
        return "\n".join(lines)

    __repr__ = __str__
