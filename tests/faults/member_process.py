"""The main function of a peer's or a holder's process: it writes what it knows of itself into a file, again and again,
until it is terminated."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import torch

from jupyter_swarm.link import Timing
from jupyter_swarm.peer.client import Client
from jupyter_swarm.peer.compute import Computer
from jupyter_swarm.peer.data import Samples
from jupyter_swarm.peer.holding import HolderMember
from jupyter_swarm.peer.identity import Identity
from jupyter_swarm.peer.recipe import Recipe
from jupyter_swarm.peer.record import Record
from jupyter_swarm.peer.trainer import Trainer
from jupyter_swarm.protocol.errors import LinkError, StoreError
from jupyter_swarm.protocol.invites import parse_invite
from jupyter_swarm.protocol.layout import SHARD_ELEMENTS
from jupyter_swarm.protocol.rules import SessionSpec
from jupyter_swarm.shards.layout import layout_of
from jupyter_swarm.store.atomic import AtomicFile

TIMING = Timing(first_delay=0.2, longest_delay=0.5)


class Task(msgspec.Struct, kw_only=True):
    """What the process is to be."""

    role: str
    name: str
    link: str
    recipe: str
    report: str
    shard_elements: int = SHARD_ELEMENTS


class Report(msgspec.Struct):
    """What the process knows of itself. `digest`: of its whole view, when the session has finished."""

    state: str
    version: int = -1
    digest: str = ""
    error: str = ""
    notes: tuple[str, ...] = ()


def computer_of(recipe: Recipe, seed: int, shard_elements: int) -> Computer:
    """As `prepare`, with shards of another size."""
    data, model = recipe.load_data(), recipe.build()
    parts = Samples(data.train), Samples(data.held_out)
    return Computer(recipe, layout_of(model, shard_elements=shard_elements), model, parts, seed)


def spec_of(client: Client, session: str) -> SessionSpec:
    """What the session is; asked again while the server is down."""
    while True:
        try:
            return client.spec(session)
        except LinkError:
            time.sleep(0.2)


def peer_of(task: Task) -> Any:
    invite = parse_invite(task.link)
    client = Client.of_member(invite)
    recipe = Recipe.from_source(task.recipe)
    computer = computer_of(recipe, spec_of(client, invite.session).settings.seed, task.shard_elements)
    identity = Identity(invite.server, invite.session, task.name, Path(task.report).parent)
    trainer = Trainer(
        client.socket_url(invite.session), client.headers, computer, Record(invite.session), identity, recipe.sha256,
        task.name, TIMING,
    )  # fmt: skip

    def report() -> Report:
        status = trainer.record.status
        digest = trainer.digest() if status.state == "finished" else ""
        return Report(status.state, status.version, digest, str(trainer.record.error or ""), status.notes)

    return trainer, report


def holder_of(task: Task) -> Any:
    invite = parse_invite(task.link)
    client = Client.of_member(invite)
    holder = HolderMember(client.socket_url(invite.session), client.headers, task.name, TIMING)
    return holder, lambda: Report(holder.state, error=str(holder.error or ""))


def _set_clock(seconds: float) -> None:
    """This process takes the time of day for so much later than it is."""
    right = time.time
    time.time = lambda: right() + seconds


def main(task: Task) -> None:
    """Be what `task` says until SIGTERM."""
    torch.set_num_threads(1)
    _set_clock(float(os.environ.get("FAULTS_CLOCK_SECONDS", "0")))
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    member, report = peer_of(task) if task.role == "peer" else holder_of(task)
    member.start()
    while not ended.wait(0.05):
        with contextlib.suppress(StoreError), AtomicFile(Path(task.report)) as file:
            file.write(msgspec.json.encode(report()))
            file.commit()
    member.leave() if task.role == "peer" else member.close()
