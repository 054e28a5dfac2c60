"""How somebody joins by widgets: a field for the link, then the card by which a person sees a recipe and says yes
before it runs, which is the widget's form of `input()`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from ..peer.consent import WARNING
from ..peer.offer import Offer
from ..peer.source import readable
from ..protocol.errors import SwarmError
from ..protocol.invites import parse_invite_to_join
from . import html
from .frontend import Display
from .machine import device_text
from .panel import Panel
from .parts import Said, apart, button, error_text, labelled, put, row, too_soon, view_of

_AGAIN = "Shown while this kernel runs; run the cell again to be asked again."
_HINT = {"text/html": html.quiet(_AGAIN), "text/plain": _AGAIN}


class JoinCard:
    """Shows what an invite offers, with the buttons Agree and Decline; after a yes the session's panel takes its place.

    join: called with the recipe's hash and the name that was chosen, in the kernel's main thread; the panel that it
    returns is started here. look: reads the offer anew. device: what is to compute, as torch spells it. In another
    card's `display` it takes its place.
    """

    def __init__(
        self,
        offer: Offer,
        join: Callable[[str, str], Panel],
        look: Callable[[], Offer],
        name: str = "",
        device: str = "",
        display: Display | None = None,
    ) -> None:
        self.display = display or Display()
        self._join, self._look, self._device = join, look, device
        self.text, self.facts = widgets.HTML(), widgets.HTML()
        self._changed = -math.inf
        self._ask_for(offer)
        self.said = Said()
        self.said(WARNING)
        self.name = name_field(name)
        self.yes = button("Agree and join", "check", "Run this recipe here and train", self._agree, "primary")
        self.no = button("Decline", "times", "Do not run it", self._decline)
        self.box = widgets.VBox(
            [self.text, self.facts, self.said.box, row(self.name, self.yes, self.no)],
            layout=widgets.Layout(max_width="72em"),
        )

    @property
    def heading(self) -> str:
        """What stands above the card."""
        return f"You are invited to train {readable(self.offer.name)}"

    def show(self) -> None:
        """Display the card, once."""
        self.display.show(
            {"text/html": html.heading(self.heading), "text/plain": self.heading},
            {"text/plain": f"{readable(self.offer.source)}\n{WARNING}", **view_of(self.box)},
            _HINT,
        )

    def _agree(self) -> None:
        if too_soon(self._changed):
            return
        self._wait(True)
        self.said("Building the model, loading the data, connecting …")
        try:
            panel = self._join(self.offer.sha256, self.name.value.strip())
        except (Exception, KeyboardInterrupt) as error:
            self.said(f"Not joined. {error_text(error)}")
            self._look_again()
            self._wait(False)
            return
        # In the card's place: what a button's callback displays has no cell to go to.
        panel.display = self.display
        self.box.children = (panel.box,)
        self.display.show(panel.heading(), None, panel.tail())
        panel.start()

    def _ask_for(self, offer: Offer) -> None:
        self.offer = offer
        put(self.text, html.code(readable(offer.source)))
        put(self.facts, html.facts([*offer.facts(), ("it would compute on", device_text(self._device))]))

    def _look_again(self) -> None:
        """What was agreed to may not be what the session has any more: then that is what is asked for."""
        try:
            offer = self._look()
        except SwarmError:
            return
        if offer.sha256 != self.offer.sha256:
            self._ask_for(offer)
            self._changed = time.monotonic()
            self.said("The session's recipe is another one now. Nothing has run; read it again before you agree.")

    def _decline(self) -> None:
        self._wait(True)
        self.said("The recipe was not agreed to, and has not run. Run the cell again to be asked again.")

    def _wait(self, waits: bool) -> None:
        self.yes.disabled = self.no.disabled = self.name.disabled = waits


class LinkField:
    """Where a link is pasted; the card of what it offers takes its place.

    look: reads an offer without running anything. card: makes the card of it, in a display, from link, offer and name.
    """

    def __init__(
        self, look: Callable[[str], Offer], card: Callable[[str, Offer, str, Display], JoinCard], name: str = ""
    ) -> None:
        self.display = Display()
        self._look = look
        self._card = card
        self.link = labelled(widgets.Text, "Invite link", "calc(100% - 4px)", placeholder="http…/swarm/join/…#…")
        self.name = name_field(name)
        self.said = Said()
        self.go = button("Show the recipe", "search", "See what you would run; nothing runs yet", self._go, "primary")
        self.link.observe(self._check, "value")
        self.go.disabled = True
        self.box = widgets.VBox(
            [self.link, row(self.name, self.go), self.said.box], layout=widgets.Layout(max_width="56em")
        )

    def show(self) -> None:
        """Display the field, once."""
        title = "Join a session"
        self.display.show(
            {"text/html": html.heading(title), "text/plain": title},
            {"text/plain": "%swarm join LINK joins without a widget.", **view_of(self.box)},
            _HINT,
        )

    def _check(self, _: Any) -> None:
        """Say at once whether the link is whole."""
        text = self.link.value.strip()
        self.go.disabled = True
        if not text:
            self.said("")
            return
        try:
            invite = parse_invite_to_join(link_in(text))
        except SwarmError as error:
            self.said(str(error))
            return
        self.go.disabled = False
        self.said(f"Session {invite.session} on {invite.server}.")

    def _go(self) -> None:
        link = link_in(self.link.value)

        def work() -> None:
            offer = self._look(link)
            card = self._card(link, offer, self.name.value.strip(), self.display)
            # The link is a secret, and what a field holds may be saved with the notebook.
            self.link.value = ""
            self.said("")
            self.display.show({"text/html": html.heading(card.heading), "text/plain": card.heading})
            self.box.children = (card.box,)

        self.said("Asking the server what it offers …")
        apart(work, self.said, self.go)


def name_field(name: str) -> Any:
    """Under which name others see this kernel."""
    field = labelled(widgets.Text, "Your name", "20em", placeholder="as the others shall see it")
    put(field, name)
    return field


def link_in(text: str) -> str:
    """The link in what was pasted: a whole line or cell may come with it."""
    begin = text.find("http", text.find("%swarm join") + 1)
    return text[begin:] if begin >= 0 else text
