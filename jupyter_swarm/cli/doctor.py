"""`jupyter swarm doctor`."""

from __future__ import annotations

import argparse
from typing import Any

_DESCRIPTION = """
Try all that joining a session needs from this machine, one thing after the other: name, proxy, TLS, invite, WebSocket,
speed; say what is in the way and what to do about it. Nothing is joined, nothing of the session runs here. Exit code 1
if something is in the way.
"""


def add_to(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "doctor", help="find out why a session cannot be joined from here, or how fast it would be",
        description=_DESCRIPTION,
    )  # fmt: skip
    parser.add_argument("link", metavar="LINK", help="an invite link, or the address of a server")
    parser.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="longest that one step waits (default: 10)"
    )
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    from ..peer.doctor import doctor

    found = doctor(chosen.link, chosen.seconds)
    print(found)
    return 0 if found.ok else 1
