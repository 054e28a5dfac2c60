"""Does anything grow with the number of rounds? Memory of the server and of two peers, files on the server's disk.

    python -m tests.benchmarks.soak [--rounds N] [--figure FILE.png] [--json FILE]

A network of a few thousand parameters, 10,000 rounds, evaluations and snapshots as they are by default. Resident memory
is sampled as the rounds go by: it is called flat if it grows by less than `FLAT` bytes per 1,000 rounds in the second
half. What grows by design is the record in the database: one row for each round, two for each peer in it.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from jupyter_swarm import Recipe, host

from . import recipes
from .harness import Failed, Process, Server, peer, server, wait_until, workplace
from .reporting import Figures, main, table

PEERS = 2
FLAT = 128 * 1024
"""Bytes per 1,000 rounds: one small dict kept from each round would be more."""
_SAMPLES = 400
_EVERY_SECONDS = 0.2
_STANDSTILL_SECONDS = 120.0

Series = list[dict[str, float]]
"""Sample by sample: round, seconds, and bytes of each process and kind of file."""


def soak(rounds: int) -> Figures:
    """`rounds` rounds with two peers; the samples, and what they say."""
    with workplace() as (folder, stack):
        here = server(folder, stack)
        recipe = Recipe.from_source(recipes.NETWORK.format(optimizer="AdamW(lr=1e-3)"))
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
        summary[name]["flat"] = float(summary[name]["slope"] < FLAT)
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
    """Of (round, bytes): first, median of the second half, largest, and the slope of the second half per 1,000 rounds:
    the median slope of all pairs of samples (Theil and Sen), which a single step upwards does not sway."""
    rest = points[len(points) // 2 :]
    slopes = [(later[1] - one[1]) / (later[0] - one[0]) for one, later in itertools.combinations(rest, 2)]
    return {
        "first": points[0][1],
        "median": statistics.median(size for _, size in rest),
        "largest": max(size for _, size in points),
        "slope": 1000 * statistics.median(slopes or [0.0]),
    }


def draw(found: Figures, path: Path) -> None:
    """Memory, its growth since a tenth of the rounds, and files, over rounds."""
    figure = Figure(figsize=(8, 9), layout="constrained")
    memory, growth, files = figure.subplots(3, 1, sharex=True)
    series = found["series"]
    rounds = [one["round"] for one in series]
    since = series[len(series) // 10]
    for name, summary in found["summary"].items():
        (memory if "flat" in summary else files).plot(rounds, [one[name] / 1e6 for one in series], label=name)
        if "flat" in summary:
            growth.plot(rounds, [(one[name] - since[name]) / 1e6 for one in series], label=name)
    memory.set(ylabel="resident memory, MB", ylim=(0, None), title=f"{found['rounds']:,} rounds, {PEERS} peers")
    growth.set(ylabel=f"since round {since['round']:.0f}, MB")
    files.set(ylabel="on the server's disk, MB", ylim=(0, None), xlabel="round")
    for axes in (memory, growth, files):
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
    print(f"Flat: less than {FLAT // 1024} kB per 1,000 rounds. The database keeps a record of each round.")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--figure", type=Path, default=Path("soak.png"))
    main(parser, measure)
