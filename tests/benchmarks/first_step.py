"""How long is it from "I have a link" to the first step that counts?

    python -m tests.benchmarks.first_step [--ready-cell] [--runs N] [--json FILE]

In a fresh kernel where this package is installed: two lines. With `--ready-cell` also the cell of the invite card, in a
fresh kernel of an environment that has what a Colab kernel has and torch, but not this package, which the cell installs
from the session's own server; what the environment itself takes to be made is not counted.

The clock starts when the cell is run and stops when a round is committed to which this kernel's first steps belong. A
person reads the recipe in between and says yes: that is not counted, `--agree` says it beforehand. The server is on the
same machine, so the link takes no time either.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import Distribution, distribution
from pathlib import Path
from statistics import median

from packaging.requirements import Requirement

from jupyter_swarm import host, load_recipe
from jupyter_swarm.notebook.invite import colab_cell

from .colab import COLAB, CONSTRAINTS, Environment
from .frontend import Cell, kernel
from .harness import Failed, Server, server, workplace
from .reporting import Figures, main, table

_LONGEST = 600
_LONG = 10**6
_STAGES = ("loaded", "joined", "first step")
_LINES = "%load_ext jupyter_swarm\n%swarm join {link}"
# Each mark is seen here when it is printed there.
_MARKED = """
{before}
print("MARK loaded", flush=True)
{join} --agree {digest}
print("MARK joined", flush=True)
if not session._record.wait_for(lambda status: status.version >= 1, 120):
    raise TimeoutError("no round was committed")
print("MARK first step", flush=True)
"""


def timed(python: str, folder: Path, cell: str) -> dict[str, float]:
    """Stage -> seconds since the cell was sent to a new kernel of `python`, which was idle before."""
    made = subprocess.run(
        [python, "-m", "ipykernel", "install", "--prefix", str(folder), "--name", "first-step"],
        capture_output=True, text=True,
    )  # fmt: skip
    if made.returncode:
        raise Failed(made.stderr[-1000:])
    own = {"JUPYTER_RUNTIME_DIR": str(folder / "runtime"), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    marks: dict[str, float] = {}
    with kernel("first-step", folder, folder, {**os.environ, **own}) as front:
        start = time.perf_counter()

        def ends(running: Cell) -> bool:
            for stage in _STAGES:
                if stage not in marks and f"MARK {stage}" in running.text:
                    marks[stage] = time.perf_counter() - start
            return running.done

        said = front.run(cell, _LONGEST, until=ends).text
    if set(marks) != set(_STAGES):
        raise Failed(f"The cell did not come to its end:\n{said[-2000:]}")
    return marks


def cell_of(lines: str, digest: str) -> str:
    """The lines that a person runs, with marks; the last of them joins."""
    before, _, join = lines.strip().rpartition("\n")
    return _MARKED.format(before=before, join=join, digest=digest)


def linked(names: list[str], folder: Path) -> None:
    """Put distributions of this environment, and what they require, into another one's path without a copy."""
    folder.mkdir()
    found: dict[str, Distribution] = {}
    while names:
        one = distribution(names.pop())
        if one.name in found:
            continue
        found[one.name] = one
        wanted = (Requirement(text) for text in one.requires or [])
        names += [each.name for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    for one in found.values():
        for top in {file.parts[0] for file in one.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            source = Path(str(one.locate_file(top)))
            if source.exists() and not (folder / top).exists():
                (folder / top).symlink_to(source, target_is_directory=source.is_dir())


def colab_like(folder: Path) -> str:
    """The Python of a new environment with what a Colab kernel has, and with this environment's torch."""
    there = Environment(sys.executable, folder)
    linked(["torch"], folder / "torch")
    site = next(folder.glob("[Ll]ib/**/site-packages"))
    (site / "torch.pth").write_text(f"{folder / 'torch'}\n")
    there.pip("install", "--quiet", "-c", str(_constraints(folder)), *COLAB)
    return there.python


def _constraints(folder: Path) -> Path:
    """Colab's versions, where this environment's torch does not need others."""
    linked_ones = {path.name.partition("-")[0].lower() for path in (folder / "torch").glob("*.dist-info")}
    lines = CONSTRAINTS.read_text().splitlines()
    kept = [line for line in lines if line.partition("==")[0].strip().lower().replace("-", "_") not in linked_ones]
    path = folder / "constraints.txt"
    path.write_text("\n".join(kept) + "\n")
    return path


def measure(chosen: argparse.Namespace) -> Figures:
    figures: Figures = {}
    with workplace() as (folder, stack):
        here = server(folder, stack)
        lines = {"two lines, package installed": (_LINES, sys.executable)}
        if chosen.ready_cell:
            print("Making an environment as Colab's …", flush=True)
            lines["ready cell, package not installed"] = ("", colab_like(folder / "colab"))
        for name, (text, python) in lines.items():
            runs = [_run(here, folder, text, python) for _ in range(chosen.runs)]
            figures[name] = {stage: [run[stage] for run in runs] for stage in _STAGES}
    rows = [[name, *(median(stages[stage]) for stage in _STAGES)] for name, stages in figures.items()]
    table(["seconds until", *_STAGES], rows)
    return figures


def _run(here: Server, folder: Path, text: str, python: str) -> dict[str, float]:
    recipe = load_recipe("digits")
    session = host(recipe, rounds=_LONG, train=False, server=here.owner_url)
    issued = session.issue()
    place = folder / f"kernel-{session.id}"
    place.mkdir()
    try:
        if not text:  # what it installs must not be there already
            _forget(python)
        return timed(
            python, place, cell_of(text.format(**issued) or colab_cell(issued["link"], issued["wheel"]), recipe.sha256)
        )
    finally:
        here.client.delete(session.id)
        shutil.rmtree(place, ignore_errors=True)


def _forget(python: str) -> None:
    subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", "uninstall", "--quiet", "--yes", "jupyter_swarm"],
        capture_output=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ready-cell", action="store_true", help="also in an environment that lacks the package")
    parser.add_argument("--runs", type=int, default=3, help="kernels of each kind (default: 3)")
    main(parser, measure)
