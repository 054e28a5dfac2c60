"""A notebook's cells, run one after the other in a kernel that a real Jupyter server has started."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from ..peer.conftest import Server

TUTORIALS = Path(__file__).resolve().parents[2] / "tutorials"
_CELL_SECONDS = 200
# A panel's last picture comes when its thread has seen the session's end.
_LAST_PICTURE = """
import threading
for thread in threading.enumerate():
    if thread.name == "swarm-panel":
        thread.join(60)
"""
_SECRET = re.compile(r"(/swarm/(?:join|watch)/[\w-]+#)[\w-]+")


@contextlib.contextmanager
def jupyter_server(folder: Path) -> Iterator[Server]:
    """A server as a student has it who has never used Jupyter before."""
    own = {"IPYTHONDIR": str(folder / "ipython"), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    with mock.patch.dict(os.environ, own):
        server = Server(folder)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def execute(path: Path, server: Server) -> Any:
    """The notebook with the outputs that it has now; a cell that fails ends it, with its error among the outputs."""
    notebook = nbformat.read(path, as_version=4)
    (server.folder / path.stem).mkdir()
    address, _, token = server.url.partition("/?token=")
    with httpx.Client(base_url=address, headers={"Authorization": f"token {token}"}, timeout=60) as http:
        # A notebook's front end names the notebook's path, and the kernel starts beside it.
        kernel = http.post("/api/kernels", json={"name": "python3", "path": f"{path.stem}/{path.name}"})
        kernel.raise_for_status()
        number = kernel.json()["id"]
        try:
            return _run(notebook, server.folder / "RUNTIME" / f"kernel-{number}.json")
        finally:
            http.delete(f"/api/kernels/{number}")


class _Attached(AsyncKernelManager):
    """A kernel that is there already."""

    has_kernel = True


def _run(notebook: Any, connection: Path) -> Any:
    manager = _Attached(owns_kernel=False)
    manager.load_connection_file(str(connection))
    client = NotebookClient(
        notebook, km=manager, timeout=_CELL_SECONDS, store_widget_state=False, coalesce_streams=True,
        record_timing=False,
    )  # fmt: skip
    notebook.cells.append(nbformat.v4.new_code_cell(_LAST_PICTURE))
    with contextlib.suppress(CellExecutionError):
        client.execute(cleanup_kc=True)
    if not notebook.cells[-1].outputs:
        notebook.cells.pop()
    return notebook


def tidy(notebook: Any) -> Any:
    """As it is kept: nothing that needs a kernel, no secret, nothing of the machine that it ran on."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = {}
        for output in cell.get("outputs", ()):
            output.pop("transient", None)
            if "data" in output:
                output.data.pop("application/vnd.jupyter.widget-view+json", None)
                output.data |= {kind: _public(text) for kind, text in output.data.items() if kind.startswith("text/")}
            elif "text" in output:
                output.text = _public(output.text)
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("data", True)]
    return notebook


def _public(text: str) -> str:
    return _SECRET.sub(r"\1the-secret-of-the-invite", text).replace(platform.platform(terse=True), platform.system())
