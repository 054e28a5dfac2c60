"""Try the shared model while training goes on: sample from it, or test it on the held-out samples."""

from __future__ import annotations

import ipywidgets as widgets

from ..peer.api import Session
from . import html
from .parts import Said, apart, button, labelled, put, row


class Try:
    """A prompt and what the model makes of it, where the recipe can sample; and a test on held-out samples."""

    title = "Try it"

    def __init__(self, session: Session) -> None:
        self.session = session
        self.said = Said()
        self.shown = widgets.HTML()
        self.prompt = labelled(widgets.Text, "Prompt", "30em", placeholder="what the text begins with")
        self.sample = button("Sample", "magic", "What the shared model makes of the prompt now", self._sample)
        self.test = button("Test", "flask", "Measure the shared model on held-out samples, here and now", self._test)
        can_sample = session.recipe.sample is not None
        self.box = widgets.VBox(
            [row(*([self.prompt, self.sample] if can_sample else []), self.test), self.said.box, self.shown]
        )

    def refresh(self) -> None:
        """Nothing changes by itself."""

    def _sample(self) -> None:
        prompt = self.prompt.value

        def work() -> None:
            version = self.session.status().version
            put(self.shown, html.sample(prompt, self.session.sample(prompt)))
            self.said(f"After round {max(version, 0)}:")

        self.said("The model writes …")
        apart(work, self.said, self.sample)

    def _test(self) -> None:
        def work() -> None:
            version = self.session.status().version
            found = self.session.evaluate()
            put(self.shown, html.facts((f"held-out {name}", f"{value:.4g}") for name, value in found.items()))
            self.said(f"After round {max(version, 0)}:")

        self.said("The model is tested …")
        apart(work, self.said, self.test)
