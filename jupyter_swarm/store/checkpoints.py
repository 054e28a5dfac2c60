"""The files of a checkpoint, written from a view and its layout alone: no model is built, no recipe code runs.

The parameters are written as transformers does it: by their names in the model, in its dtypes, tied ones once, the
metadata {"format": "pt"}; more than PART_BYTES in several files with an index. Numbers are converted and written piece
by piece, so that there never is a second copy of the model.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator

import torch

from ..protocol import failpoints
from ..protocol.errors import StoreError
from ..protocol.frames import Buffer
from ..protocol.layout import CHUNK_ELEMENTS, TensorSpec
from ..protocol.manifest import INDEX_FILE, WEIGHTS_FILE, FileEntry
from ..shards.vector import FlatVector
from .blobs import Blobs
from .tensors import Stored, head, ordered

PART_BYTES = 2 << 30

CheckpointFiles = Iterator[tuple[str, Iterator[Buffer]]]
"""Each file's name and its bytes in pieces, which are good until the next is asked for."""


def weight_files(view: FlatVector, part_bytes: int = PART_BYTES) -> CheckpointFiles:
    """The files that hold the numbers of `view`. Raises `StoreError` for a dtype that safetensors does not have."""
    specs = {spec.name: spec for spec in view.specs()}
    stored = [Stored(spec.name, getattr(torch, spec.dtype), spec.shape) for spec in specs.values()]
    parts = _parts(stored, part_bytes)
    names = [WEIGHTS_FILE]
    if len(parts) > 1:
        stem, suffix = WEIGHTS_FILE.split(".")
        names = [f"{stem}-{number:05d}-of-{len(parts):05d}.{suffix}" for number in range(1, len(parts) + 1)]
    for name, part in zip(names, parts, strict=True):
        yield name, _pieces(view, ordered(part), specs)
    if len(parts) > 1:
        index = {
            "metadata": {"total_size": sum(one.bytes for one in stored)},
            "weight_map": {one.name: name for name, part in zip(names, parts, strict=True) for one in part},
        }
        yield INDEX_FILE, iter((json.dumps(index, indent=2).encode() + b"\n",))


def store_files(files: CheckpointFiles, blobs: Blobs, stopped: Callable[[], bool]) -> tuple[FileEntry, ...]:
    """Write each file as a blob; returns their entries. Raises `StoreError` from the disk, or once `stopped` says so;
    what was written of any file is discarded then."""
    with contextlib.ExitStack() as written:
        new = []
        for name, pieces in files:
            blob = written.enter_context(blobs.new())
            for piece in pieces:
                if stopped():
                    raise StoreError("The checkpoint was not written.", "The server stops.")
                blob.write(piece)
            new.append((name, blob))
        failpoints.reach("mid-checkpoint")
        return tuple(blob.finish(name) for name, blob in new)


def _parts(stored: Iterable[Stored], part_bytes: int) -> list[list[Stored]]:
    parts: list[list[Stored]] = [[]]
    size = 0
    for one in stored:
        if parts[-1] and size + one.bytes > part_bytes:
            parts.append([])
            size = 0
        parts[-1].append(one)
        size += one.bytes
    return parts


def _pieces(view: FlatVector, order: list[Stored], specs: dict[str, TensorSpec]) -> Iterator[Buffer]:
    yield head(order, {"format": "pt"})
    for one in order:
        spec = specs[one.name]
        for start in range(spec.start, spec.start + spec.count, CHUNK_ELEMENTS):
            count = min(CHUNK_ELEMENTS, spec.start + spec.count - start)
            piece = view.slice(spec.stream, start, count).to(one.dtype)
            yield piece.view(torch.uint8).numpy().data
