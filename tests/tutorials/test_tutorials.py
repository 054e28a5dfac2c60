"""The tutorials run in real kernels of a real server, show what they promise, and can be read as they lie here."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from ..peer.conftest import Server
from .executing import TUTORIALS, execute, jupyter_server

# Of each: the pictures that it shows, and words that its cells print when all went as the text says.
PROMISED = {
    "1-train-alone": (3, ["Preflight of digits: ready", "round 60/60", "Same answers: True"]),
    "2-host-and-join": (2, ["Ben joined", "Ben is gone", "finished"]),
    "3-steer-a-live-run": (
        2,
        ["paused", "Did you mean learning_rate", "LocalUpdates", "final, after round", "times its own size"],
    ),
    "4-your-own-model-and-data": (3, ["does not define it", "cannot be multiplied", "finished", "from vineyard"]),
    "5-read-the-history": (3, ["The same: True", "speed-up", "together:", "LocalUpdates"]),
    "6-sophia-against-adamw": (1, ["held-out loss", "Ratio AdamW / Sophia", "Paper's memory"]),
    "7-a-class-from-both-sides": (
        2,
        [
            "30 of 30",
            "A class of 30 can train digits here",
            "waiting for peers: nobody has joined yet",
            "paused here",
            "paused by itself",
            "paused by the instructor",
            "peer 1  ",
            "lesson-1, after round",
            "You were removed from this session.",
            "slowed to 25%",
            "finished",
        ],
    ),
}
_PICTURE_BYTES = 80_000
_PAGE_BYTES = 300_000
_LINES = 45


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with jupyter_server(tmp_path_factory.mktemp("tutorials")) as server:
        yield server


def kept(name: str) -> Any:
    return nbformat.read(TUTORIALS / f"{name}.ipynb", as_version=4)


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def pictures(notebook: Any) -> list[bytes]:
    return [base64.b64decode(one.data["image/png"]) for one in outputs(notebook) if "image/png" in one.get("data", {})]


def said(notebook: Any) -> str:
    """All that its cells printed or showed as text."""
    pieces = []
    for one in outputs(notebook):
        data = one.get("data", {})
        pieces += [one.get("text", ""), *(data.get(kind, "") for kind in ("text/plain", "text/html", "text/markdown"))]
    return "\n".join(pieces)


def check_outputs(notebook: Any, name: str) -> None:
    failed = [f"{one.ename}: {one.evalue}" for one in outputs(notebook) if one.output_type == "error"]
    assert not failed, failed
    count, words = PROMISED[name]
    shown = pictures(notebook)
    assert len(shown) >= count
    assert all(picture.startswith(b"\x89PNG") for picture in shown)
    text = said(notebook)
    assert not [word for word in words if word not in text]
    assert "Traceback" not in text


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", PROMISED)
def test_it_runs_from_the_first_to_the_last_cell(name: str, server: Server) -> None:
    check_outputs(execute(TUTORIALS / f"{name}.ipynb", server), name)


def test_each_tutorial_is_tested() -> None:
    assert [path.stem for path in sorted(TUTORIALS.glob("*.ipynb"))] == list(PROMISED)


@pytest.mark.parametrize("name", PROMISED)
def test_what_is_kept_was_run_in_one_go_and_can_be_read_without_a_kernel(name: str) -> None:
    notebook = kept(name)
    nbformat.validate(notebook)
    check_outputs(notebook, name)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert max(map(len, pictures(notebook))) <= _PICTURE_BYTES
    assert (TUTORIALS / f"{name}.ipynb").stat().st_size <= _PAGE_BYTES
    assert not [key for one in outputs(notebook) for key in one.get("data", {}) if "widget" in key]
    assert not {"widgets", "papermill"} & notebook.metadata.keys()
    assert not re.findall(
        r"/swarm/(?:join|watch)/[\w-]+#(?!the-secret-of-the-invite)|Linux-|/tmp/|/home/", said(notebook)
    )


@pytest.mark.parametrize("name", PROMISED)
def test_it_is_written_for_students(name: str) -> None:
    notebook = kept(name)
    first, last = notebook.cells[0].source, notebook.cells[-1].source
    assert "After this notebook you can" in first
    assert re.search(r"takes about (half a minute|a minute|[a-z]+ minutes|\d+ seconds)", first)
    assert re.search(r"## Try it yourself\n\n1\. (.|\n)*\n2\. ", last)
    for cell in notebook.cells:
        lines = cell.source.splitlines()
        assert len(lines) <= _LINES or cell.source.startswith("%%swarm recipe"), lines[0]
        if cell.cell_type == "code":
            assert max(map(len, lines)) <= 110, lines[0]
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", cell.source):
            assert Path(TUTORIALS, target).is_file(), target
