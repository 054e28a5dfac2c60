"""Errors that tell the person at the keyboard what happened, why, and what to do next."""

from __future__ import annotations


class SwarmError(Exception):
    """The root of everything this package raises on purpose.

    what: one sentence, what happened. why: the cause, if known. todo: what the reader can do about it.
    """

    def __init__(self, what: str, why: str = "", todo: str = "") -> None:
        super().__init__(what, why, todo)
        self.what = what
        self.why = why
        self.todo = todo

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"Why: {self.why}")
        if self.todo:
            lines.append(f"What to do: {self.todo}")
        return "\n".join(lines)


class ProtocolError(SwarmError):
    """Bytes that are not a valid message or frame, or that do not fit the session they were sent to."""


class VersionMismatch(ProtocolError):
    """The two ends speak different versions of the protocol."""


class InviteError(SwarmError):
    """An invite that cannot be read, or that the server does not accept (wrong, expired, revoked, full)."""


class SessionError(SwarmError):
    """A session that does not exist, has ended, or cannot be opened or changed as asked."""


class SettingError(SwarmError, ValueError):
    """A setting that is unknown or out of its range."""


class RecipeError(SwarmError):
    """A recipe that cannot be read, run, or agreed to."""


class LayoutError(SwarmError):
    """A model whose tensors differ from the session's, or that cannot be trained together at all."""


class LinkError(SwarmError):
    """The server cannot be reached, or the connection is gone and does not come back."""


class StoreError(SwarmError):
    """The server's disk does not take or give back what was asked of it. Nothing that was stored is lost."""


class CheckpointError(SwarmError):
    """A checkpoint that is damaged, incomplete, or cannot be fetched or written."""


class Refusal(SwarmError):
    """A contribution, frame or request that the other side refused, with its reason."""
