"""A session's data as a blob: packed, fetched, kept."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from jupyter_swarm.peer import published
from jupyter_swarm.peer.client import Client
from jupyter_swarm.peer.data import Samples
from jupyter_swarm.peer.published import fetch, pack, publish, unpack
from jupyter_swarm.peer.recipe import Data
from jupyter_swarm.peer.windows import Windows
from jupyter_swarm.protocol.errors import LinkError, RecipeError, Refusal


def text() -> Data:
    tokens = torch.arange(1000, dtype=torch.int16)
    return Data(
        train=Windows(tokens[:800], 16),
        held_out=Windows(tokens[800:], 16, stride=4),
        files={"tokenizer.json": b"{}", "empty": b""},
    )


def images() -> Data:
    x, y = torch.randn(50, 3, 4, generator=torch.Generator().manual_seed(1)), torch.arange(50)
    return Data(train=(x[:40], y[:40]), held_out=(x[40:], y[40:]))


def written(data: Data, folder: Path) -> Path:
    blob = pack(data)
    assert blob is not None
    (folder / "blob").write_bytes(blob)
    return folder / "blob"


@pytest.mark.parametrize("data", [text(), images(), Data(train=images().train)], ids=["windows", "tensors", "no test"])
def test_what_is_unpacked_is_what_was_packed(data: Data, tmp_path: Path) -> None:
    again = unpack(written(data, tmp_path))
    assert again.files == data.files
    for part in ("train", "held_out"):
        ours, theirs = Samples(getattr(data, part)), Samples(getattr(again, part))
        assert len(ours) == len(theirs)
        if len(ours):
            picked = torch.randperm(len(ours))
            for one, other in zip(ours.batch(picked), theirs.batch(picked), strict=True):
                assert torch.equal(one, other)
                assert one.dtype == other.dtype


def test_the_same_data_makes_the_same_bytes_and_other_data_does_not() -> None:
    assert pack(text()) == pack(text())
    tokens = text().train.tokens.clone()
    tokens[5] += 1
    assert pack(Data(train=Windows(tokens, 16))) != pack(Data(train=Windows(text().train.tokens, 16)))


def test_a_slice_takes_its_own_size_only() -> None:
    blob = pack(Data(train=(torch.zeros(1 << 20)[:10],)))
    assert blob is not None
    assert len(blob) < 1000


class Squares(Dataset[int]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> int:
        return index * index


@pytest.mark.parametrize(
    "data",
    [
        Data(train=Squares()),
        Data(train=images().train, held_out=Squares()),
        Data(train=images().train, share=False),
        Data(train=(torch.eye(4).to_sparse(),)),
    ],
    ids=["dataset", "dataset held out", "not shared", "sparse"],
)
def test_what_only_its_own_code_can_read_stays_with_each_peer(data: Data) -> None:
    assert pack(data) is None


def test_a_tensor_dataset_is_tensors(tmp_path: Path) -> None:
    again = unpack(written(Data(train=TensorDataset(*images().train)), tmp_path))
    assert torch.equal(again.train[0], images().train[0])


def test_files_are_bytes() -> None:
    with pytest.raises(RecipeError, match="vocabulary"):
        pack(Data(train=images().train, files={"vocabulary": "text"}))  # type: ignore[dict-item]


@pytest.mark.parametrize("content", [b"", b"not a blob", b"\x08\0\0\0\0\0\0\0{}      "])
def test_what_is_no_blob_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(content)
    with pytest.raises(RecipeError, match="cannot be read"):
        unpack(tmp_path / "blob")


class Server(Client):
    """Has one blob; breaks a download off after `length` bytes, `breaks` times."""

    def __init__(self, blob: bytes, breaks: int = 0, length: int = 100) -> None:
        super().__init__("http://nowhere", {})
        self.blob_bytes = blob
        self.breaks = breaks
        self.length = length
        self.starts: list[int] = []

    def blob_size(self, session: str, sha256: str) -> int:
        return len(self.blob_bytes)

    @contextmanager
    def blob_pieces(self, session: str, sha256: str, start: int = 0) -> Iterator[Iterator[bytes]]:
        self.starts.append(start)
        stop = start + self.length if len(self.starts) <= self.breaks else len(self.blob_bytes)
        yield iter([self.blob_bytes[start:stop]])
        if stop < len(self.blob_bytes):
            raise LinkError("gone")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "jupyter_swarm" / "data"


def blob_and_hash() -> tuple[bytes, str]:
    blob = pack(text())
    assert blob is not None
    return blob, hashlib.sha256(blob).hexdigest()


def test_data_is_fetched_once_and_then_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "_LARGE_BYTES", 1000)
    blob, sha256 = blob_and_hash()
    server, said = Server(blob), list[str]()
    for _ in range(2):
        assert torch.equal(fetch(server, "s-1", sha256, said.append).train.tokens, text().train.tokens)
    assert server.starts == [0]
    assert said
    assert "kB" in said[-1]
    assert len(list(folder.iterdir())) == 1


def test_a_download_goes_on_where_it_broke_off_and_gives_up_in_the_end(folder: Path) -> None:
    blob, sha256 = blob_and_hash()
    server = Server(blob, breaks=2)
    fetch(server, "s-1", sha256)
    assert server.starts == [0, 100, 200]
    (next(folder.iterdir())).unlink()
    with pytest.raises(LinkError):
        fetch(Server(blob, breaks=3), "s-1", sha256)
    assert list(folder.iterdir()) == []


def test_other_bytes_than_the_session_names_are_refused(folder: Path) -> None:
    blob, sha256 = blob_and_hash()
    with pytest.raises(LinkError, match="not what the session names"):
        fetch(Server(blob[:-1] + b"\xff"), "s-1", sha256)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("pieces", [[], itertools.repeat(bytes(100))], ids=["nothing", "without end"])
def test_a_server_that_does_not_send_what_it_announced_is_not_listened_to_for_ever(
    folder: Path, pieces: Iterable[bytes]
) -> None:
    class Wrong(Server):
        @contextmanager
        def blob_pieces(self, session: str, sha256: str, start: int = 0) -> Iterator[Iterator[bytes]]:
            yield iter(pieces)

    blob, sha256 = blob_and_hash()
    with pytest.raises(LinkError, match="not what the session names"):
        fetch(Wrong(blob), "s-1", sha256)
    assert list(folder.iterdir()) == []


def test_a_kept_file_that_was_damaged_is_fetched_again(folder: Path) -> None:
    blob, sha256 = blob_and_hash()
    fetch(Server(blob), "s-1", sha256)
    (folder / f"{sha256}.safetensors").write_bytes(b"damaged")
    server = Server(blob)
    fetch(server, "s-1", sha256)
    assert server.starts == [0]


def test_data_that_nobody_has_used_for_long_goes(folder: Path) -> None:
    blob, sha256 = blob_and_hash()
    fetch(Server(blob), "s-1", sha256)
    old = folder / f"{'0' * 64}.safetensors"
    old.write_bytes(b"old")
    os.utime(old, (time.time() - 40 * 86400,) * 2)
    fetch(Server(blob), "s-1", sha256)
    assert [path.name for path in folder.iterdir()] == [f"{sha256}.safetensors"]


def test_a_disk_that_is_too_small_is_said_before_the_download(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blob, sha256 = blob_and_hash()
    monkeypatch.setattr(published.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    server = Server(blob)
    with pytest.raises(RecipeError, match="10 bytes left"):
        fetch(server, "s-1", sha256)
    assert server.starts == []


def test_data_that_the_server_does_not_take_says_what_to_do() -> None:
    class Small(Server):
        def put_blob(self, content: bytes) -> str:
            raise Refusal("The request is larger than 3 bytes.", "too much")

    with pytest.raises(RecipeError, match="share=False"):
        publish(Small(b""), text())
    assert publish(Small(b""), Data(train=Squares())) == ""
