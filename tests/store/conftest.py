"""A disk that is really full, and a process that is really killed."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

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


@contextlib.contextmanager
def _filled(folder: Path) -> Iterator[None]:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    try:
        yield
    finally:
        filler.unlink()


@pytest.fixture(params=["file size limit", "tmpfs"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    """Once with a limit on the size of files (any POSIX user), once on a tmpfs of 1 MiB (Linux, root)."""
    if request.param == "file size limit":
        pytest.importorskip("resource")
        yield SmallDisk(tmp_path, _file_size_limit)
        return
    folder = tmp_path / "small"
    folder.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        yield SmallDisk(folder, lambda: _filled(folder))
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def killed_at() -> Callable[[str, str], None]:
    """Runs a script in a process that kills itself at a failpoint, and checks that it died of that."""

    def run(point: str, script: str) -> None:
        process = subprocess.run(
            [sys.executable, "-c", KILL.format(point=point) + script], capture_output=True, text=True, timeout=100
        )
        assert process.returncode == -getattr(signal, "SIGKILL", -signal.SIGTERM), process.stderr

    return run
