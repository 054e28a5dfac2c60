"""The invite card: what a teacher puts on the projector and sends to the class.

A saved notebook has no secret in it: the link stands in widgets alone, whose contents front ends do not save unless
they are told to. Colab does save them, and so does whoever executes notebooks without anybody in front: there the card
begins without the link, and shows it when asked.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import ipywidgets as widgets
import segno

from ..peer.api import Session
from . import html
from .frontend import Display, saves_widgets
from .parts import LINE, AskingButton, Said, button, choices, labelled, put, row, show, view_of

_ROLES = [("train with us", "peer"), ("look on", "viewer"), ("steer as I do", "instructor")]
# Who came in by an invite needs it to come back: none is shorter than a long class.
_EXPIRES = [("4 hours", 4 * 3600.0), ("a day", 86400.0), ("a week", 7 * 86400.0)]
_ROLE_NAMES = {"peer": "train", "viewer": "look on", "instructor": "train and steer", "holder": "hold shards"}


class InviteCard:
    """Invites into `session`, for its owner. url: the base URL by which those invited reach the server, if the server
    cannot know it. `refresh` is called while a panel shows the session."""

    def __init__(self, session: Session, url: str = "") -> None:
        self.session = session
        self.display = Display()
        self.issued: dict[str, Any] = {}
        self._url = url
        self._shown = not saves_widgets()
        # A panel's thread refreshes while a button makes another invite.
        self._lock = threading.RLock()
        self.said = Said()
        self.link, self.qr, self.facts = widgets.HTML(layout=_grows()), widgets.HTML(), widgets.HTML()
        self.role = labelled(widgets.Dropdown, "They", "16em", options=_ROLES)
        self.expires = labelled(widgets.Dropdown, "for", "9em", options=_EXPIRES, value=7 * 86400.0)
        self.new = button("New invite", "plus", "Make another link; the ones before stay valid", self._new)
        self.hide = button("", "eye-slash", "A hidden link is in no notebook that is saved", self._toggle)
        self.listed = labelled(widgets.Dropdown, "Valid invites", "36em", options=())
        self.revoke = AskingButton(
            "Revoke",
            "ban",
            "Nobody comes in by this invite any more, and whoever has is sent away",
            lambda: f"Really revoke {self.listed.value}?",
            self._revoke,
        )
        self.listed.observe(lambda _: self.revoke.forget(), "value")
        self.box = widgets.VBox(
            [
                self.facts,
                widgets.HBox([self.link, self.qr], layout=widgets.Layout(flex_flow="row wrap", grid_gap="1.5em")),
                row(self.role, self.expires, self.new, self.hide),
                row(self.listed, self.revoke),
                self.said.box,
            ],
            layout=widgets.Layout(max_width="72em", border=LINE, padding="4px 10px", margin="0 0 12px 0"),
        )

    def issue(self, role: str = "peer", expires: float = 0.0) -> None:
        """Make an invite and show it. expires: seconds from now; 0: the server's default."""
        with self._lock:
            self.issued = self.session.issue(role, expires, url=self._url)  # type: ignore[arg-type]
            self._render()
            self.refresh()

    def refresh(self) -> None:
        """Show which invites are valid now, and whether anybody has come from outside. Raises what the server
        answers."""
        with self._lock:
            valid = [one for one in self.session.invites() if _lets_in(one)]
            outside = self.session.outside
            choices(self.listed, [(_described(one), one["number"]) for one in valid])
            show(self.listed, bool(valid))
            show(self.revoke, bool(valid))
            if self.issued.get("link") and self.issued["number"] not in [one["number"] for one in valid]:
                self._forget("The invite that was shown here lets nobody in any more.")
            self.issued = {**self.issued, "outside": outside}
            put(self.facts, self._facts())

    def close(self) -> None:
        """The session is over: forget the link."""
        with self._lock:
            self._forget("")
        show(self.box, False)
        over = f"Session {self.session.id} is over, and so are its invites."
        # Widgets that no kernel serves any more would be an error in a notebook that is opened again.
        self.display.show({"text/html": html.quiet(over), "text/plain": over}, {"text/html": "", "text/plain": ""})

    def show(self) -> None:
        """Display the card. Without a kernel it says how it is shown again, and no secret."""
        again = "The invite is not kept in a saved notebook; `%swarm invite` shows one again."
        title = f"Invite to {self.session.id}"
        self.display.show(
            {"text/html": html.heading(title), "text/plain": title},
            {"text/plain": again, "text/html": html.lines(again), **view_of(self.box)},
        )

    # --- inside

    def _render(self) -> None:
        link = self.issued.get("link", "")
        visible = bool(link) and self._shown
        put(self.link, self._lines(link) if visible else "")
        put(self.qr, html.on_white(qr_of(link), f"QR code of the link to {self.session.id}") if visible else "")
        self.hide.description = "Hide the link" if self._shown else "Show the link"
        self.hide.icon = "eye-slash" if self._shown else "eye"
        show(self.hide, bool(link))

    def _lines(self, link: str) -> str:
        role, wheel = self.issued["role"], self.issued["wheel"]
        if role == "viewer":
            return html.copyable("Link, for a browser", link)
        return (
            html.copyable("Link", link)
            + html.copyable("A cell for Colab, or for any notebook with torch", colab_cell(link, wheel), 3)
            + html.copyable("A line for a terminal", f"jupyter swarm peer '{link}'")
        )

    def _facts(self) -> str:
        one = self.issued
        if not one.get("link"):
            return ""
        reach = reach_text(one.get("reach"), one.get("outside"))
        facts = [
            ("lets others", f"{_ROLE_NAMES[one['role']]} in {self.session.id}"),
            ("valid", f"until {_time(one['expires'])}"),
            *([("reachable", reach)] if reach else []),
            ("recipe", f"{self.session.recipe.name}, SHA-256 {self.session.recipe.sha256[:16]}…; they see it first"),
        ]
        return html.facts(facts)

    def _new(self) -> None:
        self._shown = True
        self.said.trying(lambda: self.issue(self.role.value, self.expires.value))

    def _toggle(self) -> None:
        self._shown = not self._shown
        self._render()

    def _revoke(self) -> None:
        number = self.listed.value
        if number is not None and self.said.trying(lambda: self.session.revoke(number)):
            self.said.trying(self.refresh)
            self.said(f"Invite {number} is revoked. Whoever has come in by it is sent away.")

    def _forget(self, says: str) -> None:
        self.issued = {}
        self._render()
        put(self.facts, "")
        self.said(says)


