"""`jupyter swarm …`: the commands for a terminal. Errors are shown in words, with exit code 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .. import __version__
from ..protocol.errors import SwarmError
from . import demo, doctor, host, peer, plan, serve

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="jupyter swarm",
        description="Several Jupyter kernels, on any machines, train one model together through a Jupyter server.",
        epilog="To see it all at work on this machine, run `jupyter swarm demo`. Each command has its own --help.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (demo, peer, host, serve, plan, doctor):
        command.add_to(commands)
    chosen = parser.parse_args(arguments)
    try:
        return int(chosen.run(chosen))
    except SwarmError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
