"""What the subcommands show: widgets where there are any, else the same as text."""

from __future__ import annotations

import getpass
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display

from ..peer.api import Session
from ..peer.checkpoints import Checkpoint
from ..peer.offer import Offer, look
from ..peer.recipe import Recipe
from ..protocol.errors import InviteError
from ..protocol.invites import ways_in
from . import html
from .frontend import Display, has_widgets, in_colab

if TYPE_CHECKING:
    from .consent import JoinCard
    from .invite import InviteCard
    from .panel import Panel, PanelTheme  # which load xarray and pandas: %load_ext needs neither

Enter = Callable[[str, str, "str | None"], Session]
"""Joins by link, name, and the hash that was agreed to."""


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


def show_invite(session: Session, role: str = "peer", seconds: float = 0.0, url: str = "") -> InviteCard | None:
    """A new invite as a card, or as text in a terminal. seconds: until it expires, 0: the server's default."""
    if has_widgets():
        from .invite import InviteCard

        card = InviteCard(session, url)
        card.issue(role, seconds)
        card.show()
        return card
    issued = session.issue(role, seconds, url=url)  # type: ignore[arg-type]
    link = issued["link"]
    print(
        f"Session {session.id} is open. "
        + (f"Others look on in a browser:\n\n    {link}\n\n" if role == "viewer" else ways_in(link))
        + f"Everybody sees the recipe first; its SHA-256 begins with {session.recipe.sha256[:16]}."
    )
    return None


def asks_by_widget() -> bool:
    """Whether consent is asked for with buttons: they work where nothing else occupies the kernel. In Colab the cell
    that joins must go on running, so there it is asked with `input()`."""
    return has_widgets() and not in_colab()


def ask_link(name: str) -> tuple[str, str]:
    """The link, and a name unless there is one, where no widget can ask. Raises `InviteError`."""
    try:
        # What `input()` is told stands in the saved notebook, and the link is a secret.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", getpass.GetPassWarning)  # a terminal that shows it does not save it
            link = getpass.getpass("Invite link (what you paste is not shown): ")
        return link, name or input("Your name: ")
    except (EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise InviteError("Nobody could be asked for the invite link.", str(error), "Pass it: join LINK") from None


def show_join(notebook: Notebook, link: str, name: str, device: str, enter: Enter, theme: PanelTheme) -> None:
    """The card that asks whether to run the recipe; without a link, first a field to paste it."""
    from .consent import JoinCard, LinkField

    def card(link: str, offer: Offer, name: str, display: Display | None = None) -> JoinCard:
        def join(agree: str, name: str) -> Panel:
            return _panel(notebook, enter(link, name, agree), theme)

        return JoinCard(offer, join, lambda: look(link), name, device, display)

    if link:
        card(link, look(link), name).show()
    else:
        LinkField(look, card, name).show()


def show_panel(
    notebook: Notebook,
    session: Session,
    theme: PanelTheme,
    foreground: bool = False,
    invite: InviteCard | None = None,
) -> None:
    """The live panel, below a cell that ends, or with `foreground` and in Colab in one that runs; in a terminal, in the
    foreground, a line of progress."""
    if not has_widgets():
        if foreground:
            session.follow()
        return
    panel = _panel(notebook, session, theme, invite)
    panel.show()
    if foreground or in_colab():
        panel.follow()
    else:
        panel.start()


def _panel(notebook: Notebook, session: Session, theme: PanelTheme, invite: InviteCard | None = None) -> Panel:
    """A panel, which takes the place of the last one of the same session."""
    from .panel import Panel

    old = notebook.panel
    if old is not None and old.session is session:
        old.close()
        invite = invite or old.invite
    notebook.panel = Panel(session, theme, invite=invite)
    return notebook.panel


def show_peers(found: Iterable[Mapping[str, Any]]) -> None:
    """A table."""
    found = html.by_name(found)
    plain = "\n".join(html.peer_line(peer) for peer in found)
    display(Shown(html.peers(found), plain or "Nobody is connected."))


def show_checkpoints(found: list[Checkpoint]) -> None:
    """A table."""
    plain = "\n".join(f"{number}. {one.name}, after round {one.version}" for number, one in enumerate(found, 1))
    display(Shown(html.checkpoints(found) or "There is none yet.", plain or "There is none yet."))
