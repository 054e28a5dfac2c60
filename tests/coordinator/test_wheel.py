"""The server's own package: whoever installs it from there has the very same, and could give it on."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import jupyter_swarm
from jupyter_swarm.coordinator import wheel as module
from jupyter_swarm.coordinator.wheel import NAME, wheel

from .server import Swarm

BUILT_THERE = """
import sys, jupyter_swarm
from jupyter_swarm.coordinator.wheel import wheel
sys.stdout.buffer.write(jupyter_swarm.__file__.encode() + b"\\n" + wheel())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which pip has put the package, besides the one that is tested here."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / NAME).write_bytes(wheel())
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--no-cache-dir",
        "--no-compile",
        "--quiet",
    ]
    apart = ["--ignore-installed", "--prefix", str(folder), "--no-warn-script-location"]
    subprocess.run([*pip, *apart, "--disable-pip-version-check", str(folder / NAME)], check=True)
    return next(folder.rglob("jupyter_swarm/__init__.py")).parents[1]


def run(program: str, path: Path, cwd: Path) -> bytes:
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=cwd, check=True, capture_output=True
    ).stdout


def test_pip_installs_it_and_the_extension_is_enabled(installed: Path, tmp_path: Path) -> None:
    said = run(
        "import jupyter_swarm as s, jupyter_swarm.coordinator.app; print(s.__file__, s.__version__)",
        installed,
        tmp_path,
    )
    file = str(installed / "jupyter_swarm/__init__.py")
    assert said.decode().split() == [file, jupyter_swarm.__version__]
    (config,) = installed.parents[2].glob("etc/jupyter/jupyter_server_config.d/*.json")
    assert json.loads(config.read_text()) == {"ServerApp": {"jpserver_extensions": {"jupyter_swarm": True}}}
    assert list(installed.parents[2].glob("*/jupyter-swarm*")), "the command is there, too"


def test_what_was_installed_from_it_gives_the_same_bytes(installed: Path, tmp_path: Path) -> None:
    where, _, again = run(BUILT_THERE, installed, tmp_path).partition(b"\n")
    assert Path(where.decode()).parents[1] == installed
    assert again == wheel()


def test_its_record_is_right() -> None:
    with zipfile.ZipFile(io.BytesIO(wheel())) as archive:
        names = archive.namelist()
        assert names[-1].endswith(".dist-info/RECORD")
        assert len(set(names)) == len(names)
        rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(archive.read(names[-1]).decode()))}
        assert rows.keys() == set(names)
        for name in names[:-1]:
            content = archive.read(name)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            assert rows[name] == [f"sha256={digest}", str(len(content))], name
    assert not [name for name in names if "__pycache__" in name or name.startswith("jupyter_swarm/etc")]


def test_a_panel_that_is_built_in_a_source_tree_comes_along(tmp_path: Path) -> None:
    root = tmp_path / "panel_build" / "a-panel"
    (root / "static").mkdir(parents=True)
    (root / "package.json").write_text('{"name": "a-panel"}')
    (root / "static" / "main.js").write_text("run()")
    (tmp_path / "__init__.py").write_text("")
    assert set(module._modules(tmp_path)) == {"jupyter_swarm/__init__.py"}
    found = module._data(module.distribution("jupyter_swarm"), tmp_path)
    place = f"jupyter_swarm-{jupyter_swarm.__version__}.data/data/share/jupyter/labextensions/a-panel"
    assert found[f"{place}/static/main.js"] == b"run()"
    assert f"{place}/package.json" in found
    assert {path for path in found if "/share/" in path} == {f"{place}/static/main.js", f"{place}/package.json"}


async def test_everybody_gets_it_by_its_name_only(swarm: Swarm) -> None:
    answer = await swarm.call("GET", f"swarm/wheel/{NAME}")
    assert (answer.code, answer.body) == (200, wheel())
    assert "no-cache" in answer.headers["Cache-Control"]
    assert NAME in answer.headers["Content-Disposition"]
    kept = {"If-None-Match": answer.headers["Etag"]}
    assert (await swarm.call("GET", f"swarm/wheel/{NAME}", kept)).code == 304
    other = await swarm.call("GET", "swarm/wheel/jupyter_swarm-9.9.9-py3-none-any.whl")
    assert NAME in swarm.json(other, 404)["why"]


async def test_a_package_that_is_only_a_folder_is_said_to_be(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise module.PackageNotFoundError(name)

    monkeypatch.setattr(module, "distribution", missing)
    monkeypatch.setattr(module, "_build", module._build.__wrapped__)
    answer = await swarm.call("GET", f"swarm/wheel/{NAME}")
    assert "imported from a folder" in swarm.json(answer, 404)["why"]
