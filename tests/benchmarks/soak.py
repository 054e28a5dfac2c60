"""Does anything grow with the number of rounds? Memory of the server and of two peers, files on the server's disk.

    python -m tests.benchmarks.soak [--rounds N] [--figure FILE.png] [--json FILE]

A network of a few thousand parameters, 10,000 rounds, evaluations and snapshots as they are by default. Resident memory
is sampled as the rounds go by. A line is fitted to the second half of the samples: memory is called flat if it grows
by less than `FLAT` bytes per 1,000 rounds. What grows by design is the record: one row for each round and peer in the
database, one entry for each round in a peer's memory.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jupyter_swarm import host
from jupyter_swarm.peer.recipe import load_recipe

from . import recipes
from .harness import Failed, Process, Server, peer, server, wait_until, workplace
from .reporting import Figures, main, table

PEERS = 2
FLAT = {"server": 256 * 1024, "peer": 1024 * 1024}
"""Bytes per 1,000 rounds. A peer keeps an entry of less than 1 kB for each round; the server keeps nothing."""
_SAMPLES = 400
_EVERY_SECONDS = 0.2
_STANDSTILL_SECONDS = 120.0

Series = list[dict[str, float]]
"""Sample by sample: round, seconds, and bytes of each process and kind of file."""


def soak(rounds: int) -> Figures:
    """`rounds` rounds with two peers; the samples, and what they say."""
    with workplace() as (folder, stack):
        here = server(folder, stack)
        path = folder / "network.py"
        path.write_text(recipes.NETWORK.format(optimizer="AdamW(lr=1e-3)"), encoding="utf-8")
        recipe = load_recipe(path)
        session = host(
            recipe, rounds=rounds, train=False, server=here.owner_url, minimum_peers=PEERS, evaluate_every=10
        )
        processes: dict[str, Process] = {"server": here}
        for place in range(PEERS):
            name = f"peer {place + 1}"
            processes[name] = peer(session.invite("peer").link, recipe.sha256, f"peer-{place + 1}", folder)
            stack.callback(processes[name].stop)
        series = _sample(here, session.id, processes, rounds)
        finished = here.status(session.id)
    summary = {name: grown([(one["round"], one[name]) for one in series]) for name in series[0] if name not in _AXES}
    for name in processes:
        summary[name]["flat"] = float(summary[name]["slope"] < FLAT[name.split()[0]])
    return {
        "rounds": finished["version"],
        "seconds": series[-1]["seconds"],
        "series": series,
        "summary": summary,
    }


_AXES = ("round", "seconds")


def _sample(here: Server, session: str, processes: dict[str, Process], rounds: int) -> Series:
    wait_until(lambda: here.status(session)["version"] > 0, "the first round", _STANDSTILL_SECONDS)
    series: Series = []
    start = moved = time.monotonic()
    while True:
        for name, process in processes.items():
            if process.popen.poll() is not None and (not series or series[-1]["round"] < rounds):
                raise Failed(f"The {name} ended:\n{process.said()}")
        version = here.status(session)["version"]
        now = time.monotonic()
        if not series or version >= series[-1]["round"] + rounds / _SAMPLES:
            moved = now
            sample = {"round": float(version), "seconds": now - start, **files(here.folder)}
            series.append(sample | {name: memory(process, series, name) for name, process in processes.items()})
        if version >= rounds:
            return series
        if now - moved > _STANDSTILL_SECONDS:
            raise Failed(f"Round {version} does not end: {here.status(session)['reason']}")
        time.sleep(_EVERY_SECONDS)


def memory(process: Process, series: Series, name: str) -> float:
    """What is resident; the last known, once the process has ended as it should."""
    if process.popen.poll() is not None:
        return series[-1][name]
    return float(process.use.memory_info().rss)


def files(folder: Path) -> dict[str, float]:
    """Bytes on the server's disk, by what they are for."""
    kinds = {"database": "*.sqlite", "write-ahead log": "*.sqlite-wal", "journal": "round-*", "snapshots": "snapshot-*"}
    return {name: float(sum(map(_size, folder.rglob(pattern)))) for name, pattern in kinds.items()}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # removed meanwhile, as old ones are
        return 0


def grown(points: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Of (round, bytes): first, median of the second half, largest, and the slope of the second half per 1,000 rounds
    (ordinary least squares)."""
    rest = points[len(points) // 2 :]
    xs, ys = [x for x, _ in rest], [y for _, y in rest]
    slope = statistics.linear_regression(xs, ys).slope if len(set(xs)) > 1 else 0.0
    return {
        "first": points[0][1],
        "median": statistics.median(ys),
        "largest": max(y for _, y in points),
        "slope": 1000 * slope,
    }


def draw(found: Figures, path: Path) -> None:
    """Memory above, files below, over rounds."""
    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    rounds = [one["round"] for one in found["series"]]
    for name in found["summary"]:
        axes = above if "flat" in found["summary"][name] else below
        axes.plot(rounds, [one[name] / 1e6 for one in found["series"]], label=name)
    above.set(ylabel="resident memory, MB", ylim=(0, None), title=f"{found['rounds']:,} rounds, {PEERS} peers")
    below.set(ylabel="on the server's disk, MB", ylim=(0, None), xlabel="round")
    for axes in (above, below):
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def measure(chosen: argparse.Namespace) -> Figures:
    found = soak(chosen.rounds)
    draw(found, chosen.figure)
    print(f"\n{found['rounds']:,} rounds in {found['seconds']:.0f} s; the figure is {chosen.figure}")
    verdicts = {0.0: "grows", 1.0: "flat"}
    table(
        ["", "first, MB", "median of the second half", "largest", "kB per 1,000 rounds", "verdict"],
        [
            [
                name, one["first"] / 1e6, one["median"] / 1e6, one["largest"] / 1e6, one["slope"] / 1e3,
                verdicts[one["flat"]] if "flat" in one else None,
            ]
            for name, one in found["summary"].items()
        ],
    )  # fmt: skip
    limits = ", ".join(f"{name} {limit // 1024} kB" for name, limit in FLAT.items())
    print(f"Flat: less than so much per 1,000 rounds: {limits}. The database keeps a record of each round.")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--figure", type=Path, default=Path("soak.png"))
    main(parser, measure)
