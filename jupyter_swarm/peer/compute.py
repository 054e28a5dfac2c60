"""The numbers of a peer: gradients and steps of training leases, metrics of evaluation leases, on this machine."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator

import msgspec
import torch
from torch import Tensor, nn

from ..optim.hessian import hutchinson_seed
from ..protocol.errors import RecipeError, Refusal, SettingError
from ..protocol.layout import Layout, Stream
from ..protocol.rules import RoundRule, Schedule, Sophia
from ..shards.feedback import ErrorFeedback
from ..shards.gradients import GradientSum
from ..shards.layout import layout_of, shared_tensors
from ..shards.pseudo_gradient import PseudoGradient
from ..shards.streaming import StreamingPseudoGradient
from ..shards.vector import FlatVector
from ..strategies import rules_of
from ..strategies.workers import Worker, worker
from .data import EpochOrder, Samples
from .forward import Cancel, Forward, LeaseFailed, LossSum, OutOfMemory, never
from .recipe import Data, Recipe, call
from .residual import Residual
from .residual_file import ResidualFile
from .view import View


def pick_device(name: str = "") -> torch.device:
    """The device of that name as torch spells it; without one the accelerator that torch finds, or else the CPU.

    Raises `SettingError` if this machine has no such device.
    """
    if name:
        try:
            device = torch.device(name)
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise SettingError(
                f"This machine cannot compute on {name!r}.",
                str(error).split("\n")[0],
                "Leave the device out, or say cpu, cuda, cuda:1 or mps.",
            ) from None
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


class Computer:
    """A recipe's model and data, ready to compute leases.

    seed: the session's, from which the order of the samples follows. own: samples that stay with this peer. say: told
    what the user should know. `worker` holds what was computed since its `start`. `data`: what the samples are of, with
    the recipe's files.
    """

    data: Data
    worker: Worker

    def __init__(
        self,
        recipe: Recipe,
        layout: Layout,
        model: nn.Module,
        parts: tuple[Samples, Samples],
        seed: int,
        say: Callable[[str], None] = lambda text: None,
        own: Samples | None = None,
    ) -> None:
        self.layout = layout
        self.model = model
        self.device = next(model.parameters()).device
        self.recipe = recipe
        self.seed = seed
        self._train, self._held_out = parts
        self._own = own or Samples(None)
        self.samples = (len(self._train), len(self._held_out))
        self.own_samples = len(self._own)
        self._orders = {False: EpochOrder(self.samples[0], seed), True: EpochOrder(self.own_samples, seed)}
        self._forward = Forward(recipe, model, say)
        self._rule, self._round = rules_of(recipe.strategy, recipe.optimizer, recipe.predictions)[0], 1
        self.worker = worker(self._rule, layout, model)

    @property
    def micro_batch(self) -> int:
        """Samples in one forward pass."""
        return self._forward.micro_batch

    @property
    def say(self) -> Callable[[str], None]:
        """Told what the user should know."""
        return self._forward.say

    @say.setter
    def say(self, say: Callable[[str], None]) -> None:
        self._forward.say = say

    def first_residual(self, file: ResidualFile | None = None) -> Residual:
        """Of a member that has sent nothing yet. file: where it lives on this peer's disk."""
        return Residual(ErrorFeedback(self.layout, self.device), file)

    def first_view(self) -> View:
        """A view that begins with the model's own numbers."""
        return View(FlatVector.of(self.layout, self.model))

    def follow(self, rule: RoundRule, round_: int) -> bool:
        """Work from now on is for `round_`, by `rule`; whether `worker` is another one now, and must be started.

        It stays, with the inner optimizer's moments, while that optimizer and what contributions are stay the same.
        """
        old, self._rule, self._round = self._rule, rule, round_
        if _work_of(old) == _work_of(rule):
            if isinstance(self.worker, StreamingPseudoGradient):
                self.worker.rule = rule
            return False
        self.worker = worker(rule, self.layout, self.model)
        return True

    def gradient(self, start: int, stop: int, cancelled: Cancel = never, own: bool = False) -> LossSum:
        """Add the gradient of the loss, summed over the samples at positions [start, stop), to what `worker` holds; and
        the estimate of the Hessian, in a round that one is due in.

        cancelled: asked between micro-batches whether to give up. own: positions count this peer's own samples. Raises
        `LeaseFailed` (an exception in recipe code, a loss or gradient that is not finite) and `Cancelled`.
        """
        work = self.worker
        if not isinstance(work, GradientSum):
            raise TypeError("a round of steps has no gradients")
        samples, indices = self._indices(start, stop, own)

        def compute() -> LossSum:
            loss = self._forward.backward(samples, indices, 1.0, cancelled)
            if any(rule.stream == Stream.HESSIAN for rule in self._rule.streams_of(self._round)):
                work.begin_hessian()
                self._estimate(samples, indices, 1.0, cancelled, start, self._round)
                work.end_hessian()
            return loss

        return self._whole(work.begin_lease, compute, work.end_lease, work.fail_lease)

    def steps(
        self, start: int, stop: int, learning_rate: float, cancelled: Cancel = never, own: bool = False
    ) -> Iterator[LossSum]:
        """Inner steps on the samples at positions [start, stop), `inner_batch` in each, the last one may have fewer.

        Yields the loss of each step after it is made; whoever does not ask for more ends it there. Raises as `gradient`
        does: the step that fails leaves no trace, those before it stand.
        """
        work = self.worker
        if not isinstance(work, PseudoGradient):
            raise TypeError("a round of samples has no steps")
        batch = self._rule.inner_batch
        for first in range(start, stop, batch):
            samples, indices = self._indices(first, min(first + batch, stop), own)
            yield self._step(work, samples, indices, first, learning_rate, cancelled)

    def evaluate(
        self, view: FlatVector, start: int, stop: int, cancelled: Cancel = never
    ) -> tuple[dict[str, float], int]:
        """Sums of the loss and of every metric over the held-out samples [start, stop), at `view`, and their number.

        What training has under way (parameters, buffers, modes) is then as before. Raises as `gradient` does.
        """
        kept = [(tensor, tensor.detach().clone()) for tensor in self._drifting()]
        modes = [(module, module.training) for module in self.model.modules()]
        view.copy_to(self.model)
        self.model.eval()
        try:
            while True:
                with contextlib.suppress(OutOfMemory):
                    return self._forward.measure(self._held_out, torch.arange(start, stop), cancelled), stop - start
                self._forward.shrink()
        finally:
            with torch.no_grad():
                for tensor, value in kept:
                    tensor.copy_(value)
            for module, training in modes:
                module.training = training

    def sample(self, model: nn.Module, prompt: str) -> str:
        """What `model`, one that the recipe has built, makes of `prompt`. Raises `RecipeError` for a recipe that cannot
        sample."""
        function = self.recipe.sample
        if function is None:
            raise RecipeError(
                f"The recipe {self.recipe.name} has no samples to show.", todo="Give its Recipe(…) a sample=function."
            )
        # A sampler draws random numbers, and training must not notice.
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return str(call(function, "sample()", model, self.data, prompt))

    def _step(
        self,
        work: PseudoGradient,
        samples: Samples,
        indices: Tensor,
        first: int,
        learning_rate: float,
        cancelled: Cancel,
    ) -> LossSum:
        def compute() -> LossSum:
            if work.hessian_due:
                work.begin_hessian()
                self._estimate(samples, indices, 1.0 / len(indices), cancelled, first, first)
                work.end_hessian(len(indices) * self._rule.predictions)
            return self._forward.backward(samples, indices, 1.0 / len(indices), cancelled)

        return self._whole(work.begin_step, compute, lambda: work.end_step(learning_rate), work.fail_step)

    def _whole(
        self,
        begin: Callable[[], None],
        compute: Callable[[], LossSum],
        end: Callable[[], None],
        fail: Callable[[], None],
    ) -> LossSum:
        """Compute something that is done as a whole or not at all, with less memory if it must be."""
        while True:
            begin()
            try:
                loss = compute()
                end()
                return loss
            except OutOfMemory:
                fail()
            except Refusal as error:
                # Whoever raised it has put everything back.
                if not self._forward.scale_down():
                    raise LeaseFailed(error.what, error.why, error.todo) from None
                continue
            except BaseException:
                fail()
                raise
            # Only here, where the error is gone, is the memory free that its traceback held.
            self._forward.shrink()

    def _estimate(
        self, samples: Samples, indices: Tensor, weight: float, cancelled: Cancel, position: int, occasion: int
    ) -> None:
        sophia = self._rule.inner_optimizer or self._rule.optimizer
        assert isinstance(sophia, Sophia)
        seeds = _seed_of(self.seed, position), hutchinson_seed(self.seed, occasion)
        self._forward.estimate(samples, indices, weight, cancelled, sophia, seeds, self.worker.parameters)

    def _indices(self, start: int, stop: int, own: bool) -> tuple[Samples, Tensor]:
        return self._own if own else self._train, self._orders[own].indices(start, stop)

    def _drifting(self) -> list[Tensor]:
        """The model's tensors that may be others than the view's; parameters only while steps are made."""
        shared = shared_tensors(self.model)
        if isinstance(self.worker, PseudoGradient):
            return list(shared.values())
        moving = (Stream.BUFFER, Stream.COUNTER)
        return [shared[spec.name] for spec in self.layout.tensors if spec.stream in moving]


