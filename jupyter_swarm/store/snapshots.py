"""Snapshots: the state of one version as one safetensors file, from which a restart goes on with the journal.

The metadata holds the SHA-256 of the file as it is with zeros in the place of that digest, so that it is noticed when
the file has changed. Read by the safetensors library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open

from ..protocol import failpoints
from ..protocol.errors import StoreError
from .atomic import AtomicFile, disk_errors
from .journal import Journal
from .paths import snapshot_file, snapshots_in
from .tensors import Stored, head, ordered

_PIECE = 16 << 20
_NO_DIGEST = "0" * 64


class SnapshotFacts(msgspec.Struct, frozen=True):
    """What a snapshot is of. `step`: the number of optimizer steps behind the optimizer's slots."""

    version: int
    generation: int
    step: int
    layout_digest: str


def save(
    folder: Path, tensors: Mapping[str, torch.Tensor], facts: SnapshotFacts, keep_after: int | None = None
) -> Path:
    """Write a session's snapshot durably, then remove what it replaces: older snapshots, rounds up to its version, but
    none after `keep_after`.

    The tensors may not change meanwhile; no copy is made of those that are contiguous and on the CPU. Raises
    `StoreError`; the snapshot before stays in use.
    """
    order = ordered(Stored(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items())
    # With zeros where the digest will be: first, so that no tensor's name comes before it.
    metadata = {"sha256": _NO_DIGEST} | {name: str(value) for name, value in msgspec.structs.asdict(facts).items()}
    start = head(order, metadata)
    path = snapshot_file(folder, facts.version)
    with AtomicFile(path) as file:
        file.write(start)
        digest = hashlib.sha256(start)
        half = len(start) + sum(stored.bytes for stored in order) // 2
        passed = False
        for stored in order:
            data = tensors[stored.name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            for first in range(0, len(data), _PIECE):
                piece = data[first : first + _PIECE]
                digest.update(piece)
                file.write(piece)
                if not passed and file.size >= half:
                    passed = True
                    file.flush()
                    failpoints.reach("mid-snapshot")
        file.overwrite(start.index(_NO_DIGEST.encode()), digest.hexdigest().encode())
        file.commit()
    Journal(folder).prune(facts.version, keep_after)
    return path


def load(folder: Path, version: int) -> tuple[SnapshotFacts, dict[str, torch.Tensor]]:
    """A snapshot's facts and tensors, on the CPU, in memory of their own. Raises `StoreError`: missing or damaged."""
    path = snapshot_file(folder, version)
    try:
        with disk_errors("read", path), safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            recorded = metadata.get("sha256", "")
            if recorded != _digest_of(path, recorded):
                raise _damaged(path, "It does not have the SHA-256 that is recorded in it.")
            facts = msgspec.convert(metadata, SnapshotFacts, strict=False)
            # Copied out of the mapped file, which Windows could not remove otherwise.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, msgspec.ValidationError) as error:
        raise _damaged(path, str(error)) from error
    if facts.version != version:
        raise _damaged(path, f"It is the snapshot of version {facts.version}.")
    return facts, tensors


def latest(folder: Path) -> int | None:
    """The version of the newest snapshot. Raises `StoreError`."""
    return max(snapshots_in(folder), default=None)


def _digest_of(path: Path, recorded: str) -> str:
    with path.open("rb") as file:
        length = file.read(8)
        header = file.read(int.from_bytes(length, "little"))
        digest = hashlib.sha256(length + header.replace(recorded.encode(), _NO_DIGEST.encode(), 1))
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _damaged(path: Path, why: str) -> StoreError:
    return StoreError(
        f"The stored snapshot {path.name} is damaged.",
        why,
        f"Check the disk of {path.parent}, and restore the file from a backup.",
    )
