"""`%swarm`: the public API as line magics. No logic of its own: each subcommand is one call."""

from __future__ import annotations

import difflib
import shlex
from argparse import HelpFormatter, Namespace
from collections.abc import Callable
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_magic, magics_class
from IPython.core.magic_arguments import MagicArgumentParser

from ..peer import api
from ..protocol.errors import SwarmError

Command = Callable[[Namespace], Any]


@magics_class
class SwarmMagics(Magics):  # type: ignore[misc]  # older IPythons have no types
    """Registered by ``%load_ext jupyter_swarm``."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._commands: dict[str, tuple[MagicArgumentParser, Command]] = {
            "host": (_host_arguments(), _host),
            "join": (_join_arguments(), _join),
            "status": (_no_arguments("status", "Say what is going on."), _status),
            "pause": (_no_arguments("pause", "This kernel takes no more work."), lambda _: api.current().pause()),
            "resume": (_no_arguments("resume", "This kernel takes work again."), lambda _: api.current().resume()),
            "leave": (_no_arguments("leave", "This kernel leaves the session."), lambda _: api.current().leave()),
        }

    @line_magic
    def swarm(self, line: str) -> Any:
        """Train one model together: %swarm host|join|status|pause|resume|leave. `%swarm host -h` explains one."""
        name, _, rest = line.strip().partition(" ")
        if name not in self._commands:
            print(self._unknown(name))
            return None
        parser, command = self._commands[name]
        try:
            return command(parser.parse_args(_split(rest)))
        except SwarmError as error:
            print(error)
        except UsageProblem as error:
            print(f"%swarm {name}: {error}\n{parser.format_usage().strip()}")
        except SystemExit:  # -h has printed its help
            pass
        return None

    def _unknown(self, name: str) -> str:
        known = ", ".join(self._commands)
        if not name:
            return f"What should it do? %swarm {known.replace(', ', '|')}"
        near = difflib.get_close_matches(name, self._commands, n=1)
        meant = f" Did you mean %swarm {near[0]}?" if near else ""
        return f"There is no %swarm {name}.{meant} There are: {known}."


class UsageProblem(Exception):
    """Arguments that a subcommand does not take."""


class _Parser(MagicArgumentParser):
    def error(self, message: str) -> Any:
        raise UsageProblem(message)


def _split(text: str) -> list[str]:
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""  # a link has a #
    lexer.escape = ""  # a Windows path has backslashes
    try:
        return list(lexer)
    except ValueError as error:
        raise UsageProblem(f"{error}.") from None


def _no_arguments(name: str, description: str) -> _Parser:
    return _Parser(  # type: ignore[no-untyped-call]
        prog=f"%swarm {name}", description=description, formatter_class=HelpFormatter, add_help=True
    )


def _host_arguments() -> _Parser:
    parser = _no_arguments("host", "Open a session on the server of this kernel.")
    parser.add_argument("name", nargs="?", default="", help="the session's name, as others see it")
    parser.add_argument("--recipe", default="digits", help="a ready recipe's name or the path of a .py file")
    parser.add_argument("--rounds", type=int, help="end after so many rounds")
    parser.add_argument("--server", help="another server: its URL with ?token=…")
    parser.add_argument("--no-train", action="store_true", help="host only; this kernel does not train")
    parser.add_argument("--wait", action="store_true", help="show progress until the session has finished")
    return parser


def _join_arguments() -> _Parser:
    parser = _no_arguments("join", "Join a session by its invite link.")
    parser.add_argument("link", help="the invite link")
    parser.add_argument("--name", default="", help="how others see this kernel")
    parser.add_argument("--agree", help="the hash of the recipe, agreed to beforehand")
    parser.add_argument("--wait", action="store_true", help="show progress until the session has finished")
    return parser


def _host(arguments: Namespace) -> api.Session:
    session = api.host(
        arguments.recipe,
        arguments.name,
        rounds=arguments.rounds,
        train=not arguments.no_train,
        server=arguments.server,
    )
    print(f"Session {session.id}. Others join with\n\n    %swarm join {session.invite().link}\n")
    if arguments.wait:
        session.follow()
    return session


def _join(arguments: Namespace) -> api.Session:
    return api.join(arguments.link, arguments.name, agree=arguments.agree, wait=arguments.wait)


def _status(_: Namespace) -> None:
    print(api.current().status())


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """Register `%swarm`."""
    ipython.register_magics(SwarmMagics)
