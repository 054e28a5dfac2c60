"""What the coordinator refuses to whoever asks over HTTP, each refusal with its own status.

Every answer that is an error is JSON, `{"what": …, "why": …, "todo": …}`: the three parts of a `SwarmError`.
"""

from __future__ import annotations

from ..protocol.errors import (
    CheckpointError,
    InviteError,
    LayoutError,
    ProtocolError,
    Refusal,
    SessionError,
    SettingError,
    StoreError,
    SwarmError,
)

_NEW_INVITE = "Ask whoever runs the session for a new invite."


class NotInvited(InviteError):
    """No invite, or not one of this session. Says the same whether or not the session exists."""

    def __init__(self) -> None:
        super().__init__(
            "You are not invited to this session.",
            "The request carries no invite that this server knows for it.",
            "Copy the whole invite link again; if that does not help, ask for a new one.",
        )


class InviteOver(InviteError):
    """An invite that was good once."""

    @classmethod
    def expired(cls, when: str) -> InviteOver:
        return cls("This invite has expired.", f"It was good until {when}.", _NEW_INVITE)

    @classmethod
    def revoked(cls) -> InviteOver:
        return cls("This invite was revoked.", "Whoever runs the session withdrew it.", _NEW_INVITE)


class RoleRefused(InviteError):
    """A caller who is known, and whose role does not go so far."""

    def __init__(self, role: str) -> None:
        super().__init__(
            f"Your role, {role}, does not allow this.",
            "Each role may do some things only.",
            "Use an invite with another role; whoever runs the session makes them.",
        )


class OwnerOnly(SwarmError):
    """Nobody who is logged in, and no owner's secret."""

    def __init__(self) -> None:
        super().__init__(
            "Only the owner of this server may do this.",
            "The request comes from nobody who is logged in to the Jupyter server.",
            "Log in, or run it in a kernel of this server.",
        )


class TooManyFailures(SwarmError):
    """An address that has tried too many wrong secrets; `seconds` until it may try the next."""

    def __init__(self, seconds: float) -> None:
        self.seconds = max(1, round(seconds))
        super().__init__(
            "Too many wrong invites came from your address.",
            "The server slows down whoever guesses.",
            f"Check the link and try again in {self.seconds} s.",
        )


class AuthenticationOff(SwarmError):
    """The Jupyter server lets everybody in, so nobody is its owner."""

    def __init__(self) -> None:
        super().__init__(
            "This server has its authentication switched off, so it hosts no sessions.",
            "Anybody who can reach it could run code on it, invited or not.",
            "Start it with a token or a password (do not set IdentityProvider.token to '').",
        )


class Removed(SessionError):
    """A member whom the instructor does not want in the session any more."""

    def __init__(self) -> None:
        super().__init__(
            "You were removed from this session.",
            "Whoever runs it has removed you.",
            "Talk to them if you think that it was a mistake.",
        )


class TooOften(SwarmError):
    """What may be told to those who watch once in a while only."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            "Another text is shown just now.",
            f"Those who watch get one in {seconds:g} s at most.",
            "Wait a moment and send it again.",
        )


class UnknownPeer(SessionError):
    """A peer that has never been in the session."""

    def __init__(self, peer: str) -> None:
        super().__init__(f"The session has no peer {peer}.", todo="List its peers to see who there is.")


class UnknownSession(SessionError):
    """A session that the owner asks for and that is not there."""

    def __init__(self, session: str) -> None:
        super().__init__(
            f"There is no session {session} on this server.",
            "It was deleted, or it is stored elsewhere.",
            "List the sessions to see which there are.",
        )


class SessionEnded(SessionError):
    """A session that is over; its record can still be read."""

    def __init__(self, session: str) -> None:
        super().__init__(f"The session {session} has ended.", "Whoever runs it stopped it, or its rounds are over.")


class SessionNotReady(SessionError):
    """A session that the server is just now reading from its disk."""

    def __init__(self, session: str) -> None:
        super().__init__(
            f"The session {session} is not ready yet.",
            "The server has started again and is reading it from its disk.",
            "Try again in a few seconds.",
        )


class TooLarge(Refusal):
    """A request that is larger than the server takes."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"This is larger than the {limit} bytes that the server takes.",
            "The limit of uploads is SwarmExtension.max_blob_bytes.",
            "Send less, or have the limit raised.",
        )


# The first that fits counts.
_STATUS: tuple[tuple[type[SwarmError], int], ...] = (
    (TooManyFailures, 429),
    (TooOften, 429),
    (InviteOver, 410),
    (RoleRefused, 403),
    (InviteError, 401),
    (OwnerOnly, 403),
    (AuthenticationOff, 403),
    (UnknownSession, 404),
    (UnknownPeer, 404),
    (SessionEnded, 410),
    (SessionNotReady, 503),
    (SessionError, 409),
    (TooLarge, 413),
    (SettingError, 400),
    (LayoutError, 400),
    (ProtocolError, 400),
    (CheckpointError, 400),
    (Refusal, 400),
    (StoreError, 507),
)


def status_of(error: SwarmError) -> int:
    """The HTTP status that goes with an error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
