"""Founding a session: what the kernel that opens it brings to the server."""

from __future__ import annotations

import msgspec
import safetensors.torch

from ..protocol.checks import check_spec
from ..protocol.rules import SessionSettings, SessionSpec
from ..shards.vector import FlatVector
from ..strategies import rules_of
from .checkpoints import Checkpoint, export_files
from .client import Client
from .compute import Computer
from .published import publish
from .recipe import Recipe


def open_session(
    client: Client, recipe: Recipe, name: str, settings: SessionSettings, computer: Computer, start: Checkpoint | None
) -> str:
    """Open a session that begins as `start`, or as the recipe's model does; returns its id.

    Raises `SettingError`, `RecipeError`, `LayoutError` if `start` is of another model, `CheckpointError`.
    """
    rule, changes = rules_of(recipe.strategy, recipe.optimizer, recipe.predictions)
    spec = SessionSpec(
        name=name,
        recipe=recipe.sha256,
        layout_digest=computer.layout.digest,
        rule=rule,
        changes=changes,
        settings=settings,
        samples=computer.samples[0],
        held_out=computer.samples[1],
        initial="",
        parent=start.sha256 if start else "",
    )
    check_spec(spec)
    if start:
        start.load(computer.model)
    files = export_files(recipe, computer)
    client.put_blob(recipe.source.encode())
    first = safetensors.torch.save(FlatVector.of(computer.layout, computer.model).tensors())
    spec = msgspec.structs.replace(
        spec,
        initial=client.put_blob(first),
        data=publish(client, computer.data),
        export=tuple((file, client.put_blob(content)) for file, content in files.items()),
    )
    return client.open(spec, computer.layout)
