"""Checkpoints as a notebook has them: listed from a session, downloaded, opened, loaded, compared, saved.

checkpoint = session.checkpoints()[-1].download("my-model")
model = transformers.AutoModelForCausalLM.from_pretrained("my-model")
host(recipe, start=checkpoint)
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .. import __version__
from ..protocol.errors import CheckpointError, LayoutError, RecipeError
from ..protocol.frames import Buffer
from ..protocol.manifest import MANIFEST_FILE, FileEntry, FileHash, Manifest, check_export_names, read_manifest
from ..shards.layout import shared_tensors
from ..shards.vector import FlatVector
from ..store.checkpoints import PART_BYTES, weight_files
from .client import Client
from .compute import Computer
from .fetching import Source, fetch, is_whole
from .progress import Line, bytes_text
from .recipe import Recipe, call

_PART = ".part"
Progress = Callable[[int, int, str], None]


class Remote(NamedTuple):
    """Where a checkpoint lies that is on a server."""

    client: Client
    session: str
    number: int


class Checkpoint:
    """A checkpoint on a server, or one in a local folder.

    manifest: what it is of. sha256: its identity. folder: where it is, None for one on a server. Made by
    `Session.checkpoints`, `Session.checkpoint`, `download`, `open_checkpoint` and `Training.save`.
    """

    def __init__(
        self, manifest: Manifest, sha256: str, folder: Path | None = None, remote: Remote | None = None
    ) -> None:
        self.manifest = manifest
        self.sha256 = sha256
        self.folder = folder
        self._remote = remote

    @property
    def name(self) -> str:
        """As it was called when it was made."""
        return self.manifest.name

    @property
    def version(self) -> int:
        """Rounds behind it."""
        return self.manifest.version

    @property
    def metrics(self) -> dict[str, float]:
        """The latest at its version: loss, held_out_…"""
        return dict(self.manifest.metrics)

    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor, in the model's dtypes, tied ones once. Local files are mapped, not copied; of a checkpoint on
        a server all parameters are fetched into memory. Raises `CheckpointError`, `LinkError`."""
        result: dict[str, Tensor] = {}
        for entry in self.manifest.weights:
            try:
                result |= self._read(entry)
            except safetensors.SafetensorError as error:
                raise CheckpointError(f"{entry.name} of {self.name} cannot be read.", str(error)) from None
        return result

    def load(self, model: torch.nn.Module) -> None:
        """Give the numbers to `model`, each in the dtype and on the device that it has there.

        Raises `LayoutError`, which names the first tensor that differs, if it is another model; it is then unchanged.
        """
        tensors, targets = self.tensors(), shared_tensors(model)
        difference = _difference(tensors, targets)
        if difference:
            raise LayoutError(
                f"The checkpoint {self.name} is of another model.",
                difference,
                "Build the model as the recipe did that the checkpoint was made with.",
            )
        with torch.no_grad():
            for name, target in targets.items():
                target.copy_(tensors[name])

    def download(self, folder: str | Path, progress: bool | Progress = True) -> Checkpoint:
        """Fetch all files into `folder`, made if it is missing; returns the checkpoint that then is there.

        progress: whether to show a line of it, or what is told: bytes that are there, of so many, and the line.

        What an interrupted download has left is continued. Every chunk is checked against its hash; one that is wrong
        is fetched once more. Raises `LinkError`, `CheckpointError`; what is there by then stays for the next time.
        """
        folder = Path(folder).expanduser()
        remote = self._on_server()
        data = remote.client.blob(remote.session, self.sha256)
        manifest = read_manifest(data)
        with _disk_errors(folder), contextlib.ExitStack() as stack:
            folder.mkdir(parents=True, exist_ok=True)
            _refuse_other(folder, self.sha256)
            tell = progress if callable(progress) else _line_of(stack.enter_context(Line()) if progress else None)
            progress_of = _Progress(manifest, tell).of
            for entry in manifest.files:
                self._place(entry, folder, progress_of(entry))
            _write(folder / MANIFEST_FILE, [data])
        return Checkpoint(manifest, self.sha256, folder)

    def delete(self) -> None:
        """Remove it from its server. Raises `CheckpointError` for one in a folder."""
        remote = self._on_server()
        remote.client.delete_checkpoint(remote.session, remote.number)

    # --- inside

    def _read(self, entry: FileEntry) -> dict[str, Tensor]:
        if self.folder is None:
            buffer = io.BytesIO()
            fetch(buffer, entry, self._source(entry), lambda there: None)
            return safetensors.torch.load(buffer.getvalue())
        with _disk_errors(self.folder), safetensors.safe_open(self.folder / entry.name, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def _place(self, entry: FileEntry, folder: Path, say: Callable[[int], None]) -> None:
        """Bring one file into `folder`, unless it is there."""
        path, part = folder / entry.name, folder / f"{entry.name}{_PART}"
        if path.is_file():
            with path.open("rb") as there:
                if is_whole(there, entry):
                    say(entry.bytes)
                    return
            os.replace(path, part)
        with part.open("r+b" if part.exists() else "w+b") as file:
            fetch(file, entry, self._source(entry), say)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)

    def _source(self, entry: FileEntry) -> Source:
        remote = self._on_server()
        return lambda start: remote.client.blob_pieces(remote.session, entry.sha256, start)

    def _on_server(self) -> Remote:
        if self._remote is None:
            raise CheckpointError(f"This checkpoint is not on a server but in {self.folder}.", todo="Use its folder.")
        return self._remote

    def __repr__(self) -> str:
        of = f" of {self.manifest.session}" if self.manifest.session else ""
        where = self.folder if self.folder is not None else "on the server"
        metrics = "".join(f", {name} {value:.4g}" for name, value in self.manifest.metrics.items())
        return (
            f"<Checkpoint {self.name}{of}: version {self.version}{metrics}, {bytes_text(self.manifest.bytes)}, {where}>"
        )


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint in a folder, or of a manifest's file, after a look at every byte of it.

    Raises `CheckpointError` if something is missing or not as the manifest says.
    """
    path = Path(path).expanduser()
    folder = path.parent if path.name == MANIFEST_FILE else path
    with _disk_errors(folder):
        if not (folder / MANIFEST_FILE).is_file():
            raise CheckpointError(
                f"There is no checkpoint in {folder}.",
                f"It has no {MANIFEST_FILE}, which is written last.",
                "Name the folder that a checkpoint was downloaded or saved to; an interrupted download goes on when it "
                "is started again.",
            )
        data = (folder / MANIFEST_FILE).read_bytes()
        manifest = read_manifest(data)
        for entry in manifest.files:
            if not (folder / entry.name).is_file():
                raise CheckpointError(f"The checkpoint in {folder} lacks {entry.name}.", todo="Download it again.")
            with (folder / entry.name).open("rb") as file:
                if not is_whole(file, entry):
                    raise CheckpointError(
                        f"{folder / entry.name} is damaged.",
                        "Its bytes are not those that the checkpoint's manifest names.",
                        "Download it again: only what is wrong is fetched.",
                    )
    return Checkpoint(manifest, hashlib.sha256(data).hexdigest(), folder)


def checkpoint_of(client: Client, session: str, described: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint on a server, from what the server says of it. Raises `CheckpointError` if it cannot be read."""
    if described["problem"]:
        raise CheckpointError(f"The server cannot read checkpoint {described['number']}.", described["problem"])
    manifest = read_manifest(msgspec.json.encode(described["manifest"]))
    return Checkpoint(manifest, described["sha256"], remote=Remote(client, session, described["number"]))


