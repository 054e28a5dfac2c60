"""Is training together the training of one machine? Measured, after 20 rounds, against torch on the same batches.

    python -m tests.benchmarks.equivalence [--rounds N] [--json FILE]

Three peers of unequal speed train `EveryStep` through a real Jupyter server; one joins part-way and one leaves. The
round records say which samples each round consumed; one process then takes torch's own optimizer through the same
batches. The figure is ‖θ_together − θ_alone‖ / ‖θ_alone‖ over all parameters.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from typing import Any

import msgspec
import torch
from torch import nn

from jupyter_swarm import AdamW, Recipe, host, load_recipe
from jupyter_swarm.peer.compute import Computer, prepare
from jupyter_swarm.peer.data import EpochOrder, Samples
from jupyter_swarm.peer.identity import Identity
from jupyter_swarm.peer.record import Record
from jupyter_swarm.peer.trainer import Trainer
from jupyter_swarm.protocol.rules import OptimizerRule

from . import recipes
from .harness import Failed, Server, server, wait_until, workplace
from .reporting import Figures, main, table

OPTIMIZERS = {
    "SGD": "SGD(lr=0.1)",
    "SGD, momentum": "SGD(lr=0.05, momentum=0.9)",
    "Nesterov": "Nesterov(lr=0.05, weight_decay=1e-4)",
    "AdamW": "AdamW(lr=3e-3)",
}
DELAYS = (0.005, 0.02, 0.01)
"""Seconds that each peer dawdles over a micro-batch; the second leaves, the third joins later."""
_PATIENCE = 120.0


def deviation(here: Server, recipe: Recipe, rounds: int = 20) -> Figures:
    """Train together, then alone; what came out. Raises `Failed` if not all three peers took part."""
    session = host(recipe, rounds=rounds, train=False, server=here.owner_url, minimum_peers=2, evaluate_every=0)
    invite = session.invite("peer")
    client = here.client

    def version() -> int:
        return int(here.status(session.id)["version"])

    with contextlib.ExitStack() as stack:

        def join(place: int) -> tuple[Trainer, Computer, Record]:
            slow = msgspec.structs.replace(recipe, loss=_dawdling(recipe.loss, DELAYS[place]))
            computer, record = prepare(slow, recipe.seed), Record(session.id)
            identity = Identity(here.url, session.id, str(place), here.folder / "identities")
            headers = {"X-Swarm-Invite": invite.secret}
            url = client.socket_url(session.id)
            trainer = Trainer(url, headers, computer, record, identity, recipe.sha256, f"peer {place + 1}")
            trainer.start()
            stack.callback(trainer.leave)
            return trainer, computer, record

        (first, computer, record), (leaving, _, _) = join(0), join(1)
        wait_until(lambda: version() >= rounds // 3, "the first rounds", _PATIENCE)
        client.change(session.id, {"minimum_peers": 3})
        join(2)
        wait_until(lambda: version() >= 2 * rounds // 3, "rounds with three peers", _PATIENCE)
        client.change(session.id, {"minimum_peers": 2})
        leaving.leave()
        wait_until(lambda: record.status.state == "finished", "the last round", _PATIENCE)
        together = _parameters(computer.model)
        digest = first.digest()
    records = client.records(session.id)
    contributors = sorted({one["peer"] for entry in records for one in entry["contributors"]})
    if len(contributors) != 3 or len(records) != rounds:
        raise Failed(f"{len(records)} of {rounds} rounds came about, with {contributors}.")
    alone = _alone(recipe, records)
    return {
        "deviation": float((together - alone).norm() / alone.norm()),
        "moved": float((alone - _parameters(recipe.build())).norm() / alone.norm()),
        "rounds": len(records),
        "contributions": [len(entry["contributors"]) for entry in records],
        "digest": digest,
    }


def _dawdling(loss: Callable[..., torch.Tensor], seconds: float) -> Callable[..., torch.Tensor]:
    def slow(model: nn.Module, batch: Any) -> torch.Tensor:
        time.sleep(seconds)
        return loss(model, batch)

    return slow


def _alone(recipe: Recipe, records: list[dict[str, Any]]) -> torch.Tensor:
    """The parameters after torch's optimizer has seen the batches of `records`, each in one piece."""
    model = recipe.build().train()
    optimizer = _torch_optimizer(recipe.optimizer, model)
    samples = Samples(recipe.load_data().train)
    order = EpochOrder(len(samples), recipe.seed)
    for record in records:
        ranges = sorted(tuple(pair) for one in record["contributors"] for pair in one["leases"])
        indices = torch.cat([order.indices(start, stop) for start, stop in ranges])
        if len(indices) != record["target"]:
            raise Failed(f"Round {record['round']} consumed {len(indices)} of {record['target']} samples.")
        optimizer.zero_grad()
        recipe.loss(model, samples.batch(indices)).backward()
        for group in optimizer.param_groups:
            group["lr"] = record["learning_rate"]
        optimizer.step()
    return _parameters(model)


def _torch_optimizer(rule: OptimizerRule, model: nn.Module) -> torch.optim.Optimizer:
    if isinstance(rule, AdamW):
        return torch.optim.AdamW(
            model.parameters(), rule.lr, betas=rule.betas, eps=rule.eps, weight_decay=rule.weight_decay
        )
    return torch.optim.SGD(
        model.parameters(), rule.lr, momentum=rule.momentum, weight_decay=rule.weight_decay, nesterov=rule.nesterov
    )


def _parameters(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1).double() for parameter in model.parameters()])


def network(optimizer: str) -> Recipe:
    """The network of `recipes` with that optimizer."""
    return Recipe.from_source(recipes.NETWORK.format(optimizer=optimizer))


def measure(chosen: argparse.Namespace) -> Figures:
    torch.set_num_threads(1)
    figures: Figures = {}
    with workplace() as (folder, stack):
        here = server(folder, stack)
        for name, text in OPTIMIZERS.items():
            figures[name] = deviation(here, network(text), chosen.rounds)
        figures["digits (batch-norm, AdamW)"] = deviation(here, load_recipe("digits"), chosen.rounds)
    table(
        ["optimizer", "‖Δ‖/‖θ‖", "moved since the start", "rounds", "contributions in each"],
        [
            [name, one["deviation"], one["moved"], one["rounds"], " ".join(map(str, one["contributions"]))]
            for name, one in figures.items()
        ],
    )
    print("Aim: at most 1e-5 for SGD and Nesterov. The others are beside it for comparison.")
    return {"deviations": figures}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    main(parser, measure)
