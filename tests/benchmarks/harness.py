"""What the benchmarks share: a Jupyter server and peers in processes of their own, and what those processes use."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import httpx
import psutil

from jupyter_swarm.peer.client import Client

ROOT = Path(__file__).resolve().parents[2]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_START_SECONDS = 60.0
_END_SECONDS = 20.0


class Failed(Exception):
    """A benchmark could not be carried out; the text says why."""


def wait_until(condition: Callable[[], bool], what: str, seconds: float, every: float = 0.1) -> None:
    """Raises `Failed` if `condition` does not hold within `seconds`."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise Failed(f"Waited {seconds:.0f} s in vain for: {what}.")
        time.sleep(every)


_MORE_FILES = 100


def allow_sockets(count: int) -> None:
    """Let this process have so many sockets open at once. Raises `Failed` where the system's limit is lower."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _MORE_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise Failed(
            f"{count} sockets need {wanted} open files, and this system allows a process {hard}. Raise the hard limit "
            "(ulimit -Hn, or nofile in /etc/security/limits.conf), or measure fewer peers."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Machines(Protocol):
    """Where servers and peers run. This process is on the machine called "server"."""

    def address(self, name: str) -> str:
        """The address under which the others reach a machine."""
        ...

    def command(self, name: str) -> list[str]:
        """What to put before a command so that it runs on a machine."""
        ...


class ThisMachine:
    """All on one machine, over loopback."""

    def address(self, name: str) -> str:
        return "127.0.0.1"

    def command(self, name: str) -> list[str]:
        return []


class Process:
    """A process that this benchmark started, in a folder of its own for what it says; ended by `stop`."""

    def __init__(self, command: Sequence[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        env = {**os.environ, **ONE_THREAD, **(env or {})}
        with log.open("ab") as file:
            self.popen = subprocess.Popen(
                command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        self.use = psutil.Process(self.popen.pid)

    def stop(self) -> None:
        """Ask it to end, then make it."""
        self.popen.terminate()
        try:
            self.popen.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()

    def said(self, characters: int = 3000) -> str:
        """The last that it printed."""
        return self.log.read_text(errors="replace")[-characters:]

    def cpu_seconds(self) -> float:
        """Processor seconds so far, user and system."""
        times = self.use.cpu_times()
        return float(times.user + times.system)

    def peak_bytes(self) -> int:
        """The most memory that was resident at once."""
        return peak_bytes(self.popen.pid)


def peak_bytes(pid: int) -> int:
    """The most memory that was resident at once in a process; where the system does not say, what is resident now."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(psutil.Process(pid).memory_info().rss)


def torch_pin() -> str:
    """The version of torch that this repository is tested with, as pip spells it."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line for line in lines if line.startswith("torch=="))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server(Process):
    """A Jupyter server with the extension, in folders of its own; the owner's `client` talks to it."""

    def __init__(self, folder: Path, *options: str, address: str = "127.0.0.1") -> None:
        port, self.token = free_port(), secrets.token_hex(16)
        self.folder = folder
        self.url = f"http://{address}:{port}"
        self.owner_url = f"{self.url}/?token={self.token}"
        self.client = Client.of_owner(self.owner_url)
        env = {
            name: str(folder / name.lower())
            for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")
        }
        command = [
            sys.executable, "-m", "jupyter_server", f"--ServerApp.ip={address}", f"--ServerApp.port={port}",
            "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={self.token}", "--ServerApp.open_browser=False", "--ServerApp.allow_root=True",
            f"--ServerApp.root_dir={folder}", "--ServerApp.allow_unauthenticated_access=False", *options,
        ]  # fmt: skip
        super().__init__(command, folder / "server.log", env)
        wait_until(self._answers, "the Jupyter server", _START_SECONDS)

    def status(self, session: str) -> dict[str, Any]:
        """What a session is doing."""
        described = self.client.describe(session)
        if described["status"] is None:
            raise Failed(f"The session {session} does not run: {described['problem']}\n{self.said()}")
        return dict(described["status"])

    def _answers(self) -> bool:
        if self.popen.poll() is not None:
            raise Failed(f"The Jupyter server ended at once:\n{self.said()}")
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/api", trust_env=False).is_success
        return False


def peer(link: str, digest: str, name: str, folder: Path, *options: str, prefix: Sequence[str] = ()) -> Process:
    """A headless peer that joins by `link`, in a process of its own. prefix: a command to run it under."""
    command = [
        *prefix, sys.executable, "-m", "jupyter_swarm.cli", "peer", link, "--name", name, "--agree", digest, *options,
    ]  # fmt: skip
    env = {"JUPYTER_RUNTIME_DIR": str(folder / "runtime" / name)}
    return Process(command, folder / f"{name}.log", env)


@contextlib.contextmanager
def workplace() -> Iterator[tuple[Path, contextlib.ExitStack]]:
    """A temporary folder, and a stack that stops the processes put on it before the folder goes."""
    with contextlib.ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix="swarm-benchmark-", ignore_cleanup_errors=True)
        yield Path(stack.enter_context(folder)), stack


def server(folder: Path, stack: contextlib.ExitStack, *options: str, address: str = "127.0.0.1") -> Server:
    """A server that is stopped at the end. address: what it listens on; this process must be on that machine."""
    started = Server(folder, *options, address=address)
    stack.callback(started.stop)
    return started
