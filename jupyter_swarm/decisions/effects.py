"""What the decisions want done. The driver (coordinator, test, simulator) carries them out in order."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..protocol.messages import Message
from ..protocol.records import RoundRecord
from ..protocol.rules import Codec


class Tell(msgspec.Struct, frozen=True):
    """Send a message to one member."""

    member: str
    message: Message


class TellPeers(msgspec.Struct, frozen=True):
    """Send a message to every peer. With `in_order` it must not overtake the packets on their way to it."""

    message: Message
    in_order: bool = False


class Place(msgspec.Struct, frozen=True):
    """Hand the shards to these holders (shard index -> holder); answer with `Placed` and the same number."""

    number: int
    placement: dict[int, str]


class WriteRecord(msgspec.Struct, frozen=True):
    """Make the packets and then the record durable; answer with `Recorded` or `RecordFailed`."""

    record: RoundRecord


class Disconnect(msgspec.Struct, frozen=True):
    """Close a member's connection; it has been told why."""

    member: str
    reason: str


class Note(msgspec.Struct, frozen=True):
    """A line for the session's log and for those who watch."""

    level: Literal["info", "warning", "error"]
    text: str
    member: str = ""


class SetCodecs(msgspec.Struct, frozen=True):
    """From one of the next rounds on, send the gradient up and down so; the reason is for people. Answer with a
    `ChangeStrategy` by nobody."""

    up: Codec
    down: Codec
    reason: str


Effect = Tell | TellPeers | Place | WriteRecord | Disconnect | Note | SetCodecs
