"""What a round of four peers in a star costs, beside what others need to move and add up as many numbers.

    python -m tests.benchmarks.rounds [--elements 1000000 10000000 124000000] [--rounds N] [--hivemind skip|PYTHON]
                                      [--json FILE]

One process for each peer, one torch thread in each, a model whose gradient costs nothing, SGD. All in one run, one
after the other: our rounds; torch.distributed's gloo; a star of a bare tornado WebSocket handler and `websockets`
clients that moves the same bytes; a star of our link alone, without a session; hivemind's averaging (up to 10 M; it is
installed into an environment of its own under the temporary folder, or pass the Python of one that has it).
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from jupyter_swarm import Recipe, host

from . import recipes
from .harness import (
    Failed,
    Machines,
    Process,
    Server,
    ThisMachine,
    free_port,
    peer,
    server,
    torch_pin,
    wait_until,
    workplace,
)
from .reporting import Figures, main, table
from .transports import messages

PEERS = 4
NAMES = tuple(f"peer-{place + 1}" for place in range(PEERS))
SAMPLES = 2
"""The smallest lease: each peer gets one a round."""
WARM_UP = 2
HIVEMIND = ("hivemind==1.1.12", "numpy<2.4", "setuptools<81")
_HIVEMIND_LIMIT = 10_000_000
_PATIENCE = 600.0
_TRIES = 4


def swarm(elements: int, rounds: int, machines: Machines = ThisMachine(), step: float = 0.0) -> Figures:
    """Our rounds, through a real Jupyter server with real peers. step: seconds that each peer's step takes."""
    with workplace() as (folder, stack):
        here = server(folder, stack, address=machines.address("server"))
        recipe = Recipe.from_source(
            recipes.VECTOR.format(parameters=elements, target=SAMPLES * PEERS, seconds=step / SAMPLES)
        )
        session = host(
            recipe, rounds=0, train=False, server=here.owner_url, minimum_peers=PEERS, evaluate_every=0,
            snapshot_rounds=10**6,
        )  # fmt: skip
        link, identity = session.invite("peer").link, session.id
        client, digest = here.client, recipe.sha256
        del session, recipe  # and with them one more copy of the model
        processes: list[Process] = [here]
        for name in NAMES:
            processes.append(peer(link, digest, name, folder, prefix=machines.command(name)))
            stack.callback(processes[-1].stop)

        def reached(version: int) -> bool:
            for process in processes:
                if process.popen.poll() is not None:
                    raise Failed(f"A process ended:\n{process.said()}")
            return int(here.status(identity)["version"]) >= version

        wait_until(lambda: reached(WARM_UP), "the first rounds", _PATIENCE, every=0.2)
        before = _used(here, identity, processes)
        seconds: list[float] = []
        for tries in range(1, _TRIES + 1):
            wait_until(lambda: reached(WARM_UP + tries * rounds), "the measured rounds", _PATIENCE, every=0.2)  # noqa: B023
            seconds = _whole_rounds(client.records(identity))
            if len(seconds) >= rounds:
                break
        after = _used(here, identity, processes)
    if not seconds:
        raise Failed(f"No round of {elements} had the contributions of all peers.")
    count = after["version"] - before["version"]
    return {
        "seconds": statistics.median(seconds),
        "all_seconds": seconds,
        "rounds": len(seconds),
        "rounds_with_fewer_peers": max(count - len(seconds), 0),
        "cpu": (after["cpu"] - before["cpu"]) / count,
        "bytes": (after["bytes"] - before["bytes"]) / count,
        "peak_server": after["peaks"][0],
        "peak_peer": max(after["peaks"][1:]),
    }


def _whole_rounds(records: list[dict[str, Any]]) -> list[float]:
    """Seconds of the rounds, without those to warm up, to which all peers contributed: from end to end."""
    return [
        later["unix_time"] - earlier["unix_time"]
        for earlier, later in itertools.pairwise(records[WARM_UP - 1 :])
        if len(later["contributors"]) == PEERS
    ]


def _used(here: Server, session: str, processes: list[Process]) -> Figures:
    status = here.status(session)
    return {
        "version": status["version"],
        "bytes": sum(one["bytes_sent"] + one["bytes_received"] for one in status["peers"]),
        "cpu": sum(process.cpu_seconds() for process in processes),
        "peaks": [process.peak_bytes() for process in processes],
    }


def transport(kind: str, elements: int, rounds: int, machines: Machines = ThisMachine()) -> Figures:
    """Rounds of the processes in `transports`."""
    names = NAMES if kind == "gloo" else ("server", *NAMES)
    places = range(len(names))
    with workplace() as (folder, stack):
        address = f"{machines.address(names[0])}:{free_port()}"
        processes = []
        for place, name in enumerate(names):
            module = [*machines.command(name), sys.executable, "-m", "tests.benchmarks.transports"]
            numbers = [kind, place, PEERS, elements, WARM_UP + rounds, address, folder / f"{place}.json"]
            processes.append(Process([*module, *map(str, numbers)], folder / f"{place}.log"))
            stack.callback(processes[-1].stop)
        for process in processes:
            try:
                code = process.popen.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                raise Failed(f"{kind} did not end:\n{process.said()}") from None
            if code:
                raise Failed(f"{kind} failed:\n{process.said()}")
        told = [json.loads((folder / f"{place}.json").read_text()) for place in places]
    ends = told[0]["ends"]
    seconds = [later - earlier for earlier, later in itertools.pairwise(ends)][WARM_UP:]
    one_way = sum(messages(elements))
    # A ring all-reduce sends every element 2 (N - 1) / N times from each process.
    moved = 2 * (PEERS - 1) * 4 * elements if kind == "gloo" else 2 * PEERS * one_way
    return {
        "seconds": statistics.median(seconds),
        "all_seconds": seconds,
        "rounds": len(seconds),
        "cpu": sum(one["cpu"] for one in told),
        "bytes": moved,
        "peak_server": None if kind == "gloo" else told[0]["peak"],
        "peak_peer": max(one["peak"] for one in told[kind != "gloo" :]),
    }


