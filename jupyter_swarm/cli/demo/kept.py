"""What the demo leaves in its output folder: the history, the last checkpoint, what the model wrote, the figure."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from ...history import open_history
from ...peer.checkpoints import open_checkpoint
from ...protocol.errors import StoreError, SwarmError
from ...protocol.manifest import MANIFEST_FILE
from ...shards.vector import FlatVector
from . import figure
from .findings import Stored
from .plans import Plan
from .played import Played

FOLDER = "kept"
HISTORY, CHECKPOINT, SAMPLE, FIGURE = "history.nc", "checkpoint", "sample.txt", "demo.png"


class Kept(msgspec.Struct, frozen=True):
    """Where it lies. verified: whether the checkpoint opens and its numbers, hashed anew, are those of the session's
    last version; problem: what is wrong with it."""

    figure: str
    history: str
    checkpoint: str
    sample: str
    verified: bool
    problem: str


def paths(folder: Path) -> dict[str, str]:
    """Where the host's kernel is to put things; it makes the folder if it is missing."""
    folder.mkdir(exist_ok=True)
    return {"history": str(folder / HISTORY), "checkpoint": str(folder / CHECKPOINT)}


def check(output: Path) -> None:
    """Raises `StoreError` if the output folder cannot be made, or has something of the user's in the way."""
    folder = output / CHECKPOINT
    if folder.exists() and not (folder / MANIFEST_FILE).is_file():
        raise StoreError(
            f"{folder} is in the way.", "It is no checkpoint of an earlier demo.", "Choose another folder by --output."
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(error) from None


def keep(source: Path, output: Path, stored: Stored, plan: Plan, played: Played) -> Kept:
    """Move what lies in `source` to `output`, instead of what an earlier demo left, and add the rest. Raises
    `StoreError`."""
    verified, problem = _verify(source / CHECKPOINT, stored)
    try:
        if (output / CHECKPOINT).exists():
            shutil.rmtree(output / CHECKPOINT)
        shutil.move(source / CHECKPOINT, output / CHECKPOINT)
        os.replace(shutil.copy(source / HISTORY, output / f"{HISTORY}.part"), output / HISTORY)
        if played.after:
            (output / SAMPLE).write_text(f"BEFORE\n\n{played.before}\n\n\nAFTER\n\n{played.after}\n", encoding="utf-8")
        figure.draw(open_history(output / HISTORY), plan, output / FIGURE)
    except OSError as error:
        raise _not_written(error) from None
    sample = str(output / SAMPLE) if played.after else ""
    return Kept(str(output / FIGURE), str(output / HISTORY), str(output / CHECKPOINT), sample, verified, problem)


def _verify(folder: Path, stored: Stored) -> tuple[bool, str]:
    try:
        checkpoint = open_checkpoint(folder)
        vector = FlatVector(stored.layout)
        vector.load(checkpoint.tensors())
    except SwarmError as error:
        return False, str(error)
    if checkpoint.version != len(stored.records):
        return False, f"it is of version {checkpoint.version}, not {len(stored.records)}"
    if not vector.digest_all() == checkpoint.manifest.view_digest == stored.digest:
        return False, "its numbers are not those of the session's last version"
    return True, ""


def _not_written(error: OSError) -> StoreError:
    return StoreError("The demo's output cannot be written.", str(error), "Choose another folder by --output.")
