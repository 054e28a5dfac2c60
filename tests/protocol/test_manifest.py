"""A manifest names files by their hashes, and nothing that could lie outside its folder."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_swarm.protocol import manifest as module
from jupyter_swarm.protocol.errors import CheckpointError
from jupyter_swarm.protocol.manifest import (
    FileEntry,
    FileHash,
    Manifest,
    check_export_names,
    entry_of,
    read_manifest,
)

WEIGHTS = entry_of("model.safetensors", b"numbers")


def manifest(*files: FileEntry, **changes: object) -> Manifest:
    plain = Manifest("round-3", 3, files or (WEIGHTS,), "ab" * 32, "cd" * 32, metrics={"loss": 1.5, "held_out_loss": 2})
    return msgspec.structs.replace(plain, **changes)


def test_it_comes_back_as_it_was() -> None:
    before = manifest(WEIGHTS, entry_of("config.json", b"{}"), parent="ef" * 32)
    assert read_manifest(before.encode()) == before
    assert [entry.name for entry in before.weights] == ["model.safetensors"]
    assert before.bytes == 9


def test_a_field_of_a_later_release_is_passed_over_and_a_later_format_refused() -> None:
    data = msgspec.json.decode(manifest().encode())
    assert read_manifest(msgspec.json.encode({**data, "colour": "blue"})) == manifest()
    with pytest.raises(CheckpointError, match="newer jupyter_swarm"):
        read_manifest(manifest(format=2).encode())


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/passwd",
        "a\\b",
        "",
        "..",
        "c:config.json",
        ".hidden",
        "manifest.json",
        "Manifest.json",
        "trailing.",
        "nul",
        "AUX.json",
        "com1.txt",
        "config.json.part",
        "a\n",
        "x" * 121,
        "\u017f.json",
    ],
)
def test_a_file_that_could_lie_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="no proper entry"):
        read_manifest(manifest(WEIGHTS, entry_of(name, b"x")).encode())


def test_entries_that_cannot_be_checked_are_refused() -> None:
    for wrong in (
        msgspec.structs.replace(WEIGHTS, chunks=()),
        msgspec.structs.replace(WEIGHTS, bytes=-1, chunks=()),
        msgspec.structs.replace(WEIGHTS, sha256="../../x"),
    ):
        with pytest.raises(CheckpointError, match="no proper entry"):
            read_manifest(manifest(wrong).encode())
    with pytest.raises(CheckpointError, match="twice"):
        read_manifest(manifest(WEIGHTS, entry_of("a.json", b""), entry_of("A.json", b"")).encode())
    with pytest.raises(CheckpointError, match="no parameters"):
        read_manifest(manifest(entry_of("a.json", b"")).encode())
    with pytest.raises(CheckpointError, match="not a checkpoint's manifest"):
        read_manifest(b'{"name": "round-3"')


@given(data=st.binary(max_size=70), cuts=st.lists(st.integers(0, 70)))
def test_a_files_entry_does_not_depend_on_how_it_came(data: bytes, cuts: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_BYTES", 16)
        digest = FileHash()
        places = sorted({0, len(data), *(cut for cut in cuts if cut <= len(data))})
        for start, stop in zip(places, [*places[1:], len(data)], strict=True):
            digest.update(data[start:stop])
        entry = digest.entry("x")
        assert (entry.bytes, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        chunks = [data[slice(*entry.span(number))] for number in range(len(entry.chunks))]
        assert b"".join(chunks) == data
        assert entry.chunks == tuple(hashlib.sha256(chunk).hexdigest() for chunk in chunks)


@pytest.mark.parametrize("name", ["manifest.json", "Model.safetensors", "model.safetensors.index.json", "con", "x/y"])
def test_an_exported_file_cannot_take_the_checkpoints_names(name: str) -> None:
    with pytest.raises(CheckpointError, match="cannot have a file"):
        check_export_names([name])
    check_export_names(["config.json", "tokenizer.json", "spiece.model", "merges.txt"])
