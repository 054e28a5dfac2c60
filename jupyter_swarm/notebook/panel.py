"""The live view of a session: status, curve, the buttons of this kernel, and what one can do with the session.

One `refresh()` reads the session and sets traits; it is called by a timer thread, or by the running cell where a front
end shows only what that changes. Threads never print. When the session is over the view, which needs a kernel, gives
way to its last picture, which a saved notebook keeps; peers, checkpoints and the model stay for as long as the kernel.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

import ipywidgets as widgets
import msgspec

from ..history.figure import CurveFigure
from ..history.themes import ThemeName
from ..peer.api import Session
from ..peer.record import OVER, Status
from ..protocol.errors import SessionError, SwarmError
from . import html
from .frontend import Display, in_colab, saves_widgets
from .invite import InviteCard
from .keeping import Checkpoints
from .parts import AskingButton, Picture, Said, button, put, row, show, view_of
from .peers import Peers
from .trying import Try

PanelTheme = Literal["auto", "light", "dark"]
_SECONDS = 1.0
_DRAWING, _LISTS, _KEPT = 2, 4, 30
"""One look of so many draws the curve, asks for the lists, keeps a picture: a whole class's panels ask one server."""
_DRAWING_SHARE = 0.2
"""Of the time at most so much goes into drawing, whatever a picture costs on this machine."""
_WIDTH, _HEIGHT = 760, 560
_AGAIN = (
    "Live while this kernel runs. To see it again: %swarm watch; after a restart of the kernel, run the cell again."
)
_CURVE = "The curve of the loss by round; its last values stand above"
_WAITS = "While this cell runs, the buttons wait for its end; interrupt it to use them."


