"""Rules about the repository's files that no linter knows."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from jupyter_core.paths import jupyter_config_path

import jupyter_swarm

TOP = Path(__file__).resolve().parent.parent
TOP_LEVEL = {
    ".ci",
    ".gitignore",
    "LICENSE",
    "Makefile",
    "README.md",
    "binder",
    "constraints.txt",
    "jupyter_swarm",
    "labextension",
    "pyproject.toml",
    "tests",
    "tutorials",
}
# Which index packages come from is for whoever installs to say. The pattern is written so that it names none itself.
REGISTRIES = re.compile(
    r"\b(?:pypi|pythonhosted|npmjs|yarnpkg|npmmirror|anaconda|download\.pytorch)[.](?:org|com|io)\b", re.IGNORECASE
)
# Whatever unpickles runs code that somebody else wrote.
UNSAFE_MODULES = {"_pickle", "cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
UNSAFE_CALLS = {"torch.load", "torch.save"}


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """The files under version control, relative to the top of the repository."""
    if shutil.which("git") is None or not (TOP / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in names.split("\0") if name]


def unsafe(source: str) -> list[str]:
    """What a Python source uses that can unpickle."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in UNSAFE_MODULES]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found += sorted(names if str(node.module).partition(".")[0] in UNSAFE_MODULES else names & UNSAFE_CALLS)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in UNSAFE_CALLS:
            found.append(ast.unparse(node))
    return found


def test_only_known_entries_at_the_top(tracked: list[Path]) -> None:
    assert {path.parts[0] for path in tracked} <= TOP_LEVEL


def test_no_file_names_a_package_registry(tracked: list[Path]) -> None:
    texts = ((path, (TOP / path).read_bytes().decode("utf-8", "replace")) for path in tracked if (TOP / path).is_file())
    assert not [f"{path}: {match.group()}" for path, text in texts for match in REGISTRIES.finditer(text)]


def test_a_registry_would_be_found() -> None:
    assert REGISTRIES.search("index-url = https://" + ".".join(["files", "PythonHosted", "org"]))


def test_nothing_can_unpickle() -> None:
    sources = (TOP / "jupyter_swarm").rglob("*.py")
    assert not [f"{path}: {name}" for path in sources for name in unsafe(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(
    "source", ["def f():\n    import pickle", "from torch import load", "import torch\ntorch.load('x')"]
)
def test_an_unpickler_would_be_found(source: str) -> None:
    assert unsafe(source)


def test_constraints_are_plain_pins() -> None:
    lines = [line for line in (TOP / "constraints.txt").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    pin = re.compile(r'[A-Za-z0-9._-]+==[A-Za-z0-9.]+(; python_version >= "3\.\d+")?')
    assert not [line for line in lines if not pin.fullmatch(line)]
    assert "torch==2.13.0" in lines


def test_the_installed_version_is_the_source_version() -> None:
    assert version("jupyter_swarm") == jupyter_swarm.__version__


def test_installing_enables_the_server_extension() -> None:
    found = [Path(folder, "jupyter_server_config.d", "jupyter_swarm.json") for folder in jupyter_config_path()]
    settings = [json.loads(path.read_text(encoding="utf-8")) for path in found if path.is_file()]
    assert {"ServerApp": {"jpserver_extensions": {"jupyter_swarm": True}}} in settings