def checkpoints_of(client: Client, session: str) -> list[Checkpoint]:
    """All checkpoints of a session, oldest first; warns of those that cannot be read."""
    found = []
    for described in client.checkpoints(session):
        try:
            found.append(checkpoint_of(client, session, described))
        except CheckpointError as error:
            warnings.warn(str(error), stacklevel=3)
    return found


def export_files(recipe: Recipe, computer: Computer) -> dict[str, bytes]:
    """What the recipe's export() gives, name -> bytes. Raises `RecipeError`, `CheckpointError` for a name."""
    if recipe.export is None:
        return {}
    files = call(recipe.export, "export()", computer.model, computer.data)
    if not isinstance(files, Mapping) or not all(isinstance(content, bytes) for content in files.values()):
        raise RecipeError("The recipe's export() did not return name -> bytes.", todo="Return {'config.json': b'…'}.")
    check_export_names(files)
    return dict(files)


def save_checkpoint(
    folder: str | Path, vector: FlatVector, facts: Manifest, export: Mapping[str, bytes], part_bytes: int = PART_BYTES
) -> Checkpoint:
    """Write the numbers of `vector` and the exported files as a checkpoint into `folder`, made if it is missing.

    facts: the manifest but for files, digests, software and time. Raises `CheckpointError`.
    """
    folder = Path(folder).expanduser()
    files = [*weight_files(vector, part_bytes), *((name, iter((content,))) for name, content in export.items())]
    with _disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST_FILE).unlink(missing_ok=True)
        entries = tuple(_write(folder / name, pieces) for name, pieces in files)
        manifest = msgspec.structs.replace(
            facts,
            files=entries,
            layout_digest=vector.layout.digest,
            view_digest=vector.digest_all(),
            software=f"jupyter_swarm {__version__}",
            created=time.time(),
        )
        for older in set(folder.glob("model*.safetensors*")) - {folder / entry.name for entry in entries}:
            older.unlink()  # of a model in more parts, or fewer
        identity = _write(folder / MANIFEST_FILE, [manifest.encode()])
    return Checkpoint(manifest, identity.sha256, folder)


