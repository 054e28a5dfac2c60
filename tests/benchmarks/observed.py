"""A peer whose phases are timed: `python -m tests.benchmarks.observed OUT NAME LINK DIGEST`, or `… OUT NAME URL RECIPE
CHANGES` for the one that opens the session (CHANGES, as JSON: the ready recipe's constants, text instead of its own,
settings for `host`).

What is timed is what the training thread and the link's thread call; nothing of it is changed. OUT gets, as JSON, the
moments (`time.time`) at which phases of each round began and ended, and the most memory resident after each commit.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_swarm import Recipe, host, join, load_recipe
from jupyter_swarm.peer.arrivals import Arrivals
from jupyter_swarm.peer.member import Member
from jupyter_swarm.protocol.frames import Kind, read_header
from jupyter_swarm.shards.gradients import GradientSum
from jupyter_swarm.shards.incoming import PacketSet
from jupyter_swarm.shards.pseudo_gradient import PseudoGradient

from .harness import peak_bytes

Spans = dict[int, dict[str, list[tuple[float, float]]]]
"""Round -> phase -> (from, until), as often as it happened."""

TIMED: tuple[tuple[type, str, str], ...] = (
    (Member, "_train", "compute"),
    (Member, "_announce", "announce"),
    (Member, "_granted", "granted"),
    (Member, "_accepted", "accepted"),
    (PacketSet, "apply", "apply"),
    (GradientSum, "start", "load"),
    (PseudoGradient, "start", "load"),
    (Member, "_commit", "commit"),
)
"""Methods, and the phase that each of them is."""


class Observer:
    """Wraps methods of the peer's parts while it is there; `round` is the one under way."""

    def __init__(self) -> None:
        self.round = 1
        self.spans: Spans = defaultdict(lambda: defaultdict(list))
        self.peaks: dict[int, int] = {}
        for owner, method, phase in TIMED:
            self._wrap(owner, method, phase, self._committed if phase == "commit" else lambda: None)
        take = Arrivals.take

        def timed(arrivals: Arrivals, frame: Any) -> None:
            take(arrivals, frame)
            header = read_header(frame)
            if header.kind == Kind.PACKET:
                now = time.time()
                first = self.spans[header.round]["packets"]
                first[:] = [(first[0][0] if first else now, now)]

        Arrivals.take = timed  # type: ignore[method-assign]

    def _wrap(self, owner: type, method: str, phase: str, after: Callable[[], None]) -> None:
        function = getattr(owner, method)

        @functools.wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            round_, start = self.round, time.time()
            try:
                return function(*arguments, **options)
            finally:
                self.spans[round_][phase].append((start, time.time()))
                after()

        setattr(owner, method, timed)

    def _committed(self) -> None:
        self.peaks[self.round] = peak_bytes(os.getpid())
        self.round += 1

    def write(self, out: Path, **more: Any) -> None:
        found = {"spans": self.spans, "peaks": self.peaks, "peak": peak_bytes(os.getpid()), **more}
        out.write_text(json.dumps(found), encoding="utf-8")


def main(out: str, name: str, address: str, recipe_or_digest: str, changes: str = "") -> None:
    observer = Observer()
    if changes:
        chosen = json.loads(changes)
        text = load_recipe(recipe_or_digest, **chosen["recipe"]).source
        for old, new in chosen["instead"].items():
            if old not in text:
                raise ValueError(f"The recipe does not say {old!r}.")
            text = text.replace(old, new)
        recipe = Recipe.from_source(text)
        session = host(recipe, name, server=address, **chosen["host"])
        told = Path(out).with_suffix(".link")
        told.with_suffix(".part").write_text(f"{session.invite().link} {recipe.sha256} {session.id}", encoding="utf-8")
        told.with_suffix(".part").rename(told)
    else:
        session = join(address, name, agree=recipe_or_digest)
    session.wait()
    parameters = sum(parameter.numel() for parameter in session.model.parameters())
    observer.write(Path(out), digest=session.digest(), parameters=parameters)
    session.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
