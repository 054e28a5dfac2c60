"""Sophia: does it do what is written, what does it cost, and does it need fewer steps than AdamW?

    python -m tests.benchmarks.sophia [--steps N] [--seeds N] [--quick] [--json FILE]

(a) 20 rounds of one and of three peers against the paper's algorithm in float64. (b) CPU seconds per step over AdamW's,
interleaved in one process with one torch thread: the recipe `language`, class size. (c) Steps and CPU seconds to a
common held-out loss: the same recipe, tiny. Both optimizers are tuned over equally many settings on a seed that is not
used again; the best of each then runs with the other seeds. The learning rate stays as it is after a warm-up, so that
a loss is not only reached where the schedule ends. --quick: few steps and settings, whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import msgspec
import torch
from torch import Tensor, nn

from jupyter_swarm import AdamW, Data, EveryStep, Recipe, Schedule, Sophia, load_recipe
from jupyter_swarm.peer.alone import Training
from jupyter_swarm.protocol.rules import OptimizerRule
from tests.optim.test_sophia import Written
from tests.shards.test_hessian import CLIP, GNB, HUTCHINSON, WHOLE, backward, estimate, network, twenty_rounds

from .reporting import Figures, main, reached, table

PEERS = {"1 peer": (0, 24), "3 peers": (0, 3, 14, 24)}
"""Where the round's 24 samples are cut."""
CYCLE = 10
"""Steps in a row of one optimizer, then of the next: a cycle of the estimate."""
WARM_UP_STEPS = 30
BATCH = 32
_TUNING_SEED = 1000


def written(rule: Sophia) -> Tensor:
    """The parameters after the 20 rounds of `twenty_rounds`, by the paper's algorithm, float64."""
    model = network().double()
    parameters = list(model.parameters())
    reference = Written(rule, nn.utils.parameters_to_vector(parameters).detach())

    def taken(derive: Callable[[], None]) -> Tensor:
        model.zero_grad()
        derive()
        return torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])

    for round_ in range(1, 21):
        if (round_ - 1) % rule.hessian_every == 0:
            reference.estimate(taken(lambda: estimate(model, rule, round_, WHOLE, "mean")), 24)  # noqa: B023
        gradient = taken(lambda: backward(model, round_, WHOLE, "mean"))  # noqa: B023
        # Clipped as torch.nn.utils.clip_grad_norm_ does it.
        reference.step(gradient * min(1.0, CLIP / (float(gradient.norm()) + 1e-6)))
        nn.utils.vector_to_parameters(reference.theta, parameters)
    return reference.theta


def deviations() -> Figures:
    """‖θ - θ_written‖ / ‖θ_written‖ for each estimator and number of peers."""
    found: Figures = {}
    for name, rule in (("Gauss-Newton-Bartlett", GNB), ("Hutchinson", HUTCHINSON)):
        expected = written(rule)
        for peers, cuts in PEERS.items():
            difference = twenty_rounds(rule, cuts).double() - expected
            found[f"{name}, {peers}"] = float(difference.norm() / expected.norm())
    return found


def training(recipe: Recipe, optimizer: OptimizerRule, batch: int, seed: int = 0) -> Training:
    """The recipe with another optimizer and synchronous rounds."""
    strategy = EveryStep(target_batch=batch, clip_norm=1.0)
    return Training(msgspec.structs.replace(recipe, optimizer=optimizer, strategy=strategy, seed=seed))


def loaded(size: str, held_out: float) -> Recipe:
    """The language recipe, whose data are read once for all trainings."""
    recipe = load_recipe("language", SIZE=size, HELD_OUT=held_out)
    data: Data = recipe.load_data()
    return msgspec.structs.replace(recipe, data=lambda: data)


