"""What the shared model says by now, for all who watch: the kernel that hosts a session shows it after each evaluation.

It is written in a thread of its own, which works a small part of the time. Training goes on beside it, and whatever
fails here fails here only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..protocol.errors import SessionError, SwarmError
from ..protocol.samples import shortened
from .record import OVER, Record

_REST_SECONDS = 5.0
_REST = 20.0
"""After each text the thread rests for so many times as long as it took to write."""
_TRIES = 2
_AGAIN_SECONDS = 1.5


class Showing:
    """sample: writes what the model makes of a prompt. send: shows prompt and text, which was written after a round."""

    def __init__(
        self, record: Record, sample: Callable[[str], tuple[str, int]], send: Callable[[str, str, int], None]
    ) -> None:
        self._record = record
        self._sample = sample
        self._send = send
        self._prompt = ""
        self._evaluated = record.status.metrics

    def start(self) -> None:
        """Show a text after each evaluation, until this kernel has left the session."""
        threading.Thread(target=self._run, name="swarm-showing", daemon=True).start()

    def asked(self, prompt: str, text: str, round: int) -> None:
        """Somebody here has had the model write this: others see it too, and then what it makes of the same prompt."""
        self._prompt = prompt
        threading.Thread(target=self._show, args=(prompt, text, round), name="swarm-show", daemon=True).start()

    def _run(self) -> None:
        while self._due():
            began = time.monotonic()
            prompt = self._prompt
            try:
                text, round = self._sample(prompt)
            except SessionError:
                continue  # the parameters are just being fetched
            except Exception as error:
                self._record.note(f"No texts of the model are shown: {error}")
                return
            self._show(prompt, text, round)
            rest = max(_REST_SECONDS, _REST * (time.monotonic() - began))
            self._record.wait_for(lambda status: status.state in OVER, rest)

    def _due(self) -> bool:
        """Wait until something was measured that was not shown yet. False: there will be nothing any more."""
        self._record.wait_for(lambda status: status.metrics is not self._evaluated or status.state in OVER)
        self._evaluated = self._record.status.metrics
        return self._record.status.state not in OVER

    def _show(self, prompt: str, text: str, round: int) -> None:
        for _ in range(_TRIES):
            try:
                self._send(shortened(prompt), shortened(text), round)
                return
            except SwarmError:  # another may just be shown; if it is more than that, the next text may come through
                time.sleep(_AGAIN_SECONDS)
