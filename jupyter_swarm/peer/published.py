"""The samples of a session as one blob, so that every peer trains on the same bytes.

A safetensors file: the tensors of each part, the files as uint8 tensors, and JSON that says which is what. The same
data makes the same bytes, so its SHA-256 tells whether two sessions had the same data.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import safetensors
import safetensors.torch
import torch
from jupyter_core.paths import jupyter_runtime_dir
from safetensors import SafetensorError

from ..protocol.errors import LinkError, RecipeError, Refusal
from .client import Client
from .data import Samples
from .progress import bytes_text
from .recipe import Data
from .windows import Windows

_KEY = "jupyter_swarm"
_FORMAT = 1
_PARTS = ("train", "held_out")
_TRIES = 3
_LARGE_BYTES = 5 << 20
_NOTHING = torch.empty(0, dtype=torch.uint8)
_UNUSED_SECONDS = 30 * 86400.0


class _Part(msgspec.Struct, frozen=True):
    """How a part was given: so many tensors, or windows of a length and stride over one."""

    kind: Literal["tensors", "windows"]
    tensors: int = 1
    length: int = 0
    stride: int = 0


class _Contents(msgspec.Struct, frozen=True):
    parts: dict[str, _Part]
    files: tuple[str, ...]
    format: int = _FORMAT


def pack(data: Data) -> bytes | None:
    """`data` as a blob; None if it is not to be shared, or is of datasets that only their own code can read.

    Raises `RecipeError` for files that are not bytes.
    """
    taken = {name: _take_apart(getattr(data, name)) for name in _PARTS}
    if not data.share or any(parts is None for parts in taken.values()):
        return None
    described: dict[str, _Part] = {}
    tensors: dict[str, torch.Tensor] = {}
    for name, parts in taken.items():
        if parts:
            described[name] = parts[0]
            # Copies: slices of one tensor may not share their memory in a file.
            copies = [tensor.detach().cpu().contiguous().clone() for tensor in parts[1]]
            tensors |= {f"{name}.{i}": tensor for i, tensor in enumerate(copies)}
    for name, content in data.files.items():
        if not isinstance(content, bytes):
            raise RecipeError(f"The file {name!r} of the data is a {type(content).__name__}.", todo="Pass bytes.")
        tensors[f"file.{name}"] = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else _NOTHING
    contents = _Contents(described, tuple(sorted(data.files)))
    text = json.dumps(msgspec.to_builtins(contents), sort_keys=True)
    try:
        return safetensors.torch.save(tensors, {_KEY: text})
    except (SafetensorError, ValueError, KeyError, RuntimeError):
        return None


def _take_apart(source: Any) -> tuple[_Part, tuple[torch.Tensor, ...]] | tuple[()] | None:
    """What a part is made of; nothing for a part that is not there, None for one that is not made of tensors."""
    if source is None:
        return ()
    samples = Samples(source)
    tensors, windows = samples.tensors, samples.windows
    if windows is not None:
        return _Part("windows", 1, windows.length, windows.stride), (windows.tokens,)
    if tensors is None or any(tensor.layout != torch.strided or tensor.is_quantized for tensor in tensors):
        return None
    return _Part("tensors", len(tensors)), tensors


def unpack(path: Path) -> Data:
    """The data in a blob's file. Raises `RecipeError` for one that is damaged or newer."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            contents = msgspec.json.decode(file.metadata()[_KEY], type=_Contents)
            parts: dict[str, Any] = {}
            for name, part in contents.parts.items():
                tensors = tuple(file.get_tensor(f"{name}.{i}") for i in range(part.tensors))
                whole = part.kind == "tensors"
                parts[name] = tensors if whole else Windows(tensors[0], part.length, part.stride)
            files = {name: file.get_tensor(f"file.{name}").numpy().tobytes() for name in contents.files}
    except (SafetensorError, msgspec.DecodeError, KeyError, TypeError) as error:
        raise RecipeError(
            "The session's data cannot be read.", str(error), "Install the jupyter_swarm version of the host."
        ) from None
    return Data(train=parts.get("train"), held_out=parts.get("held_out"), files=files)


def publish(client: Client, data: Data) -> str:
    """Send the data to the server if it can be shared; returns the blob's SHA-256, or ''. Raises `RecipeError`."""
    blob = pack(data)
    if blob is None:
        return ""
    try:
        return client.put_blob(blob)
    except Refusal as error:
        raise RecipeError(
            f"The server does not take the data set of {bytes_text(len(blob))}: {error.what}",
            error.why,
            "Use less data, have the limit raised (SwarmExtension.max_blob_bytes), or return Data(…, share=False): "
            "then each peer loads the data by itself.",
        ) from None


def fetch(client: Client, session: str, sha256: str, say: Callable[[str], None] = lambda line: None) -> Data:
    """The data of a session, from this machine's folder of such data or else from the server.

    say: told of the progress in a line, if there is much to fetch. Raises `LinkError` (the connection, or other bytes
    than those that the session names), `RecipeError` (this machine's disk, or a blob that cannot be read).
    """
    path = Path(jupyter_runtime_dir()) / "jupyter_swarm" / "data" / f"{sha256}.safetensors"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _clean(path.parent)
        if path.is_file() and _hash(path) == sha256:
            os.utime(path)
        else:
            _download(client, session, sha256, path, say)
    except OSError as error:
        raise RecipeError(
            "The session's data cannot be kept on this machine.",
            f"{error.strerror or error} ({path.parent})",
            "Free some space there, or set JUPYTER_RUNTIME_DIR to a folder that can be written to.",
        ) from None
    return unpack(path)


def _download(client: Client, session: str, sha256: str, path: Path, say: Callable[[str], None]) -> None:
    total, free = client.blob_size(session, sha256), shutil.disk_usage(path.parent).free
    if total > free:
        raise RecipeError(
            f"The session's data set has {bytes_text(total)}; the disk here has {bytes_text(free)} left.",
            todo=f"Free some space in {path.parent}.",
        )
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            tries = 0
            while file.tell() < total and tries < _TRIES:
                tries += 1
                try:
                    with client.blob_pieces(session, sha256, file.tell()) as pieces:
                        for piece in pieces:
                            file.write(piece)
                            if total > _LARGE_BYTES:
                                say(f"data: {bytes_text(file.tell())} of {bytes_text(total)}")
                            if file.tell() >= total:
                                break
                except LinkError:
                    if tries == _TRIES:
                        raise
        if _hash(Path(temporary)) != sha256:
            raise LinkError("The data that came is not what the session names.", todo="Join again.")
        # Another kernel of this machine may have been faster, and may be reading.
        if not path.is_file() or _hash(path) != sha256:
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _clean(folder: Path) -> None:
    """Remove what nobody has used for a month."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _UNUSED_SECONDS:
                path.unlink()


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
