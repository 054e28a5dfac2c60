"""What a peer knows of its session, written by the training thread and read by whoever looks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal

import msgspec

State = Literal["connecting", "syncing", "waiting", "training", "paused", "finished", "left", "failed"]
OVER: tuple[State, ...] = ("left", "failed")
_NOTES = 50


def speed_text(samples_per_second: float, predictions: int) -> str:
    """A speed for people: in tokens where a sample is a window of them."""
    speed = samples_per_second * predictions
    return f"{speed:,.{0 if speed >= 10 else 2}f} {'tokens' if predictions > 1 else 'samples'}/s"


def in_words(state: str, reason: str) -> str:
    """State and reason in one phrase: many reasons begin with the state."""
    if not reason or reason.startswith(state):
        return reason or state
    return f"{state}: {reason}"


class Status(msgspec.Struct, frozen=True):
    """What is going on, for people; `state` is for programs. `reason` says why nothing moves when nothing does.

    samples_per_second: of this peer, lately; predictions: how many of them a sample has (tokens in a window of text).
    """

    state: State = "connecting"
    reason: str = ""
    session: str = ""
    peer: str = ""
    name: str = ""
    version: int = -1
    rounds: int = 0
    samples_done: int = 0
    samples_here: int = 0
    samples_per_second: float = 0.0
    predictions: int = 1
    strategy: str = ""
    loss: float | None = None
    metrics: dict[str, float] = {}
    device: str = ""
    notes: tuple[str, ...] = ()

    @property
    def doing(self) -> str:
        """State and reason in one phrase."""
        return in_words(self.state, self.reason)

    def line(self) -> str:
        """All of it that matters in one line."""
        total = f"/{self.rounds}" if self.rounds else ""
        parts = [f"round {max(self.version, 0)}{total}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        parts += [f"held-out {name} {value:.4g}" for name, value in self.metrics.items()]
        if self.samples_per_second:
            parts.append(speed_text(self.samples_per_second, self.predictions))
        return "  ".join([*parts, self.doing.partition("\n")[0]])

    def __str__(self) -> str:
        who = f"{self.name or self.peer or 'not yet named'} in {self.session} on {self.device or 'cpu'}"
        return "\n".join([who, self.line(), *self.notes[-3:]])


class Record:
    """The status of one membership, and what ended it. Every method may be called from any thread."""

    def __init__(self, session: str) -> None:
        self._changed = threading.Condition()
        self._status = Status(session=session)
        self.error: BaseException | None = None

    @property
    def status(self) -> Status:
        return self._status

    def set(self, **fields: Any) -> None:
        """Change fields of the status. What is over stays over."""
        with self._changed:
            if self._status.state in OVER:
                fields = {name: value for name, value in fields.items() if name not in ("state", "reason")}
            self._status = msgspec.structs.replace(self._status, **fields)
            self._changed.notify_all()

    def note(self, text: str) -> None:
        """Something that the user should read; the same again is not repeated."""
        with self._changed:
            notes = self._status.notes
            if not notes or notes[-1] != text:
                self._status = msgspec.structs.replace(self._status, notes=(*notes, text)[-_NOTES:])
                self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """The membership is over because of `error`; only the first counts, and none once the session has finished."""
        with self._changed:
            if self.error is not None or self._status.state == "finished":
                return
            self.error = error
            self.set(state="failed", reason=str(error))

    def wait_for(self, condition: Callable[[Status], bool], timeout: float | None = None) -> bool:
        """Wait until the status fulfils `condition`; whether it does."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self._status), timeout)
