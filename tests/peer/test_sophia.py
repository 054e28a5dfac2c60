"""Sophia in a session: the Hessian's estimate is one of all peers."""

from __future__ import annotations

import pytest
import torch

from jupyter_swarm.peer.alone import Training
from jupyter_swarm.peer.compute import prepare
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.strategies import EveryStep

from .classroom import EVERY_STEP, NORMED, PLAIN, Classroom, close, local, parameters_of


@pytest.mark.parametrize(
    ("estimator", "leases"), [("hutchinson", (12,)), ("hutchinson", (5, 7)), ("gnb", (12,))], ids=str
)
def test_sophia_in_a_session_is_sophia_alone(estimator: str, leases: tuple[int, ...]) -> None:
    text = PLAIN.replace("AdamW(lr=0.01)", f"Sophia(lr=0.01, hessian_every=2, estimator={estimator!r})")
    text = text.replace("metrics=", "sampled_loss=sampled, metrics=").replace(
        "def accuracy", "def sampled(model, batch):\n    return sampled_cross_entropy(model(batch[0]))\n\ndef accuracy"
    )
    text = text.replace("from torch import nn", "from torch import nn\nfrom jupyter_swarm.optim.hessian import *", 1)
    recipe = local(text, EVERY_STEP)
    room = Classroom(recipe)
    desk = room.join()
    alone = Training(recipe)
    for _ in range(4):
        room.round(desk, *leases)
        alone.step()
    assert desk.member.view.digest() == room.view.digest_all()
    assert close(parameters_of(alone._computer), room.parameters)


def test_sophia_makes_the_inner_steps() -> None:
    recipe = local(PLAIN.replace("AdamW(lr=0.01)", "Sophia(lr=0.01, hessian_every=3, estimator='hutchinson')"))
    room = Classroom(recipe)
    desk = room.join()
    alone = Training(recipe)
    for leases in ((12,), (6, 6)):
        room.round(desk, *leases)
        alone.step()
    assert close(parameters_of(alone._computer), room.parameters)


def test_an_estimate_does_not_disturb_what_is_random_in_the_model_or_its_buffers() -> None:
    text = NORMED.replace("AdamW(lr=0.01)", "Sophia(lr=0.01, hessian_every=1, estimator='hutchinson')")
    text = text.replace("nn.ReLU()", "nn.Dropout(0.5)", 1)
    results = []
    for every in ("1", "1000000"):
        computer = prepare(local(text.replace("hessian_every=1", f"hessian_every={every}"), EVERY_STEP), 0)
        computer.follow(EveryStep(12).rule(computer.recipe.optimizer), 2)
        torch.manual_seed(5)
        computer.gradient(0, 12)
        results.append(FlatVector.of(computer.layout, computer.model).digest_all())
        results.append(str(torch.rand(1)))
    assert results[:2] == results[2:]
