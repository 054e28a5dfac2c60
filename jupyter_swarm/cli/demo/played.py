"""Who plays in the demo, and what it has seen of them."""

from __future__ import annotations

import msgspec

HOST, SLOW, KILLED, LATE = "host", "slow", "killed", "late"


class Played(msgspec.Struct, frozen=True):
    """What the demo itself has seen: seconds that training took, version and digest of every live peer, samples per
    second and threads of one process alone, what the model wrote before and after."""

    session: str
    seconds: float
    held_a_lease: bool
    versions: dict[str, int]
    digests: dict[str, str]
    alone: tuple[float, int] | None
    before: str
    after: str
