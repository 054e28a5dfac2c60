"""What does one server cost with a thousand peers? Light peers (`light_peers`), each with a connection of its own.

    python -m tests.benchmarks.crowd [--peers N …] [--seconds N] [--viewers N] [--steps] [--json FILE]

For each number of peers a server of its own, a model of a hundred parameters, and rounds without a pause to which all
contribute; so many viewers read what is pushed. Meanwhile others ask the server: `GET /api/status`, which is Jupyter's,
every 20 ms, and the session's own status four times a second. The peers are in one process, beside the server's: on two
cores neither waits for the other's.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import sys
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from jupyter_swarm import Recipe, host

from .harness import Failed, Process, Server, allow_sockets, server, wait_until, workplace
from .light_peers import ALL_IN
from .reporting import Figures, main, table
from .status_latency import summary

PEERS = (10, 100, 300, 1000)
_SETTLE_ROUNDS = 3
_LEAST_ROUNDS = 5
_START_SECONDS = 300.0
_STANDSTILL_SECONDS = 120.0
_BETWEEN = {"/api/status": 0.02, "session": 0.25}

RECIPE = """\
import torch
from torch import nn

from jupyter_swarm import SGD, Data, EveryStep, LocalUpdates, Recipe


def loss(model, batch):
    return model(batch[0]).square().mean()


