"""Does a slow peer, or one that stops, hold the others up? Share of time that the fast peers compute, waits, weights.

    python -m tests.benchmarks.stragglers [--seconds S] [--no-computing] [--figure FILE.png] [--json FILE]

Four peers in processes of their own train through a real Jupyter server: two fast ones, one that is 5 times slower
throughout, and one that is as fast as the first but is stopped (SIGSTOP) for 20 s, with work in hands. With
`LocalUpdates` every 50 steps, and with `EveryStep` beside it. What a step takes is slept, not computed, so that four
peers on few cores do not slow each other down; then once more with a language model that is computed, where the slow
peer is stopped four fifths of the time.

The share is seconds computing (from the grant of a lease until it is done, as the server sees it) by seconds between a
session's first and last round. Where steps are slept it is also told from the steps that were made alone: their number
times what each takes.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure

from jupyter_swarm import Recipe, Session, host, load_recipe
from jupyter_swarm.cli.demo.faults import Slowed, stop_at_work

from . import recipes
from .harness import Process, Server, peer, server, wait_until, workplace
from .reporting import Figures, main, table

FAST = ("fast-1", "fast-2")
SLOW = "slow"
STOPPED = "stopped"
STEP_SECONDS = 0.04
TIMES_SLOWER = 5
STEPS = 50
BATCH = 8
STOP_SECONDS = 20.0
_PATIENCE = 180.0


class Case(NamedTuple):
    """What is trained, and whether its steps are slept."""

    name: str
    recipe: Recipe
    slept: bool


def cases(computing: bool) -> Iterator[Case]:
    together = f"EveryStep(target_batch={4 * BATCH})"
    for strategy in (f"LocalUpdates(steps={STEPS}, batch={BATCH})", together):
        text = recipes.SLEEPY.format(seconds=STEP_SECONDS, batch=BATCH, strategy=strategy)
        yield Case(f"{strategy.split('(')[0]}, slept", Recipe.from_source(text), True)
    if computing:
        shape = {"SIZE": "tiny", "BATCH": BATCH, "LOCAL_STEPS": STEPS, "WARM_BATCH": 4 * BATCH, "HELD_OUT": 0.005}
        yield Case("LocalUpdates, computed", load_recipe("language", WARM_ROUNDS=0, **shape), False)
        yield Case("EveryStep, computed", load_recipe("language", LOCAL_ROUNDS=0, **shape), False)


@contextlib.contextmanager
def joined(session: Session, case: Case, folder: Path) -> Iterator[dict[str, Process]]:
    """Four peers by name, the slow one slowed down."""
    link = session.invite("peer").link
    peers: dict[str, Process] = {}
    with contextlib.ExitStack() as stack:
        for name in (*FAST, STOPPED, SLOW):
            slowly = case.slept and name == SLOW
            prefix = ["env", f"SLEEPY_SECONDS={STEP_SECONDS * TIMES_SLOWER}"] if slowly else []
            peers[name] = peer(link, case.recipe.sha256, name, folder, "--threads", "1", prefix=prefix)
            stack.callback(peers[name].stop)
        if not case.slept:
            stack.enter_context(Slowed(peers[SLOW].use))
        yield peers


def run(here: Server, case: Case, seconds: float) -> tuple[xr.Dataset, tuple[float, float]]:
    """Train for `seconds`, and as long again after one peer has stood still; the history, and when that was."""
    session = host(
        case.recipe, case.name, rounds=0, train=False, server=here.owner_url, minimum_peers=4, evaluate_every=0
    )
    folder = here.folder / session.id
    folder.mkdir()

    def version() -> int:
        return int(here.status(session.id)["version"])

    def computes() -> bool:
        return any(one["name"] == STOPPED and one["state"] == "training" for one in here.status(session.id)["peers"])

    with joined(session, case, folder) as peers:
        wait_until(lambda: version() >= 1, f"the first round of {case.name}", _PATIENCE)
        session.set(minimum_peers=1)
        time.sleep(seconds)
        process = peers[STOPPED].use
        wait_until(lambda: stop_at_work(process, computes), f"{STOPPED} to compute", _PATIENCE)
        stopped = time.time()
        time.sleep(STOP_SECONDS)
        process.resume()
        stop = stopped, time.time()
        time.sleep(seconds)
        session.set(rounds=version() + 1)
        wait_until(lambda: here.status(session.id)["state"] == "finished", f"the end of {case.name}", _PATIENCE)
        return session.history(), stop


def figures_of(history: xr.Dataset, case: Case, stop: tuple[float, float]) -> Figures:
    """What the peers did between the first and the last round."""
    history = history.sel(round=slice(1, None))  # without what was measured before the first round
    ends = history["time"].values.astype("datetime64[ns]").astype(np.int64) / 1e9
    after = history.isel(round=slice(1, None))
    elapsed = float(ends[-1] - ends[0])
    peers: Figures = {}
    for name in map(str, history["peer"].values):
        one = after.sel(peer=name)
        took_part = one["samples"].values > 0
        waiting = np.nan_to_num(one["waiting"].values)
        longest = int(waiting.argmax())
        late = (one["staleness"].values > 0).nonzero()[0]
        peers[name] = {
            "share": float(one["computing"].sum()) / elapsed,
            "share_by_steps": _slept(one, name) / elapsed if case.slept else math.nan,
            "longest_wait": float(waiting[longest]),
            "waited_for": str(one["waiting_reason"].values[longest]),
            "round_of_it": int(one["round"].values[longest]),
            "weight": float(one["samples"].sum() / after["samples"].sum()),
            "rounds": int(took_part.sum()),
            "late_rounds": one["round"].values[late].tolist(),
            "late_samples": one["samples"].values[late].tolist(),
            "samples": one["samples"].values.tolist(),
            "computing": np.nan_to_num(one["computing"].values).tolist(),
        }
    return {
        "rounds": int(after.sizes["round"]),
        "elapsed": elapsed,
        "longest_round": float(after["seconds"].max()),
        "usual_round": float(after["seconds"].median()),
        "stopped": [moment - ends[0] for moment in stop],
        "ends": (ends[1:] - ends[0]).tolist(),
        "seconds": after["seconds"].values.tolist(),
        "peers": peers,
    }


def _slept(one: xr.Dataset, name: str) -> float:
    """Seconds of a peer's steps, by what each sample is known to take."""
    return float(one["samples"].sum()) / BATCH * STEP_SECONDS * (TIMES_SLOWER if name == SLOW else 1)


