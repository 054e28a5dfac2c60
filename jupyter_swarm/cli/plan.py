"""`jupyter swarm plan`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_DESCRIPTION = """
What a session will cost before anybody opens it: bytes and seconds of a round, the share of the time that peers
compute, what limits it and what would help. With --simulate the session's real decisions run under a virtual clock as
well, with peers that are unequal (--spread) and that come and go (--churn).
"""


def add_to(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "plan", help="time and bytes of a session that could be, what limits it, what would help",
        description=_DESCRIPTION,
    )  # fmt: skip
    from ..peer.planning import OPTIONS

    for name, options in OPTIONS:
        parser.add_argument(name, **options)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    from ..peer.planning import plan

    planned = plan(chosen)
    print(planned)
    if chosen.json:
        planned.write(Path(chosen.json))
    if chosen.figure:
        from ..notebook.plan_figure import draw

        draw(planned, Path(chosen.figure))
    return 0
