"""Real processes of one session: a Jupyter server, peers, a second holder. They are started, killed, started again.

Only processes that were started here are ever ended.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch

from jupyter_swarm.peer.client import Client
from jupyter_swarm.peer.recipe import Recipe
from jupyter_swarm.protocol.errors import SwarmError
from jupyter_swarm.protocol.records import Contributor, RoundRecord
from jupyter_swarm.protocol.rules import SessionSettings, SessionSpec
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.store.database import Database
from jupyter_swarm.store.paths import StoreRoot
from jupyter_swarm.store.rows import StoredCheckpoint
from jupyter_swarm.strategies import rules_of

from . import processes
from .member_process import Report, Task, computer_of, main
from .recipes import MANY_SHARDS, Size

PATIENCE = 90.0
SERVER = "server"
HOLDER = "holder"
SNAPSHOT_ROUNDS = 3


class Gone(AssertionError):
    """Something that was waited for did not come."""


def until(condition: Callable[[], Any], what: Callable[[], str], patience: float = PATIENCE) -> Any:
    """Wait until `condition` is true and return its value; `what` says what was waited for, when it failed."""
    end = time.monotonic() + patience
    while not (value := condition()):
        if time.monotonic() > end:
            raise Gone(what())
        time.sleep(0.02)
    return value


class Classroom:
    """A server with one session. `start` members by name; names are kept by those who come back."""

    def __init__(self, folder: Path, size: Size = MANY_SHARDS, storage: Path | None = None, **settings: Any) -> None:
        self.folder = folder
        self.size = size
        self.storage = storage or folder / "store"
        self.recipe = Recipe.from_source(size.recipe)
        self.settings = SessionSettings(**{"snapshot_rounds": SNAPSHOT_ROUNDS, "evaluate_every": 5, **settings})
        self.processes: dict[str, BaseProcess] = {}
        self.session = ""
        self._links: dict[str, str] = {}
        self._token = secrets.token_hex(16)
        with contextlib.closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.client = Client.of_owner(f"http://127.0.0.1:{self.port}/?token={self._token}")
        folder.mkdir(parents=True, exist_ok=True)

    # --- processes

    def start_server(self, moment: str = "") -> None:
        """Start the server, the first time or again, and wait until it answers, or until it is dead."""
        places = {name: str(self.folder / name) for name in ("config", "runtime", "data")}
        environment = {f"JUPYTER_{name.upper()}_DIR": place for name, place in places.items()}
        arguments = [
            f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={self._token}",
            "--no-browser", "--allow-root", f"--ServerApp.root_dir={self.folder}",
            "--ServerApp.allow_unauthenticated_access=False", f"--SwarmExtension.storage={self.storage}",
        ]  # fmt: skip
        process = processes.start(processes.run_server, arguments, self.folder / f"{SERVER}.log", moment, environment)
        self.processes[SERVER] = process
        until(
            lambda: process.exitcode is not None or self._answers(),
            lambda: f"The server does not answer.\n{self.log(SERVER)}",
        )

    def _answers(self) -> bool:
        with contextlib.suppress(SwarmError):
            if not self.session:
                self.client._ask("GET", "sessions")
                return True
            return bool(self.client.describe(self.session)["status"])
        return False

    def open(self) -> str:
        """Open the session; returns its id."""
        computer = computer_of(self.recipe, self.settings.seed, self.size.shard_elements)
        first = safetensors.torch.save(FlatVector.of(computer.layout, computer.model).tensors())
        rule, changes = rules_of(self.recipe.strategy, self.recipe.optimizer)
        spec = SessionSpec(
            name="faults", recipe=self.client.put_blob(self.recipe.source.encode()),
            layout_digest=computer.layout.digest, rule=rule, changes=changes, settings=self.settings,
            samples=computer.samples[0], held_out=computer.samples[1],
            initial=self.client.put_blob(first),
        )  # fmt: skip
        self.layout = computer.layout
        self.session = self.client.open(spec, computer.layout)
        self.spec = msgspec.structs.replace(spec, session=self.session)
        return self.session

    def link(self, role: str) -> str:
        """An invite for the role."""
        if role not in self._links:
            self._links[role] = self.client.invite(self.session, role).link  # type: ignore[arg-type]
        return self._links[role]

    def start(self, name: str, moment: str = "", size: Size | None = None, port: int = 0, **environment: str) -> None:
        """Start a member: the holder if it has that name, else a peer. port: by which it comes in, if not the
        server's."""
        role = HOLDER if name.startswith(HOLDER) else "peer"
        size = size or self.size
        task = Task(
            role=role, name=name, link=self.link(role).replace(f":{self.port}/", f":{port or self.port}/"),
            recipe=size.recipe, report=str(self.folder / f"{name}.json"), shard_elements=size.shard_elements,
        )  # fmt: skip
        Path(task.report).unlink(missing_ok=True)
        self.processes[name] = processes.start(main, task, self.folder / f"{name}.log", moment, environment)

    def start_holder(self, moment: str = "") -> None:
        """Start the second holder and wait until it is one."""
        self.start(HOLDER, moment)
        until(lambda: len(self.status()["holders"]) == 2, lambda: f"No second holder.\n{self.log(HOLDER)}")

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self.processes[name].kill()
        self.forget(name)

    def end(self, name: str) -> None:
        """Let a process end in good order."""
        self.processes[name].terminate()
        self.forget(name)

    def forget(self, name: str, patience: float = PATIENCE) -> int:
        """Wait for a process that ends; returns its exit status."""
        process = self.processes.pop(name)
        process.join(patience)
        status = process.exitcode
        assert status is not None, f"{name} does not end"
        process.close()
        return status

    def killed(self, name: str) -> None:
        """Wait until a process has killed itself."""
        process = self.processes[name]
        until(
            lambda: process.exitcode is not None,
            lambda: f"{name} did not come to the moment of its end: {self.describe()}\n{self.log(name)}",
        )
        status = self.forget(name)
        assert status == -signal.SIGKILL, f"{name} ended with {status}\n{self.log(name)}"

    def close(self) -> None:
        """End everything in good order; what does not is killed."""
        for name in sorted(self.processes, key=lambda name: name == SERVER):
            process = self.processes.pop(name)
            process.terminate()
            process.join(15.0)
            process.kill()
            process.join()
            process.close()

    # --- what can be seen

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]

    def status(self) -> dict[str, Any]:
        """What the server says of the session."""
        status: dict[str, Any] = self.client.describe(self.session)["status"]
        return status

    def describe(self) -> str:
        """The same in words, and what the members say."""
        words = [f"{name}: {self.report(name)}" for name in self.processes if name != SERVER]
        with contextlib.suppress(SwarmError, TypeError):
            words.append(str(self.status()))
        return "\n".join(words)

    def report(self, name: str) -> Report:
        """What a member says of itself."""
        try:
            return msgspec.json.decode((self.folder / f"{name}.json").read_bytes(), type=Report)
        except FileNotFoundError:
            return Report("starting")

    def recorded(self) -> list[RoundRecord]:
        """The records on disk, while no server runs."""
        with contextlib.closing(Database(StoreRoot(self.storage).database)) as database:
            return list(database.rounds(self.session))

    def contributors(self) -> list[Contributor]:
        """To the rounds so far, as the server tells it."""
        records = self.client.records(self.session)
        return [msgspec.convert(one, Contributor) for record in records for one in record["contributors"]]

    def checkpoints(self) -> list[StoredCheckpoint]:
        """The checkpoints on disk, while no server runs."""
        with contextlib.closing(Database(StoreRoot(self.storage).database)) as database:
            return database.checkpoints(self.session)

    # --- what is waited for

    def wait_version(self, version: int) -> None:
        """Wait until so many rounds are done."""
        until(
            lambda: self.status()["version"] >= version,
            lambda: f"Version {version} does not come: {self.describe()}\n{self.log(SERVER)}",
        )

    def peers(self) -> list[str]:
        return [name for name in self.processes if name != SERVER and not name.startswith(HOLDER)]

    def finish(self, more: int = 3) -> dict[str, str]:
        """Let the class do some more rounds and finish; returns the digests of all live peers."""
        version = self.status()["version"]
        self.wait_version(version + more)
        self.client.change(self.session, {"rounds": self.status()["version"] + more})

        def done() -> bool:
            return all(self.report(name).state == "finished" and self.report(name).digest for name in self.peers())

        until(done, lambda: f"Not all peers finish: {self.describe()}\n{self.log(SERVER)}")
        until(lambda: self.status()["state"] == "finished", lambda: f"The session does not finish: {self.describe()}")
        return {name: self.report(name).digest for name in self.peers()}


@contextlib.contextmanager
def classroom(folder: Path, size: Size = MANY_SHARDS, moment: str = "", **settings: Any) -> Iterator[Classroom]:
    """A class whose session is open; at the end all its processes are ended."""
    room = Classroom(folder, size, **settings)
    try:
        room.start_server(moment)
        room.open()
        yield room
    finally:
        room.close()
