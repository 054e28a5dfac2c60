"""Where a server keeps what it stores: names of folders and files, and nothing else.

    ROOT/swarm.sqlite                            sessions, invites, members, events, rounds, metrics, checkpoints
    ROOT/blobs/SHA256                            data, recipes, exports, files and manifests of checkpoints
    ROOT/session-ID/snapshot-V.safetensors       the state at version V
    ROOT/session-ID/round-R.packets              the step from version R - 1 to version R

Needs no torch, so that a server can look at what it has before it loads any.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..protocol.errors import StoreError
from .atomic import disk_errors

_SESSION = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_SNAPSHOT = re.compile(r"snapshot-(\d+)\.safetensors")
_ROUND = re.compile(r"round-(\d+)\.packets")


class StoreRoot:
    """The folder of one server, made if it is missing, readable by its owner only. Raises `StoreError`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs"
        self.database = root / "swarm.sqlite"
        for folder in (root, self.blobs):
            _make(folder)

    def session(self, session: str) -> Path:
        """The folder of one session, made if it is missing. Raises `StoreError`, also for an id that is no id."""
        if not _SESSION.fullmatch(session):
            raise StoreError(
                f"{session!r} cannot be the id of a session.",
                todo="Use 1 to 64 lower-case letters, digits and hyphens, beginning with a letter or digit.",
            )
        # The prefix keeps ids such as "con", which Windows reserves, from being names of folders.
        folder = self.root / f"session-{session}"
        _make(folder)
        return folder


def snapshot_file(folder: Path, version: int) -> Path:
    """The snapshot of `version` in a session's folder."""
    return folder / f"snapshot-{version}.safetensors"


def round_file(folder: Path, round: int) -> Path:
    """The packets of `round` in a session's folder."""
    return folder / f"round-{round}.packets"


def snapshots_in(folder: Path) -> list[int]:
    """The versions that have a snapshot, ascending. Raises `StoreError`."""
    return _numbers(folder, _SNAPSHOT)


def rounds_in(folder: Path) -> list[int]:
    """The rounds that have a file of packets, ascending. Raises `StoreError`."""
    return _numbers(folder, _ROUND)


def _make(folder: Path) -> None:
    with disk_errors("make the folder", folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _numbers(folder: Path, pattern: re.Pattern[str]) -> list[int]:
    with disk_errors("look into", folder):
        matches = [pattern.fullmatch(path.name) for path in folder.iterdir()]
    return sorted(int(match[1]) for match in matches if match)
