"""The card by which a person sees a recipe and says yes before it runs: the widget's form of `input()`."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as widgets

from ..peer.offer import Offer
from ..peer.source import readable
from ..protocol.errors import SwarmError
from . import html
from .frontend import Display
from .panel import Panel, button, view_of

_WARNING = "It runs in this kernel, with all your rights: your files, your network. Nothing has run yet."


class JoinCard:
    """Shows what an invite offers, with the buttons Join and No; after a yes the session's panel takes its place.

    join: called with the recipe's hash, in the kernel's main thread; the panel that it returns is started here.
    """

    def __init__(self, offer: Offer, join: Callable[[str], Panel]) -> None:
        self.offer = offer
        self.display = Display()
        self._join = join
        self.text = widgets.HTML(html.code(readable(offer.source)))
        self.facts = widgets.HTML(html.facts(offer.facts()))
        self.said = widgets.HTML(html.lines(_WARNING))
        self.yes = button("Join", "check", "Run this recipe here and train", self._agree)
        self.no = button("No", "times", "Do not run it", self._decline)
        self.yes.button_style = "primary"
        buttons = widgets.HBox([self.yes, self.no])
        self.box = widgets.VBox([self.text, self.facts, self.said, buttons])

    def show(self) -> None:
        """Display the card, once."""
        title = f"You are invited to train {readable(self.offer.name)}"
        self.display.show(
            {"text/html": html.heading(title), "text/plain": title},
            {"text/plain": f"{readable(self.offer.source)}\n{_WARNING}", **view_of(self.box)},
        )

    def _agree(self) -> None:
        self.yes.disabled = self.no.disabled = True
        self.said.value = html.lines("Building the model, loading the data, connecting …")
        try:
            panel = self._join(self.offer.sha256)
        except (Exception, KeyboardInterrupt) as error:
            # What a button's callback raises is shown nowhere.
            known = str(error) if isinstance(error, SwarmError) else f"{type(error).__name__}: {error}"
            self.said.value = html.lines(f"Not joined. {known}")
            self.yes.disabled = self.no.disabled = False
            return
        # In the card's place: what a button's callback displays has no cell to go to.
        panel.display = self.display
        self.box.children = (panel.box,)
        self.display.show(panel.heading())
        panel.start()

    def _decline(self) -> None:
        self.yes.disabled = self.no.disabled = True
        self.said.value = html.lines(
            "The recipe was not agreed to, and has not run. Run the cell again to be asked again."
        )
