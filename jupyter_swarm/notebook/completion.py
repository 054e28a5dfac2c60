"""Tab completion of `%swarm` lines, for every IPython since 7."""

from __future__ import annotations

import pkgutil
from types import SimpleNamespace

from IPython.core.interactiveshell import InteractiveShell

from .. import recipes
from ..peer.steering import ALIASES, SETTINGS, STRATEGIES
from .commands import COMMANDS


def complete(_: InteractiveShell, event: SimpleNamespace) -> list[str]:
    """What may stand where the cursor is: IPython's hook `complete_command`."""
    typed = event.text_until_cursor
    words = typed.split()
    before = words[:-1] if words and not typed[-1].isspace() else words
    if not before:
        return []
    if len(before) == 1:
        return ["recipe"] if before[0].startswith("%%") else list(COMMANDS)
    name, last = before[1], typed.split()[-1]
    if name not in COMMANDS:
        return []
    options = COMMANDS[name].parser._option_string_actions  # type: ignore[attr-defined]
    if "=" in last and not typed[-1].isspace():
        return list(STRATEGIES) if last.startswith("strategy=") else []
    action = options.get(before[-1])
    if before[-1] == "--recipe":
        return [module.name for module in pkgutil.iter_modules(recipes.__path__)]
    if before[-1] == "--strategy":
        return list(STRATEGIES)
    if action is not None and action.choices:
        return list(action.choices)
    long = [option for option in options if option.startswith("--")]
    settings = [f"{setting}=" for setting in (*ALIASES, *SETTINGS)]
    return {"set": [*settings, "strategy="], "host": [*long, *settings]}.get(name, long)


def register(shell: InteractiveShell) -> None:
    """Complete after %swarm and %%swarm."""
    for magic in ("%swarm", "%%swarm"):
        shell.set_hook("complete_command", complete, str_key=magic)
