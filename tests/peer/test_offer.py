"""What somebody sees of a session who has not joined it."""

from __future__ import annotations

import pytest

from jupyter_swarm.peer import api
from jupyter_swarm.peer.offer import Offer, look
from jupyter_swarm.peer.recipe import Recipe
from jupyter_swarm.protocol.rules import SGD
from jupyter_swarm.strategies import EveryStep

from .classroom import PLAIN
from .conftest import Server


def offer(source: str, data_bytes: int = 0) -> Offer:
    return Offer("toy-1", "toy", source, 12_000, 5_000_000, data_bytes, EveryStep(8).rule(SGD(0.1)))


def test_the_facts_are_in_words() -> None:
    facts = dict(offer("x = 1\n", 3_000).facts())
    assert facts["data"] == "12,000 samples, 3.0 kB from the server"
    assert facts["to be fetched"] == "5.0 MB of parameters"
    assert facts["strategy"] == "EveryStep"
    assert facts["on this machine"] == "all that it imports is installed"
    assert dict(offer("x = 1\n").facts())["data"] == "12,000 samples, loaded by the recipe here"


@pytest.mark.parametrize(
    ("source", "says"),
    [("import surely_not_there\n", "pip install surely_not_there"), ("x = (\n", "syntax error in line 1")],
)
def test_what_stands_in_the_way_is_said_before_anybody_agrees(source: str, says: str) -> None:
    assert says in dict(offer(source).facts())["on this machine"]


def test_an_invite_is_looked_at_and_nothing_is_joined(server: Server, kernel: None) -> None:
    hosted = api.host(Recipe.from_source(PLAIN), "CS 101", train=False, server=server.url)
    seen = look(hosted.invite().link)
    assert (seen.source, seen.sha256, seen.name, seen.samples) == (PLAIN, hosted.recipe.sha256, "CS 101", 30)
    assert seen.parameter_bytes > 4 * 74
    assert seen.data_bytes > 0
    assert hosted.peers() == []
