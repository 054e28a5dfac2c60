"""How long a Jupyter server takes to answer others while a session keeps it busy.

    python -m tests.benchmarks.status_latency [--elements N] [--peers N] [--requests N] [--json FILE]

`GET /api/status` over one kept connection, one request every 20 ms: first while nobody trains, then while eight peers,
niced as on a shared machine they should be, make rounds of 10 M parameters.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import sys
import time
from urllib.parse import urlsplit

from jupyter_swarm import Recipe, host

from . import recipes
from .harness import Failed, Server, peer, server, wait_until, workplace
from .reporting import Figures, main, table
from .rounds import SAMPLES

_BETWEEN = 0.02
_NICE = () if sys.platform == "win32" else ("nice", "-n", "10")


def latencies(here: Server, requests: int) -> list[float]:
    """Seconds that each request took."""
    connection = http.client.HTTPConnection(urlsplit(here.url).netloc, timeout=60)
    found = []
    for _ in range(requests):
        start = time.perf_counter()
        connection.request("GET", "/api/status", headers={"Authorization": f"token {here.token}"})
        response = connection.getresponse()
        response.read()
        found.append(time.perf_counter() - start)
        if response.status != 200:
            raise Failed(f"The server answered {response.status}.")
        time.sleep(_BETWEEN)
    connection.close()
    return found


def summary(seconds: list[float]) -> Figures:
    """In milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {
        "p50": 1e3 * cuts[49], "p95": 1e3 * cuts[94], "p99": 1e3 * cuts[98], "largest": 1e3 * max(seconds),
        "requests": len(seconds),
    }  # fmt: skip


def measure(chosen: argparse.Namespace) -> Figures:
    with workplace() as (folder, stack):
        here = server(folder, stack)
        latencies(here, 20)
        idle = summary(latencies(here, chosen.requests))
        recipe = Recipe.from_source(
            recipes.VECTOR.format(parameters=chosen.elements, target=SAMPLES * chosen.peers, seconds=0)
        )
        session = host(
            recipe, rounds=0, train=False, server=here.owner_url, minimum_peers=chosen.peers, evaluate_every=0
        )
        link, identity = session.invite("peer").link, session.id
        digest = recipe.sha256
        del session, recipe
        for place in range(chosen.peers):
            stack.callback(peer(link, digest, f"peer-{place + 1}", folder, prefix=_NICE).stop)

        def version() -> int:
            return int(here.status(identity)["version"])

        wait_until(lambda: version() >= 2, "the first rounds", 300)
        first, start = version(), time.monotonic()
        busy = summary(latencies(here, chosen.requests))
        seconds = time.monotonic() - start
        busy["rounds"] = version() - first
        busy["seconds_a_round"] = seconds / max(busy["rounds"], 1)
    names = ["p50", "p95", "p99", "largest"]
    rows = [["idle", *(idle[name] for name in names), 0], ["rounds", *(busy[name] for name in names), busy["rounds"]]]
    print(f"\nGET /api/status, {chosen.peers} peers, {chosen.elements / 1e6:g} M parameters")
    table(["", *(f"{name}, ms" for name in names), "rounds meanwhile"], rows)
    print("Aim: p99 at most 100 ms during rounds.")
    return {"idle": idle, "busy": busy, "elements": chosen.elements, "peers": chosen.peers}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=10_000_000)
    parser.add_argument("--peers", type=int, default=8)
    parser.add_argument("--requests", type=int, default=1000)
    main(parser, measure)