def draw(results: dict[str, Figures], path: Path) -> None:
    """For each case, by the seconds since the first round: every peer's samples in each round."""
    figure = Figure(figsize=(9, 2.2 * len(results)), layout="constrained")
    for axes, (name, one) in zip(figure.subplots(len(results), 1, squeeze=False)[:, 0], results.items(), strict=True):
        axes.axvspan(*one["stopped"], color="0.9", linewidth=0)
        for peer_name, numbers in sorted(one["peers"].items()):
            axes.plot(one["ends"], numbers["samples"], ".-", markersize=4, linewidth=1, label=peer_name)
        axes.set(title=name, ylabel="samples in the round", xlim=(0, one["elapsed"]))
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.set_xlabel("seconds since the first round; grey: one peer stands still")
    figure.savefig(path, dpi=150)


def measure(chosen: argparse.Namespace) -> Figures:
    torch.set_num_threads(1)
    results: dict[str, Figures] = {}
    with workplace() as (folder, stack):
        here = server(folder, stack)
        for case in cases(not chosen.no_computing):
            history, stop = run(here, case, chosen.seconds)
            results[case.name] = figures_of(history, case, stop)
            print(f"{case.name}: {results[case.name]['rounds']} rounds", flush=True)
    table(
        ["", "peer", "computing %", "by its steps %", "weight %", "rounds", "late", "longest wait s", "round", "for"],
        [
            [name, peer_name, 100 * one["share"], 100 * one["share_by_steps"], 100 * one["weight"], one["rounds"],
             len(one["late_rounds"]), one["longest_wait"], one["round_of_it"], one["waited_for"]]
            for name, figures in results.items()
            for peer_name, one in sorted(figures["peers"].items())
        ],
    )  # fmt: skip
    table(
        ["", "rounds", "s a round", "longest round s", "least share of a fast peer %"],
        [
            [name, one["rounds"], one["usual_round"], one["longest_round"],
             100 * min(one["peers"][fast]["share"] for fast in FAST)]
            for name, one in results.items()
        ],
    )  # fmt: skip
    print("Aim: with LocalUpdates the fast peers compute at least 90 % of the time.")
    if chosen.figure:
        draw(results, chosen.figure)
    return {"results": results}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="before and after the stop of 20 s")
    parser.add_argument("--no-computing", action="store_true", help="only steps that are slept")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the samples of each round into FILE")
    main(parser, measure)