class Panel:
    """Widgets for `session`. theme: the curve's; "auto" follows the page's. seconds: between two looks. invite: the
    card that is kept up to date with the session.

    `start()` refreshes in the background, `follow()` in the running cell; a notebook cell that ends with a panel shows
    it. Further details of the widgets are their own; `box` holds all of them, `tools` what stays when it is over.
    """

    def __init__(
        self,
        session: Session,
        theme: PanelTheme = "auto",
        seconds: float = _SECONDS,
        invite: InviteCard | None = None,
    ) -> None:
        self.session = session
        self.display = Display()
        self.invite = invite
        self._seconds = seconds
        drawn: ThemeName = "dark" if theme == "dark" else "light"
        self._figure = CurveFigure(_WIDTH, _HEIGHT, drawn)
        self._drawn: tuple[object, ...] = ()
        self._next_drawing = 0.0
        self._next_lists = 0.0
        self._next_kept = 0.0
        self._last = Status()
        self._gone = False
        self._problem = ""
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="swarm-panel", daemon=True)
        wide = {"width": "100%", "max_width": f"{_WIDTH}px"}
        self.style = widgets.HTML(html.FOLLOW_THEME if theme == "auto" else "")
        # A reason of one line or of two: what is below it does not move.
        self.status = widgets.HTML(layout=widgets.Layout(min_height="7em"))
        self.said = Said()
        # A layout each: one of them may be hidden.
        self.rounds = widgets.IntProgress(min=0, max=1, layout=widgets.Layout(**wide))
        self.curve = Picture(format="png", tooltip=_CURVE, layout=widgets.Layout(**wide))
        if theme == "auto":
            self.curve.add_class(html.CURVE)
        self.pause = self._button("Pause", "pause", "This kernel takes no more work", session.pause)
        self.resume = self._button("Resume", "play", "This kernel takes work again", session.resume)
        self.leave = self._button("Leave", "sign-out", "This kernel leaves the session", session.leave)
        self.pause_all = self._button("Pause all", "pause", "Nobody gets work until you resume all", session.pause_all)
        self.resume_all = self._button("Resume all", "play", "Everybody gets work again", session.resume_all)
        self.end = AskingButton(
            "End the session",
            "stop",
            "After the round under way it is over for everybody",
            lambda: "Really end it for everybody?",
            self._doing(session.stop),
        )
        self.for_all = [self.pause_all, self.resume_all, self.end]
        steers = self._steers()
        self.peers, self.checkpoints = Peers(session, steers), Checkpoints(session, steers)
        self.parts: list[Peers | Checkpoints | Try] = [self.peers, self.checkpoints, Try(session)]
        self.tools = widgets.Tab([part.box for part in self.parts])
        for place, part in enumerate(self.parts):
            self.tools.set_title(place, part.title)
        self.buttons = row(self.pause, self.resume, self.leave, *(self.for_all if steers else []))
        self.live = widgets.VBox([self.style, self.status, self.rounds, self.curve, self.buttons, self.said.box])
        self.box = widgets.VBox([self.live, self.tools], layout=widgets.Layout(max_width="72em"))
        self.refresh()

    # --- one look

    def refresh(self) -> bool:
        """Show what is now; whether there is more to come. A server that does not answer is said, not raised."""
        with self._lock:
            problem = ""
            try:
                self._last = self.session.status()
                self._show_status()
                self._show_lists()
                self._show_curve()
            except SessionError as error:  # deleted, while others watch
                self._gone = True
                self._last = msgspec.structs.replace(self._last, state="failed", reason=str(error))
                self._show_status()
            except SwarmError as error:
                problem = str(error)
            except Exception as error:
                # A timer thread has nobody who would see it.
                problem = f"The panel failed: {type(error).__name__}: {error}"
            if problem != self._problem:  # else what a button said stays
                self._problem = problem
                self.said(problem)
            return not self.over

    @property
    def over(self) -> bool:
        """Whether the session has ended, or this kernel has left it."""
        return self._last.state == "finished" or self._last.state in OVER

    def _show_status(self) -> None:
        now = self._last
        done = max(now.version, 0)
        put(self.status, html.status(now))
        with self.rounds.hold_sync():
            self.rounds.max = max(now.rounds, done, 1)
            self.rounds.value = done
        # Without an end there is no share of the way.
        show(self.rounds, bool(now.rounds))
        trains = self.session.trains
        for one, useful in (
            (self.pause, trains and now.state != "paused"),
            (self.resume, trains and now.state == "paused"),
            (self.leave, trains),
            *((one, not self.over) for one in self.for_all),
        ):
            one.disabled = not useful

    def _show_curve(self) -> None:
        begun = time.monotonic()
        muted = self.peers.muted
        shown = (self._last.version, muted)
        # At the end once more: the last evaluation comes after the last round.
        if not self.over and (shown == self._drawn or begun < self._next_drawing):
            return
        self.curve.value = self._figure.png(self.session.overview())
        self._drawn = shown
        spent = time.monotonic() - begun
        self._next_drawing = begun + max(_DRAWING * self._seconds, spent / _DRAWING_SHARE)

    def _show_lists(self) -> None:
        if time.monotonic() < self._next_lists and not self.over:
            return
        self._next_lists = time.monotonic() + _LISTS * self._seconds
        for part in self.parts:
            part.refresh()
        if self.invite is not None:
            self.invite.refresh()

    def _steers(self) -> bool:
        try:
            return self.session.role in ("owner", "instructor")
        except SwarmError:
            return False

    # --- the buttons

    def _button(self, text: str, icon: str, tooltip: str, act: Callable[[], object]) -> Any:
        return button(text, icon, tooltip, self._doing(act))

    def _doing(self, act: Callable[[], object]) -> Callable[[], None]:
        """What a press does: `act`, then a look at what has become of it."""

        def pressed() -> None:
            self.said.trying(act)
            self._next_lists = 0.0
            self.refresh()

        return pressed

    # --- again and again

    def start(self) -> None:
        """Refresh in the background until the session is over or the panel is closed."""
        self._thread.start()

    def follow(self) -> None:
        """Refresh in the foreground until the session is over. An interrupt pauses this kernel's training; what is
        shown goes on in the background, where the front end shows that."""
        self.said(_WAITS)
        try:
            while self.refresh():
                self._keep()
                time.sleep(self._seconds)
            self.said("")
        except KeyboardInterrupt:
            trains = self.session.trains
            if trains:
                self.session.pause()
            self.refresh()
            paused = (
                "Training on this kernel is paused: %swarm resume goes on." if trains else "Nothing else has stopped."
            )
            self.said(f"Interrupted; the session lives. {paused}")
            if not in_colab() and self._thread.ident is None:
                self.start()
        self.show()

    def close(self) -> None:
        """Stop refreshing; what is shown stays."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set() and self.refresh():
            self._keep()
            self._closed.wait(self._seconds)
        if self.over:
            self.show()

    # --- the cell's output

    def _keep(self) -> None:
        """Have a picture of now in the notebook that is saved, below the view, which stays as it is."""
        if time.monotonic() >= self._next_kept:
            self._next_kept = time.monotonic() + _KEPT * self._seconds
            self.display.show(None, None, self.tail())

    def show(self) -> None:
        """Display, or display anew in the same place: the widgets, or their last picture when the session is over."""
        if self._last.state == "finished" or self._gone:
            show(self.peers.steering, False)
            if self.invite is not None:
                self.invite.close()
        self.display.show(self.heading(), self._repr_mimebundle_(), self.tail())

    def heading(self) -> dict[str, Any]:
        """What stands above the view: the session's name, and at the end what became of it."""
        title = html.heading(self.session.id, self.session.recipe.name)
        if not self.over:
            return {"text/html": title, "text/plain": self.session.id}
        return {"text/html": title + html.status(self._last), "text/plain": f"{self.session.id}: {self._last}"}

    def tail(self) -> dict[str, Any]:
        """What stands below it: how to see it again, and a picture for whoever has the notebook without its kernel; at
        the end the tools, which the kernel still serves."""
        if self.over:
            return {"text/html": "", "text/plain": "", **({} if saves_widgets() else view_of(self.tools))}
        line = f"As it was at {time.strftime('%H:%M')}, after round {max(self._last.version, 0)}"
        picture = html.kept(self.curve.value, line)
        return {"text/html": html.quiet(_AGAIN) + picture, "text/plain": f"{_AGAIN}\n{line}"}

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """The view and the picture of now: whoever has no kernel shows the picture."""
        picture = base64.b64encode(self.curve.value).decode()
        static = {"text/plain": self._last.line(), **({"image/png": picture} if picture else {})}
        return static if self.over else {**static, **view_of(self.box)}
