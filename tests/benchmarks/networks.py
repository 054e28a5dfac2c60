"""What a round of four peers takes over links of a given rate, and how much of the server's link it uses.

    python -m tests.benchmarks.networks [--rates 1gbit 100mbit] [--elements N] [--rounds N] [--nat N] [--json FILE]
                                        [--hivemind skip|PYTHON]

Every machine, the server too, is a network namespace with a link of that rate, both ways; the last `--nat` peers are
behind NAT. For Linux, as root, with `ip` and `tc` (`nft` for NAT). What runs is as in `rounds`: our rounds, a bare
tornado star, our link alone, gloo's all-reduce and hivemind's averaging, one after the other. Meanwhile the counters of
the server's link (of the first peer's, where there is no server) are read every 10 ms.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from tests.network.namespaces import Line, Network, Unavailable, bytes_per_second, traffic

from .harness import Failed
from .reporting import Figures, main, table
from .rounds import NAMES, PEERS, WARM_UP, hivemind, hivemind_python, swarm, transport

EVERY = 0.01
BUSY = 0.1
"""Of what the link can carry: with less nobody is transferring, but others acknowledge what they get."""
STALL = 0.25
"""Of what a transfer must take: a pause of that length ends it, a shorter one counts as part of it."""
STEP = 0.5
"""A step is slept for so much of what a transfer must take: whoever gets its packets first must not make the steps of
those who get theirs last."""
_WHOLE = 0.9


class Transfer(NamedTuple):
    """One way over one link, from its first byte to its last."""

    begun: float
    ended: float
    bytes: int


class Watch:
    """Reads the counters of the link of the machine that it is started on: rows of (time, sent, received)."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, int, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        self._thread.start()
        try:
            yield self
        finally:
            self._over.set()
            self._thread.join()

    def _read(self) -> None:
        while not self._over.wait(EVERY):
            now = traffic()
            self.rows.append((time.monotonic(), now.sent, now.received))


def transfers(times: np.ndarray, counted: np.ndarray, rate: float, size: float) -> list[Transfer]:
    """The transfers of about `size` bytes among the counts of one direction of a link with `rate` bytes a second."""
    spans = np.diff(times)
    busy = np.flatnonzero(np.diff(counted) > BUSY * rate * spans)
    if not len(busy):
        return []
    pauses = np.flatnonzero(times[busy[1:]] - times[busy[:-1] + 1] > STALL * size / rate)
    firsts, lasts = np.r_[busy[0], busy[pauses + 1]], np.r_[busy[pauses], busy[-1]] + 1
    found = [Transfer(times[a], times[b], int(counted[b] - counted[a])) for a, b in zip(firsts, lasts, strict=True)]
    return [one for one in found if one.bytes > _WHOLE * size]


def used(rows: list[tuple[float, int, int]], rate: float, size: float) -> Figures:
    """Of each direction, over the transfers but those to warm up: bytes of one, seconds, share of the link's rate."""
    times, sent, received = map(np.array, zip(*rows, strict=True))
    figures: Figures = {}
    for way, counted in (("up", received), ("down", sent)):
        whole = transfers(times, counted, rate, size)[WARM_UP:]
        figures[way] = {
            "bytes": statistics.median(one.bytes for one in whole) if whole else None,
            "seconds": [one.ended - one.begun for one in whole],
            "share": statistics.median(one.bytes / (one.ended - one.begun) for one in whole) / rate if whole else None,
        }
    return figures


def measure(chosen: argparse.Namespace) -> Figures:
    python = hivemind_python(chosen.hivemind)
    if not python:
        print("hivemind is left out.", flush=True)
    figures: Figures = {}
    for rate in chosen.rates:
        lines = {name: Line(rate, nat=place >= PEERS - chosen.nat) for place, name in enumerate(NAMES)}
        try:
            with Network({"server": Line(rate), **lines}) as network:
                figures[rate] = _at(network, rate, chosen, python)
        except Unavailable as error:
            raise Failed(str(error)) from None
        _show(rate, chosen, figures[rate])
    print("An all-reduce moves 2 (N - 1) / N of the model over each link, a star N times the model each way over the")
    print("server's. It needs no server, but peers that can reach each other.")
    return {"peers": PEERS, "elements": chosen.elements, "rates": figures}


class Contestant(NamedTuple):
    """machine: whose link is watched. times: how many models pass it each way in a round. turns: whether the server
    sends only when it has all, so that the two ways take turns. step: seconds of a round in which nobody sends."""

    run: Callable[[], Figures]
    machine: str = "server"
    times: float = PEERS
    turns: bool = True
    step: float = 0.0


def contestants(network: Network, rate: str, chosen: argparse.Namespace, python: str) -> dict[str, Contestant]:
    elements, rounds = chosen.elements, chosen.rounds
    step = STEP * PEERS * 4 * elements / bytes_per_second(rate)
    found = {
        "jupyter_swarm": Contestant(lambda: swarm(elements, rounds, network, step), step=step),
        "tornado + websockets, bare": Contestant(lambda: transport("tornado", elements, rounds, network)),
        "our link, bare": Contestant(lambda: transport("link", elements, rounds, network)),
    }
    if not chosen.nat:
        ring = NAMES[0], 2 * (PEERS - 1) / PEERS, False
        found["gloo all-reduce"] = Contestant(lambda: transport("gloo", elements, rounds, network), *ring)
        if python:
            places = [f"{network.namespace(name)}={network.address(name)}" for name in NAMES]
            found["hivemind 1.1.12"] = Contestant(lambda: hivemind(python, elements, rounds, places), *ring)
    return found


def _at(network: Network, rate: str, chosen: argparse.Namespace, python: str) -> Figures:
    measured: Figures = {}
    speed = bytes_per_second(rate)
    for name, one in contestants(network, rate, chosen, python).items():
        try:
            with network.inside(one.machine), Watch().watching() as watch:
                found = one.run()
        except Failed as error:
            print(f"{name}, {rate}: {error}", flush=True)
            continue
        size = 4 * one.times * chosen.elements
        least = size / speed * (2 if one.turns else 1)
        if one.turns:
            link = used(watch.rows, speed, size)
        else:  # both ways at once, from the beginning of a round to its end
            link = {way: {"bytes": size, "share": least / found["seconds"]} for way in ("up", "down")}
        measured[name] = {**found, "step": one.step, "least": least, "link": link}
    return measured


def _show(rate: str, chosen: argparse.Namespace, measured: Figures) -> None:
    rows = []
    for name, one in measured.items():
        ways = one["link"]["up"], one["link"]["down"]
        shares = [100 * way["share"] if way["share"] else None for way in ways]
        moved = [way["bytes"] / 1e6 if way["bytes"] else None for way in ways]
        rows.append([name, one["seconds"], one["step"], one["least"], *moved, *shares, one["cpu"]])
    behind = f", {chosen.nat} of them behind NAT" if chosen.nat else ""
    print(f"\n{chosen.elements / 1e6:g} M parameters, {PEERS} peers{behind}, fp32, every link {rate}")
    heads = ["", "s a round", "step s", "least s", "MB up", "MB down", "% of the rate up", "% down", "CPU s a round"]
    table(heads, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", nargs="+", default=["1gbit", "100mbit"])
    parser.add_argument("--elements", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that are measured, after two that are not")
    parser.add_argument("--nat", type=int, default=0, help="so many peers are behind NAT")
    parser.add_argument("--hivemind", default="", metavar="skip|PYTHON")
    main(parser, measure)
