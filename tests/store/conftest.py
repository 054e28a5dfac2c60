"""A database, a disk that is really full, and a process that is really killed."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from jupyter_swarm.store.database import Database

from .disks import filled, small_disk_at
from .recorded import LAYOUT, SPEC

KILL = """
import os, signal
from jupyter_swarm.protocol import failpoints
def hook(point):
    if point == {point!r}:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
failpoints.hook = hook
"""


class SmallDisk:
    """`folder` is on a disk that takes nothing more inside `with disk.full()`."""

    def __init__(self, folder: Path, full: Callable[[], AbstractContextManager[None]]) -> None:
        self.folder = folder
        self.full = full


@contextlib.contextmanager
def _file_size_limit() -> Iterator[None]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(params=["file size limit", "tmpfs"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    """Once with a limit on the size of files (any POSIX user), once on a tmpfs of 1 MiB (Linux, root)."""
    if request.param == "file size limit":
        pytest.importorskip("resource")
        yield SmallDisk(tmp_path, _file_size_limit)
        return
    with small_disk_at(tmp_path / "small", "1m") as folder:
        yield SmallDisk(folder, lambda: filled(folder))


@pytest.fixture
def killed_at() -> Callable[[str, str], None]:
    """Runs a script in a process that kills itself at a failpoint, and checks that it died of that."""

    def run(point: str, script: str) -> None:
        process = subprocess.run(
            [sys.executable, "-c", KILL.format(point=point) + script], capture_output=True, text=True, timeout=100
        )
        assert process.returncode == -getattr(signal, "SIGKILL", -signal.SIGTERM), process.stderr

    return run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "swarm.sqlite"


@pytest.fixture
def reopen(path: Path) -> Iterator[Callable[[], Database]]:
    """Opens the file anew, as a restart does, and closes it at the end."""
    opened: list[Database] = []

    def reopen() -> Database:
        for database in opened:
            database.close()
        opened.append(Database(path))
        return opened[-1]

    yield reopen
    for database in opened:
        database.close()


@pytest.fixture
def database(reopen: Callable[[], Database]) -> Database:
    database = reopen()
    database.add_session("cs101", SPEC, LAYOUT, 1000.0)
    return database
