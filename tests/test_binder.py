"""What Binder builds: that its scripts can run, and that the instructor's notebook says what %swarm understands."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jupyter_swarm.notebook.commands import COMMANDS

BINDER = Path(__file__).resolve().parent.parent / "binder"


@pytest.mark.skipif(sys.platform == "win32", reason="Binder runs Linux")
@pytest.mark.parametrize("name", ["postBuild", "start"])
def test_a_script_can_be_run(name: str) -> None:
    assert os.access(BINDER / name, os.X_OK)
    bash = shutil.which("bash")
    assert bash is not None
    assert subprocess.run([bash, "-n", str(BINDER / name)], check=False).returncode == 0


def test_every_command_of_the_notebook_is_one() -> None:
    cells = json.loads((BINDER / "class.ipynb").read_text(encoding="utf-8"))["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "code" for line in "".join(cell["source"]).splitlines()]
    swarm = [shlex.split(line.removeprefix("%swarm ")) for line in lines if line.startswith("%swarm ")]
    assert {"host", "peers", "plot", "checkpoint"} <= {name for name, *_ in swarm}
    for name, *words in swarm:
        COMMANDS[name].parser.parse_args(words)  # type: ignore[attr-defined]
    assert not [cell for cell in cells if cell.get("outputs")]


def test_the_page_says_what_each_file_is_for() -> None:
    said = (BINDER / "README.md").read_text(encoding="utf-8")
    assert not [path.name for path in BINDER.iterdir() if path.name != "README.md" and f"`{path.name}`" not in said]
