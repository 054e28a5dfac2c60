"""How much of a class's work still counts when a third of its peers is killed every minute, and what does it learn?

    python -m tests.benchmarks.churn [--minutes M] [--strategies local sparse] [--seed S] [--figure F.png] [--json F]

Eight peers in processes of their own train through a real Jupyter server. In each minute a third of them gets SIGKILL,
one after the other at moments that follow from the seed, and is started again at once: a new process, which imports
torch, joins by the same link, is known as the same peer, and fetches the parameters. Beside it, at the same time, the
same session with the same seed on a server of its own, whose peers are left alone. What a step takes is slept, not
computed, so that sixteen peers on few cores do not slow each other down.

*Goodput* is samples that count by samples possible. Possible is what a peer of the undisturbed session makes count in
a second, times the peers, times the time: all of it (*of the clock*, with the time in which killed peers are away), or
only the time that peers were connected and synced, as the server sees them four times a second (*of the time in the
class*).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure

from jupyter_swarm import Recipe, Session, host

from . import recipes
from .harness import Process, Server, peer, server, wait_until, workplace
from .reporting import Figures, main, table

STRATEGIES = {
    "local": "LocalUpdates(steps={steps}, batch={batch})",
    "sparse": "SparseLocalUpdates(steps={steps}, batch={batch})",
}
STEPS = 30
BATCH = 8
STEP_SECONDS = 0.05
KILLED = 1 / 3
_POLL_SECONDS = 0.25
_PATIENCE = 240.0
_FETCHING = "receiving"


class Kill(NamedTuple):
    """The peer of that number is killed so many seconds after the beginning."""

    seconds: float
    peer: int


class Comeback(NamedTuple):
    """What became of a kill: seconds from it until the server has the peer again, until its parameters are whole, and
    until something of it counts."""

    kill: Kill
    connected: float
    synced: float
    counts: float


def kills(seed: int, minutes: float, minute: float, peers: int) -> list[Kill]:
    """A third of the peers in every `minute` (seconds), each of them at most once in it."""
    chance = random.Random(seed)
    found: list[Kill] = []
    whole = int(minutes * 60 / minute)
    for number in range(whole):
        count = round((number + 1) * peers * KILLED) - round(number * peers * KILLED)
        victims = chance.sample(range(peers), count)
        found += [Kill(minute * (number + chance.random()), victim) for victim in victims]
    return sorted(found)


class Class:
    """One session with its peers. `seen`: (seconds since the beginning, version, who is connected, who is synced)."""

    def __init__(self, here: Server, recipe: Recipe, name: str, peers: int) -> None:
        self._here = here
        self._recipe = recipe
        self.session: Session = host(
            # One more than will come: both sessions begin at once, when all are there.
            recipe, name, rounds=0, train=False, server=here.owner_url, minimum_peers=peers + 1, evaluate_every=10,
        )  # fmt: skip
        self._link = self.session.invite("peer").link
        self.names = [f"peer {number + 1}" for number in range(peers)]
        self.processes: dict[str, Process] = {}
        self.began = 0.0
        self.seen: list[tuple[float, int, frozenset[str], frozenset[str]]] = []

    def start(self, name: str) -> None:
        """Start a peer, the first time or again."""
        self.processes[name] = peer(self._link, self._recipe.sha256, name, self._here.folder, "--threads", "1")

    def kill(self, name: str) -> None:
        """SIGKILL."""
        process = self.processes.pop(name)
        process.popen.kill()
        process.popen.wait()

    def stop(self) -> None:
        for process in self.processes.values():
            process.stop()

    def look(self) -> None:
        """Note who is there."""
        status = self._here.status(self.session.id)
        there = {str(one["name"]): str(one["state"]) for one in status["peers"]}
        # Whoever has had its parameters since it came also fetches what each round makes of them.
        before = self.seen[-1][3] if self.seen else frozenset()
        synced = frozenset(name for name, state in there.items() if state != _FETCHING or name in before)
        self.seen.append((time.time() - self.began, int(status["version"]), frozenset(there), synced))

    def ready(self) -> bool:
        """Whether all are there."""
        self.look()
        return len(self.seen[-1][3]) == len(self.names)

    def begin(self) -> None:
        """Let it train, and measure from now on."""
        self.session.set(minimum_peers=1)
        self.seen = [(0.0, *self.seen[-1][1:])]
        self.began = time.time()

    def finish(self) -> xr.Dataset:
        """End the session; its history."""
        self.session.set(rounds=self._here.status(self.session.id)["version"] + 1)
        wait_until(lambda: self._here.status(self.session.id)["state"] == "finished", "the end of a session", _PATIENCE)
        return self.session.history().sel(round=slice(1, None))  # without what was measured before the first round


@contextlib.contextmanager
def classes(recipe: Recipe, peers: int) -> Iterator[dict[str, Class]]:
    """The disturbed one and the other, all peers there."""
    with workplace() as (folder, stack):
        found = {}
        for name in ("churn", "undisturbed"):
            (folder / name).mkdir()
            found[name] = Class(server(folder / name, stack), recipe, name, peers)
            stack.callback(found[name].stop)
            for each in found[name].names:
                found[name].start(each)
        for name, one in found.items():
            wait_until(one.ready, f"all peers of {name}", _PATIENCE, every=_POLL_SECONDS)
        yield found


def run(recipe: Recipe, plan: list[Kill], seconds: float, peers: int) -> dict[str, tuple[Class, xr.Dataset]]:
    """Train for so long, killing by `plan`; each class and its history."""
    with classes(recipe, peers) as both:
        for one in both.values():
            one.begin()
        churn, left = both["churn"], list(plan)
        while (now := time.time() - churn.began) < seconds:
            while left and left[0].seconds <= now:
                name = churn.names[left.pop(0).peer]
                churn.kill(name)
                churn.start(name)
            for one in both.values():
                one.look()
            time.sleep(_POLL_SECONDS)
        return {name: (one, one.finish()) for name, one in both.items()}


def figures_of(one: Class, history: xr.Dataset, seconds: float) -> Figures:
    """What counted in the time that is measured, who was there, and what the class learnt."""
    ends = _ends(history, one)
    inside = (ends > 0) & (ends <= seconds)
    by_peer = np.nan_to_num(history["samples"].values)
    evaluated = history.dropna("round", subset=["held_out_loss"])
    looks = [look for look in one.seen if 0 <= look[0] <= seconds]
    moments = [0.0, *(look[0] for look in looks[1:]), seconds]
    there = sum(
        (after - moment) * len(look[3])
        for look, (moment, after) in zip(looks, itertools.pairwise(moments), strict=True)
    )
    last = float(evaluated["samples_done"].values[-1])
    return {
        "samples": int(by_peer[inside].sum()),
        "rounds": int(inside.sum()),
        "usual_round": float(np.nanmedian(history["seconds"].values[inside])),
        "longest_round": float(np.nanmax(history["seconds"].values[inside])),
        "peer_seconds": there,
        "held_out": float(evaluated["held_out_loss"].values[-1]),
        "held_out_samples": int(last),
        "ends": ends[inside].tolist(),
        "samples_in_round": by_peer[inside].sum(1).tolist(),
        "curve": [
            [float(end), int(done), float(loss)]
            for end, done, loss in zip(
                _ends(evaluated, one),
                evaluated["samples_done"].values,
                evaluated["held_out_loss"].values,
                strict=True,
            )
        ],
        "synced": [[moment, len(synced)] for moment, _, _, synced in one.seen],
    }


def _ends(history: xr.Dataset, one: Class) -> np.ndarray:
    """When each round ended, in seconds since the beginning."""
    seconds: np.ndarray = history["time"].values.astype("datetime64[ns]").astype(np.int64) / 1e9 - one.began
    return seconds


def comebacks(one: Class, history: xr.Dataset, plan: list[Kill]) -> list[Comeback]:
    """How long each killed peer was away; of those that were back before the end."""
    ends = _ends(history, one)
    found = []
    for kill in plan:
        name = one.names[kill.peer]
        counted = np.nan_to_num(history["samples"].sel(peer=name).values) > 0
        # The look at the moment of the kill may still see it.
        after = [look for look in one.seen if look[0] > kill.seconds]
        gone = next((n for n, look in enumerate(after) if name not in look[2]), None)
        if gone is None:
            continue
        back = next((look[0] for look in after[gone:] if name in look[2]), None)
        synced = next((look[0] for look in after[gone:] if name in look[3]), None)
        if back is None or synced is None:
            continue
        counts = ends[counted & (ends > synced)]
        if len(counts):
            found.append(Comeback(kill, *(float(moment) - kill.seconds for moment in (back, synced, counts[0]))))
    return found


def goodput(disturbed: Figures, undisturbed: Figures, seconds: float, peers: int) -> Figures:
    """Samples that count by samples possible."""
    rate = undisturbed["samples"] / undisturbed["peer_seconds"]
    return {
        "samples_per_second_of_a_peer": rate,
        "of_the_clock": disturbed["samples"] / (rate * peers * seconds),
        "of_the_time_in_the_class": disturbed["samples"] / (rate * disturbed["peer_seconds"]),
        "computing_undisturbed": undisturbed["samples"] / BATCH * STEP_SECONDS / (peers * seconds),
        "computing_churn": disturbed["samples"] / BATCH * STEP_SECONDS / (peers * seconds),
    }


def at(curve: list[list[float]], samples: float) -> float:
    """The held-out loss after so many samples."""
    _, done, loss = np.array(curve).T
    return float(np.interp(samples, done, loss))


def draw(results: dict[str, Figures], path: Path) -> None:
    """For each strategy, by seconds: samples that count, peers that are synced, held-out loss."""
    figure = Figure(figsize=(11, 3 * len(results)), layout="constrained")
    styles = {"churn": ("#D55E00", "a third killed every minute"), "undisturbed": ("#0072B2", "undisturbed")}
    for row, (name, result) in zip(figure.subplots(len(results), 3, squeeze=False), results.items(), strict=True):
        for kind, (colour, label) in styles.items():
            one = result[kind]
            row[0].plot(one["ends"], np.cumsum(one["samples_in_round"]), color=colour, label=label)
            row[1].step(*np.array(one["synced"]).T, where="post", color=colour, linewidth=1)
            row[2].plot([point[0] for point in one["curve"]], [point[2] for point in one["curve"]], color=colour)
        for kill in result["kills"]:
            row[1].axvline(kill["seconds"], color="0.85", linewidth=0.8, zorder=0)
        row[0].set(title=f"{name}: samples that count", xlabel="seconds", ylabel="samples")
        row[0].legend(frameon=False)
        row[1].set(title="peers that are synced (grey: a kill)", xlabel="seconds", ylabel="peers", ylim=(0, None))
        row[2].set(title="held-out loss", xlabel="seconds", ylabel="loss", yscale="log")
    figure.savefig(path, dpi=150)


def result_of(strategy: str, chosen: argparse.Namespace) -> Figures:
    """Both classes with one strategy."""
    rule = STRATEGIES[strategy].format(steps=STEPS, batch=BATCH)
    recipe = Recipe.from_source(recipes.CHURN.format(seconds=STEP_SECONDS, batch=BATCH, strategy=rule))
    plan, seconds = kills(chosen.seed, chosen.minutes, chosen.minute, chosen.peers), 60 * chosen.minutes
    found = run(recipe, plan, seconds, chosen.peers)
    result: Figures = {name: figures_of(one, history, seconds) for name, (one, history) in found.items()}
    result["kills"] = [kill._asdict() for kill in plan]
    result["goodput"] = goodput(result["churn"], result["undisturbed"], seconds, chosen.peers)
    result["comebacks"] = [{**back._asdict(), "kill": back.kill._asdict()} for back in comebacks(*found["churn"], plan)]
    ours, theirs = result["churn"], result["undisturbed"]
    result["undisturbed_held_out_at_equal_samples"] = at(theirs["curve"], ours["held_out_samples"])
    return result


def report(results: dict[str, Figures]) -> None:
    rows = [
        [strategy, kind, len(result["kills"]) if kind == "churn" else 0, one["samples"], one["rounds"],
         one["usual_round"], one["longest_round"], one["peer_seconds"], 100 * result["goodput"][f"computing_{kind}"],
         one["held_out"]]
        for strategy, result in results.items()
        for kind, one in ((kind, result[kind]) for kind in ("undisturbed", "churn"))
    ]  # fmt: skip
    table(
        [
            "",
            "",
            "kills",
            "samples",
            "rounds",
            "s a round",
            "longest",
            "peer-seconds synced",
            "computing %",
            "held-out",
        ],
        rows,
    )
    table(
        ["", "goodput of the clock %", "of the time in the class %", "held-out", "undisturbed", "at equal samples"],
        [
            [strategy, 100 * result["goodput"]["of_the_clock"], 100 * result["goodput"]["of_the_time_in_the_class"],
             result["churn"]["held_out"], result["undisturbed"]["held_out"],
             result["undisturbed_held_out_at_equal_samples"]]
            for strategy, result in results.items()
        ],
    )  # fmt: skip
    table(
        ["a killed peer is away: median, longest s", "back", "until connected", "until synced", "until it counts"],
        [
            [strategy, len(result["comebacks"]),
             *(f"{np.median(times):.1f}, {max(times):.1f}" if times else None
               for key in ("connected", "synced", "counts")
               for times in [[back[key] for back in result["comebacks"]]])]
            for strategy, result in results.items()
        ],
    )  # fmt: skip
    print("Aim: goodput at least 88 %.")


def measure(chosen: argparse.Namespace) -> Figures:
    torch.set_num_threads(1)
    print(f"seed {chosen.seed}", flush=True)
    results = {strategy: result_of(strategy, chosen) for strategy in chosen.strategies}
    report(results)
    if chosen.figure:
        draw(results, chosen.figure)
    return {"seed": chosen.seed, "minutes": chosen.minutes, "peers": chosen.peers, "results": results}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--minute", type=float, default=60.0, metavar="S", help="a third is killed every S seconds")
    parser.add_argument("--peers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1, help="of the moments and the victims")
    parser.add_argument("--strategies", nargs="+", choices=list(STRATEGIES), default=list(STRATEGIES))
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw both classes into FILE")
    main(parser, measure)
