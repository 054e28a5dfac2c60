"""`jupyter swarm peer`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..protocol.errors import SettingError

if TYPE_CHECKING:
    from ..peer.record import Status
    from ..peer.session import Session

_REFRESH_SECONDS = 0.25
_DESCRIPTION = """
Join a session from a terminal and train in it until it has finished. You are shown the recipe, the code that will run
here, and asked before any of it runs. Ctrl-C leaves: what this machine had taken on is given to the others, and the
same command joins again as the same peer.
"""
_EPILOG = "Write the link in quotes: 'https://…#…'. The part after the # is a secret."


def add_to(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "peer", help="join a session from a terminal and train", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument("invite", metavar="INVITE", help="the invite link")
    parser.add_argument("--name", default="", help="how the others see you (default: peer-1, peer-2, …)")
    parser.add_argument(
        "--agree",
        metavar="HASH",
        help="the recipe's SHA-256, or its first 16 digits or more, if you know and trust it: you are not asked then",
    )
    parser.add_argument(
        "--device", default="", help="cpu, cuda, cuda:1, mps, … (default: an accelerator if there is one)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="processor threads to compute with (default: all)")
    parser.add_argument("--parent", type=int, metavar="PID", help="end when the process with this number has ended")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    if chosen.threads is not None and chosen.threads < 1:
        raise SettingError(f"--threads is {chosen.threads}.", todo="Choose at least 1.")
    if chosen.parent is not None and chosen.parent < 1:
        raise SettingError(f"--parent is {chosen.parent}.", todo="Give the number of the process (PID).")
    import torch

    from ..peer import api, parent
    from ..peer.session import Session

    joined: list[Session] = []
    if chosen.parent is not None:
        parent.end_with(chosen.parent, lambda: list(map(Session.leave, joined)))
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    session = api.join(chosen.invite, chosen.name, agree=chosen.agree, device=chosen.device)
    joined.append(session)
    try:
        finished = _follow(session)
    except KeyboardInterrupt:
        session.leave()
        print("Left the session. The same command joins it again.")
        return 0
    session.leave()
    print(f"The session has finished. {session.status().line()}" if finished else "No longer in the session.")
    return 0 if finished else 1


def _follow(session: Session) -> bool:
    """Show progress until the session has finished, or this peer is out of it. Raises what ended its membership."""
    with _progress() as show:
        while not session.wait(_REFRESH_SECONDS):
            if not session.trains:
                return False
            show(session.status())
    return True


@contextmanager
def _progress() -> Iterator[Callable[[Status], None]]:
    """What shows a status: over and over in place on a terminal, else as a line now and then."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from ..peer.progress import Line

    # A kernel tells its children to colour what they print, which rich takes for a terminal.
    console = Console(force_terminal=sys.stdout.isatty())
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda status: live.update(Text(str(status)), refresh=True)
    else:
        with Line() as line:
            yield lambda status: line.show(status.line())