def colab_cell(link: str, wheel: str) -> str:
    """Install the version that the link's server has, from where it says that it is, and join."""
    return f"%pip install -q {wheel}\n%load_ext jupyter_swarm\n%swarm join {link}"


def qr_of(link: str) -> str:
    """An SVG; on white, for phones read no light code on dark."""
    return str(segno.make(link, error="m").svg_inline(scale=4, light="white", border=2))


def reach_text(reach: str | None, outside: bool | None) -> str:
    """From where a link works, as far as it is known; '' if nothing is."""
    if outside:
        return "yes: somebody has connected from another machine"
    if reach == "machine":
        return (
            "from this machine only: the link names this very machine. With an address that others reach: "
            "%swarm invite --url http://ADDRESS"
        )
    known = {"network": "a network's address", "internet": "an internet address"}.get(reach or "", "")
    proof = "nobody has connected from another machine yet"
    if outside is None:
        return known
    return f"from this machine only, as far as is known: {proof}" + (f" (the link has {known})" if known else "")


def _lets_in(one: dict[str, Any]) -> bool:
    """Capacity 0: as many as the server takes."""
    full = bool(one["capacity"]) and one["uses"] >= one["capacity"]
    return not one["revoked"] and not full and one["expires"] > time.time()


def _described(one: dict[str, Any]) -> str:
    label = f" {one['label']}" if one["label"] else ""
    return f"{one['number']}:{label} {_ROLE_NAMES[one['role']]}, until {_time(one['expires'])}, used by {one['uses']}"


def _time(seconds: float) -> str:
    """A moment, with its day unless that is today."""
    moment = time.localtime(seconds)
    today = moment[:3] == time.localtime()[:3]
    return time.strftime("%H:%M" if today else "%A %d %B, %H:%M", moment)


def _grows() -> Any:
    return widgets.Layout(flex="1 1 26em", min_width="0")
