"""What the widgets are made of: plain ipywidgets, the same for generations 7 and 8."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import traitlets

from ..protocol.errors import SwarmError
from . import html
from .frontend import in_colab

VIEW = "application/vnd.jupyter.widget-view+json"
WORK = "swarm-work"
"""The name of the threads that do what a button asked for."""
READING_SECONDS = 0.8
"""What is answered sooner than this was not read."""


def view_of(widget: Any) -> dict[str, Any]:
    """The MIME bundle by which front ends with a kernel show a widget."""
    return {VIEW: {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}}


LINE = "1px solid var(--jp-border-color2, rgba(128, 128, 128, .5))"


def button(text: str, icon: str, tooltip: str, pressed: Callable[[], object], style: str = "") -> Any:
    """A button; `pressed` runs in the kernel's main thread."""
    made = widgets.Button(
        description=text, icon=icon, tooltip=tooltip, button_style=style, layout=widgets.Layout(width="auto")
    )
    made.on_click(lambda _: pressed())
    return made


def too_soon(asked: float) -> bool:
    """Whether a press now is no answer to what is asked since `asked` (seconds of `time.monotonic`): the second half of
    a double click, or one that has waited with the first for a kernel that was busy."""
    return time.monotonic() - asked < READING_SECONDS


class AskingButton(widgets.Button):  # type: ignore[misc]
    """A button for what cannot be taken back: the first press asks, the second does it.

    question: what it asks of what is chosen now; without one it does at once what it does then.
    """

    def __init__(
        self, text: str, icon: str, tooltip: str, question: Callable[[], str], act: Callable[[], object]
    ) -> None:
        super().__init__(description=text, icon=icon, tooltip=tooltip, layout=widgets.Layout(width="auto"))
        self._text, self._question, self._act = text, question, act
        self._asked = -math.inf
        self.on_click(lambda _: self._pressed())

    def forget(self) -> None:
        """It was not meant; the next press asks again."""
        self.description, self.button_style = self._text, ""

    def _pressed(self) -> None:
        question = self._question()
        if question and self.description != question:
            self.description, self.button_style = question, "danger"
            self._asked = time.monotonic()
            return
        if question and too_soon(self._asked):
            return
        self.forget()
        self._act()


def row(*children: Any) -> Any:
    """Side by side, and below each other where there is no room."""
    layout = widgets.Layout(flex_flow="row wrap", align_items="center", grid_gap="4px 8px")
    return widgets.HBox(children, layout=layout)


def labelled(kind: type[Any], label: str, width: str = "24em", **traits: Any) -> Any:
    """A field whose label is as wide as its text: screen readers say it, and nothing of it is cut off."""
    return kind(description=label, style={"description_width": "initial"}, layout=widgets.Layout(width=width), **traits)


def put(widget: Any, value: Any) -> None:
    """Widgets send what they are given, changed or not."""
    if widget.value != value:
        widget.value = value


def show(widget: Any, visible: bool) -> None:
    """Visible or without a place."""
    display = None if visible else "none"
    if widget.layout.display != display:
        widget.layout.display = display


def choices(widget: Any, options: list[tuple[str, Any]]) -> None:
    """Give a list its options; what was chosen and is still there stays chosen, else of a dropdown the first
    is."""
    if tuple(options) == tuple(widget.options):
        return
    chosen, values = widget.value, [value for _, value in options]
    with widget.hold_sync():
        widget.options = tuple(options)
        if isinstance(chosen, tuple):
            widget.value = tuple(one for one in chosen if one in values)
        elif values:
            widget.value = chosen if chosen in values else values[0]


def error_text(error: BaseException) -> str:
    """For whoever pressed a button: what its callback raises is shown nowhere else."""
    return str(error) if isinstance(error, SwarmError) else f"{type(error).__name__}: {error}"


class Picture(widgets.Image):  # type: ignore[misc]
    """A picture with a text, its `tooltip`, for those who do not see it."""

    # Front ends of ipywidgets 8 show a tooltip where the description is empty, and fail where there is none.
    description = traitlets.Unicode("").tag(sync=True)
    tooltip = traitlets.Unicode("").tag(sync=True)


class Said:
    """A place for what a part of a panel has to say: `box` is read out by screen readers when it changes."""

    def __init__(self) -> None:
        self.box = widgets.HTML()

    def __call__(self, text: str) -> None:
        put(self.box, html.said(text) if text else "")

    def trying(self, act: Callable[[], object]) -> bool:
        """Call `act`; say what goes wrong, or nothing. Whether it went well."""
        try:
            act()
        except Exception as error:
            self(error_text(error))
            return False
        self("")
        return True


def apart(work: Callable[[], object], said: Said, *buttons: Any) -> None:
    """Do what takes a while in a thread of its own, so that the notebook stays usable; the buttons wait for its end.

    In Colab, which shows only what the main thread changes, it is done at once.
    """

    def run() -> None:
        try:
            work()
        except Exception as error:
            said(error_text(error))
        finally:
            for one in buttons:
                one.disabled = False

    for one in buttons:
        one.disabled = True
    if in_colab():
        run()
    else:
        threading.Thread(target=run, name=WORK, daemon=True).start()