def hivemind(python: str, elements: int, rounds: int, places: Sequence[str] = ()) -> Figures:
    """hivemind's averaging, in its own environment. places: as the script takes them."""
    with workplace() as (folder, stack):
        out = folder / "out.json"
        script = Path(__file__).with_name("hivemind_averaging.py")
        command = [python, str(script), str(PEERS), str(elements), str(rounds), str(out), *places]
        process = Process(command, folder / "hivemind.log", {"HIVEMIND_LOGLEVEL": "ERROR"})
        stack.callback(_stop_all, process)
        try:
            process.popen.wait(300)
        except subprocess.TimeoutExpired:
            raise Failed(f"hivemind did not end:\n{process.said()}") from None
        if not out.exists():
            raise Failed(f"hivemind failed:\n{process.said()}")
        told: Figures = json.loads(out.read_text())
    if told["seconds"] is None:
        raise Failed("hivemind averaged nothing in any step.")
    return {
        **told, "rounds": rounds, "cpu": None, "bytes": None, "peak_server": None, "peak_peer": told["peak"],
    }  # fmt: skip


def _stop_all(process: Process) -> None:
    """End a process and those that it started."""
    if process.popen.poll() is None:
        for child in process.use.children(recursive=True):
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue
    process.stop()


def hivemind_python(chosen: str) -> str:
    """The Python of an environment with hivemind, made if it is missing; '' with a note if it cannot be."""
    if chosen == "skip":
        return ""
    if chosen:
        return chosen
    folder = Path(tempfile.gettempdir()) / "swarm-benchmark-hivemind"
    python = folder / "bin" / "python"
    if python.exists() and subprocess.run([python, "-c", "import hivemind"], capture_output=True).returncode == 0:
        return str(python)
    print(f"Installing {HIVEMIND[0]} into {folder} …", flush=True)
    venv.create(folder, clear=True, with_pip=True)
    command = [python, "-m", "pip", "install", "--quiet", torch_pin(), *HIVEMIND]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"hivemind could not be installed and is left out: {done.stderr.strip()[-300:]}", flush=True)
        return ""
    return str(python)


def measure(chosen: argparse.Namespace) -> Figures:
    python = hivemind_python(chosen.hivemind)
    figures: Figures = {}
    for elements in chosen.elements:
        measured: dict[str, Figures] = {}
        for name, run in _contestants(elements, chosen.rounds, python).items():
            try:
                measured[name] = run()
            except Failed as error:
                print(f"{name}, {elements}: {error}", flush=True)
            time.sleep(1.0)
        _show(elements, measured)
        figures[str(elements)] = measured
    return {"peers": PEERS, "elements": figures}


def _contestants(elements: int, rounds: int, python: str) -> dict[str, Any]:
    runs: dict[str, Any] = {
        "jupyter_swarm": lambda: swarm(elements, rounds),
        "gloo all-reduce": lambda: transport("gloo", elements, rounds),
        "tornado + websockets, bare": lambda: transport("tornado", elements, rounds),
        "our link, bare": lambda: transport("link", elements, rounds),
    }
    if python and elements <= _HIVEMIND_LIMIT:
        runs["hivemind 1.1.12"] = lambda: hivemind(python, elements, rounds)
    return runs


def _show(elements: int, measured: dict[str, Figures]) -> None:
    ours = measured.get("jupyter_swarm", {}).get("seconds")
    rows = []
    for name, one in measured.items():
        rows.append(
            [
                name, one["seconds"], one["seconds"] / ours if ours else None, one["cpu"],
                one["bytes"] / 1e6 if one["bytes"] else None,
                one["peak_server"] / 1e6 if one["peak_server"] else None,
                one["peak_peer"] / 1e6,
            ]
        )  # fmt: skip
    print(f"\n{elements / 1e6:g} M parameters, {PEERS} peers, fp32")
    table(
        ["", "s a round", "speed of ours / its", "CPU s a round", "MB moved", "peak MB, server", "peak MB, peer"], rows
    )
    for name, one in measured.items():
        if one.get("wrong"):
            print(f"{name}: {one['wrong']} steps said that they succeeded and had averaged nothing.")
        if one.get("matchmaking"):
            print(f"{name}: finding the group took {one['matchmaking']:.2f} s a round, which is not counted above.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, nargs="+", default=[1_000_000, 10_000_000, 124_000_000])
    parser.add_argument("--rounds", type=int, default=7, help="rounds that are measured, after two that are not")
    parser.add_argument("--hivemind", default="", metavar="skip|PYTHON")
    main(parser, measure)
