"""Snapshots: the state of one version as one safetensors file, from which a restart goes on with the journal.

The only module of this layer that needs torch. Written here, not by the safetensors library, because the library
copies all tensors first, and neither makes the file durable nor notices later that it has changed: the metadata
holds the SHA-256 of the file as it is with zeros in the place of that digest. Read by the library. The format is
https://huggingface.co/docs/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
import struct
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

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
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
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise StoreError(f"The tensor {name} cannot be stored: its dtype is {tensor.dtype}.")
    # As the safetensors library: wide types first, so that every tensor is aligned.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    head = _head(ordered, facts)
    path = snapshot_file(folder, facts.version)
    with AtomicFile(path) as file:
        file.write(head)
        digest = hashlib.sha256(head)
        half = len(head) + sum(tensor.nbytes for _, tensor in ordered) // 2
        passed = False
        for _, tensor in ordered:
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            for start in range(0, len(data), _PIECE):
                piece = data[start : start + _PIECE]
                digest.update(piece)
                file.write(piece)
                if not passed and file.size >= half:
                    passed = True
                    file.flush()
                    failpoints.reach("mid-snapshot")
        file.overwrite(head.index(_NO_DIGEST.encode()), digest.hexdigest().encode())
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


def _head(ordered: list[tuple[str, torch.Tensor]], facts: SnapshotFacts) -> bytes:
    """Length and JSON header, with zeros where the digest will be: first, so that no tensor's name comes before it."""
    metadata = {"sha256": _NO_DIGEST} | {name: str(value) for name, value in msgspec.structs.asdict(facts).items()}
    header: dict[str, object] = {"__metadata__": metadata}
    position = 0
    for name, tensor in ordered:
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.nbytes],
        }
        position += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


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
