"""What the panel's files must agree on with the Python package."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import jupyter_swarm

TOP = Path(__file__).resolve().parent.parent / "labextension"


def read(name: str) -> Any:
    return json.loads((TOP / name).read_text(encoding="utf-8"))


def test_the_panel_has_the_package_s_version() -> None:
    assert read("package.json")["version"] == jupyter_swarm.__version__ == read("package-lock.json")["version"]


def test_the_panel_is_built_where_it_is_looked_for() -> None:
    building = runpy.run_path(str(TOP / "building.py"))
    package = read("package.json")
    assert package["name"] == building["NAME"]
    assert (TOP / package["jupyterlab"]["outputDir"]).resolve() == building["BUILT"]


def test_the_lock_file_leaves_open_where_packages_come_from() -> None:
    packages = read("package-lock.json")["packages"]
    assert [name for name, facts in packages.items() if "resolved" in facts] == []
    assert [name for name, facts in packages.items() if name and "integrity" not in facts] == []


@pytest.mark.parametrize("changed", ["labextension/src/api.ts", "labextension/style/panel.css", "tutorials/one.ipynb"])
def test_what_the_panel_is_built_from_counts(tmp_path: Path, changed: str) -> None:
    cell = {"cell_type": "code", "source": "1", "outputs": []}
    files = {"labextension/src/api.ts": "", "labextension/style/panel.css": "", "labextension/lib/api.js": ""}
    files["tutorials/one.ipynb"] = json.dumps({"cells": [cell]})
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    script = tmp_path / "labextension" / "building.py"
    script.write_bytes((TOP / "building.py").read_bytes())
    digest = runpy.run_path(str(script))["digest"]
    before = digest()
    (tmp_path / "labextension" / "lib" / "api.js").write_text("built")
    (tmp_path / "tutorials" / "one.ipynb").write_text(json.dumps({"cells": [{**cell, "outputs": [{"text": "1"}]}]}))
    assert digest() == before
    new = json.dumps({"cells": [{**cell, "source": "2"}]}) if changed.endswith("ipynb") else "changed"
    (tmp_path / changed).write_text(new)
    assert digest() != before


@pytest.mark.parametrize("check", [["eslint", "."], ["prettier", "--check", "."]], ids=["eslint", "prettier"])
def test_the_sources_are_in_order(check: list[str]) -> None:
    command = TOP / "node_modules" / ".bin" / check[0]
    if not command.exists() and not os.environ.get("CI"):
        pytest.skip("The panel has not been built here, and its tools are not installed.")
    # The node that building it has brought, if it was not there.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    said = subprocess.run(
        [command, *check[1:]], cwd=TOP, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr
