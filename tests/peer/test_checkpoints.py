"""Checkpoints from a real server: opened by transformers alone, fetched, found damaged, gone on from, compared."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from jupyter_swarm import compare, open_checkpoint
from jupyter_swarm.peer import api
from jupyter_swarm.peer.checkpoints import Checkpoint, Remote, checkpoints_of
from jupyter_swarm.peer.client import Client
from jupyter_swarm.peer.recipe import Recipe
from jupyter_swarm.protocol.errors import CheckpointError, InviteError, LayoutError, RecipeError
from jupyter_swarm.protocol.manifest import Manifest, entry_of
from jupyter_swarm.shards.layout import layout_of
from jupyter_swarm.shards.vector import FlatVector

from .classroom import PLAIN
from .conftest import Server

pytestmark = pytest.mark.usefixtures("kernel")

NEO = """
import torch
import transformers
from jupyter_swarm import AdamW, Data, EveryStep, Recipe, Windows

CONFIG = dict(
    vocab_size=11, hidden_size=16, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]],
    max_position_embeddings=16, window_size=4, resid_dropout=0.0, embed_dropout=0.0, attention_dropout=0.0,
    bos_token_id=0, eos_token_id=0,
)

def model():
    return transformers.GPTNeoForCausalLM(transformers.GPTNeoConfig(**CONFIG))

def data():
    text = (torch.arange(400) ** 2 % 11).to(torch.uint8)
    return Data(train=Windows(text, 8), held_out=Windows(text[:50], 8), files={"tokenizer.json": b"{}"})

def loss(model, batch):
    logits = model(batch[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

def export(model, data):
    return {"config.json": model.config.to_json_string().encode(), **data.files}

recipe = Recipe(
    name="neo", model=model, data=data, loss=loss, optimizer=AdamW(lr=0.01), strategy=EveryStep(target_batch=12),
    export=export, rounds=4, evaluate_every=2, seed=3,
)
"""

READ = """
import json, sys
import torch
from transformers import GPTNeoForCausalLM
model, found = GPTNeoForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)
assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), found
assert "jupyter_swarm" not in sys.modules
with torch.no_grad():
    print(json.dumps(model.eval()(torch.arange(8)[None]).logits.tolist()))
"""


@pytest.fixture(scope="module")
def trained(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[api.Session]:
    """A session that has ended, with checkpoints of versions 3 and 4."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        session = api.host(Recipe.from_source(NEO), "neo", checkpoint_rounds=3, server=server.url)
        assert session.wait(60)
        wait_for(session, 2)
        yield session
        session.leave()


def wait_for(session: api.Session, count: int) -> list[Checkpoint]:
    """The checkpoints once there are so many: those that nobody asked for come when they are written."""
    for _ in range(600):
        found = session.checkpoints()
        if len(found) >= count:
            return found
        session._record.wait_for(lambda status: False, 0.05)
    raise AssertionError(found)


