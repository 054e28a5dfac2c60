"""A notebook in a real kernel, with a real server: what is left of it when it is saved."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from ..peer.classroom import PLAIN
from ..peer.conftest import Server

VIEW = "application/vnd.jupyter.widget-view+json"
_AS_COLAB = "import sys, types\nsys.modules['google.colab'] = types.ModuleType('google.colab')"
_WAIT = """
import threading
session.wait(60)
for thread in threading.enumerate():
    if thread.name == "swarm-panel":
        thread.join(30)
"""


def executed(cells: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The outputs of each cell, as they are in the saved file."""
    for kind in ("RUNTIME", "DATA", "CONFIG"):
        monkeypatch.setenv(f"JUPYTER_{kind}_DIR", str(folder / kind))
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(folder)}}).execute()
    nbformat.write(notebook, folder / "saved.ipynb")
    saved = nbformat.read(folder / "saved.ipynb", as_version=4)
    assert not [output for cell in saved.cells for output in cell.outputs if output.output_type == "error"]
    return [cell.outputs for cell in saved.cells]


@pytest.mark.parametrize("colab", [False, True])
def test_a_saved_notebook_shows_the_end_without_a_kernel(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colab: bool
) -> None:
    """In Colab, which shows only what the running cell changes, the cell runs for as long as the session."""
    cells = [
        f"%load_ext jupyter_swarm\n{_AS_COLAB if colab else ''}",
        "%%swarm recipe --name <script>alert(1)</script>\n" + PLAIN,
        f"session = %swarm host toy batch=10 --rounds 4 --server {server.url}",
        "print(session.status().state)" if colab else _WAIT,
        "%swarm history --save run.nc",
    ]
    outputs = executed(cells, tmp_path, monkeypatch)
    shown = [output for output in outputs[2] if output.output_type == "display_data"]
    invite, card, heading, picture, tail = (output.data for output in shown)
    assert "is over" in invite["text/html"]
    assert not [data for data in (invite, card, tail) if VIEW in data]
    assert "<script>" not in str([one.data.get("text/html") for cell in outputs for one in cell if "data" in one])
    assert "finished" in heading["text/html"]
    assert VIEW not in picture
    assert base64.b64decode(picture["image/png"]).startswith(b"\x89PNG")
    assert "round 4/4" in picture["text/plain"]
    assert (tmp_path / "run.nc").is_file()
    if colab:
        assert "finished" in outputs[3][0].text
    saved = (tmp_path / "saved.ipynb").read_text()
    assert "widget-state" in saved
    assert not re.search(r"/swarm/(join|watch)/[\w-]+#", saved), "whoever gets the notebook gets no invite"
