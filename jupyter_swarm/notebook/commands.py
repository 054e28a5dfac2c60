"""The subcommands of `%swarm`: what each takes, and the one call of the API that it stands for."""

from __future__ import annotations

import ast
import inspect
from argparse import HelpFormatter, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from IPython.core.magic_arguments import argument, kwds, magic_arguments

from ..peer import api, planning
from ..peer.checkpoints import open_checkpoint
from ..peer.client import Client
from ..peer.doctor import doctor as examine
from ..peer.recipe import Recipe, load_recipe
from ..peer.rehearsal import rehearse
from ..peer.source import with_constants
from ..peer.steering import ALIASES
from ..peer.tunnel import Tunnel
from ..protocol.addresses import base_of
from ..protocol.errors import SettingError, SwarmError
from . import views
from .frontend import has_widgets
from .machine import device_text
from .views import Notebook

Function = Callable[[Notebook, Namespace], Any]
_F = TypeVar("_F", bound=Callable[..., Any])
COMMANDS: dict[str, Function] = {}
_OPTIONS = {*inspect.signature(api.host).parameters, *inspect.signature(rehearse).parameters} - {"rounds", "settings"}
"""What a line says in another way than by NAME=VALUE."""


def command(*arguments: Callable[[Any], Any]) -> Callable[[_F], _F]:
    """A subcommand called as its function; `arguments` are decorators, groups of them among these."""

    def register(function: _F) -> _F:
        name = function.__name__.rstrip("_")
        made: Any = kwds(add_help=True, formatter_class=HelpFormatter)(function)
        for one in reversed(arguments):
            made = one(made)
        COMMANDS[name] = magic_arguments(f"%swarm {name}")(made)
        return function

    return register


