"""What a peer gets and checks before it trains: the founder's data, its consent, a trial; over a real server."""

from __future__ import annotations

import builtins
import re
from pathlib import Path

import pytest
import torch

from jupyter_swarm.peer import api
from jupyter_swarm.peer.client import Client
from jupyter_swarm.peer.recipe import Data, Recipe
from jupyter_swarm.protocol.errors import RecipeError, SwarmError

from .classroom import PLAIN
from .conftest import Server

pytestmark = pytest.mark.usefixtures("kernel")

LONG = 10**6

WINDOWS = """
import torch
from torch import nn
from jupyter_swarm import AdamW, Data, EveryStep, Recipe, Windows

def data():
    tokens = torch.randint(0, 9, (700,), generator=torch.Generator().manual_seed(OFFSET))
    return Data(train=Windows(tokens[:600], 8), held_out=Windows(tokens[600:], 8), files={"alphabet": b"012345678"})

def model():
    return nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))

def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

recipe = Recipe(
    name="text", model=model, data=data, loss=loss, optimizer=AdamW(lr=0.01), strategy=EveryStep(target_batch=8),
    micro_batch=4, rounds=4, predictions=8,
)
"""
# Each call of data() gives something else, as a file would that differs from machine to machine.
DIFFERENT = WINDOWS.replace("OFFSET", "len(calls)").replace(
    "def data():", "calls = []\ndef data():\n    calls.append(1)"
)


def hosted(server: Server, text: str, **options: object) -> api.Session:
    return api.host(Recipe.from_source(text), rounds=LONG, train=False, server=server.url, **options)  # type: ignore[arg-type]


def test_peers_train_on_the_founders_bytes(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = hosted(server, DIFFERENT)
    spec = Client.of_owner(server.url).spec(host.id)
    assert len(spec.data) == 64
    joined = api.join(host.invite().link, agree=host.recipe.sha256)
    theirs, ours = joined._computer.data, host._computer.data
    assert torch.equal(theirs.train.tokens, ours.train.tokens)
    assert torch.equal(theirs.held_out.tokens, ours.held_out.tokens)
    assert theirs.files == {"alphabet": b"012345678"}
    again = joined.recipe.load_data()
    assert torch.equal(again.train.tokens, ours.train.tokens), "data() had not run before in the joining kernel"
    assert joined._record.wait_for(lambda status: status.version >= 2, 60)
    assert "Preflight of text on cpu" in capsys.readouterr().out
    assert list((tmp_path / "runtime" / "jupyter_swarm" / "data").iterdir())


def test_data_that_is_not_shared_is_loaded_by_each(server: Server) -> None:
    host = hosted(server, PLAIN.replace("held_out=(x[30:], y[30:])", "held_out=(x[30:], y[30:]), share=False"))
    assert Client.of_owner(server.url).spec(host.id).data == ""
    joined = api.join(host.invite().link, agree=host.recipe.sha256)
    assert joined._record.wait_for(lambda status: status.version >= 2, 60)


def test_whoever_is_asked_sees_what_data_comes(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = hosted(server, DIFFERENT)
    capsys.readouterr()
    monkeypatch.setattr(builtins, "input", lambda prompt: "no")
    with pytest.raises(RecipeError, match="not agreed"):
        api.join(host.invite().link)
    shown = capsys.readouterr().out
    assert re.search(r"^data: 74 samples, \d\.\d kB from the server$", shown, re.MULTILINE)
    assert "strategy: EveryStep" in shown
    with pytest.raises(RecipeError, match="not agreed"):
        api.join(host.invite().link, data=host._computer.data)
    assert "your own data: 74 samples, which stay" in capsys.readouterr().out


def test_a_recipe_that_has_changed_since_is_asked_about_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    questions: list[str] = []
    monkeypatch.setattr(builtins, "input", lambda prompt: questions.append(prompt) or "yes")
    first = hosted(server, PLAIN)
    api.join(first.invite().link).leave()
    changed = hosted(server, PLAIN.replace("lr=0.01", "lr=0.02"))
    with pytest.raises(RecipeError, match="nothing has run"):
        api.join(changed.invite().link, agree=first.recipe.sha256)
    assert len(questions) == 1
    api.join(changed.invite().link).leave()
    assert len(questions) == 2


def test_a_recipe_that_fails_is_not_hosted(server: Server) -> None:
    before = len(Client.of_owner(server.url)._ask("GET", "sessions")["sessions"])
    broken = PLAIN.replace("x, y = batch", "x, y = batch; 1 / 0", 1)
    with pytest.raises(RecipeError, match="ZeroDivisionError"):
        hosted(server, broken)
    assert len(Client.of_owner(server.url)._ask("GET", "sessions")["sessions"]) == before


def test_a_host_that_does_not_train_need_not_be_what_the_recipe_needs(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    text = PLAIN.replace("seed=3", "seed=3, device='cuda'")
    host = hosted(server, text)
    assert "not tried out" in capsys.readouterr().out
    with pytest.raises(RecipeError, match="Runtime → Change runtime type"):
        api.join(host.invite().link, agree=host.recipe.sha256)
    with pytest.raises(RecipeError, match="needs a GPU"):
        api.host(Recipe.from_source(text), server=server.url)
    joined = api.join(host.invite().link, agree=host.recipe.sha256, device="cpu", preflight=False)
    assert joined._record.wait_for(lambda status: status.version >= 1, 60)


def test_own_data_of_another_shape_is_said_before_joining(server: Server) -> None:
    host = hosted(server, PLAIN, own_samples=10)
    other = torch.zeros(20, 5), torch.zeros(20, dtype=torch.int64)
    with pytest.raises(RecipeError, match="mat1 and mat2"):
        api.join(host.invite().link, agree=host.recipe.sha256, data=other)


LOCAL = PLAIN.replace("EveryStep(target_batch=12)", "LocalUpdates(steps=3, batch=4)").replace(
    "import AdamW", "import LocalUpdates, AdamW"
)


def test_own_data_counts_as_the_instructor_says_and_stays(server: Server) -> None:
    host = hosted(server, LOCAL, own_samples=8)
    mine = torch.randn(20, 6), torch.zeros(20, dtype=torch.int64)
    joined = api.join(host.invite().link, agree=host.recipe.sha256, data=Data(train=mine))
    assert joined._record.wait_for(lambda status: status.version >= 3, 60)
    records = Client.of_owner(server.url).records(host.id)
    parts = [part for record in records for part in record["contributors"]]
    assert parts
    assert all(0 < part["own"] <= 8 for part in parts)


def test_own_data_that_the_instructor_has_not_admitted(server: Server) -> None:
    host = hosted(server, LOCAL)
    mine = torch.randn(20, 6), torch.zeros(20, dtype=torch.int64)
    with pytest.raises(SwarmError, match="own"):
        api.join(host.invite().link, agree=host.recipe.sha256, data=mine)


def test_data_beyond_the_servers_limit_says_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    (folder / "CONFIG").mkdir(parents=True)
    (folder / "CONFIG" / "jupyter_server_config.json").write_text('{"SwarmExtension": {"max_blob_bytes": 50000}}')
    small = Server(folder)
    small.start()
    try:
        large = PLAIN.replace("x[:30], y[:30]", "x[:30].repeat(50000, 1), y[:30].repeat(50000)")
        with pytest.raises(RecipeError, match=r"takes? .*48\.0 MB(.|\n)*50000 bytes(.|\n)*share=False"):
            hosted(small, large)
    finally:
        small.stop()
