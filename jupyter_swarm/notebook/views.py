"""What the subcommands show: widgets where there are any, else the same as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import segno
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display

from ..peer.api import Session
from ..peer.checkpoints import Checkpoint
from ..peer.offer import look
from ..peer.recipe import Recipe
from . import html
from .frontend import has_widgets, in_colab

if TYPE_CHECKING:
    from ..history.themes import ThemeName  # xarray and pandas: %load_ext needs neither
    from .panel import Panel


class Notebook(Protocol):
    """Where a subcommand runs. recipe: that of the last recipe cell. panel: what shows the session."""

    shell: InteractiveShell
    recipe: Recipe | None
    panel: Panel | None


class Shown:
    """HTML for a notebook, text for a terminal."""

    def __init__(self, rich: str, plain: str) -> None:
        self._rich, self._plain = rich, plain

    def _repr_html_(self) -> str:
        return self._rich

    def __repr__(self) -> str:
        return self._plain


def show_invite(session: Session) -> None:
    """The invite card."""
    link, sha256 = session.invite().link, session.recipe.sha256
    colab = f"%pip install -q jupyter_swarm\n%load_ext jupyter_swarm\n%swarm join {link}"
    # On white, for phones read no light code on dark.
    code = segno.make(link, error="m").svg_inline(scale=3, light="white")
    plain = (
        f"Session {session.id} is open. Others join it in a notebook with\n\n"
        f"    %load_ext jupyter_swarm\n    %swarm join {link}\n\n"
        f"or in a terminal:\n\n    jupyter swarm peer '{link}'\n\n"
        f"Everybody sees the recipe first; its SHA-256 begins with {sha256[:16]}."
    )
    display(Shown(html.invite(session.id, link, sha256, colab, code), plain))


def asks_by_widget() -> bool:
    """Whether consent is asked for with buttons: they work where nothing else occupies the kernel. In Colab the cell
    that joins must go on running, so there it is asked with `input()`."""
    return has_widgets() and not in_colab()


def show_consent(notebook: Notebook, link: str, enter: Callable[[str], Session], theme: ThemeName) -> None:
    """The card that asks whether to run the recipe."""
    from .consent import JoinCard

    JoinCard(look(link), lambda agree: _panel(notebook, enter(agree), theme)).show()


def show_panel(notebook: Notebook, session: Session, theme: ThemeName, foreground: bool = False) -> None:
    """The live panel, or, in a terminal, a line of progress if it is to stay in the foreground."""
    if not has_widgets():
        if foreground:
            session.follow()
        return
    panel = _panel(notebook, session, theme)
    panel.show()
    if foreground or in_colab():
        panel.follow()
    else:
        panel.start()


def _panel(notebook: Notebook, session: Session, theme: ThemeName) -> Panel:
    """A panel, which takes the place of the last one of the same session."""
    from .panel import Panel

    if notebook.panel is not None and notebook.panel.session is session:
        notebook.panel.close()
    notebook.panel = Panel(session, theme)
    return notebook.panel


def show_peers(found: Iterable[Mapping[str, Any]]) -> None:
    """A table."""
    found = list(found)
    plain = "\n".join(f"{peer['name'] or peer['id']}: {peer['state']} {peer['reason']}".rstrip() for peer in found)
    display(Shown(html.peers(found), plain or "Nobody is connected."))


def show_checkpoints(found: list[Checkpoint]) -> None:
    """A table."""
    plain = "\n".join(f"{number}. {one.name}, after round {one.version}" for number, one in enumerate(found, 1))
    display(Shown(html.checkpoints(found) or "There is none yet.", plain or "There is none yet."))
