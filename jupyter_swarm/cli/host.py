"""`jupyter swarm host`."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
from typing import Any
from urllib.parse import quote, urlsplit

from ..protocol.errors import SettingError, SwarmError
from ..protocol.invites import ways_in

TOKEN_VARIABLE = "JUPYTER_SWARM_TOKEN"

_DESCRIPTION = """
Open a session on a server and print the invite link for those who are to train in it. This machine only brings the
recipe and the first parameters; to train here too, run `jupyter swarm peer LINK` as everybody else does.
"""
_EPILOG = f"""
The token is that of the Jupyter server, or of `jupyter swarm serve`. It is asked for, or taken from the environment
variable {TOKEN_VARIABLE}; never write it into the command, where other users of the machine can see it. The link is a
secret as well: whoever has it can join until it expires.
"""


def add_to(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "host", help="open a session on a server and get its invite link", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a ready recipe (digits, language), or path of a .py file")
    parser.add_argument("--server", required=True, metavar="URL", help="address of the server, without its token")
    parser.add_argument("--name", default="", help="name of the session (default: that of the recipe)")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds after which it ends (default: the recipe's)")
    parser.add_argument("--capacity", type=int, default=0, metavar="N", help="how many people the link lets in")
    parser.add_argument("--hours", type=float, default=0.0, metavar="H", help="how long the link is good")
    outside = parser.add_mutually_exclusive_group()
    outside.add_argument("--url", default="", help="address by which others reach the server, for the link")
    outside.add_argument(
        "--tunnel",
        metavar="COMMAND",
        default="",
        help="run a tunnel to the server, and take for the link the address that it prints; {port} in it is the "
        "server's. It ends with this command",
    )
    outside.add_argument(
        "--rehearse",
        type=int,
        metavar="N",
        help="open nothing that lasts: have N simulated students train, and say whether a class of that size can",
    )
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    if "?" in chosen.server:
        raise SettingError(
            "The server's address has more in it than an address.",
            "A token in a command can be seen by other users of this machine.",
            f"Leave out the ? and what follows; the token is asked for, or read from {TOKEN_VARIABLE}.",
        )
    if urlsplit(chosen.server).scheme not in ("http", "https"):
        raise SettingError(
            f"{chosen.server!r} is not the address of a server.", todo="It begins with http:// or https://."
        )
    token = os.environ.get(TOKEN_VARIABLE) or getpass.getpass(f"Token of {chosen.server}: ")
    # Taken apart again before anything is sent: the token travels in a header.
    server = f"{chosen.server.rstrip('/')}/?token={quote(token.strip(), safe='')}"
    if chosen.rehearse is not None:
        return _rehearse(chosen, server)
    if not chosen.tunnel:
        _host(chosen, server, chosen.url)
        return 0
    from ..peer.tunnel import Tunnel

    tunnel = Tunnel.open(chosen.tunnel, chosen.server)
    _host(chosen, server, tunnel.url)
    print("\nThe tunnel is open until this command ends (Ctrl-C); then the link leads nowhere.", flush=True)
    tunnel.wait()
    return 1


def _rehearse(chosen: argparse.Namespace, server: str) -> int:
    from ..peer.rehearsal import rehearse

    found = rehearse(chosen.recipe, chosen.rehearse, server)
    print(found)
    return 0 if found.ok else 1


def _host(chosen: argparse.Namespace, server: str, url: str) -> None:
    from ..peer import api
    from ..peer.client import Client

    session = api.host(chosen.recipe, chosen.name, rounds=chosen.rounds, train=False, server=server)
    try:
        link = session.issue("peer", chosen.hours * 3600, chosen.capacity, url=url)["link"]
    except SwarmError:
        # A session that nobody can be invited to would only be in the way of the next try.
        with contextlib.suppress(SwarmError):
            Client.of_owner(server).delete(session.id)
        raise
    print(
        f"Session {session.id} is open. {ways_in(link)}"
        f"Everybody is shown the recipe first. Its SHA-256, to agree to it beforehand:\n\n    {session.recipe.sha256}"
    )
