"""Files and rounds written in one go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from jupyter_swarm.protocol.frames import Buffer
from jupyter_swarm.store.atomic import AtomicFile
from jupyter_swarm.store.journal import Journal


def write_file(path: Path, *pieces: Buffer) -> None:
    with AtomicFile(path) as file:
        for piece in pieces:
            file.write(piece)
        file.commit()


def write_round(folder: Path, round: int, frames: Iterable[Buffer | Sequence[Buffer]]) -> None:
    with Journal(folder).begin_round(round) as writer:
        for frame in frames:
            writer.append(frame)
        writer.finish()
