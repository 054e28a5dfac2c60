"""Local updates against DiLoCo as it is written, and against their own past."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from jupyter_swarm.optim import SGD, AdamW, Nesterov, Sophia
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.rules import RoundRule
from jupyter_swarm.shards.layout import layout_of
from jupyter_swarm.shards.pseudo_gradient import PseudoGradient
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.strategies import LocalUpdates

from ..shards.rounds import commit, frames_of, holder_of, stage_all

HISTORY = Path(__file__).with_name("local_updates.json")
BATCH = 6
RATE = 0.02


def network() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def loss_of(model: nn.Module, position: int) -> Tensor:
    """The mean loss of the batch at a position: a regression that a small network can learn."""
    x = torch.randn(BATCH, 3, generator=torch.Generator().manual_seed(position))
    return (model(x)[:, 0] - torch.sin(x.sum(dim=1))).square().mean()


class Class:
    """A holder and its peers, without a network between them."""

    def __init__(self, rule: RoundRule, peers: int) -> None:
        self.rule = rule
        self.layout = layout_of(network())
        self.round = 0
        self.view = FlatVector.of(self.layout, network())
        self.peers = [PseudoGradient(self.layout, network(), rule) for _ in range(peers)]
        self.holder = holder_of(self.view, rule)

    def steps(self, peer: int, positions: range) -> None:
        """A peer's inner steps from the view."""
        work = self.peers[peer]
        work.start(self.view)
        for position in positions:
            work.begin_step()
            loss_of(work.model, position).backward()
            work.end_step(RATE)

    def contribute(self, peer: int, base: FlatVector | None = None) -> None:
        """What a peer has computed, from the view or from an older one, to the round that is open."""
        vector, _ = self.peers[peer].finish(base or self.view)
        frames = frames_of(vector, self.rule, peer, self.round + 1)
        stage_all([self.holder], frames, peer, self.round + 1)

    def commit(self, weights: dict[int, int]) -> None:
        self.round += 1
        commit([self.holder], [self.view], weights, self.round)

    @property
    def parameters(self) -> Tensor:
        return self.view.sections[Stream.PARAMETERS].clone()


def flat(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rounds_are_diloco_as_it_is_written(momentum: float) -> None:
    """Algorithm 1 of arXiv 2311.08105, with torch's own optimizers and weights by samples."""
    amounts = (8, 5, 3)
    rule = LocalUpdates(steps=8, batch=BATCH, outer=Nesterov(0.7, momentum=momentum)).rule(AdamW(RATE))
    session = Class(rule, 3)
    theta, velocity = flat(network()), torch.zeros(21)
    replicas = [network() for _ in amounts]
    inner = [torch.optim.AdamW(replica.parameters(), RATE) for replica in replicas]
    for round in range(6):
        delta = torch.zeros(21)
        for peer, (replica, optimizer, steps) in enumerate(zip(replicas, inner, amounts, strict=True)):
            positions = range(100 * round + 10 * peer, 100 * round + 10 * peer + steps)
            session.steps(peer, positions)
            nn.utils.vector_to_parameters(theta.clone(), replica.parameters())
            for position in positions:
                optimizer.zero_grad()
                loss_of(replica, position).backward()
                optimizer.step()
            delta += steps / 16 * (theta - flat(replica))
        for peer in range(3):
            session.contribute(peer)
        session.commit({peer: steps * BATCH for peer, steps in enumerate(amounts)})
        velocity = momentum * velocity + delta
        theta = theta - 0.7 * (delta + momentum * velocity)
        torch.testing.assert_close(session.parameters, theta, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("inner", [SGD(RATE, momentum=0.9), AdamW(RATE), Sophia(RATE, rho=1.0, hessian_every=100)])
def test_one_peer_whose_steps_are_taken_as_they_are_trains_like_anybody(inner: SGD | AdamW | Sophia) -> None:
    session = Class(LocalUpdates(steps=7, batch=BATCH, outer=SGD(1.0)).rule(inner), 1)
    alone = PseudoGradient(session.layout, network(), session.rule)
    alone.start(session.view)
    for round in range(5):
        positions = range(7 * round, 7 * round + 7)
        session.steps(0, positions)
        session.contribute(0)
        session.commit({0: 7 * BATCH})
        for position in positions:
            alone.begin_step()
            loss_of(alone.model, position).backward()
            alone.end_step(RATE)
        torch.testing.assert_close(session.parameters, flat(alone.model), rtol=1e-5, atol=1e-6)


def test_a_peer_that_did_nothing_pulls_towards_the_view_by_its_weight_only() -> None:
    session = Class(LocalUpdates(steps=4, batch=BATCH, outer=SGD(1.0)).rule(AdamW(RATE)), 2)
    before = session.parameters
    session.steps(0, range(4))
    session.steps(1, range(0))
    for peer in (0, 1):
        session.contribute(peer)
    moved = flat(session.peers[0].model)
    session.commit({0: 30, 1: 10})
    torch.testing.assert_close(session.parameters, before + 0.75 * (moved - before), rtol=1e-5, atol=1e-6)


def history() -> list[list[float]]:
    """The parameters after each round of a scripted run: unequal peers, one that is a round late, one that leaves,
    warm-up, clipped inner steps."""
    strategy = LocalUpdates(steps=20, batch=BATCH, clip_norm=0.5)
    session = Class(strategy.rule(AdamW(RATE, weight_decay=0.1)), 3)
    rounds = [session.parameters.tolist()]
    for round in range(8):
        base = FlatVector(session.layout)
        base.copy_from(session.view)
        amounts = {0: 20, 1: 12, 2: 5}
        present = {0, 1, 2} if round < 5 else {0, 2}
        for peer in present:
            session.steps(peer, range(1000 * round + 100 * peer, 1000 * round + 100 * peer + amounts[peer]))
        if round == 2:
            # Peer 1 is late: the round closes without it, and what it computed counts in the next one.
            present = {0, 2}
        for peer in sorted(present):
            session.contribute(peer)
        session.commit({peer: amounts[peer] * BATCH for peer in sorted(present)})
        rounds.append(session.parameters.tolist())
        if round == 2:
            session.contribute(1, base)
            session.commit({1: amounts[1] * BATCH})
            rounds.append(session.parameters.tolist())
    return rounds


def test_a_scripted_run_gives_the_parameters_that_it_always_gave() -> None:
    """Where the algorithm is changed on purpose, `python -m tests.strategies.test_local_updates` writes the new one."""
    expected = json.loads(HISTORY.read_text())
    found = history()
    assert len(found) == len(expected)
    # Rounding differs from machine to machine.
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=0, atol=5e-5)
    losses = []
    for parameters in (expected[0], expected[-1]):
        model = network()
        nn.utils.vector_to_parameters(torch.tensor(parameters), model.parameters())
        losses.append(sum(float(loss_of(model, position).detach()) for position in range(90_000, 90_050)))
    assert losses[1] < 0.5 * losses[0]


if __name__ == "__main__":
    lines = ",\n".join(json.dumps([round(value, 6) for value in parameters]) for parameters in history())
    HISTORY.write_text(f"[\n{lines}\n]\n")