def _group(*arguments: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        for one in reversed(arguments):
            function = one(function)
        return function

    return decorate


_waiting = argument("--wait", action="store_true", help="show progress until the session has finished")
_theme = argument(
    "--theme", choices=("auto", "light", "dark"), default="auto", help="colours of the curve (default: the page's)"
)
_url = argument("--url", default="", help="the address by which others reach this server, for the invite's link")
_here = _group(
    argument("--name", default="", help="how others see this kernel"),
    argument("--device", default="", help="where it computes, as torch spells it (default: an accelerator if any)"),
)
_everybody = argument("--all", action="store_true", help="everybody in the session, not only this kernel")
_settings = argument("settings", nargs="*", metavar="NAME=VALUE", help="lr=3e-4 steps=25 batch=256 …")


@command(
    argument("name", nargs="?", default="", help="the session's name, as others see it"),
    argument("settings", nargs="*", metavar="NAME=VALUE", help="settings: lr=3e-4; constants of the recipe: SIZE=tiny"),
    argument("--recipe", help="a ready recipe's name or a .py file (default: the recipe cell's, or else digits)"),
    argument("--rounds", type=int, help="end after so many rounds"),
    argument("--start", metavar="FOLDER", help="begin with the parameters of a checkpoint in this folder"),
    argument("--server", help="another server: its URL with ?token=…"),
    argument("--no-train", action="store_true", help="host only; this kernel does not train"),
    argument("--rehearse", type=int, metavar="N", help="open nothing: N simulated students try it out, then a verdict"),
    _url,
    argument("--tunnel", metavar="COMMAND", help="open a tunnel; {port} in the command is the server's"),
    _waiting,
    _theme,
)
def host(notebook: Notebook, arguments: Namespace) -> Any:
    """Open a session on the server of this kernel and show its invite."""
    name, settings = arguments.name, arguments.settings
    if "=" in name:
        name, settings = "", [name, *settings]
    values = values_of(settings)
    recipe = _recipe_with(arguments.recipe or notebook.recipe or "digits", values)
    if options := values.keys() & _OPTIONS:
        raise SettingError(f"{min(options)} is not a setting.", todo="See %swarm host -h for the options.")
    chosen = [f"--{option}" for option in ("url", "tunnel", "rehearse") if getattr(arguments, option) not in ("", None)]
    if len(chosen) > 1:
        raise SettingError(f"{' and '.join(chosen)} exclude each other.", todo="Choose one of them.")
    if arguments.url:
        base_of(arguments.url)  # before there is a session that nobody could be invited to
    if arguments.rehearse is not None:
        values.pop("rounds", None)  # it ends by itself
        return rehearse(recipe, arguments.rehearse, arguments.server, **values)
    start = open_checkpoint(arguments.start) if arguments.start else None
    tunnel = Tunnel.open(arguments.tunnel, Client.of_owner(arguments.server).server) if arguments.tunnel else None
    session = api.host(
        recipe,
        name,
        rounds=values.pop("rounds", arguments.rounds),
        train=not arguments.no_train,
        server=arguments.server,
        start=start,
        **values,
    )
    notebook.shell.push({"session": session})
    card = views.show_invite(session, url=tunnel.url if tunnel else arguments.url)
    views.show_panel(notebook, session, arguments.theme, arguments.wait, card)
    return session


@command(
    argument("--role", choices=("peer", "viewer", "instructor"), default="peer", help="what it lets others do"),
    argument("--hours", type=float, default=0.0, help="until it expires (default: the server's)"),
    _url,
)
def invite(notebook: Notebook, arguments: Namespace) -> None:
    """Show a new invite to the session: link, QR code, a cell for Colab."""
    session = api.current()
    card = views.show_invite(session, arguments.role, arguments.hours * 3600.0, arguments.url)
    if notebook.panel is not None and notebook.panel.session is session:
        notebook.panel.invite = card


@command(
    argument("link", nargs="*", help="the invite link (default: it is asked for)"),
    _here,
    argument("--agree", metavar="HASH", help="the hash of the recipe, agreed to beforehand"),
    argument("--data", metavar="VARIABLE", help="a variable with Data of your own, which stays with you"),
    _waiting,
    _theme,
)
def join(notebook: Notebook, arguments: Namespace) -> Any:
    """Join a session by its invite link; its recipe is shown first."""
    options = {"device": arguments.device, "data": _variable(notebook, arguments.data)}

    def enter(link: str, name: str, agree: str | None) -> api.Session:
        session = api.join(link, name, agree=agree, **options)
        notebook.shell.push({"session": session})
        return session

    link, name = "".join(arguments.link), arguments.name  # a link that was copied with spaces in it
    if arguments.agree is None and not arguments.wait and views.asks_by_widget():
        views.show_join(notebook, link, name, arguments.device, enter, arguments.theme)
        return None
    if not link:
        link, name = views.ask_link(name)
    print(f"This kernel would compute on {device_text(arguments.device)}.")
    session = enter(link, name, arguments.agree)
    views.show_panel(notebook, session, arguments.theme, arguments.wait)
    return session


@command()
def status(_: Notebook, __: Namespace) -> None:
    """Say what is going on, and why nothing moves when nothing does."""
    print(api.current().status())


@command()
def peers(_: Notebook, __: Namespace) -> None:
    """List who is connected."""
    views.show_peers(api.current().peers())


@command()
def plot(_: Notebook, __: Namespace) -> Any:
    """Draw the history so far."""
    return api.current().plot()


@command(_everybody)
def pause(_: Notebook, arguments: Namespace) -> None:
    """This kernel takes no more work; or nobody does."""
    session = api.current()
    (session.pause_all if arguments.all else session.pause)()


@command(_everybody)
def resume(_: Notebook, arguments: Namespace) -> None:
    """This kernel takes work again; or everybody does."""
    session = api.current()
    (session.resume_all if arguments.all else session.resume)()


@command()
def leave(_: Notebook, __: Namespace) -> None:
    """This kernel leaves the session."""
    api.current().leave()


@command(_settings)
def set_(_: Notebook, arguments: Namespace) -> None:
    """Change settings from the next round on: lr=3e-4 steps=25 batch=256 strategy=local|sparse|streaming|every_step."""
    changes = values_of(arguments.settings)
    if not changes:
        raise SettingError("It is not said what to set.", todo="For example: %swarm set lr=3e-4")
    api.current().set(**changes)
    print("From the next round on: " + ", ".join(f"{ALIASES.get(name, name)}={changes[name]}" for name in changes))


@command(
    argument("name", nargs="?", default="", help="what to call it"),
    argument("--list", action="store_true", help="list the session's checkpoints"),
    argument("--download", nargs=2, metavar=("N", "FOLDER"), help="fetch one, by its place in the list or its name"),
)
def checkpoint(_: Notebook, arguments: Namespace) -> Any:
    """Store the parameters of now; or list and fetch what is stored."""
    session = api.current()
    if arguments.download:
        which, folder = arguments.download
        return _chosen(session.checkpoints(), which).download(folder)
    if arguments.list:
        views.show_checkpoints(session.checkpoints())
        return None
    return session.checkpoint(arguments.name)


@command(argument("--save", metavar="FILE.nc", help="write it to a netCDF file"))
def history(_: Notebook, arguments: Namespace) -> Any:
    """The history as an xarray Dataset."""
    found = api.current().history()
    if arguments.save:
        print(f"Saved to {found.swarm.save(arguments.save)}.")
        return None
    return found


@command(argument("prompt", nargs="*", help="what the sample begins with"))
def sample(_: Notebook, arguments: Namespace) -> None:
    """Show what the shared parameters make of a prompt; training goes on."""
    print(api.current().sample(" ".join(arguments.prompt)))


@command(argument("link", help="an invite link, or a server's address"))
def doctor(_: Notebook, arguments: Namespace) -> None:
    """Find out why a session cannot be joined from here, or how fast it would be."""
    print(examine(arguments.link))


@command(*(argument(name, **options) for name, options in planning.OPTIONS))
def plan(_: Notebook, arguments: Namespace) -> Any:
    """What a session will cost: bytes and seconds of a round, what limits it, what would help."""
    from .plan_figure import draw, figure_of

    planned = planning.plan(arguments)
    print(planned)
    if arguments.json:
        planned.write(Path(arguments.json))
    if arguments.figure:
        draw(planned, Path(arguments.figure))
        return None
    return figure_of(planned)


@command(_waiting, _theme)
def watch(notebook: Notebook, arguments: Namespace) -> None:
    """Follow the session: below this cell, or with --wait, in Colab and in a terminal in it (its buttons wait then)."""
    views.show_panel(notebook, api.current(), arguments.theme, arguments.wait or not has_widgets())


@command(
    argument("--name", default="", help="another name for it than the text says"),
    argument("--untried", action="store_true", help="keep it without a preflight, to host what cannot run here"),
)
def recipe(notebook: Notebook, _: Namespace) -> Any:
    """The recipe of the last cell that began with %%swarm recipe."""
    if notebook.recipe is None:
        raise SwarmError(
            "There is no recipe yet.",
            todo="Begin a cell with %%swarm recipe, and let it define recipe = Recipe(…).",
        )
    return notebook.recipe


def values_of(settings: list[str]) -> dict[str, Any]:
    """NAME=VALUE as Python values; what is no literal is text. Raises `SettingError`."""
    found: dict[str, Any] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise SettingError(f"{text!r} sets nothing.", todo="Write NAME=VALUE without spaces, as in lr=3e-4.")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def _recipe_with(recipe: Recipe | str, values: dict[str, Any]) -> Recipe | str:
    """The recipe with other constants: those among `values` that are in capitals, which are taken out of them."""
    constants = {name: values.pop(name) for name in list(values) if name.isupper()}
    if not constants:
        return recipe
    if isinstance(recipe, str):
        return load_recipe(recipe, **constants)
    return Recipe.from_source(with_constants(recipe.source, constants))


def _variable(notebook: Notebook, name: str | None) -> Any:
    if name is None:
        return None
    if name not in notebook.shell.user_ns:
        raise SettingError(f"There is no variable {name!r}.", todo="Define it: data = Data(train=…)")
    return notebook.shell.user_ns[name]


def _chosen(found: list[Any], which: str) -> Any:
    for number, one in enumerate(found, 1):
        if which in (str(number), one.name):
            return one
    names = ", ".join(f"{number} ({one.name})" for number, one in enumerate(found, 1)) or "none yet"
    raise SettingError(f"There is no checkpoint {which!r}.", todo=f"There are: {names}.")
