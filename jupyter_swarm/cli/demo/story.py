"""The demo from its first kernel to its last figure."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from rich.console import Console

from ...peer.client import Client
from . import findings, kept, report
from .faults import Slowed, kill_at_work
from .kernels import CellFailed, Kernel
from .plans import Plan
from .played import HOST, KILLED, LATE, SLOW, Played
from .server import Server
from .watching import Screen, Watch

PROMPT = "The "
_CELL_SECONDS = 600.0
_WARM_UP = 3
"""Rounds alone that are not measured."""
_MOST_ALONE_SECONDS = 30.0

# What a person would type in a notebook; no name in here comes from outside of the cell. The recipe's imports take
# seconds, so every kernel makes them at once.
_PREPARE = """
import torch
from jupyter_swarm import host, join, load_recipe, train
recipe = load_recipe({recipe!r}, **{constants!r})
"""
_ALONE = """
training = train(recipe, {warm_up})
alike = min({rounds}, getattr(recipe.strategy, 'rounds', {rounds}) - {warm_up})
seconds = []
while not seconds or (len(seconds) < alike and sum(seconds) < {most}):
    seconds.append(training.step()['seconds'])
samples = sum(entry['samples'] for entry in training.entries[-len(seconds):])
"""
_SPEED = "[samples / sum(seconds), torch.get_num_threads()]"
_HOST = "session = host(recipe, 'demo', rounds={rounds!r}, seed={seed}, minimum_peers={first}, **{settings!r})"
_OPENED = """[
    session.invite('peer').link, recipe.sha256, session.id, session.status().rounds,
    getattr(recipe.strategy, 'rounds', 0), recipe.predictions, recipe.sample is not None,
]"""
_JOIN = "session = join({link!r}, {name!r}, agree={agree!r})"
_SAMPLE = "session.sample({prompt!r})"
_END = "[session.wait(60), session.status().version, session.digest()]"
_KEEP = """
session.history().swarm.save({history!r})
checkpoint = session.checkpoints()[-1].download({checkpoint!r}, progress=False)
"""
_LEAVE = "session.leave()"


class Opened(msgspec.Struct, frozen=True, array_like=True):
    """The session: how others get in, how long it is, how many of its rounds are together, what a sample is."""

    link: str
    agree: str
    id: str
    rounds: int
    together: int
    predictions: int
    writes: bool


def tell(plan: Plan, output: Path, report_file: Path | None) -> int:
    """Run the demo; returns the exit code. Raises `SwarmError` if it cannot be played to its end."""
    began = time.monotonic()
    console = Console(highlight=False)
    kept.check(output)
    # The threads wait for kernels, so they end once the server has.
    with ThreadPoolExecutor(plan.peers) as pool, Server() as server, Screen(console) as screen:
        try:
            played = _Stage(plan, server, screen, pool).play()
        except CellFailed:
            console.print(server.log_end(), markup=False)
            raise
        server.stop()
        screen.say("the server and its kernels are gone; reading what is on its disk")
        stored = findings.read(server.storage, played.session)
        things = kept.keep(server.folder / kept.FOLDER, output, stored, plan, played)
    facts = report.facts_of(plan, stored, played, things, time.monotonic() - began)
    report.write(facts, report_file or output / report.FILE)
    report.show(facts, console)
    return 0 if report.as_promised(facts) else 1


class _Stage:
    """The kernels and what they do."""

    def __init__(self, plan: Plan, server: Server, screen: Screen, pool: ThreadPoolExecutor) -> None:
        self._plan = plan
        self._server = server
        self._screen = screen
        self._pool = pool
        self._names = [HOST, SLOW, KILLED, LATE, *(f"peer-{number}" for number in range(5, plan.peers + 1))]
        self._kernels: dict[str, Kernel] = {}

    def play(self) -> Played:
        plan, say = self._plan, self._screen.say
        say(f"a Jupyter server runs at {self._server.url}")
        if plan.note:
            say(plan.note)
        kernels = self._pool.map(self._kernel, self._names)
        self._kernels = dict(zip(self._names, kernels, strict=True))
        say(f"{len(self._kernels)} kernels run")
        host = self._kernels[HOST]
        alone = self._alone() if plan.alone_rounds else None
        host.run(_HOST.format(rounds=plan.rounds, seed=plan.seed, first=plan.peers - 1, settings=plan.settings))
        session = msgspec.convert(host.evaluate(_OPENED), Opened)
        say(f"the host has opened the session {session.id}")
        before = host.evaluate(_SAMPLE.format(prompt=PROMPT)) if session.writes else ""
        socket = f"ws{self._server.url.removeprefix('http')}/swarm/api/sessions/{session.id}/watch"
        with Watch(socket, self._server.headers, say) as watch:
            self._screen.watch, self._screen.predictions = watch, session.predictions
            seconds, hit = self._train(session, watch)
        live = [name for name in self._names if name != KILLED]
        ends = dict(zip(live, self._pool.map(lambda name: self._kernels[name].evaluate(_END), live), strict=True))
        after = host.evaluate(_SAMPLE.format(prompt=PROMPT)) if session.writes else ""
        say("the history and the last checkpoint are fetched")
        host.run(_KEEP.format(**kept.paths(self._server.folder / kept.FOLDER)))
        list(self._pool.map(lambda name: self._kernels[name].run(_LEAVE), live))
        for kernel in self._kernels.values():
            kernel.close()
        return Played(
            session=session.id,
            seconds=seconds,
            held_a_lease=hit,
            versions={name: version for name, (_, version, _) in ends.items()},
            digests={name: digest for name, (_, _, digest) in ends.items()},
            alone=alone,
            before=before,
            after=after,
        )

    def _alone(self) -> tuple[float, int]:
        """One process, while the others have nothing to do: samples per second, threads."""
        self._screen.say("to compare with: one kernel trains alone for some rounds")
        host = self._kernels[HOST]
        host.run(
            _ALONE.format(warm_up=_WARM_UP, rounds=self._plan.alone_rounds, most=_MOST_ALONE_SECONDS), _CELL_SECONDS
        )
        speed, threads = host.evaluate(_SPEED)
        return float(speed), int(threads)

    def _train(self, session: Opened, watch: Watch) -> tuple[float, bool]:
        """From the first round to the last; returns the seconds, and whether the killed one had work in its hands."""
        early = [name for name in self._names if name not in (HOST, LATE)]
        list(self._pool.map(lambda name: self._join(session, name), early))
        watch.wait_for(watch.reached(1))
        started = time.monotonic()
        self._kernels[HOST].run("session.set(minimum_peers=1)")
        acts = self._plan.acts(session.rounds, session.together)
        hit = False
        with Slowed(self._kernels[SLOW].process):
            for after, what in sorted(zip(acts, (LATE, KILLED), strict=True)):
                watch.wait_for(watch.reached(after))
                if what == KILLED:
                    hit = self._kill(session)
                    continue
                self._join(session, LATE)
                if session.together:
                    # From here on rounds are long.
                    self._kernels[HOST].run("session.set(evaluate_every=1)")
            watch.wait_for(lambda watch: watch.finished)
        return time.monotonic() - started, hit

    def _kill(self, session: Opened) -> bool:
        """Whether the killed one had work in its hands."""
        client = Client(self._server.url, self._server.headers)
        hit = kill_at_work(self._kernels[KILLED].process, lambda: _works(client, session.id, KILLED))
        self._screen.say(f"SIGKILL to the kernel of {KILLED}")
        return hit

    def _kernel(self, name: str) -> Kernel:
        kernel = Kernel(self._server, name)
        kernel.run(_PREPARE.format(recipe=self._plan.recipe, constants=self._plan.constants))
        return kernel

    def _join(self, session: Opened, name: str) -> None:
        self._kernels[name].run(_JOIN.format(link=session.link, name=name, agree=session.agree))


def _works(client: Client, session: str, name: str) -> bool:
    """Whether a peer holds samples to train on that it has not finished."""
    peers = client.describe(session)["status"]["peers"]
    return any(peer["name"] == name and peer["reason"].startswith("computing") for peer in peers)