def _write(path: Path, pieces: Iterable[Buffer]) -> FileEntry:
    """Write a file that is whole once it has its name."""
    part, digest = path.with_name(path.name + _PART), FileHash()
    with part.open("wb") as file:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    return digest.entry(path.name)


def _refuse_other(folder: Path, sha256: str) -> None:
    manifest = folder / MANIFEST_FILE
    if manifest.is_file() and hashlib.sha256(manifest.read_bytes()).hexdigest() != sha256:
        raise CheckpointError(
            f"{folder} has another checkpoint.", "It would be overwritten.", "Name another folder, or remove that one."
        )


def _difference(tensors: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> str:
    for name, target in targets.items():
        if name not in tensors:
            return f"Tensor {name} is only in the model."
        if tensors[name].shape != target.shape:
            shapes = list(tensors[name].shape), list(target.shape)
            return f"Tensor {name} has shape {shapes[0]} in the checkpoint and {shapes[1]} in the model."
    extra = [name for name in tensors if name not in targets]
    return f"Tensor {extra[0]} is only in the checkpoint." if extra else ""


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"The folder {folder} cannot be read or written as it should.",
            f"{error.strerror or error} ({error.filename or folder})",
            "Check the folder, its rights and the space on its disk; a download goes on where it stopped.",
        ) from None


def _line_of(line: Line | None) -> Progress:
    def tell(_: int, __: int, text: str) -> None:
        if line is not None:
            line.show(text)

    return tell


class _Progress:
    """Tells how much of a download is there."""

    def __init__(self, checkpoint: Manifest, tell: Progress) -> None:
        self._checkpoint = checkpoint
        self._tell = tell
        self._before = 0
        self._began: tuple[float, int] | None = None

    def of(self, entry: FileEntry) -> Callable[[int], None]:
        """What is to be told how many bytes of the next file are there."""
        before, self._before = self._before, self._before + entry.bytes
        return lambda there: self._say(before + there)

    def _say(self, there: int) -> None:
        now = time.monotonic()
        if self._began is None:
            self._began = now, there
        seconds = now - self._began[0]
        speed = f", {bytes_text((there - self._began[1]) / seconds)}/s" if seconds > 1 else ""
        total = self._checkpoint.bytes
        share = f"{100 * there // max(total, 1)} %"
        self._tell(
            there, total, f"{self._checkpoint.name}: {bytes_text(there)} of {bytes_text(total)} ({share}{speed})"
        )
