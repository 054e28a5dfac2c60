"""Does a class fit that trains GPT-Neo 125M? One round of `EveryStep`, one of `LocalUpdates`: memory and seconds.

    python -m tests.benchmarks.large [--size 125M] [--context N] [--rounds N] [--json FILE]

Two peers, the first of which opens the session, and a Jupyter server, each a process with one torch thread, on one
machine. About 12 GB of memory for the 125M (a peer of a class has its machine for itself). The recipe is `language`
with pieces of words; its vocabulary and so the model have the published size.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from .harness import Failed, Process, server, wait_until, workplace
from .reporting import Figures, main, table

MICRO_BATCH = 1
BATCH = 2
STEPS = 2
_PATIENCE = 1800.0
PHASES = {
    "compute": "forward and backward passes, inner steps",
    "announce": "norms; what the steps have changed",
    "grant": "until the server lets it send",
    "upload": "until the server has all of it",
    "merge": "server: last contribution complete until the first packet arrives",
    "packets": "first to last packet; the server steps meanwhile",
    "record": "journal, digests and round record, until the commit arrives",
    "apply": "packets into the view",
    "load": "the view into the model",
}


def train(size: str, context: int, rounds: int) -> Figures:
    """`rounds` of each strategy; phases of each round and peer, peaks of each process."""
    with workplace() as (folder, stack):
        here = server(folder, stack)
        changes = {
            "recipe": {
                "SIZE": size, "TOKENS": "bpe", "CONTEXT": context, "MICRO_BATCH": MICRO_BATCH, "HELD_OUT": 0.001,
                "WARM_ROUNDS": rounds, "WARM_BATCH": 2 * BATCH, "LOCAL_ROUNDS": rounds, "LOCAL_STEPS": STEPS,
                "BATCH": BATCH, "PEERS": 2,
            },
            # However slow one of them is here, it is waited for.
            "instead": {"apart = LocalUpdates(": "apart = LocalUpdates(quorum=1.0, grace=600.0, "},
            "host": {"minimum_peers": 2, "evaluate_every": 0},
        }  # fmt: skip
        told = folder / "first.link"
        first = _peer(folder, "first", here.owner_url, "language", json.dumps(changes))
        stack.callback(first.stop)
        processes = {"server": here, "peer 1 (founder)": first}
        _until(told.exists, "the session to be opened", processes)
        link, digest, session = told.read_text(encoding="utf-8").split()
        processes["peer 2"] = second = _peer(folder, "second", link, digest)
        stack.callback(second.stop)
        peaks: dict[int, int] = {}

        def over() -> bool:
            version = here.status(session)["version"]
            peaks[version] = here.peak_bytes()
            return bool(version >= 2 * rounds)

        _until(over, "the rounds", processes)
        members = [first, second]
        _until(lambda: all(one.popen.poll() == 0 for one in members), "the peers to end", processes)
        told_by = [json.loads((folder / f"{name}.json").read_text()) for name in ("first", "second")]
        records = here.client.records(session)
        server_peak = here.peak_bytes()
    if len({one["digest"] for one in told_by}) != 1:
        raise Failed("The peers' views differ.")
    rows = [phases(told_by, record["round"]) | _about(record) for record in records]
    memory = {
        "server": {"rounds": [peaks.get(record["round"], server_peak) for record in records], "all": server_peak},
        **{
            name: {"rounds": [one["peaks"][str(record["round"])] for record in records], "all": one["peak"]}
            for name, one in zip(("peer 1 (founder)", "peer 2"), told_by, strict=True)
        },
    }
    return {"parameters": told_by[0]["parameters"], "rounds": rows, "memory": memory, "context": context}


def _peer(folder: Path, name: str, *arguments: str) -> Process:
    command = [sys.executable, "-m", "tests.benchmarks.observed", str(folder / f"{name}.json"), name, *arguments]
    return Process(command, folder / f"{name}.log", {"JUPYTER_RUNTIME_DIR": str(folder / "runtime" / name)})


def _until(condition: Callable[[], bool], what: str, processes: dict[str, Process]) -> None:
    def met() -> bool:
        for name, process in processes.items():
            if process.popen.poll() not in (None, 0):
                raise Failed(f"The {name} ended:\n{process.said()}")
        return condition()

    wait_until(met, what, _PATIENCE, every=0.2)


def _about(record: Figures) -> Figures:
    return {
        "round": record["round"],
        "strategy": record["strategy"],
        "contributors": len(record["contributors"]),
        "samples": record["samples"],
        "bytes": sum(one["bytes"] for one in record["contributors"]),
    }


def phases(peers: list[Figures], round_: int) -> Figures:
    """Seconds of each phase of a round, of the peer that took longest; merging begins with the last contribution. What
    did not happen is None."""
    spans = [peer["spans"].get(str(round_), {}) for peer in peers]
    own = {
        "compute": [_sum(one, "compute") for one in spans],
        "announce": [_sum(one, "announce") for one in spans],
        "grant": [_between(one, ("announce", 1), ("granted", 0)) for one in spans],
        "upload": [_between(one, ("granted", 0), ("accepted", 1)) for one in spans],
        "apply": [_sum(one, "apply") for one in spans],
        "load": [_sum(one, "load") for one in spans],
    }
    accepted = max((_moment(one, "accepted", 1) for one in spans if one.get("accepted")), default=None)
    packets = [one["packets"][0] for one in spans if one.get("packets")]
    records = [_between(one, ("packets", 1), ("commit", 0)) for one in spans]
    found = {name: max(filter(None, values), default=None) for name, values in own.items()}
    if packets:
        begun, ended = min(first for first, _ in packets), max(last for _, last in packets)
        found["merge"] = None if accepted is None else max(begun - accepted, 0.0)
        found["packets"] = ended - begun
        found["record"] = max(filter(None, records), default=None)
    return {name: found.get(name) for name in PHASES}


def _sum(spans: Figures, phase: str) -> float | None:
    return sum(until - since for since, until in spans[phase]) if spans.get(phase) else None


def _moment(spans: Figures, phase: str, end: int) -> float:
    return float(spans[phase][-1][end])


def _between(spans: Figures, first: tuple[str, int], then: tuple[str, int]) -> float | None:
    if not spans.get(first[0]) or not spans.get(then[0]):
        return None
    return _moment(spans, *then) - _moment(spans, *first)


def measure(chosen: argparse.Namespace) -> Figures:
    found = train(chosen.size, chosen.context, chosen.rounds)
    print(f"\nGPT-Neo {chosen.size}: {found['parameters']:,} parameters, windows of {chosen.context} tokens")
    heads = [f"round {one['round']}: {one['strategy']}" for one in found["rounds"]]
    table(
        ["seconds", *heads, ""],
        [[name, *(one[name] for one in found["rounds"]), about] for name, about in PHASES.items()],
    )
    table(
        ["", *heads],
        [
            ["contributions", *(one["contributors"] for one in found["rounds"])],
            ["samples", *(one["samples"] for one in found["rounds"])],
            ["bytes up, MB", *(one["bytes"] / 1e6 for one in found["rounds"])],
        ],
    )
    table(
        ["most memory resident, GB", *(f"after {head}" for head in heads), "until the end"],
        [
            [name, *(bytes_ / 1e9 for bytes_ in one["rounds"]), one["all"] / 1e9]
            for name, one in found["memory"].items()
        ],
    )
    whole = sum(one["all"] for one in found["memory"].values())
    print(f"All processes together at most {whole / 1e9:.1f} GB. Aim: one round of each within the machine's memory.")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="125M")
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1, help="of each strategy")
    main(parser, measure)