recipe = Recipe(
    name="crowd", model=lambda: nn.Linear(99, 1), data=lambda: Data(train=(torch.ones(5000, 99),)), loss=loss,
    optimizer=SGD(lr=1e-3), strategy={strategy}, evaluate_every=0,
)
"""


class Asker:
    """Asks a server for one page again and again, twice at least, in a thread; `seconds` has what each answer took."""

    def __init__(self, here: Server, path: str, between: float) -> None:
        self.seconds: list[float] = []
        self.bytes = 0
        self._here, self._path, self._between = here, path, between
        self._over = threading.Event()
        self._error = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        connection = http.client.HTTPConnection(urlsplit(self._here.url).netloc, timeout=120)
        while not self._over.is_set() or len(self.seconds) < 2:
            start = time.perf_counter()
            connection.request("GET", self._path, headers={"Authorization": f"token {self._here.token}"})
            response = connection.getresponse()
            self.bytes = len(response.read())
            self.seconds.append(time.perf_counter() - start)
            if response.status != 200:
                self._error = f"GET {self._path} was answered with {response.status}."
                return
            self._over.wait(self._between)
        connection.close()

    def stop(self) -> Figures:
        """Milliseconds of the answers so far, and the bytes of the last one. Raises `Failed`."""
        self._over.set()
        self._thread.join()
        if self._error:
            raise Failed(self._error)
        return {**summary(self.seconds), "bytes": self.bytes}


def measured(peers: int, seconds: float, viewers: int, steps: bool) -> Figures:
    """One server with so many peers, for at least so many seconds and a few rounds."""
    strategy = "LocalUpdates(steps=2, batch=1, staleness=0)" if steps else f"EveryStep(target_batch={2 * peers})"
    with workplace() as (folder, stack):
        here = server(folder, stack)
        session = host(
            Recipe.from_source(RECIPE.format(strategy=strategy)), rounds=0, train=False, server=here.owner_url,
            minimum_peers=peers, capacity=peers, evaluate_every=0,
        ).id  # fmt: skip
        here.client.act(session, "pause")
        link = here.client.invite(session, "peer", capacity=peers).link
        watch = here.client.invite(session, "viewer", capacity=max(viewers, 1)).link
        idle = here.use.memory_info().rss
        used, began = here.cpu_seconds(), time.monotonic()
        crowd = Process(
            [sys.executable, "-m", "tests.benchmarks.light_peers", link, str(peers), "0", watch, str(viewers)],
            folder / "crowd.log",
        )
        stack.callback(crowd.stop)
        wait_until(until_in(crowd), "all peers to join", _START_SECONDS)
        joined = {"seconds": time.monotonic() - began, "cpu": here.cpu_seconds() - used}
        here.client.act(session, "resume")

        def version() -> int:
            return int(here.status(session)["version"])

        def reached(wanted: int) -> Callable[[], bool]:
            return lambda: until_in(crowd)() and version() >= wanted

        wait_until(reached(_SETTLE_ROUNDS), "the first rounds", _STANDSTILL_SECONDS)
        paths = {"/api/status": "/api/status", "session": f"/swarm/api/sessions/{session}"}
        askers = {name: Asker(here, path, _BETWEEN[name]) for name, path in paths.items()}
        first, start, cpu, theirs = version(), time.monotonic(), here.cpu_seconds(), crowd.cpu_seconds()
        time.sleep(seconds)
        wait_until(reached(first + _LEAST_ROUNDS), "rounds", _STANDSTILL_SECONDS, every=0.25)
        last, lasted = version(), time.monotonic() - start
        cpu, theirs = here.cpu_seconds() - cpu, crowd.cpu_seconds() - theirs
        answers = {name: asker.stop() for name, asker in askers.items()}
        records = here.client.records(session, after=last - _LEAST_ROUNDS)
        rss, said = here.use.memory_info().rss, crowd.said()
    rounds = last - first
    return {
        "peers": peers, "rounds": rounds,
        "contributors": statistics.median(len(one["contributors"]) for one in records),
        "round_seconds": lasted / rounds, "round_cpu": cpu / rounds, "share": cpu / lasted,
        "peer_cpu": cpu / rounds / peers, "crowd_cpu": theirs / rounds, "rss": rss, "peer_rss": (rss - idle) / peers,
        "joined": joined, "answers": answers, "said": said.replace(ALL_IN, "").strip(),
    }  # fmt: skip


def until_in(crowd: Process) -> Callable[[], bool]:
    """Whether all peers are in. Raises `Failed` if their process has ended."""

    def look() -> bool:
        if crowd.popen.poll() is not None:
            raise Failed(f"The crowd has ended:\n{crowd.said()}")
        return ALL_IN in crowd.log.read_text(errors="replace")[:1000]

    return look


def measure(chosen: argparse.Namespace) -> Figures:
    allow_sockets(max(chosen.peers) + chosen.viewers)  # the server raises its own; better said before than in its log
    found = []
    for peers in chosen.peers:
        one = measured(peers, chosen.seconds, chosen.viewers, chosen.steps)
        found.append(one)
        print(f"{peers} peers: {one['rounds']} rounds of {one['contributors']:.0f} contributions", flush=True)
        if one["said"]:
            print(one["said"], file=sys.stderr)
    report(found)
    return {"crowds": found, "viewers": chosen.viewers, "strategy": "LocalUpdates" if chosen.steps else "EveryStep"}


def report(found: list[Figures]) -> None:
    """Two tables: what a round costs, and what others notice."""
    first = found[0]["peer_cpu"]
    heads = ["peers", "s a round", "server CPU s a round", "% of a core", "CPU ms a peer", "÷ first row"]
    rows = [
        [
            one["peers"], one["round_seconds"], one["round_cpu"], 100 * one["share"], 1e3 * one["peer_cpu"],
            one["peer_cpu"] / first, one["rss"] / 1e6, one["peer_rss"] / 1e3, 1e3 * one["joined"]["cpu"] / one["peers"],
            one["crowd_cpu"],
        ]
        for one in found
    ]  # fmt: skip
    table([*heads, "RSS MB", "kB a peer", "CPU ms a join", "peers' CPU s a round"], rows)
    names = {"/api/status": "/api/status", "session": "session's status"}
    table(
        ["peers", *(f"{name} {cut}, ms" for name in names.values() for cut in ("p50", "p99")), "status kB"],
        [
            [
                one["peers"], *(one["answers"][name][cut] for name in names for cut in ("p50", "p99")),
                one["answers"]["session"]["bytes"] / 1e3,
            ]
            for one in found
        ],
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, nargs="+", default=list(PEERS))
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--viewers", type=int, default=10)
    parser.add_argument("--steps", action="store_true", help="rounds of local updates instead of samples")
    main(parser, measure)
