"""Training a recipe here and alone: the batches and the arithmetic of a session with one peer, without a server."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from ..optim.torch_optimizer import RuleOptimizer
from ..protocol.checks import check_rule
from ..protocol.layout import Stream
from ..protocol.manifest import Manifest
from ..protocol.rules import RoundRule, SessionSettings, SessionSpec, Sophia, rule_of
from ..shards.gradients import GradientSum, parameter_groups, places_in
from ..shards.vector import FlatVector
from ..strategies import rules_of
from .checkpoints import Checkpoint, export_files, save_checkpoint
from .compute import Computer, prepare
from .forward import LossSum
from .recipe import Recipe
from .record import speed_text

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from ..history.runs import Axis


class Training:
    """A recipe on its way.

    entries: of each round its number, strategy, loss (mean), loss_sum, loss_count, samples, samples_done, seconds,
    learning_rate, inner_learning_rate, steps (inner ones), contributions and unix_time, as in a session's round record.
    evaluations: as those of a session.
    """

    def __init__(self, recipe: Recipe, say: Callable[[str], None] = print) -> None:
        self.recipe = recipe
        self.entries: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.samples_done = 0
        self._rules = rules_of(recipe.strategy, recipe.optimizer, recipe.predictions)
        self._computer: Computer = prepare(recipe, recipe.seed, say)
        for rule in (self._rules[0], *(change.rule for change in self._rules[1])):
            check_rule(rule, SessionSettings(), self._computer.samples[0])
        self._rule: RoundRule | None = None
        self._optimizer: RuleOptimizer
        self._begun = FlatVector(self._computer.layout, ())

    @property
    def model(self) -> torch.nn.Module:
        """The model, as it stands after the last round."""
        return self._computer.model

    @property
    def round(self) -> int:
        """Rounds done."""
        return len(self.entries)

    def step(self) -> dict[str, Any]:
        """One round; returns its entry. Raises `LeaseFailed`, and then the model is as before."""
        since = time.monotonic()
        rule = self._follow()
        inner = rule.inner_optimizer
        inner_rate = inner.lr * inner.schedule.factor(self.samples_done) if inner else 0.0
        loss, steps = self._steps(rule, inner_rate) if inner else (self._gradient(rule), 0)
        if rule.clip_norm:
            torch.nn.utils.clip_grad_norm_(self._computer.worker.parameters, rule.clip_norm)
        rate = rule.optimizer.lr * rule.optimizer.schedule.factor(self.samples_done)
        for group in self._optimizer.param_groups:
            # How far inner steps came has their group's learning rate in it already.
            group["lr"] = rate if inner else rate * group["scale"]
        self._optimizer.step()
        self.samples_done += loss.samples
        entry = {
            "round": self.round + 1,
            "strategy": rule.strategy,
            "loss": loss.total / loss.samples,
            "loss_sum": loss.total,
            "loss_count": loss.samples,
            "samples": loss.samples,
            "samples_done": self.samples_done,
            "seconds": time.monotonic() - since,
            "learning_rate": rate,
            "inner_learning_rate": inner_rate,
            "steps": steps,
            "contributions": 1,
            "unix_time": time.time(),
        }
        self.entries.append(entry)
        return entry

    def evaluate(self) -> dict[str, float]:
        """Means of the loss and the metrics over the held-out samples (empty without any)."""
        count = self._computer.samples[1]
        if not count:
            return {}
        view = FlatVector.of(self._computer.layout, self.model)
        sums, _ = self._computer.evaluate(view, 0, count)
        means = {name: value / count for name, value in sums.items()}
        self.evaluations.append({"round": self.round, "count": count, **means})
        return means

    def sample(self, prompt: str = "") -> str:
        """What the model makes of `prompt`, by the recipe's `sample`. Raises `RecipeError` if it has none."""
        shown = self.recipe.build()
        shown.load_state_dict(self.model.state_dict())
        return self._computer.sample(shown.eval(), prompt)

    def history(self) -> xr.Dataset:
        """All rounds, as the history of a session with one peer: see `jupyter_swarm.history`."""
        from ..history import build_alone  # xarray and pandas: whoever only trains needs neither

        train, held_out = self._computer.samples
        spec = SessionSpec(
            name=self.recipe.name,
            recipe=self.recipe.sha256,
            layout_digest=self._computer.layout.digest,
            rule=self._rules[0],
            settings=SessionSettings(seed=self.recipe.seed, rounds=self.round),
            samples=train,
            held_out=held_out,
            initial="",
            changes=self._rules[1],
        )
        device = str(self._computer.device)
        return build_alone(self.entries, self.evaluations, spec, source=self.recipe.source, device=device)

    def plot(self, x: Axis = "round", **options: Any) -> Figure:
        """The history as a figure, by "round", "samples" or "time"; options as of `history().swarm.plot`."""
        figure: Figure = self.history().swarm.plot(x, **options)
        return figure

    def save(self, folder: str | Path) -> Checkpoint:
        """Write the model as a checkpoint into `folder`, instead of one that is there: `from_pretrained` and
        `host(start=)` open it. Raises `CheckpointError` if the disk does not take it, `RecipeError` of export()."""
        last = self.entries[-1] if self.entries else {}
        held_out = self.evaluations[-1] if self.evaluations else {}
        metrics = {"loss": last["loss"]} if last else {}
        metrics |= {f"held_out_{name}": value for name, value in held_out.items() if name not in ("round", "count")}
        facts = Manifest(
            name=self.recipe.name,
            version=self.round,
            files=(),
            layout_digest="",
            view_digest="",
            samples=self.samples_done,
            recipe=self.recipe.sha256 if self.recipe.source else "",
            strategy=last.get("strategy", ""),
            metrics=metrics,
        )
        vector = FlatVector.of(self._computer.layout, self.model)
        return save_checkpoint(folder, vector, facts, export_files(self.recipe, self._computer))

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
            shown += [f"held-out {name} {value:.4g}" for name, value in metrics.items()]
            speed = entry["samples"] / max(entry["seconds"], 1e-9)
            each("  ".join([*shown, speed_text(speed, self.recipe.predictions)]))
        return self

    def _follow(self) -> RoundRule:
        """The rule of the next round, with the worker and the optimizer that it wants."""
        rule = rule_of(*self._rules, self.round + 1)
        if rule.overlap:  # nothing is on its way: all parameters in one round
            steps = rule.inner_steps * rule.fragments
            rule = msgspec.structs.replace(rule, inner_steps=steps, fragments=1, overlap=False)
        self._computer.follow(rule, self.round + 1)
        if rule != self._rule:
            self._rule = rule
            self._optimizer = RuleOptimizer(
                parameter_groups(self._computer.layout, self._computer.worker.parameters, rule.optimizer.weight_decay),
                rule.optimizer,
            )
            streams = (Stream.PARAMETERS, Stream.BUFFER, Stream.COUNTER) if rule.work == "steps" else ()
            self._begun = FlatVector(self._computer.layout, streams)
        return rule

    def _gradient(self, rule: RoundRule) -> LossSum:
        """Leaves the mean gradient of the round's batch in `.grad`."""
        work = self._computer.worker
        # A vector of nothing: the sums begin again, the model stays.
        work.start(self._begun)
        loss = self._computer.gradient(self.samples_done, self.samples_done + rule.target_batch)
        gradients = [parameter.grad for parameter in work.parameters]
        for gradient in gradients:
            if gradient is not None:
                gradient.div_(loss.samples)
        if any(stream.stream == Stream.HESSIAN for stream in rule.streams_of(self.round + 1)):
            assert isinstance(work, GradientSum)
            assert isinstance(rule.optimizer, Sophia)
            estimate = work.finish()[0].sections[Stream.HESSIAN].div(loss.samples)
            self._give(estimate)
            self._optimizer.step_hessian(loss.samples * rule.predictions)
            for parameter, gradient in zip(work.parameters, gradients, strict=True):
                parameter.grad = gradient
        return loss

    @torch.no_grad()
    def _steps(self, rule: RoundRule, learning_rate: float) -> tuple[LossSum, int]:
        """Leaves the model as it was, but for its buffers, and in `.grad` how far the inner steps came."""
        work = self._computer.worker
        assert not isinstance(work, GradientSum)
        self._begun.fill(self.model)
        work.start(self._begun)
        loss = LossSum()
        stop = self.samples_done + rule.inner_steps * rule.inner_batch
        try:
            with torch.enable_grad():
                for one in self._computer.steps(self.samples_done, stop, learning_rate):
                    loss = loss.plus(one)
            vector, _ = work.finish(self._begun)
        except BaseException:
            self._begun.copy_to(self.model)
            raise
        begun = places_in(self._begun.sections[Stream.PARAMETERS], self._computer.layout)
        for parameter, value in zip(work.parameters, begun, strict=True):
            parameter.copy_(value)
        self._give(vector.sections[Stream.PARAMETERS])
        return loss, work.steps

    def _give(self, section: torch.Tensor) -> None:
        """Each parameter's part of a parameters' section becomes its `.grad`."""
        work = self._computer.worker
        for parameter, place in zip(work.parameters, places_in(section, self._computer.layout), strict=True):
            parameter.grad = place.to(parameter.dtype)

    def __repr__(self) -> str:
        last = f", loss {self.entries[-1]['loss']:.4f}" if self.entries else ""
        return f"<Training of {self.recipe.name}: {self.round} rounds{last}>"
