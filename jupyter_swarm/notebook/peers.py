"""Who trains, how fast, and why not: the peers' table, and for owner and instructors the buttons that steer them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import ipywidgets as widgets

from ..peer.api import Session
from ..protocol.standing import SteerAction
from . import html
from .parts import AskingButton, Said, button, choices, labelled, put, row, show

_SHOWN = 50
"""So many are asked for and shown at once; more are found by their names. Every refresh sends all of them to the page,
and in each of many kernels there may be one that refreshes."""
_SHARES = [("half of its speed", 0.5), ("a quarter", 0.25), ("a tenth", 0.1), ("all of it again", 1.0)]


class Peers:
    """The table of a session's peers; `steers`: whether whoever sees it may steer them.

    muted: ids of those whose names and curves are not to be shown.
    """

    title = "Peers"

    def __init__(self, session: Session, steers: bool) -> None:
        self.session = session
        self.muted: frozenset[str] = frozenset()
        self.said = Said()
        self.table, self.more = widgets.HTML(), widgets.HTML()
        self.find = labelled(widgets.Text, "Find", "20em", placeholder="part of a name", continuous_update=False)
        self.find.observe(lambda _: self.said.trying(self.refresh), "value")
        scrolled = widgets.VBox([self.table], layout=widgets.Layout(max_height="24em", overflow="auto"))
        self.chosen = labelled(widgets.SelectMultiple, "Peers to steer", "26em", options=(), rows=4)
        self.share = labelled(widgets.Dropdown, "Work at", "16em", options=_SHARES)
        self.pause = self._button("Pause", "pause", "They get no work until you resume them", "pause")
        self.resume = self._button("Resume", "play", "They get work again", "resume")
        self.slow = self._button("Slow down", "tachometer", "They get less work than they are fit for", "slow")
        self.mute = self._button("Mute", "eye-slash", "Their names and curves are shown nowhere", "mute")
        self.unmute = self._button("Unmute", "eye", "Their names are shown again", "unmute")
        self.remove = AskingButton(
            "Remove",
            "times",
            "They are sent away and cannot come back as they are",
            lambda: f"Really remove {len(self.chosen.value)}?" if self.chosen.value else "",
            self._remove,
        )
        self.chosen.observe(lambda _: self.remove.forget(), "value")
        buttons = [self.pause, self.resume, self.mute, self.unmute, self.remove]
        self.steering = widgets.VBox([self.chosen, row(*buttons), row(self.share, self.slow)])
        show(self.steering, steers)
        self.box = widgets.VBox([row(self.find, self.more), scrolled, self.steering, self.said.box])

    def refresh(self) -> None:
        """Show who is there now. Raises what the server answers."""
        wanted = self.find.value.strip()
        found, count = self.session.find_peers(wanted, _SHOWN)
        shown = html.by_name(found)
        if not wanted:
            self.muted = frozenset(str(peer["id"]) for peer in shown if peer.get("muted"))
        put(self.table, html.peers(shown, scrolls=False))
        names = [(str(peer["name"] or peer["id"]), peer["id"]) for peer in shown]
        if wanted or count > len(shown):
            # Who is chosen stays so, found or not: what a button does must not change by itself.
            ids = {peer for _, peer in names}
            names += [(name, peer) for name, peer in self.chosen.options if peer in set(self.chosen.value) - ids]
        choices(self.chosen, names)
        called = " are called so" if wanted else ""
        first = f", {_SHOWN} are shown" if count > _SHOWN else ""
        put(self.more, html.quiet(f"{count} connected{called}{first}"))
        show(self.find, bool(wanted) or count > _SHOWN)

    def _button(self, text: str, icon: str, tooltip: str, action: SteerAction) -> Any:
        def pressed() -> None:
            self._steer(action, **({"share": self.share.value} if action == "slow" else {}))

        return button(text, icon, tooltip, pressed)

    def _remove(self) -> None:
        self._steer("remove")
        self.chosen.value = ()

    def _steer(self, action: SteerAction, **options: Any) -> None:
        chosen = self.chosen.value
        if not chosen:
            self.said("Choose one peer or several in the list first.")
            return
        if self.said.trying(_each(chosen, lambda peer: self.session.steer(peer, action, **options))):
            self.said.trying(self.refresh)


def _each(peers: Iterable[str], act: Callable[[str], object]) -> Callable[[], None]:
    def run() -> None:
        for peer in peers:
            act(peer)

    return run
