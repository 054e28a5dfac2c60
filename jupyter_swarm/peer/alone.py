"""Training a recipe here and alone: the batches and the arithmetic of a session, without a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..optim.torch_optimizer import RuleOptimizer
from ..protocol.rules import RoundRule, check_target
from ..shards.vector import FlatVector
from .compute import Computer, prepare
from .recipe import Recipe


class Training:
    """A recipe on its way. `history` and `evaluations` are as those of a session."""

    def __init__(self, recipe: Recipe, say: Callable[[str], None] = print) -> None:
        self.recipe = recipe
        self.history: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self._rule: RoundRule = recipe.strategy.rule(recipe.optimizer)
        self._computer: Computer = prepare(recipe, recipe.seed, say)
        check_target(self._rule.target_batch, self._computer.samples[0])
        self._optimizer = RuleOptimizer(self.model.parameters(), self._rule.optimizer)
        self._computer.sum.start(self._view())

    @property
    def model(self) -> torch.nn.Module:
        """The model, as it stands after the last round."""
        return self._computer.model

    @property
    def round(self) -> int:
        """Rounds done."""
        return len(self.history)

    def step(self) -> dict[str, Any]:
        """One round; returns its entry in `history`. Raises `LeaseFailed`, and then has changed nothing."""
        start = self.round * self._rule.target_batch
        loss = self._computer.gradient(start, start + self._rule.target_batch)
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.div_(loss.samples)
        if self._rule.clip_norm:
            torch.nn.utils.clip_grad_norm_(parameters, self._rule.clip_norm)
        rate = self._rule.optimizer.lr * self._rule.optimizer.schedule.factor(start)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        entry = {
            "round": self.round + 1,
            "loss": loss.total / loss.samples,
            "learning_rate": rate,
            "samples_done": start + loss.samples,
            "contributions": 1,
        }
        self.history.append(entry)
        return entry

    def evaluate(self) -> dict[str, float]:
        """Means of the loss and the metrics over the held-out samples (empty without any)."""
        count = self._computer.samples[1]
        if not count:
            return {}
        sums, _ = self._computer.evaluate(self._view(), 0, count)
        means = {name: value / count for name, value in sums.items()}
        self.evaluations.append({"round": self.round, "count": count, **means})
        return means

    def run(self, rounds: int, each: Callable[[str], None] = lambda line: None) -> Training:
        """So many rounds more, with evaluations as the recipe wants them; `each` is told of every round in a line.

        An interrupt ends it after the last whole round; `run` goes on from there.
        """
        every = self.recipe.evaluate_every
        last = self.round + rounds
        metrics: dict[str, float] = {}
        while self.round < last:
            entry = self.step()
            if self.round == last or (every and self.round % every == 0):
                metrics = self.evaluate()
            shown = [f"round {self.round}/{last}", f"loss {entry['loss']:.4f}"]
            each("  ".join(shown + [f"held-out {name} {value:.4g}" for name, value in metrics.items()]))
        return self

    def _view(self) -> FlatVector:
        return FlatVector.of(self._computer.layout, self.model)

    def __repr__(self) -> str:
        last = f", loss {self.history[-1]['loss']:.4f}" if self.history else ""
        return f"<Training of {self.recipe.name}: {self.round} rounds{last}>"
