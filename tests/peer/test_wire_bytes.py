"""What the server counts on its peers' sockets is what the strategies and codecs say, and a few messages."""

from __future__ import annotations

import pytest

from jupyter_swarm.peer import api
from jupyter_swarm.peer.recipe import Recipe
from jupyter_swarm.protocol.sizes import encoded_bytes
from jupyter_swarm.shards.memory import packet_bytes
from jupyter_swarm.shards.outgoing import contribution_bytes
from jupyter_swarm.strategies import rules_of

from .conftest import Server

pytestmark = pytest.mark.usefixtures("kernel")

MESSAGES = 6_000
"""Bytes of a round's messages, one way: leases, announcement, grant, commit, heartbeats, at most."""
RECIPE = """
import torch
from torch import nn
from jupyter_swarm import (
    SGD, AdamW, Codec, Data, EveryStep, LocalUpdates, Recipe, SparseLocalUpdates, StreamingLocalUpdates
)

def data():
    return Data(train=(torch.randn(64, 500, generator=torch.Generator().manual_seed(0)),))

def loss(model, batch):
    return model(batch[0]).square().mean()

recipe = Recipe(
    name="wide", model=lambda: nn.Linear(500, 800), data=data, loss=loss, optimizer=AdamW(1e-3), strategy=STRATEGY,
    evaluate_every=0,
)
"""


@pytest.mark.parametrize(
    ("strategy", "least"),
    [
        ("EveryStep(8)", 0.99),
        ("EveryStep(8, up=Codec.INT8, down=Codec.INT8)", 3.8),
        ("LocalUpdates(2, 4, up=Codec.INT4, down=Codec.INT4)", 7.4),
        ("StreamingLocalUpdates(8, 4, fragments=4)", 29.0),
        ("SparseLocalUpdates(2, 4)", 140.0),
    ],
)
def test_bytes_on_the_wire_are_those_of_the_codecs(server: Server, strategy: str, least: float) -> None:
    rounds = 4
    recipe = Recipe.from_source(RECIPE.replace("STRATEGY", strategy))
    session = api.host(recipe, rounds=rounds, server=server.url)
    assert session.wait(60)
    layout = session._computer.layout
    rule, _ = rules_of(recipe.strategy, recipe.optimizer)
    history = session.history().sel(round=slice(2, rounds))  # the first one has what joining takes
    up, down = (int(history[name].sum()) for name in ("bytes_up", "bytes_down"))
    said_up = sum(contribution_bytes(layout, rule, round) for round in range(2, rounds + 1))
    assert said_up <= up <= said_up + MESSAGES * (rounds - 1)
    said_down = packet_bytes(layout, rule) * (rounds - 1) / rule.fragments
    assert 0.99 * said_down <= down <= 1.01 * said_down + MESSAGES * (rounds - 1)
    assert encoded_bytes(1, layout.parameters) / (said_up / (rounds - 1)) >= least
