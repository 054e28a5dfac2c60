"""Commands run as a user runs them: processes of their own, away from the user's Jupyter."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.benchmarks.harness import free_port
from tests.cli.processes import RECIPE, Run, Served, command, wait_until


def environment_in(folder: Path) -> dict[str, str]:
    """The environment variables of a user who has never used Jupyter."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "JPY_"))}
    for variable in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        kept[variable] = str(folder / variable.lower())
    return kept


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return environment_in(tmp_path)


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Run:
    """Run a command to its end."""

    def run_(*arguments: str, seconds: float = 60, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            env=environment | variables,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    return run_


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "line.py"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests of a file."""
    folder = tmp_path_factory.mktemp("served")
    port = free_port()
    storage = folder / "storage"
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            command("serve", "--port", str(port), "--ip", "127.0.0.1", "--storage", str(storage)),
            env=environment_in(folder), cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, (folder / "serve.log").read_text()
        try:
            return httpx.get(f"{url}/api").is_success
        except httpx.TransportError:
            return False

    try:
        assert wait_until(answers, 60)
        yield Served(url, (storage / "owner-token").read_text(), process, storage)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
