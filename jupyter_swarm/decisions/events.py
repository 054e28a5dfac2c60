"""What can happen to a session. Times are not part of an event: `handle` gets `now` beside it."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..protocol.messages import FromMember
from ..protocol.rules import Codec, SessionSettings, StrategyChange
from ..protocol.standing import Standing, SteerAction


class Event(msgspec.Struct, frozen=True, tag=True):
    """Base of all events."""


class MemberJoined(Event, frozen=True):
    """A peer or holder has said hello on a new connection. `name` is what others may see, `codecs` what it knows."""

    member: str
    role: Literal["peer", "holder"]
    name: str = ""
    device: str = "cpu"
    own_samples: int = 0
    standing: Standing = Standing()
    codecs: tuple[int, ...] = tuple(Codec)


class MemberLost(Event, frozen=True):
    """A member's connection is gone; for a peer that left on purpose `reason` says so."""

    member: str
    reason: str


class Said(Event, frozen=True):
    """A member sent a message."""

    member: str
    message: FromMember


class Measured(Event, frozen=True):
    """What the server has seen of a peer's link: so many bytes came up or went down in so many seconds of its clock, or
    the round trip took so long."""

    member: str
    what: Literal["up", "down", "round trip"]
    bytes: int
    seconds: float


class Placed(Event, frozen=True):
    """All holders have the shards that the `Place` with this number gave them."""

    number: int


class Recorded(Event, frozen=True):
    """The packets and the round record are durable."""

    round: int
    attempt: int


class RecordFailed(Event, frozen=True):
    """They are not, and nothing of them is left. `again`: another attempt may succeed at once, because not the disk
    failed but a holder was lost before all its packets had come."""

    round: int
    attempt: int
    reason: str
    again: bool = False


class Pause(Event, frozen=True):
    """Stop handing out work."""

    by: str


class Resume(Event, frozen=True):
    """Go on."""

    by: str


class SteerPeer(Event, frozen=True):
    """The instructor has decided something about one peer, here or not, whose `standing` and `name` are these from now
    on; until now the name was `old_name`."""

    member: str
    action: SteerAction
    standing: Standing
    name: str
    old_name: str


class Finish(Event, frozen=True):
    """End the session after the round under way."""

    by: str


class Change(Event, frozen=True):
    """New settings, from the next round on."""

    settings: SessionSettings
    by: str


class ChangeStrategy(Event, frozen=True):
    """The rules of the rounds to come; those of rounds that are open or done stay. by: '' for the session itself."""

    changes: tuple[StrategyChange, ...]
    by: str


class Tick(Event, frozen=True):
    """Time has passed. Sent about once a second; deadlines are seconds apart."""


AnyEvent = (
    MemberJoined | MemberLost | Said | Measured | Placed | Recorded | RecordFailed | Pause | Resume | SteerPeer | Finish
    | Change | ChangeStrategy | Tick
)  # fmt: skip
