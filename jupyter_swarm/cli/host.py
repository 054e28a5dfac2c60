"""`jupyter swarm host`."""

from __future__ import annotations

import argparse
import getpass
import os
from typing import Any
from urllib.parse import quote, urlsplit

from ..protocol.errors import SettingError

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
    from ..peer import api

    # Taken apart again before anything is sent: the token travels in a header.
    server = f"{chosen.server.rstrip('/')}/?token={quote(token.strip(), safe='')}"
    session = api.host(chosen.recipe, chosen.name, rounds=chosen.rounds, train=False, server=server)
    invite = session.invite("peer", expires=chosen.hours * 3600, capacity=chosen.capacity)
    print(f"Session {session.id} is open. To join it, in a terminal:\n")
    print(f"    jupyter swarm peer '{invite.link}'\n")
    print("or in a notebook:\n")
    print(f"    %load_ext jupyter_swarm\n    %swarm join {invite.link}\n")
    print(
        f"Everybody is shown the recipe first. Its SHA-256, to agree to it beforehand:\n\n    {session.recipe.sha256}"
    )
    return 0
