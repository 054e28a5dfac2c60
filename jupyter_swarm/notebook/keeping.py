"""The checkpoints of a session: list, save, download, load, compare, and go on from one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
from IPython.core.getipython import get_ipython

from ..peer.api import Session
from ..peer.checkpoints import Checkpoint
from ..peer.comparing import compare
from ..protocol.errors import CheckpointError
from . import html
from .parts import Said, apart, button, choices, labelled, put, row, show

VARIABLE = "loaded"
"""The name that a model from a checkpoint has in the notebook."""


class Checkpoints:
    """What is kept of a session, and what can be done with it; `keeps`: whether whoever sees it may save more."""

    title = "Checkpoints"

    def __init__(self, session: Session, keeps: bool) -> None:
        self.session = session
        self.said = Said()
        self.table, self.answer = widgets.HTML(), widgets.HTML()
        self.name = labelled(widgets.Text, "Name", "18em", placeholder="after its round")
        self.save = button("Save now", "save", "Keep the parameters of now on the server", self._save)
        self.chosen = labelled(widgets.Dropdown, "Checkpoint", "24em", options=())
        self.folder = labelled(widgets.Text, "Folder", "24em", placeholder="called after session and checkpoint")
        self.download = button("Download", "download", "Fetch its files into the folder", self._download)
        self.load = button(
            "Load", "upload", f"Build the recipe's model with its numbers; it is called {VARIABLE} here", self._load
        )
        self.start = button("Continue from it", "forward", "Show the lines that host a session from it", self._start)
        self.other = labelled(widgets.Dropdown, "with", "20em", options=())
        self.compare = button("Compare", "balance-scale", "How far apart the numbers of the two are", self._compare)
        self.progress = labelled(widgets.FloatProgress, "Download", "24em", min=0.0, max=1.0)
        show(self.progress, False)
        self.tools = widgets.VBox(
            [
                row(self.chosen, self.load, self.start),
                row(self.folder, self.download, self.progress),
                row(self.compare, self.other),
            ]
        )
        self.saving = row(self.name, self.save)
        if not keeps:
            show(self.saving, False)
        self.box = widgets.VBox([self.saving, self.table, self.tools, self.said.box, self.answer])
        self._found: list[Checkpoint] = []

    def refresh(self) -> None:
        """Show what is kept now. Raises what the server answers."""
        self._found = self.session.checkpoints()
        put(self.table, html.checkpoints(self._found))
        show(self.tools, bool(self._found))
        options = [(f"{one.name} (round {one.version})", one.sha256) for one in reversed(self._found)]
        first = not self.chosen.options
        choices(self.chosen, options)
        choices(self.other, options)
        if first and len(options) > 1:
            self.other.value = options[1][1]

    # --- what the buttons do

    def _save(self) -> None:
        def work() -> None:
            made = self.session.checkpoint(self.name.value.strip())
            self.name.value = ""
            self.said(f"{made.name} is kept.")
            self.refresh()
            self.chosen.value = made.sha256

        self.said("Writing the checkpoint …")
        apart(work, self.said, self.save)

    def _download(self) -> None:
        def work(one: Checkpoint) -> None:
            folder = self.folder.value.strip() or _folder(one)
            try:
                there = one.download(folder, self._show_progress)
            finally:
                show(self.progress, False)
            self.said(f"{one.name} is in the folder {there.folder}.")

        self.progress.value = 0.0
        show(self.progress, True)
        self._with_chosen("Downloading …", work, self.download)

    def _load(self) -> None:
        def work(one: Checkpoint) -> None:
            model = self.session.recipe.build()
            one.load(model)
            shell = get_ipython()
            if shell is not None:
                shell.push({VARIABLE: model.eval()})
            self.said(f"{VARIABLE} is now a model with the numbers of {one.name}; training does not change it.")

        self._with_chosen("Fetching the parameters …", work, self.load)

    def _start(self) -> None:
        def work(one: Checkpoint) -> None:
            lines = (
                f"start = {{one.name: one for one in session.checkpoints()}}[{one.name!r}].download({_folder(one)!r})\n"
                'next_session = jupyter_swarm.host(session.recipe, "NAME", start=start)'
            )
            put(self.answer, html.copyable("a cell that goes on from it", f"import jupyter_swarm\n{lines}", 3))
            self.said("")

        self._with_chosen("", work, self.start)

    def _compare(self) -> None:
        def work(one: Checkpoint) -> None:
            found = compare(self._of(self.other.value), one)
            put(self.answer, html.comparison(found))
            self.said("")

        self._with_chosen("Fetching the parameters of both …", work, self.compare)

    def _with_chosen(self, says: str, work: Callable[[Checkpoint], None], pressed: Any) -> None:
        def run() -> None:
            work(self._of(self.chosen.value))

        self.said(says)
        apart(run, self.said, pressed)

    def _show_progress(self, there: int, total: int, text: str) -> None:
        put(self.progress, there / max(total, 1))
        self.said(text)

    def _of(self, sha256: str | None) -> Checkpoint:
        for one in self._found:
            if one.sha256 == sha256:
                return one
        raise CheckpointError("No checkpoint is chosen.", todo="Save one, then choose it in the list.")


def _folder(one: Checkpoint) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{one.manifest.session}-{one.name}").strip("-.") or "checkpoint"
