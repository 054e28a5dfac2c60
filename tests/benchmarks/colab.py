"""Does a kernel with Colab's versions train with us, show what it should, and keep its versions?

    python -m tests.benchmarks.colab [--python PYTHON] [--environment FOLDER] [--json FILE]

Makes an environment with the versions in tests/colab-constraints.txt (those packages that a Colab kernel needs and
that we build on) and, on a server of this environment, opens sessions. Then a front end without a browser, which knows
what a kernel sends and nothing else, does what students do:

- in Colab: runs the invite's ready cell, which installs this package from that server, answers yes, looks on while the
  cell runs (Colab shows only what the running cell changes), is paused by the instructor meanwhile, interrupts the
  cell, and goes on with `%swarm watch`;
- in JupyterLab with the same versions: pastes the link, declines, agrees the second time, and steers by buttons while
  no cell runs.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_swarm import host, load_recipe
from jupyter_swarm.notebook.invite import colab_cell
from jupyter_swarm.peer.api import Session

from .frontend import Cell, FrontEnd, kernel
from .harness import ONE_THREAD, ROOT, Failed, Server, server, torch_pin, workplace
from .reporting import Figures, main, table

CONSTRAINTS = ROOT / "tests" / "colab-constraints.txt"
COLAB = (
    "h5py", "httpx", "ipykernel", "ipython", "ipywidgets", "jupyter_client", "jupyter_core", "jupyter_server",
    "matplotlib", "notebook", "numpy", "pandas", "psutil", "rich", "safetensors", "scikit-learn", "tornado",
    "traitlets", "websockets", "xarray",
)  # fmt: skip
LEFT_OUT = ("setuptools",)
"""torch of this repository's constraints wants a newer one than Colab has, whose torch is older."""
SHOWN = ("ipython", "ipykernel", "ipywidgets", "jupyter_server", "numpy", "torch", "tornado", "traitlets", "websockets")
_INSTALL_SECONDS = 900
_SECONDS = 120
_PICTURES = 3
_AS_COLAB = "import sys, types; sys.modules['google.colab'] = types.ModuleType('google.colab')"
_STEERS = ["Pause", "Resume", "Leave"]


class Environment:
    """The virtual environment in `folder`, made with `python` unless it is there."""

    def __init__(self, python: str, folder: Path) -> None:
        self.folder = folder
        self.python = str(folder / ("Scripts" if sys.platform == "win32" else "bin") / "python")
        if not Path(self.python).exists():
            _run([python, "-m", "venv", str(folder)])

    def pip(self, *arguments: str) -> str:
        return _run([self.python, "-m", "pip", "--disable-pip-version-check", *arguments])

    def versions(self) -> dict[str, str]:
        """What is installed: name -> version."""
        lines = (line.partition("==") for line in self.pip("list", "--format=freeze").splitlines())
        return {name.lower().replace("-", "_"): version for name, _, version in lines}


def _run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    if done.returncode:
        raise Failed(
            f"{' '.join(command[:6])} … ended with code {done.returncode}:\n{done.stdout[-500:]}{done.stderr[-1500:]}"
        )
    return done.stdout


def as_colab(python: str, folder: Path) -> Environment:
    """An environment with Colab's versions and without this package."""
    there = Environment(python, folder)
    lines = CONSTRAINTS.read_text().splitlines(keepends=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(line for line in lines if not line.startswith(LEFT_OUT)))
    there.pip("install", "--quiet", "-c", str(constraints), torch_pin(), *COLAB)
    there.pip("uninstall", "--quiet", "--yes", "jupyter_swarm")
    _run([there.python, "-m", "ipykernel", "install", "--prefix", str(folder), "--name", "colab"])
    return there