def costs(cycles: int, batch: int = 16) -> Figures:
    """CPU seconds per step: medians over cycles, which the optimizers take in turn.

    The learning rates are next to nothing, so that all compute with the same model: one whose attention has become
    sharp has subnormal numbers in its passes, which take a processor much longer, whatever the optimizer.
    """
    recipe = loaded("class", 0.001)
    sides = {
        "AdamW": training(recipe, AdamW(1e-8), batch),
        "Sophia, k=10": training(recipe, Sophia(1e-8), batch),
        "Sophia, k=5": training(recipe, Sophia(1e-8, hessian_every=5), batch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for cycle in range(cycles + 1):
        for name, side in sides.items():
            start = time.process_time()
            for _ in range(CYCLE):
                side.step()
            if cycle:  # the first warms up
                seconds[name].append((time.process_time() - start) / CYCLE)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    return {
        name: {"seconds": medians[name], "over_adamw": medians[name] / medians["AdamW"], "all": seconds[name]}
        for name in sides
    }


def settings(quick: bool, warm_up: int) -> dict[str, list[OptimizerRule]]:
    """Equally many for each."""
    schedule = Schedule(warmup_samples=warm_up * BATCH)
    rates = (2e-3, 4e-3, 8e-3)
    adamw = [AdamW(lr, (0.9, second), schedule=schedule) for lr, second in itertools.product(rates, (0.95, 0.98, 0.99))]
    # The averages for short runs: see `Sophia`.
    sophia = [
        Sophia(lr, (0.9, 0.95), rho, hessian_every=5, schedule=schedule)
        for lr, rho in itertools.product((5e-4, 1e-3, 2e-3), (0.005, 0.02, 0.08))
    ]
    cut = slice(None, None, 4) if quick else slice(None)
    return {"AdamW": adamw[cut], "Sophia": sophia[cut]}


def text_of(rule: OptimizerRule) -> str:
    if isinstance(rule, Sophia):
        return f"Sophia, lr {rule.lr:g}, rho {rule.rho:g}"
    return f"AdamW, lr {rule.lr:g}, betas 0.9, {rule.betas[1]:g}" if isinstance(rule, AdamW) else str(rule)


def run(recipe: Recipe, rule: OptimizerRule, steps: int, every: int, seed: int) -> list[tuple[int, float, float]]:
    """(step, CPU seconds of the steps so far, held-out loss) at each evaluation."""
    here, curve, seconds = training(recipe, rule, BATCH, seed), [], 0.0
    for step in range(1, steps + 1):
        start = time.process_time()
        here.step()
        seconds += time.process_time() - start
        if step % every == 0:
            curve.append((step, seconds, here.evaluate()["loss"]))
    return curve


def races(steps: int, seeds: int, quick: bool) -> Figures:
    """Tune both, run the best of each, compare."""
    recipe, every = loaded("tiny", 0.004), max(1, steps // 30)
    tried, best = {}, {}
    for name, rules in settings(quick, min(WARM_UP_STEPS, steps // 10)).items():
        ends = {rule: run(recipe, rule, steps, every, _TUNING_SEED)[-1][2] for rule in rules}
        tried[name] = {text_of(rule): loss for rule, loss in ends.items()}
        best[name] = min(rules, key=ends.__getitem__)
    curves = {name: [run(recipe, rule, steps, every, seed) for seed in range(seeds)] for name, rule in best.items()}
    found: Figures = {
        "tried": tried, "best": {name: text_of(rule) for name, rule in best.items()}, "curves": curves, "seeds": [],
    }  # fmt: skip
    for pair in zip(curves["AdamW"], curves["Sophia"], strict=True):
        target = max(min(loss for _, _, loss in curve) for curve in pair)
        both = [list(zip(*curve, strict=True)) for curve in pair]
        (steps_a, steps_s), (cpu_a, cpu_s) = ([reached(one[axis], one[2], target) for one in both] for axis in (0, 1))
        found["seeds"].append(
            {
                "target": target, "adamw": steps_a, "sophia": steps_s, "ratio": steps_a / steps_s,
                "cpu_ratio": cpu_a / cpu_s, "ends": [curve[-1][2] for curve in pair],
            }
        )  # fmt: skip
    found["ratio"] = statistics.median(one["ratio"] for one in found["seeds"])
    found["cpu_ratio"] = statistics.median(one["cpu_ratio"] for one in found["seeds"])
    return found


def measure(chosen: argparse.Namespace) -> Figures:
    torch.set_num_threads(1)
    quick = chosen.quick
    steps, seeds, cycles = (30, 1, 1) if quick else (chosen.steps, chosen.seeds, chosen.cycles)
    equal = deviations()
    table(["20 steps against the rule as written", "‖Δ‖/‖θ‖"], list(equal.items()))
    print("Aim: at most 1e-6.")
    cost = costs(cycles, batch=2 if quick else 16)
    table(
        ["CPU per step, language (class)", "s", "over AdamW"],
        [[name, one["seconds"], one["over_adamw"]] for name, one in cost.items()],
    )
    print("Aim: at most 1.15 at k=10.")
    race = races(steps, seeds, quick)
    rows = [[name, loss] for tried in race["tried"].values() for name, loss in tried.items()]
    table([f"tuning, {steps} steps", "held-out loss"], rows)
    table(
        ["seed", "common loss", "AdamW, steps", "Sophia, steps", "AdamW / Sophia", "of CPU s", "last: AdamW", "Sophia"],
        [
            [str(seed), one["target"], one["adamw"], one["sophia"], one["ratio"], one["cpu_ratio"], *one["ends"]]
            for seed, one in enumerate(race["seeds"])
        ],
    )
    print(f"{race['best']['AdamW']} against {race['best']['Sophia']}: steps to a common loss, AdamW / Sophia, median")
    print(
        f"{race['ratio']:.2f}; CPU seconds {race['cpu_ratio']:.2f}. Above 1 Sophia is faster. No aim: it is what it is."
    )
    return {"deviations": equal, "cpu": cost, "race": race}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cycles", type=int, default=10, help=f"of {CYCLE} steps, to measure CPU seconds")
    parser.add_argument("--quick", action="store_true")
    main(parser, measure)
