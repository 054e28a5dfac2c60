"""`%swarm` and `%%swarm recipe`: the public API as magics. Each subcommand is one call of it."""

from __future__ import annotations

import difflib
import re
from argparse import Namespace
from typing import TYPE_CHECKING, Any

import msgspec
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand

from ..peer.preflight import preflight
from ..peer.recipe import Recipe
from ..peer.words import words_of
from ..protocol.errors import SwarmError
from . import completion
from .commands import COMMANDS

if TYPE_CHECKING:
    from .panel import Panel

_VARIABLE = re.compile(r"(\w+=)?(?:\{([^\W\d]\w*)\}|\$([^\W\d]\w*))")


@magics_class
class SwarmMagics(Magics):  # type: ignore[misc]  # older IPythons have no types
    """Registered by ``%load_ext jupyter_swarm``. recipe: that of the last recipe cell that worked."""

    shell: InteractiveShell

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self.recipe: Recipe | None = None
        self.panel: Panel | None = None

    @no_var_expand  # what stands in braces would be run as Python: also in a link that somebody else has written
    @line_cell_magic
    def swarm(self, line: str, cell: str | None = None) -> Any:
        """Train one model together: %swarm host, join, status, … `%swarm` lists them, `%swarm host -h` explains one.

        A cell that begins with %%swarm recipe defines what is trained.
        """
        name, _, rest = line.strip().partition(" ")
        if name not in COMMANDS or (cell is not None and name != "recipe"):
            print(_unknown(name, cell is not None))
            return None
        run = COMMANDS[name]
        parser = run.parser  # type: ignore[attr-defined]
        try:
            arguments = _parsed(parser, [self._value(word) for word in _split(rest)])
            return run(self, arguments) if cell is None else self._recipe(cell, arguments)
        except SwarmError as error:
            print(error)
        except UsageError as error:
            near = _nearest_option(str(error), parser)
            print(f"%swarm {name}: {error}{near}\n{parser.format_usage().strip()}")
        except SystemExit:  # -h has printed its help
            pass
        return None

    def _value(self, word: str) -> str:
        """For `{name}` or `$name`, alone or behind NAME=, the variable's value as text."""
        found = _VARIABLE.fullmatch(word)
        name = found and (found[2] or found[3])
        return f"{found[1] or ''}{self.shell.user_ns[name]}" if found and name in self.shell.user_ns else word

    def _recipe(self, cell: str, arguments: Namespace) -> None:
        try:
            made = Recipe.from_source(cell)
            made = msgspec.structs.replace(made, name=arguments.name or made.name)
            if arguments.untried or self._runs(made):
                self.recipe = made
                self.shell.push({"recipe": made})
                print(f"Recipe {made.name}, SHA-256 {made.sha256[:16]}…: %swarm host NAME hosts it.")
                return
        except SwarmError as error:
            print(error)
        print(f"The recipe {self.recipe.name} is kept." if self.recipe else "There is no recipe yet.")

    @staticmethod
    def _runs(recipe: Recipe) -> bool:
        found = preflight(recipe)
        print(found)
        return found.ok


def _unknown(name: str, in_cell: bool) -> str:
    if in_cell:
        return "A cell can only begin with %%swarm recipe" + (f", not with %%swarm {name}." if name else ".")
    if name in ("", "-h", "--help"):
        about = (f"  {one:<11}{run.parser.description}" for one, run in COMMANDS.items())  # type: ignore[attr-defined]
        return "\n".join(["%swarm does, and %swarm NAME -h explains:", *about])
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    meant = f" Did you mean %swarm {near[0]}?" if near else ""
    return f"There is no %swarm {name}.{meant} There are: {', '.join(COMMANDS)}."


def _nearest_option(message: str, parser: Any) -> str:
    """For an option that is mistyped: the one that was meant."""
    _, found, wrong = message.partition("unrecognized arguments: ")
    near = difflib.get_close_matches(wrong.split()[0], parser._option_string_actions, n=1) if found and wrong else []
    return f". Did you mean {near[0]}?" if near else ""


def _parsed(parser: Any, words: list[str]) -> Namespace:
    """Arguments in any order: argparse alone takes no NAME=VALUE behind an option."""
    arguments, rest = parser.parse_known_args(words)
    if hasattr(arguments, "settings") and all("=" in word and not word.startswith("-") for word in rest):
        arguments.settings, rest = [*arguments.settings, *rest], []
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    found: Namespace = arguments
    return found


def _split(text: str) -> list[str]:
    try:
        return words_of(text)
    except ValueError as error:
        raise UsageError(f"{error}.") from None


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """Register `%swarm`, `%%swarm` and their completion."""
    ipython.register_magics(SwarmMagics)
    completion.register(ipython)
