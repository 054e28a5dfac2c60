"""The demo from its first kernel to its last figure."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from rich.console import Console

from ...peer.client import Client
from . import findings, report
from .faults import Slowed, kill_at_work
from .kernels import CellFailed, Kernel
from .server import Server
from .watching import Screen, Watch

HOST, SLOW, KILLED, LATE = "host", "slow", "killed", "late"
RECIPE = "digits"
_LIMIT_SECONDS = 240.0
_BESIDE = 2
"""So many rounds after a round number, so that it is no evaluation that is interrupted."""

# What a person would type in a notebook; no name in here comes from outside of the cell.
_PREPARE = "import torch\nfrom sklearn.datasets import load_digits\nfrom jupyter_swarm import host, join"
_HOST = "session = host({recipe!r}, 'demo', rounds={rounds!r}, seed={seed}, minimum_peers={first})"
_INVITE = "[session.invite('peer').link, session.recipe.sha256, session.id, session.status().rounds]"
_JOIN = "session = join({link!r}, {name!r}, agree={agree!r})"
_END = "[session.wait(60), session.status().version, session.digest()]"
_LEAVE = "session.leave()"


class Played(msgspec.Struct, frozen=True):
    """What the demo itself has seen: seconds that training took, and version and digest of every live peer."""

    session: str
    seconds: float
    held_a_lease: bool
    versions: dict[str, int]
    digests: dict[str, str]


def tell(rounds: int | None, peers: int, seed: int, output: Path, report_file: Path | None) -> int:
    """Run the demo; returns the exit code. Raises `SwarmError` if it cannot be played to its end."""
    began = time.monotonic()
    console = Console(highlight=False)
    with Server() as server, Screen(console) as screen:
        try:
            played = _play(server, screen, rounds, peers, seed, began + _LIMIT_SECONDS)
        except CellFailed:
            console.print(server.log_end(), markup=False)
            raise
        server.stop()
        screen.say("the server and its kernels are gone; reading what is on its disk")
        stored = findings.read(server.storage, played.session)
    return report.give(stored, played, output, report_file, time.monotonic() - began, console)


def _play(server: Server, screen: Screen, rounds: int | None, peers: int, seed: int, until: float) -> Played:
    names = [HOST, SLOW, KILLED, LATE, *(f"peer-{number}" for number in range(5, peers + 1))]
    screen.say(f"a Jupyter server runs at {server.url}")
    with ThreadPoolExecutor(len(names)) as pool:
        kernels = dict(zip(names, pool.map(lambda name: _kernel(server, name), names), strict=True))
        screen.say(f"{len(kernels)} kernels run")
        kernels[HOST].run(_HOST.format(recipe=RECIPE, rounds=rounds, seed=seed, first=peers - 1))
        link, agree, session, rounds = kernels[HOST].evaluate(_INVITE)
        screen.say(f"the host has opened the session {session}")
        socket = f"ws{server.url.removeprefix('http')}/swarm/api/sessions/{session}/watch"
        with Watch(socket, server.headers, screen.say) as watch:
            screen.watch = watch
            join = _JOIN.format
            early = [name for name in names if name not in (HOST, LATE)]
            list(pool.map(lambda name: kernels[name].run(join(link=link, name=name, agree=agree)), early))
            watch.wait_for(watch.reached(1), until)
            started = time.monotonic()
            kernels[HOST].run("session.set(minimum_peers=1)")
            with Slowed(kernels[SLOW].process):
                watch.wait_for(watch.reached(rounds // 3 + _BESIDE), until)
                client = Client(server.url, server.headers)
                hit = kill_at_work(kernels[KILLED].process, lambda: _works(client, session, KILLED))
                screen.say(f"SIGKILL to the kernel of {KILLED}")
                watch.wait_for(watch.reached(rounds // 2 + _BESIDE), until)
                kernels[LATE].run(join(link=link, name=LATE, agree=agree))
                watch.wait_for(lambda watch: watch.finished, until)
            seconds = time.monotonic() - started
        live = [name for name in names if name != KILLED]
        ends = dict(zip(live, pool.map(lambda name: kernels[name].evaluate(_END), live), strict=True))
        list(pool.map(lambda name: kernels[name].run(_LEAVE), live))
        for kernel in kernels.values():
            kernel.close()
    return Played(
        session,
        seconds,
        hit,
        {name: version for name, (_, version, _) in ends.items()},
        {name: digest for name, (_, _, digest) in ends.items()},
    )


def _kernel(server: Server, name: str) -> Kernel:
    kernel = Kernel(server, name)
    kernel.run(_PREPARE)
    return kernel


def _works(client: Client, session: str, name: str) -> bool:
    """Whether a peer holds a lease that it has not finished."""
    status = client.describe(session)["status"]
    return any(peer["name"] == name and peer["state"] == "training" for peer in status["peers"])