class Seen:
    """What a student has seen, line by line; `that` ends it all where something is missing."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = []

    def that(self, holds: Any, what: str, seen: object) -> None:
        """Note what was seen. Raises `Failed` unless it holds."""
        if not holds:
            raise Failed(f"Not so: {what}. Seen: {seen}")
        self.rows.append([what, str(seen)])


class Class:
    """One session of the `digits` recipe, without an end, on `here`; its instructor does not train."""

    def __init__(self, here: Server) -> None:
        self.here = here
        self.recipe = load_recipe("digits")
        self.session: Session = host(self.recipe, rounds=0, train=False, server=here.owner_url)
        issued = self.session.issue("peer")
        self.link, self.cell = issued["link"], colab_cell(issued["link"], issued["wheel"])

    @property
    def rounds(self) -> int:
        return int(self.here.status(self.session.id)["version"])


def in_colab(front: FrontEnd, one: Class, seen: Seen, versions: Callable[[], dict[str, str]]) -> Figures:
    """The ready cell, as Colab runs it."""
    front.run(_AS_COLAB, 60)
    before = versions()
    cell = front.run(one.cell, 4 * _SECONDS, ("yes",), until=_pictures)
    seen.that("Run this recipe here?" in "".join(cell.asked), "the ready cell asks before it runs the recipe", "yes")
    seen.that("no GPU is selected" in cell.text, "that no GPU is selected is said before training", "yes")
    after = versions()
    pictures, texts = cell.shown("value", bytes), cell.shown("value", str)
    seen.that(not cell.done and len(pictures) >= _PICTURES, "pictures of the curve while the cell runs", len(pictures))
    seen.that(all(one.startswith(b"\x89PNG") for one in pictures), "each is a PNG", f"{len(pictures[-1]):,} bytes")
    seen.that(len(texts) >= _PICTURES, "texts of the status while the cell runs", len(texts))
    seen.that(front.buttons(cell)[:3] == _STEERS, "buttons", ", ".join(front.buttons(cell)))
    seen.that("<table" in front.text(cell), "table of the peers", "yes")

    one.session.pause_all()
    front.wait(lambda: "<b>paused</b>: by " in front.text(cell), "the pause to be shown in the running cell", _SECONDS)
    seen.that(not cell.done, "a pause by the instructor is shown while the cell runs", "yes")
    one.session.resume_all()
    front.interrupt()
    front.wait(lambda: cell.done, "the interrupted cell to end", _SECONDS)
    seen.that("Interrupted; the session lives" in front.text(cell), "the stop button pauses, the session lives", "yes")

    resumed = one.rounds
    watch = front.run("%swarm resume\n%swarm watch", _SECONDS, until=_pictures)
    seen.that(not watch.done, "pictures while %swarm watch runs", len(watch.shown("value", bytes)))
    one.session.stop()
    front.wait(lambda: watch.done, "%swarm watch to end with the session", _SECONDS)
    picture = next(output["data"] for output in watch.outputs if "image/png" in output.get("data", {}))
    seen.that("finished" in picture["text/plain"], "at the end a picture stays", picture["text/plain"])
    seen.that(not front.visible(watch), "and no widget that would need the kernel", "none")
    digest = front.run("print(session.digest()); session.leave()", _SECONDS)
    seen.that(one.rounds > resumed > 0, "rounds that it trained", f"{resumed}, then {one.rounds - resumed} more")
    changed = {name: (old, after.get(name)) for name, old in before.items() if after.get(name) != old}
    added = sorted(set(after) - set(before) - {"jupyter_swarm"})
    return {"before": before, "changed": changed, "added": added, "rounds": one.rounds, "digest": digest.text.strip()}


def in_a_lab(front: FrontEnd, one: Class, seen: Seen) -> Figures:
    """The same versions where widgets change without a running cell."""
    front.run("%load_ext jupyter_swarm", _SECONDS)
    cell = front.run(f"%swarm join {one.link} --name Ann", _SECONDS)
    seen.that(one.recipe.sha256 in front.text(cell), "the card shows the recipe's hash", one.recipe.sha256[:16])
    seen.that('aria-label="the recipe"' in front.text(cell), "and its code", "yes")
    seen.that(front.buttons(cell) == ["Agree and join", "Decline"], "its buttons", ", ".join(front.buttons(cell)))
    name = next(state["value"] for state in front.visible(cell) if state.get("description") == "Your name")
    seen.that(name == "Ann", "its name field", name)
    front.press(cell, "Decline")
    front.wait(lambda: "has not run" in front.text(cell), "the answer to a no", _SECONDS)
    seen.that(not one.here.status(one.session.id)["peers"], "after a no nobody trains", "nobody")

    cell = front.run(f"%swarm join {one.link} --name Ann", _SECONDS)
    front.press(cell, "Agree and join")
    front.wait(lambda: "Pause" in front.buttons(cell), "the panel in the card's place", _SECONDS)
    pictures: set[bytes] = set()
    front.wait(lambda: _more(pictures, front, cell) >= _PICTURES, "pictures while no cell runs", _SECONDS)
    seen.that(cell.done, "pictures of the curve while no cell runs", len(pictures))
    front.wait(lambda: ">Ann</td>" in front.text(cell), "Ann in the table of peers", _SECONDS)
    for button, says in (("Pause", "paused"), ("Resume", "training")):
        front.press(cell, button)
        front.wait(lambda says=says: f"<b>{says}</b>" in front.text(cell), f"{says} after {button}", _SECONDS)  # type: ignore[misc]
        seen.that(True, f"after the button {button}", says)
    rounds = one.rounds
    front.press(cell, "Leave")
    front.wait(lambda: not one.here.status(one.session.id)["peers"], "Ann to leave", _SECONDS)
    seen.that(rounds, "rounds that it trained", rounds)
    return {"rounds": rounds, "pictures": len(pictures)}


def _pictures(cell: Cell) -> bool:
    return len(cell.shown("value", bytes)) >= _PICTURES


def _more(pictures: set[bytes], front: FrontEnd, cell: Cell) -> int:
    pictures |= {state["value"] for state in front.visible(cell) if state["_model_name"] == "ImageModel"}
    return len(pictures)


def measure(chosen: argparse.Namespace) -> Figures:
    version = _run([chosen.python, "-c", "import platform; print(platform.python_version())"]).strip()
    print(f"Colab runs Python 3.13; this environment has {version}. torch comes from our own constraints, so that of "
          f"Colab's versions these are left out: {', '.join(LEFT_OUT)}.", flush=True)  # fmt: skip
    seen = Seen()
    with workplace() as (folder, stack):
        there = as_colab(chosen.python, (chosen.environment or folder / "colab").absolute())
        here = server(folder, stack)
        env = {
            **os.environ, **ONE_THREAD, "PYDEVD_DISABLE_FILE_VALIDATION": "1", "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        }  # fmt: skip
        with kernel("colab", there.folder, folder, env) as front:
            colab = in_colab(front, Class(here), seen, there.versions)
        check = there.pip("check").strip()
        table(
            ["package", "before", "after"],
            [[name, colab["before"].get(name), there.versions().get(name)] for name in SHOWN],
        )
        added = ", ".join(colab["added"]) or "nothing"
        print(f"Changed by the ready cell: {colab['changed'] or 'nothing'}; added: {added}.")
        print(f"pip check: {check}", flush=True)
        seen.that(not colab["changed"], "Colab's versions that the ready cell has changed", "none")
        with kernel("colab", there.folder, folder, env) as front:
            lab = in_a_lab(front, Class(here), seen)
    table(["what a student sees", ""], seen.rows)
    return {
        "python": version, "here": platform.python_version(), "pip_check": check, "colab": colab, "lab": lab,
        "seen": seen.rows,
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the Python of the environment (default: this one)")
    parser.add_argument(
        "--environment", type=Path, metavar="FOLDER", help="keep the environment there, or use it again"
    )
    main(parser, measure)
