"""Models that nobody here wrote, trained by two processes over real sockets: afterwards their numbers are the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_swarm.peer import api
from jupyter_swarm.peer.recipe import Recipe
from jupyter_swarm.protocol.layout import Stream

from .conftest import Server

pytestmark = pytest.mark.usefixtures("kernel")

ROUNDS = 3

IMAGES = """
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from jupyter_swarm import AdamW, Data, EveryStep, LocalUpdates, Recipe

class Images(Dataset):
    '''Each is drawn when it is asked for.'''

    def __len__(self):
        return 60

    def __getitem__(self, index):
        noise = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(index))
        return {"image": noise + index % 3, "label": index % 3}
"""
RESNET = """
from transformers import ResNetConfig, ResNetForImageClassification

def data():
    samples = [Images()[index] for index in range(60)]
    images, labels = (torch.stack([torch.as_tensor(one[name]) for one in samples]) for name in ("image", "label"))
    return Data(train=(images[:48], labels[:48]), held_out=(images[48:], labels[48:]))

def model():
    config = ResNetConfig(num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic",
                          num_labels=3)
    return ResNetForImageClassification(config)

def loss(model, batch):
    return model(batch[0], labels=batch[1]).loss
"""
LOADER = """
def batch_of(samples):
    return torch.stack([one["image"].flatten() for one in samples]), torch.tensor([one["label"] for one in samples])

def data():
    images = Images()
    return Data(
        train=DataLoader(images, batch_size=16, shuffle=True, num_workers=2, collate_fn=batch_of),
        held_out=DataLoader(images, num_workers=1, collate_fn=batch_of),
    )

def model():
    return torch.nn.Linear(256, 3)

def loss(model, batch):
    return cross_entropy(model(batch[0]), batch[1])
"""
TEXT = """
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from jupyter_swarm import AdamW, Data, EveryStep, LocalUpdates, Recipe, Windows

def data():
    letters = torch.randint(0, 20, (900,), generator=torch.Generator().manual_seed(1)).sort().values
    return Data(train=Windows(letters[:700], 12), held_out=Windows(letters[700:], 12))

def loss(model, batch):
    return cross_entropy(predict(model, batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
"""
GPT2 = """
from transformers import GPT2Config, GPT2LMHeadModel

def model():
    return GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=12, n_embd=16, n_layer=1, n_head=2,
                                      bos_token_id=None, eos_token_id=None))

def predict(model, tokens):
    return model(input_ids=tokens, use_cache=False).logits
"""
LSTM = """
class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.cells = nn.LSTM(8, 16, num_layers=2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, 20)

    def forward(self, tokens):
        return self.head(self.cells(self.embedding(tokens))[0])

model = Reader

def predict(model, tokens):
    return model(tokens)
"""
COMPILED = """
def model():
    layers = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 20))
    return torch.compile(layers, backend="aot_eager", dynamic=True)

def predict(model, tokens):
    return model(tokens)
"""
RECIPE = """
recipe = Recipe(
    name="others", model=model, data=data, loss=loss, optimizer=AdamW(lr=0.01), strategy=STRATEGY, micro_batch=6,
    evaluate_every=2,
)
"""
MODELS = {
    "resnet": IMAGES + RESNET,
    "loader": IMAGES + LOADER,
    "gpt2": TEXT + GPT2,
    "lstm": TEXT + LSTM,
    "compiled": TEXT + COMPILED,
}
STRATEGIES = {"together": "EveryStep(target_batch=24)", "apart": "LocalUpdates(steps=3, batch=8)"}

# Another kernel, which joins one session after the other.
PEER = """
import sys
import torch, transformers
from jupyter_swarm import join
for line in sys.stdin:
    link, agreed = line.split()
    try:
        session = join(link, "bob", agree=agreed)
        session.wait(100)
        print("result", session.status().version, session.digest(), flush=True)
        session.leave()
    except Exception as error:
        print("result", type(error).__name__, str(error).replace(chr(10), " "), flush=True)
"""


class Peer:
    """A kernel in a process of its own."""

    def __init__(self, runtime: Path) -> None:
        environment = {**os.environ, "JUPYTER_RUNTIME_DIR": str(runtime)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PEER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def join(self, link: str, agreed: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{link} {agreed}\n")
        self.process.stdin.flush()

    def result(self) -> list[str]:
        """Version and digest when the session is over, or what went wrong."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            word, *rest = line.split()
            if word == "result":
                return rest
        return ["the process ended"]


@pytest.fixture(scope="module")
def bob(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    peer = Peer(tmp_path_factory.mktemp("bob"))
    yield peer
    with peer.process:
        assert peer.process.stdin is not None
        peer.process.stdin.close()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # where there is one processor
def test_two_peers_end_with_the_same_numbers(server: Server, bob: Peer, model: str, strategy: str) -> None:
    text = MODELS[model] + RECIPE.replace("STRATEGY", STRATEGIES[strategy])
    session = api.host(Recipe.from_source(text), rounds=ROUNDS, minimum_peers=2, server=server.url)
    begun = session.recipe.build()
    bob.join(session.invite().link, session.recipe.sha256)
    assert session.wait(100), session.status()
    assert bob.result() == [str(ROUNDS), session.digest()]
    history = session.history().sel(round=slice(1, None))
    assert history.contributions.values.max() == 2
    assert bool(history.loss.notnull().all())
    assert int(history.held_out_loss.notnull().sum()) >= 1
    layout = session._computer.layout
    names = {stream: [one.name for one in layout.tensors if one.stream == stream] for stream in Stream}
    first, last = begun.state_dict(), session.model.state_dict()
    assert all(not first[name].equal(last[name]) for name in names[Stream.PARAMETERS])
    assert bool(names[Stream.BUFFER]) == (model == "resnet")
    assert all(not first[name].equal(last[name]) for name in (*names[Stream.BUFFER], *names[Stream.COUNTER]))