def logits_by_transformers(folder: Path) -> torch.Tensor:
    done = subprocess.run([sys.executable, "-c", READ, str(folder)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return torch.tensor(json.loads(done.stdout))


def test_it_opens_with_plain_transformers_and_computes_the_same(trained: api.Session, tmp_path: Path) -> None:
    early, final = trained.checkpoints()
    assert [(one.name, one.version) for one in (early, final)] == [("round-3", 3), ("final", 4)]
    local = final.download(tmp_path / "final", progress=False)
    assert {path.name for path in (tmp_path / "final").iterdir()} == {
        "manifest.json", "model.safetensors", "config.json", "tokenizer.json",
    }  # fmt: skip
    with torch.no_grad():
        expected = trained.model.eval()(torch.arange(8)[None]).logits
    assert torch.allclose(logits_by_transformers(tmp_path / "final"), expected, atol=1e-5, rtol=0)
    found = open_checkpoint(tmp_path / "final" / "manifest.json")
    assert (found.sha256, found.manifest) == (final.sha256, local.manifest)
    assert found.manifest.view_digest == trained.digest()
    assert found.manifest.recipe == trained.recipe.sha256
    assert found.manifest.data
    assert found.manifest.samples == 48
    rows = trained._client.metrics(trained.id)
    measured = {row["name"]: row["mean"] for row in rows if row["version"] == 4 and not row["member"]}
    assert found.metrics == pytest.approx(measured)
    assert found.metrics.keys() >= {"loss", "held_out_loss"}


def test_a_download_shows_how_far_it_is(
    trained: api.Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained.checkpoints()[0].download(tmp_path)
    assert "round-3: " in capsys.readouterr().out


def test_an_interrupted_download_goes_on_and_fetches_only_the_rest(
    trained: api.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = trained.checkpoints()[0]
    (weights,) = checkpoint.manifest.weights
    pieces_of, fetched = Client.blob_pieces, {"bytes": 0}
    stops_after = 5000

    @contextlib.contextmanager
    def counted(client: Client, session: str, sha256: str, start: int = 0) -> Iterator[Iterator[bytes]]:
        def count(pieces: Iterator[bytes]) -> Iterator[bytes]:
            for piece in pieces:
                for first in range(0, len(piece), 1000):
                    if sha256 == weights.sha256 and fetched["bytes"] >= stops_after:
                        raise KeyboardInterrupt
                    part = piece[first : first + 1000]
                    fetched["bytes"] += len(part) if sha256 == weights.sha256 else 0
                    yield part

        with pieces_of(client, session, sha256, start) as pieces:
            yield count(pieces)

    monkeypatch.setattr(Client, "blob_pieces", counted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.download(tmp_path, progress=False)
    assert (tmp_path / "model.safetensors.part").stat().st_size == 5000
    with pytest.raises(CheckpointError, match="There is no checkpoint in"):
        open_checkpoint(tmp_path)
    fetched["bytes"], stops_after = 0, weights.bytes
    checkpoint.download(tmp_path, progress=False)
    assert fetched["bytes"] == weights.bytes - 5000
    fetched["bytes"], stops_after = 0, 0
    checkpoint.download(tmp_path, progress=False)
    assert open_checkpoint(tmp_path).sha256 == checkpoint.sha256
    assert [path.name for path in tmp_path.glob("*.part")] == []


def test_a_changed_byte_is_found_and_mended(trained: api.Session, tmp_path: Path) -> None:
    checkpoint = trained.checkpoints()[0]
    checkpoint.download(tmp_path, progress=False)
    weights = tmp_path / "model.safetensors"
    right = weights.read_bytes()
    weights.write_bytes(right[:-100] + bytes([right[-100] ^ 1]) + right[-99:])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged") as damaged:
        open_checkpoint(tmp_path)
    assert "Download it again" in damaged.value.todo
    checkpoint.download(tmp_path, progress=False)
    assert weights.read_bytes() == right
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks config\.json"):
        open_checkpoint(tmp_path)


def test_what_the_servers_disk_has_spoilt_is_never_taken_for_right(own_server: Server, tmp_path: Path) -> None:
    session = api.host(Recipe.from_source(PLAIN), rounds=2, train=False, server=own_server.url)
    checkpoint = session.checkpoint("spoilt")
    (weights,) = checkpoint.manifest.weights
    (blob,) = own_server.folder.rglob(weights.sha256)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(CheckpointError, match="does not arrive as its manifest says"):
        checkpoint.download(tmp_path / "there", progress=False)
    with pytest.raises(CheckpointError, match="does not arrive as its manifest says"):
        checkpoint.tensors()
    assert not (tmp_path / "there" / "manifest.json").exists()


class Hostile(Client):
    """Tells of a checkpoint with a file that would lie elsewhere than the others."""

    manifest = Manifest("outside", 1, (entry_of("model.safetensors", b""), entry_of("../outside", b"x")), "", "")

    def checkpoints(self, session: str) -> list[dict[str, Any]]:
        manifest = msgspec.to_builtins(self.manifest)
        return [{"number": 1, "sha256": "0" * 64, "manifest": manifest, "problem": ""}]

    def blob(self, session: str, sha256: str) -> bytes:
        return self.manifest.encode()

    @contextlib.contextmanager
    def blob_pieces(self, session: str, sha256: str, start: int = 0) -> Iterator[Iterator[bytes]]:
        yield iter([b"x"])


def test_a_server_cannot_write_elsewhere_than_into_the_folder(tmp_path: Path) -> None:
    client = Hostile("http://127.0.0.1:9", {})
    with pytest.warns(UserWarning, match="no proper entry for a file '../outside'"):
        assert checkpoints_of(client, "toy-1") == []
    honest = msgspec.structs.replace(client.manifest, files=client.manifest.files[:1])
    with pytest.raises(CheckpointError, match="no proper entry"):
        Checkpoint(honest, "0" * 64, remote=Remote(client, "toy-1", 1)).download(tmp_path / "there", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_another_checkpoint_is_not_overwritten(trained: api.Session, tmp_path: Path) -> None:
    first, second = trained.checkpoints()
    first.download(tmp_path, progress=False)
    with pytest.raises(CheckpointError, match="has another checkpoint"):
        second.download(tmp_path, progress=False)
    assert open_checkpoint(tmp_path).sha256 == first.sha256


def test_a_session_goes_on_from_a_checkpoint(server: Server, trained: api.Session, tmp_path: Path) -> None:
    checkpoint = trained.checkpoints()[0]
    folder = checkpoint.download(tmp_path, progress=False).folder
    went_on = api.host(trained.recipe, "on", rounds=1, start=folder, minimum_peers=2, server=server.url)
    assert went_on._record.wait_for(lambda status: status.state == "waiting", 60)
    for _ in range(600):
        if went_on.digest() == checkpoint.manifest.view_digest:
            break
        went_on._record.wait_for(lambda status: False, 0.05)
    assert went_on.digest() == checkpoint.manifest.view_digest
    kept = went_on.checkpoint("first")
    assert kept.manifest.view_digest == checkpoint.manifest.view_digest
    assert kept.manifest.parent == checkpoint.sha256
    assert (kept.version, kept.manifest.recipe) == (0, checkpoint.manifest.recipe)
    went_on.leave()


def test_a_checkpoint_of_another_model_is_refused_before_anything_is_changed(
    server: Server, trained: api.Session
) -> None:
    checkpoint = trained.checkpoints()[0]
    with pytest.raises(LayoutError, match="of another model") as refused:
        api.host(Recipe.from_source(PLAIN), start=checkpoint, server=server.url)
    assert "only in the model" in refused.value.why
    wider = Recipe.from_source(NEO.replace("vocab_size=11", "vocab_size=12")).build()
    before = {name: tensor.clone() for name, tensor in wider.state_dict().items()}
    with pytest.raises(LayoutError, match="of another model") as refused:
        checkpoint.load(wider)
    assert refused.value.why == (
        "Tensor transformer.wte.weight has shape [11, 16] in the checkpoint and [12, 16] in the model."
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in wider.state_dict().items())


def test_load_gives_the_numbers_to_a_model(trained: api.Session) -> None:
    checkpoint = trained.checkpoints()[-1]
    model = trained.recipe.build()
    checkpoint.load(model)
    assert FlatVector.of(layout_of(model), model).digest_all() == checkpoint.manifest.view_digest
    assert model.lm_head.weight is model.transformer.wte.weight


def test_owner_and_instructor_keep_and_delete_and_peers_look(server: Server, tmp_path: Path) -> None:
    hosted = api.host(Recipe.from_source(PLAIN), rounds=2, train=False, server=server.url)
    made = hosted.checkpoint("by the owner")
    member = Client.of_member(hosted.invite())
    guest = api.Session(hosted.id, hosted.recipe, member, hosted._computer, hosted._record, None)
    assert [one.sha256 for one in guest.checkpoints()] == [made.sha256]
    guest.checkpoints()[0].download(tmp_path, progress=False)
    with pytest.raises(InviteError):
        guest.checkpoint("by a peer")
    with pytest.raises(InviteError):
        guest.checkpoints()[0].delete()
    made.delete()
    assert hosted.checkpoints() == []


def test_a_server_killed_while_it_writes_has_nothing_half(own_server: Server, tmp_path: Path) -> None:
    session = api.host(Recipe.from_source(PLAIN), rounds=2, train=False, server=own_server.url)
    kept = session.checkpoint("kept")
    own_server.kill()
    (blobs,) = own_server.folder.rglob("blobs")
    (blobs / "new.abc.tmp").write_bytes(b"half")
    own_server.start()
    assert [one.sha256 for one in session.checkpoints()] == [kept.sha256]
    assert list(blobs.glob("*.tmp")) == []
    kept.download(tmp_path / "there", progress=False)
    assert open_checkpoint(tmp_path / "there").sha256 == kept.sha256


def test_a_server_that_died_before_the_last_checkpoint_writes_it_when_it_starts(own_server: Server) -> None:
    session = api.host(Recipe.from_source(PLAIN), rounds=2, server=own_server.url)
    assert session.wait(60)
    (final,) = wait_for(session, 1)
    session.leave()
    own_server.stop()
    (file,) = own_server.folder.rglob("swarm.sqlite")
    with contextlib.closing(sqlite3.connect(file)) as record:
        record.execute("UPDATE sessions SET state = 'running', ended = NULL")
        record.execute("DELETE FROM checkpoints")
        record.commit()
    own_server.start()
    (again,) = wait_for(session, 1)
    assert (again.name, again.version) == ("final", 2)
    assert again.manifest.files == final.manifest.files
    assert again.manifest.view_digest == final.manifest.view_digest


def test_who_trained_alone_saves_the_same_kind_of_checkpoint(server: Server, tmp_path: Path) -> None:
    training = api.train(Recipe.from_source(NEO), rounds=2)
    saved = training.save(tmp_path / "alone")
    assert open_checkpoint(tmp_path / "alone").sha256 == saved.sha256
    assert (saved.version, saved.manifest.samples, saved.manifest.session) == (2, 24, "")
    assert saved.metrics["loss"] == training.entries[-1]["loss"]
    with torch.no_grad():
        expected = training.model.eval()(torch.arange(8)[None]).logits
    assert torch.allclose(logits_by_transformers(tmp_path / "alone"), expected, atol=1e-5, rtol=0)
    hosted = api.host(training.recipe, rounds=1, train=False, start=saved, server=server.url)
    kept = hosted.checkpoint()
    assert (kept.manifest.parent, kept.manifest.view_digest) == (saved.sha256, saved.manifest.view_digest)
    training.run(1)
    again = training.save(tmp_path / "alone")
    assert open_checkpoint(tmp_path / "alone").version == again.version == 3
    assert compare(again, kept).total > 0


@pytest.mark.parametrize("result", ["{'config.json': 'text'}", "{'../config.json': b''}", "[b'config']", "1 / 0"])
def test_what_export_may_not_return_is_refused_before_a_session_is_opened(server: Server, result: str) -> None:
    text = PLAIN.replace("recipe = Recipe(", f"recipe = Recipe(export=lambda model, data: {result}, ")
    with pytest.raises((RecipeError, CheckpointError)):
        api.host(Recipe.from_source(text), rounds=1, train=False, server=server.url)
