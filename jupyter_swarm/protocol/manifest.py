"""The manifest of a checkpoint: which files it consists of, and what they are the state of.

A checkpoint is a folder that `from_pretrained` of transformers opens: the parameters as safetensors, the files that the
recipe exports (config, tokenizer), and this manifest as JSON. The SHA-256 of the manifest's bytes is the identity of
the checkpoint, since it names all other bytes by their hashes. Format version 1: a field may be added with a default,
none may change its meaning.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from .errors import CheckpointError

MANIFEST_VERSION = 1
MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
CHUNK_BYTES = 16 << 20
"""Files are checked, and fetched again, in pieces of so many bytes."""

# Names that every file system takes and that lead nowhere else. Windows has devices with some; what is not whole yet
# ends with .part.
_NAME = re.compile(
    r"(?i)(?!(con|prn|aux|nul|com\d|lpt\d)(\.|$)|.*\.part$|manifest\.json$)[a-z0-9_]([a-z0-9_.-]{0,118}[a-z0-9_])?",
    re.ASCII,
)
_OWN = re.compile(r"(?i)model.*\.safetensors.*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class FileEntry(msgspec.Struct, frozen=True):
    """One file: its size in bytes, SHA-256, and the SHA-256 of each chunk of CHUNK_BYTES (the last may be shorter)."""

    name: str
    bytes: int
    sha256: str
    chunks: tuple[str, ...]

    def span(self, chunk: int) -> tuple[int, int]:
        """The bytes [start, stop) of a chunk."""
        return chunk * CHUNK_BYTES, min((chunk + 1) * CHUNK_BYTES, self.bytes)


class Manifest(msgspec.Struct, frozen=True):
    """What a checkpoint is of.

    session: the id of the session, '' if it was trained alone. version: rounds done; samples: consumed until then.
    view_digest: SHA-256 of all shared numbers as peers of the session report it. recipe, data: SHA-256 of the recipe's
    text and of the session's data set ('' if it is not known). metrics: the latest at that version, held-out ones named
    held_out_…. parent: SHA-256 of the manifest of the checkpoint that the session went on from, or ''. created: seconds
    since 1970.
    """

    name: str
    version: int
    files: tuple[FileEntry, ...]
    layout_digest: str
    view_digest: str
    session: str = ""
    session_name: str = ""
    generation: int = 0
    samples: int = 0
    recipe: str = ""
    data: str = ""
    strategy: str = ""
    metrics: dict[str, float] = {}
    parent: str = ""
    software: str = ""
    created: float = 0.0
    format: int = MANIFEST_VERSION

    def encode(self) -> bytes:
        """The bytes whose SHA-256 is the checkpoint's identity."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @property
    def weights(self) -> tuple[FileEntry, ...]:
        """The safetensors files, in order."""
        return tuple(entry for entry in self.files if entry.name.endswith(".safetensors"))

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(entry.bytes for entry in self.files)


class FileHash:
    """Takes a file's bytes in pieces of any size and gives its entry."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()
        self._chunk = hashlib.sha256()
        self._chunks: list[str] = []
        self._bytes = 0

    def update(self, data: Any) -> None:
        """Add bytes: any contiguous buffer."""
        view = memoryview(data).cast("B")
        self._whole.update(view)
        while len(view):
            room = CHUNK_BYTES - self._bytes % CHUNK_BYTES
            self._chunk.update(view[:room])
            self._bytes += min(room, len(view))
            view = view[room:]
            if self._bytes % CHUNK_BYTES == 0:
                self._end_chunk()

    def entry(self, name: str) -> FileEntry:
        """The entry of the file; nothing may be added afterwards."""
        if self._bytes % CHUNK_BYTES:
            self._end_chunk()
        return FileEntry(name, self._bytes, self._whole.hexdigest(), tuple(self._chunks))

    def _end_chunk(self) -> None:
        self._chunks.append(self._chunk.hexdigest())
        self._chunk = hashlib.sha256()


def entry_of(name: str, data: bytes) -> FileEntry:
    """The entry of a small file."""
    digest = FileHash()
    digest.update(data)
    return digest.entry(name)


def read_manifest(data: bytes) -> Manifest:
    """The manifest in `data`. Raises `CheckpointError` for one that is damaged, newer, or names what no file may be."""
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise CheckpointError(
            "This is not a checkpoint's manifest.", str(error), "Fetch the checkpoint again."
        ) from None
    if manifest.format > MANIFEST_VERSION:
        raise CheckpointError(
            "The checkpoint was written by a newer jupyter_swarm.",
            f"Its manifest has format {manifest.format}; this release reads format {MANIFEST_VERSION}.",
            "Upgrade jupyter_swarm.",
        )
    names = [entry.name for entry in manifest.files]
    for entry in manifest.files:
        whole = len(entry.chunks) == -(-entry.bytes // CHUNK_BYTES) and entry.bytes >= 0
        hashes = all(_SHA256.fullmatch(sha256) for sha256 in (entry.sha256, *entry.chunks))
        if not _NAME.fullmatch(entry.name) or not whole or not hashes:
            raise CheckpointError(f"The checkpoint's manifest has no proper entry for a file {entry.name[:80]!r}.")
    if len({name.lower() for name in names}) < len(names) or not manifest.weights:
        raise CheckpointError("The checkpoint's manifest names a file twice, or no parameters.")
    return manifest


def check_export_names(names: Iterable[str]) -> None:
    """Raises `CheckpointError` unless files of these names can lie in a checkpoint beside its own."""
    seen: set[str] = set()
    for name in names:
        if not _NAME.fullmatch(name) or _OWN.fullmatch(name) or name.lower() in seen:
            raise CheckpointError(
                f"A checkpoint cannot have a file {name[:80]!r}.",
                "It is named twice, is the checkpoint's own, or is no plain file name.",
                "Have the recipe's export() return plain names such as config.json.",
            )
        seen.add(name.lower())
