"""What the database gives back, as plain data. The order of the fields is the order of the table's columns.

All times are seconds since 1970.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import msgspec

from ..protocol.invites import Role
from ..protocol.rules import SessionSpec
from ..protocol.samples import Sample
from ..protocol.standing import Standing

SessionState = Literal["running", "paused", "finished"]
"""What a restarted server goes on with. Whether a running session waits or trains is decided anew."""
Level = Literal["info", "warning", "error"]


class StoredSession(msgspec.Struct, frozen=True):
    """A session without its layout. `generation` counts the starts of the server that took it up; `ending` says why it
    has ended, if it has; `sample` is the last text that its model was shown to write."""

    session: str
    spec: SessionSpec
    state: SessionState
    created: float
    ended: float | None
    generation: int
    ending: str = ""
    sample: Sample | None = None


class StoredInvite(msgspec.Struct, frozen=True):
    """An invite: so many uses (`capacity`) until `expires`, unless `revoked` (when it was). The secret is not kept."""

    session: str
    number: int
    role: Role
    secret_hash: str
    label: str
    expires: float
    capacity: int
    uses: int = 0
    revoked: float | None = None


class Member(msgspec.Struct, frozen=True):
    """Who has ever been in a session. `token_hash` is the `hash_secret` of the token that makes them the same again;
    `standing` what the instructor has decided about them."""

    session: str
    member: str
    role: Role
    name: str
    token_hash: str
    joined: float
    last_seen: float
    standing: Standing = Standing()

    @property
    def shown(self) -> str:
        """The name that others see."""
        return self.member.replace("-", " ") if self.standing.muted else self.name


class Event(msgspec.Struct, frozen=True):
    """Something that people should be able to read later. `member` is '' where nobody in particular is meant;
    `number` is given by the database."""

    session: str
    unix_time: float
    generation: int
    round: int
    level: Level
    member: str
    text: str
    number: int = 0


class Metric(msgspec.Struct, frozen=True):
    """The sum of a metric over `count` samples at a version, of one member, or of all together (member '')."""

    session: str
    version: int
    member: str
    name: str
    sum: float
    count: int

    @property
    def mean(self) -> float:
        return self.sum / self.count if self.count else math.nan


class Done(msgspec.Struct, frozen=True):
    """What a member has done in all recorded rounds: samples that were merged, bytes from it (up) and to it (down)."""

    samples: int = 0
    bytes_up: int = 0
    bytes_down: int = 0


def in_all(done: Iterable[Done]) -> Done:
    """What several members have done together."""
    samples, up, down = 0, 0, 0
    for one in done:
        samples, up, down = samples + one.samples, up + one.bytes_up, down + one.bytes_down
    return Done(samples, up, down)


class StoredCheckpoint(msgspec.Struct, frozen=True):
    """A checkpoint of a session: `manifest` is the SHA-256 of its manifest, a blob that names all its other blobs."""

    session: str
    number: int
    name: str
    version: int
    manifest: str
    created: float
