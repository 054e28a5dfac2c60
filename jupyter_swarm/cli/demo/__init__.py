"""`jupyter swarm demo`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ...protocol.errors import SettingError

LEAST_PEERS = 4
LEAST_ROUNDS = 30
RECIPES = ("language", "digits")

_DESCRIPTION = """
See it all at work on this machine, without a browser: a Jupyter server with our extension, four kernels, one model.
The first kernel hosts a session that learns to write English, character by character (or, sooner, to read handwritten
digits); the others join it by an invite link. One of them is slow, one is killed part-way, one joins late. At the end
the model must be as good as promised, everybody must have the very same numbers, and every sample must have been used
exactly once: if not, the exit code is 1.
"""
_EPILOG = """
Nothing is left behind but what lies in --output, which is the figure, the history, the trained model, what it writes,
the report: no processes, no other files, however the demo ends.
"""


def add_to(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "demo", help="see it at work here: a server, four kernels, one model", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument("--recipe", choices=RECIPES, default=RECIPES[0], help="what is trained (default: language)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="another value for one of the recipe's constants, as TEXT=books/*.txt; may be repeated",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds to train (default: the recipe's)")
    parser.add_argument("--peers", type=int, default=4, metavar="N", help="how many kernels, 4 or more (default: 4)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the order of samples (default: 0)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("demo-output"),
        metavar="DIR",
        help="for what is kept (default: demo-output)",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="for the report (default: report.json in --output)")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    if chosen.peers < LEAST_PEERS:
        raise SettingError(
            f"--peers is {chosen.peers}.",
            "One hosts, one is slow, one is killed, one joins late.",
            f"Choose at least {LEAST_PEERS}.",
        )
    if chosen.rounds is not None and chosen.rounds < LEAST_ROUNDS:
        raise SettingError(
            f"--rounds is {chosen.rounds}.",
            "Somebody is to be killed, and somebody else to join, while it goes on.",
            f"Choose at least {LEAST_ROUNDS}.",
        )
    from .plans import plan_for
    from .story import tell

    return tell(
        plan_for(chosen.recipe, chosen.set, chosen.peers, chosen.rounds, chosen.seed), chosen.output, chosen.report
    )
