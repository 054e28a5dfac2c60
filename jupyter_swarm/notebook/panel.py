"""The live view of a session: curve, status, peers, checkpoints, and the buttons that steer it.

One `refresh()` reads the session and sets traits; it is called by a timer thread, or by the running cell where a front
end shows only what that changes. Threads never print. When the session is over the widgets, which need a kernel, give
way to their last picture, which a saved notebook keeps.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from ..history.figure import CurveFigure
from ..history.themes import ThemeName
from ..peer.api import Session
from ..peer.record import OVER, Status
from ..protocol.errors import SwarmError
from . import html
from .frontend import Display

VIEW = "application/vnd.jupyter.widget-view+json"
_SECONDS = 1.0
_LISTS_SECONDS = 3.0
_DRAWING_SHARE = 0.2
"""Of the time at most so much goes into drawing, whatever a picture costs on this machine."""
_WIDTH, _HEIGHT = 760, 420


def view_of(widget: Any) -> dict[str, Any]:
    """The MIME bundle by which front ends with a kernel show a widget."""
    return {VIEW: {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}}


def button(text: str, icon: str, tooltip: str, pressed: Callable[[], object]) -> Any:
    """A button; `pressed` runs in the kernel's main thread."""
    made = widgets.Button(description=text, icon=icon, tooltip=tooltip, layout=widgets.Layout(width="auto"))
    made.on_click(lambda _: pressed())
    return made


class Panel:
    """Widgets for `session`. theme: the curve's. seconds: between two looks, and at least between two drawings.

    `start()` refreshes in the background, `follow()` in the running cell; a notebook cell that ends with a panel shows
    it. Further details of the widgets are their own; `box` holds all of them.
    """

    def __init__(self, session: Session, theme: ThemeName = "light", seconds: float = _SECONDS) -> None:
        self.session = session
        self.display = Display()
        self._seconds = seconds
        self._figure = CurveFigure(_WIDTH, _HEIGHT, theme)
        self._drawn = -2
        self._next_drawing = 0.0
        self._next_lists = 0.0
        self._last = Status()
        self._problem = ""
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="swarm-panel", daemon=True)
        wide = widgets.Layout(width="100%", max_width=f"{_WIDTH}px")
        self.status, self.said, self.peers, self.checkpoints = (widgets.HTML() for _ in range(4))
        self.rounds = widgets.IntProgress(min=0, max=1, layout=wide)
        self.curve = widgets.Image(format="png", layout=wide)
        self.pause = self._button("Pause", "pause", "This kernel takes no more work", session.pause)
        self.resume = self._button("Resume", "play", "This kernel takes work again", session.resume)
        self.leave = self._button("Leave", "sign-out", "This kernel leaves the session", session.leave)
        self.keep = self._button("Checkpoint now", "save", "Store the parameters of now", lambda: session.checkpoint())
        buttons = widgets.HBox(
            [self.pause, self.resume, self.leave, self.keep], layout=widgets.Layout(flex_flow="row wrap")
        )
        self.box = widgets.VBox(
            [self.status, self.rounds, self.curve, buttons, self.said, self.peers, self.checkpoints]
        )
        self.refresh()

    # --- one look

    def refresh(self) -> bool:
        """Show what is now; whether there is more to come. A server that does not answer is said, not raised."""
        with self._lock:
            problem = ""
            try:
                self._last = self.session.status()
                self._show_status()
                self._show_curve()
                self._show_lists()
            except SwarmError as error:
                problem = str(error)
            except Exception as error:
                # A timer thread has nobody who would see it.
                problem = f"The panel failed: {type(error).__name__}: {error}"
            if problem != self._problem:  # else what a button said stays
                self._problem = problem
                self._say(problem)
            return not self.over

    @property
    def over(self) -> bool:
        """Whether the session has ended, or this kernel has left it."""
        return self._last.state == "finished" or self._last.state in OVER

    def _show_status(self) -> None:
        now = self._last
        done = max(now.version, 0)
        _set(self.status, html.status(now))
        with self.rounds.hold_sync():
            self.rounds.max = max(now.rounds, done, 1)
            self.rounds.value = done
        # Without an end there is no share of the way.
        self.rounds.layout.display = "" if now.rounds else "none"
        trains = self.session.trains
        for one, useful in (
            (self.pause, trains and now.state != "paused"),
            (self.resume, trains and now.state == "paused"),
            (self.leave, trains),
            (self.keep, not self.over),
        ):
            one.disabled = not useful

    def _show_curve(self) -> None:
        begun = time.monotonic()
        # At the end once more: the last evaluation comes after the last round.
        if not self.over and (self._last.version == self._drawn or begun < self._next_drawing):
            return
        self.curve.value = self._figure.png(self.session.history())
        self._drawn = self._last.version
        spent = time.monotonic() - begun
        self._next_drawing = begun + max(self._seconds, spent / _DRAWING_SHARE)

    def _show_lists(self) -> None:
        if time.monotonic() < self._next_lists and not self.over:
            return
        self._next_lists = time.monotonic() + _LISTS_SECONDS
        _set(self.peers, html.peers(self.session.peers()))
        _set(self.checkpoints, html.checkpoints(self.session.checkpoints()))

    def _button(self, text: str, icon: str, tooltip: str, act: Callable[[], object]) -> Any:
        def pressed() -> None:
            try:
                act()
                self._say("")
            except SwarmError as error:
                self._say(str(error))
            self._next_lists = 0.0
            self.refresh()

        return button(text, icon, tooltip, pressed)

    def _say(self, text: str) -> None:
        _set(self.said, html.lines(text) if text else "")

    # --- again and again

    def start(self) -> None:
        """Refresh in the background until the session is over or the panel is closed."""
        self._thread.start()

    def follow(self) -> None:
        """Refresh in the foreground until the session is over. An interrupt pauses this kernel's training."""
        try:
            while self.refresh():
                time.sleep(self._seconds)
        except KeyboardInterrupt:
            trains = self.session.trains
            if trains:
                self.session.pause()
            self.refresh()
            paused = (
                "Training on this kernel is paused: %swarm resume goes on." if trains else "Nothing else has stopped."
            )
            self._say(f"Interrupted; the session lives. {paused}")
        self.show()

    def close(self) -> None:
        """Stop refreshing; what is shown stays."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set() and self.refresh():
            self._closed.wait(self._seconds)
        if self.over:
            self.show()

    # --- the cell's output

    def show(self) -> None:
        """Display, or display anew in the same place: the widgets, or their last picture when the session is over."""
        self.display.show(self.heading(), self._repr_mimebundle_())

    def heading(self) -> dict[str, Any]:
        """What stands above the view: the session's name, and at the end what became of it."""
        title = html.heading(self.session.id, self.session.recipe.name)
        if not self.over:
            return {"text/html": title, "text/plain": self.session.id}
        return {"text/html": title + html.status(self._last), "text/plain": f"{self.session.id}: {self._last}"}

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """The view and the picture of now: whoever has no kernel shows the picture."""
        picture = base64.b64encode(self.curve.value).decode()
        static = {"text/plain": self._last.line(), **({"image/png": picture} if picture else {})}
        return static if self.over else {**static, **view_of(self.box)}


def _set(widget: Any, value: str) -> None:
    """Widgets send what they are given, changed or not."""
    if widget.value != value:
        widget.value = value