def prepare(
    recipe: Recipe,
    seed: int,
    say: Callable[[str], None] = lambda text: None,
    device: str = "",
    data: Data | None = None,
    own: Data | None = None,
) -> Computer:
    """Build the recipe's model and take `data`, or load what the recipe says.

    own: data whose train part stays with this peer. Raises `RecipeError`, `LayoutError` for what cannot be trained.
    """
    model = recipe.build().to(pick_device(device or recipe.device))
    data = data or recipe.load_data()
    parts = Samples(data.train), Samples(data.held_out)
    if not len(parts[0]):
        raise RecipeError("The training data set is empty.", todo="Check what the recipe's data() returns as train.")
    layout = layout_of(model, recipe.groups)
    computer = Computer(recipe, layout, model, parts, seed, say, Samples(own.train) if own else None)
    computer.data = data
    return computer


def _work_of(rule: RoundRule) -> tuple[object, ...]:
    """What a worker is made for. The learning rate comes with each lease."""
    inner = rule.inner_optimizer
    if inner is not None:
        inner = msgspec.structs.replace(inner, lr=0.0, schedule=Schedule())
    return rule.contribution, inner, rule.inner_clip_norm, rule.overlap, rule.fragments, rule.mixing


def _seed_of(seed: int, position: int) -> int:
    digest = hashlib.sha256(f"estimate {seed} {position}".encode()).digest()
    return int.from_bytes(digest[:7], "little")
