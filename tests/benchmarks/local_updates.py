"""What do local updates cost in held-out loss, and save in bytes? A language model, beside synchronous training.

    python -m tests.benchmarks.local_updates [--size tiny|class] [--warm N] [--local N] [--rates LR …]
                                             [--figure FILE.png] [--json FILE]

Four peers, each a process with one thread, train GPT-Neo on Shakespeare through a real Jupyter server in three ways:
synchronously throughout; synchronously and then `LocalUpdates` every 50 steps (outer Nesterov 0.7, 0.9); `LocalUpdates`
from random parameters. Each way is tried with every learning rate and judged by its best one. Peers that are called
before they have made all their steps make rounds smaller, so rounds go on until the samples are the same to within half
a round of local updates; the synchronous run is longer by as much, and its held-out loss at just as many tokens is
taken, between two evaluations by a straight line. Bytes are those that the server counted on the peers' sockets,
framing included.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure

from jupyter_swarm import Recipe, Session, host, load_recipe

from .harness import Failed, Server, peer, server, wait_until, workplace
from .reporting import Figures, main, table

PEERS = 4
STEPS = 50
BATCH = 8
EVALUATIONS = 16
"""Of the synchronous run; those of local updates evaluate every two rounds."""
_STANDSTILL_SECONDS = 180.0


class Way(NamedTuple):
    """How to train: so many synchronous rounds, then so many of local updates (nominally)."""

    name: str
    warm: int
    local: int

    @property
    def samples(self) -> int:
        return self.warm * PEERS * BATCH + self.local * STEPS * PEERS * BATCH


def recipe_of(way: Way, size: str, rate: float) -> Recipe:
    """The language recipe. Its schedule goes by samples: it is the same for all ways."""
    return load_recipe(
        "language", SIZE=size, WARM_ROUNDS=way.warm, WARM_BATCH=PEERS * BATCH, LOCAL_ROUNDS=way.local,
        LOCAL_STEPS=STEPS, BATCH=BATCH, PEERS=PEERS, LEARNING_RATE=rate, HELD_OUT=0.005,
    )  # fmt: skip


def run(here: Server, way: Way, size: str, rate: float) -> xr.Dataset:
    """Train `way` with four peers; the session's history."""
    recipe = recipe_of(way, size, rate)
    every = max(1, way.warm // EVALUATIONS) if not way.local else 2 if not way.warm else way.warm // 4
    session = host(
        recipe, way.name, rounds=0 if way.local else way.warm + STEPS // 2, train=False, server=here.owner_url,
        minimum_peers=PEERS, evaluate_every=every,
    )  # fmt: skip
    link = session.invite("peer").link
    folder = here.folder / session.id
    folder.mkdir()
    peers = [peer(link, recipe.sha256, f"peer-{n + 1}", folder, "--threads", "1") for n in range(PEERS)]
    try:
        _follow(here, session, way)
        return session.history()
    finally:
        for process in peers:
            process.stop()


def _follow(here: Server, session: Session, way: Way) -> None:
    """Wait for the end of the session, and end it when its samples are there."""
    last = {"version": 0, "samples_done": 0}
    while True:
        seen = last["version"]

        def moved(seen: int = seen) -> bool:
            nonlocal last
            last = here.status(session.id)
            return last["version"] > seen or last["state"] == "finished"

        before = last["samples_done"]
        wait_until(moved, f"round {seen + 1} of {way.name}", _STANDSTILL_SECONDS, every=0.1 if way.local else 0.5)
        if last["state"] == "finished":
            return
        if last["version"] == way.warm + 1 and way.warm and way.local:
            session.set(evaluate_every=2)
        # The round under way ends in any case: is it the one that comes closest?
        coming = (last["samples_done"] - before) / (last["version"] - seen)
        if way.local and not last["rounds"] and last["samples_done"] + 1.5 * coming >= way.samples:
            session.set(rounds=last["version"] + 1)


def figures_of(history: xr.Dataset) -> Figures:
    """What one run came to: losses by samples, and bytes of each phase."""
    predictions = int(history.attrs["predictions"])
    evaluated = history.dropna("round", subset=["held_out_loss"])
    held_out, done = evaluated["held_out_loss"].values, evaluated["samples_done"].values
    phases = {}
    for strategy in ("EveryStep", "LocalUpdates"):
        part = history.isel(round=(history["strategy"] == strategy).values)
        if not part.sizes["round"]:
            continue
        tokens = int(part["samples"].sum()) * predictions
        phases[strategy] = {
            "rounds": part.sizes["round"],
            "tokens": tokens,
            "bytes_up": int(part["bytes_up"].sum()),
            "bytes_down": int(part["bytes_down"].sum()),
            "up_per_token": float(part["bytes_up"].sum()) / tokens,
            "down_per_token": float(part["bytes_down"].sum()) / tokens,
            "seconds": float(part["seconds"].sum()),
            "samples_in_round": part["samples"].sum("peer").values.tolist(),
            "late": int((part["staleness"] > 0).sum()),
        }
    return {
        "tokens": int(history["samples_done"].values[-1]) * predictions,
        "held_out": float(held_out[-1]),
        "curve": [[int(d) * predictions, float(v)] for d, v in zip(done, held_out, strict=True)],
        "phases": phases,
    }


def at(figures: Figures, tokens: int) -> float:
    """The held-out loss of a run after so many tokens."""
    x, y = np.array(figures["curve"]).T
    return float(np.interp(tokens, x, y))


def summarise(runs: dict[str, dict[float, Figures]]) -> Figures:
    """Each way at its best learning rate, beside the synchronous run at its best."""
    best = {name: min(of.items(), key=lambda pair: pair[1]["held_out"]) for name, of in runs.items()}
    together = best["synchronous"][1]
    base = together["phases"]["EveryStep"]
    result: Figures = {}
    for name, (rate, figures) in best.items():
        last = list(figures["phases"].values())[-1]
        loss = at(together, figures["tokens"])
        result[name] = {
            "rate": rate,
            "tokens": figures["tokens"],
            "held_out": figures["held_out"],
            "synchronous": loss,
            "percent": 100 * (figures["held_out"] / loss - 1),
            "up_per_token": last["up_per_token"],
            "down_per_token": last["down_per_token"],
            "fewer_up": base["up_per_token"] / last["up_per_token"],
            "fewer_down": base["down_per_token"] / last["down_per_token"],
        }
    return result


def draw(runs: dict[str, dict[float, Figures]], summary: Figures, path: Path) -> None:
    """Held-out loss by tokens and by bytes of both directions, each way at its best."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for name, one in summary.items():
        run_ = runs[name][one["rate"]]
        x, y = np.array(run_["curve"]).T
        axes[0].plot(x / 1e6, y, label=f"{name}, lr {one['rate']:g}")
        ends = [0, *itertools.accumulate(phase["tokens"] for phase in run_["phases"].values())]
        moved = [phase["bytes_up"] + phase["bytes_down"] for phase in run_["phases"].values()]
        total = np.interp(x, ends, [0, *itertools.accumulate(moved)])
        axes[1].plot(total / 1e6, y)
    axes[0].set(xlabel="million tokens", ylabel="held-out loss, nats per character", ylim=(None, 3.5))
    axes[1].set(xlabel="MB moved, up and down, all peers", xscale="symlog", xlim=(0, None))
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=150)


def measure(chosen: argparse.Namespace) -> Figures:
    torch.set_num_threads(1)
    rounds = chosen.warm + chosen.local * STEPS
    ways = [
        Way("synchronous", rounds, 0),
        Way("synchronous, then local", chosen.warm, chosen.local),
        Way("local from scratch", 0, rounds // STEPS),
    ]
    runs: dict[str, dict[float, Figures]] = {way.name: {} for way in ways}
    with workplace() as (folder, stack):
        here = server(folder, stack)
        for way, rate in itertools.product(ways, chosen.rates):
            figures = runs[way.name][rate] = figures_of(run(here, way, chosen.size, rate))
            if not figures["phases"]:
                raise Failed(f"No round of {way.name} came about.")
            spent = sum(phase["seconds"] for phase in figures["phases"].values())
            print(f"{way.name}, lr {rate:g}: {figures['held_out']:.4f} nats after {figures['tokens']:,} tokens, "
                  f"{spent:.0f} s", flush=True)  # fmt: skip
    summary = summarise(runs)
    table(
        ["way (at its best rate)", "lr", "tokens", "held-out", "synchronous there", "difference %",
         "up B/token", "down B/token", "times fewer up", "down"],
        [
            [name, one["rate"], one["tokens"], f"{one['held_out']:.4f}", f"{one['synchronous']:.4f}",
             f"{one['percent']:+.2f}", one["up_per_token"], one["down_per_token"], one["fewer_up"], one["fewer_down"]]
            for name, one in summary.items()
        ],
    )  # fmt: skip
    print("Bytes: of the last phase. Aims: within 1 % after a synchronous start, bytes at least 40 times fewer.")
    if chosen.figure:
        draw(runs, summary, chosen.figure)
    return {"runs": runs, "summary": summary}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="tiny", help="of the language recipe")
    parser.add_argument("--warm", type=int, default=800, help="synchronous rounds before local updates")
    parser.add_argument("--local", type=int, default=16, help="rounds of local updates after them")
    parser.add_argument("--rates", type=float, nargs="+", default=[4e-3, 8e-3, 1.6e-2], metavar="LR")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the curves into FILE")
    main(parser, measure)
