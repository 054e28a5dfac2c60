"""What the instructor has decided about one member: it is stored, and holds however often the member comes back."""

from __future__ import annotations

from typing import Literal

import msgspec

from .errors import SettingError

SteerAction = Literal["pause", "resume", "slow", "mute", "unmute", "remove"]
LEAST_SHARE = 0.01


class Standing(msgspec.Struct, frozen=True):
    """paused: it gets no work. slowed: it gets at most this share of the work that its speed would give it (0: all of
    it). muted: nobody sees its name. removed: its token is refused."""

    paused: bool = False
    slowed: float = 0.0
    muted: bool = False
    removed: bool = False


def steered(standing: Standing, action: SteerAction, share: float = 0.5) -> Standing:
    """`standing` after `action`; to be slowed to a `share` of 1 is not to be slowed. Raises `SettingError` for a share
    that is none."""
    if action == "slow" and not LEAST_SHARE <= share <= 1.0:
        raise SettingError(
            f"A peer cannot be slowed to {share:g} of its share of the work.",
            todo=f"Choose a share from {LEAST_SHARE:g} to 1 (1: no longer slowed), or pause the peer.",
        )
    changes: dict[SteerAction, dict[str, bool | float]] = {
        "pause": {"paused": True},
        "resume": {"paused": False},
        "slow": {"slowed": share if share < 1.0 else 0.0},
        "mute": {"muted": True},
        "unmute": {"muted": False},
        "remove": {"removed": True},
    }
    return msgspec.structs.replace(standing, **changes[action])
