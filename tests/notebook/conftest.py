"""A shell with the magics, and a Jupyter server of its own process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from jupyter_swarm.notebook import parts

from ..peer.conftest import kernel, own_server, server  # noqa: F401


@pytest.fixture(autouse=True)
def reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test needs no time to read what it is asked."""
    monkeypatch.setattr(parts, "READING_SECONDS", 0.0)


@pytest.fixture
def shell(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
    for name in ("JUPYTER_SWARM_SERVER", "JUPYTER_SWARM_OWNER"):
        monkeypatch.delenv(name, raising=False)
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    shell.run_line_magic("load_ext", "jupyter_swarm")
    yield shell
    InteractiveShell.clear_instance()


@pytest.fixture
def said(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """What a cell prints; an exception in it fails the test."""

    def run(cell: str) -> str:
        assert shell.run_cell(cell).success
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return captured.out

    return run
