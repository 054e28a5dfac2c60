"""Does a kernel with Colab's versions train with us, and does installing us there change any of them?

    python -m tests.benchmarks.colab [--python PYTHON] [--json FILE]

Makes an environment of its own with the versions in tests/colab-constraints.txt (those packages that a Colab kernel
needs and that we build on), installs this package there without any constraint, compares, and then lets a kernel of
that environment join a session on a server of this one.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from jupyter_swarm import host, load_recipe

from .harness import ONE_THREAD, ROOT, Failed, server, torch_pin, workplace
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
_QUIET = {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}
_CELL = """
import jupyter_swarm
session = jupyter_swarm.join({link!r}, "colab", agree={digest!r})
finished = session.wait(120)
losses = session.history().loss.dropna("round").values
print("finished", finished, "rounds", len(losses), "digest", session.digest())
print("loss", losses[0], losses[-1], "samples", session.status().samples_here)
session.leave()
"""


class Environment:
    """A virtual environment in `folder`, made with `python`."""

    def __init__(self, python: str, folder: Path) -> None:
        self.folder = folder
        _run([python, "-m", "venv", str(folder)])
        self.python = str(folder / ("Scripts" if sys.platform == "win32" else "bin") / "python")

    def pip(self, *arguments: str) -> str:
        return _run([self.python, "-m", "pip", "--disable-pip-version-check", *arguments])

    def versions(self) -> dict[str, str]:
        """What is installed: name -> version."""
        lines = (line.partition("==") for line in self.pip("list", "--format=freeze").splitlines())
        return {name.lower().replace("-", "_"): version for name, _, version in lines}

    def cell(self, code: str) -> str:
        """What a cell prints in a new kernel of this environment."""
        _run([self.python, "-m", "ipykernel", "install", "--prefix", str(self.folder), "--name", "colab"])
        specs = KernelSpecManager(kernel_dirs=[str(self.folder / "share" / "jupyter" / "kernels")])
        manager = KernelManager(kernel_name="colab", kernel_spec_manager=specs)
        manager.start_kernel(cwd=str(self.folder), env={**os.environ, **ONE_THREAD, **_QUIET})
        client = manager.blocking_client()
        printed: list[str] = []
        try:
            client.start_channels()
            client.wait_for_ready(timeout=60)

            def hear(message: dict) -> None:  # type: ignore[type-arg]
                content = message["content"]
                printed.append(content.get("text") or "\n".join(content.get("traceback", [])))

            reply = client.execute_interactive(code, timeout=240, output_hook=hear)
            if reply["content"]["status"] != "ok":
                raise Failed(f"The cell failed in the kernel:\n{''.join(printed)}")
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
        return "".join(printed)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    if done.returncode:
        raise Failed(
            f"{' '.join(command[:6])} … ended with code {done.returncode}:\n{done.stdout[-500:]}{done.stderr[-1500:]}"
        )
    return done.stdout


def measure(chosen: argparse.Namespace) -> Figures:
    version = _run([chosen.python, "-c", "import platform; print(platform.python_version())"]).strip()
    print(f"Colab runs Python 3.13; this environment has {version}. torch comes from our own constraints, so that of "
          f"Colab's versions these are left out: {', '.join(LEFT_OUT)}.", flush=True)  # fmt: skip
    with workplace() as (folder, stack):
        there = Environment(chosen.python, folder / "colab")
        lines = CONSTRAINTS.read_text().splitlines(keepends=True)
        constraints = folder / "constraints.txt"
        constraints.write_text("".join(line for line in lines if not line.startswith(LEFT_OUT)))
        there.pip("install", "--quiet", "-c", str(constraints), torch_pin(), *COLAB)
        before = there.versions()
        there.pip("install", "--quiet", str(ROOT))
        after = there.versions()
        changed = {name: (old, after.get(name)) for name, old in before.items() if after.get(name) != old}
        added = sorted(set(after) - set(before) - {"jupyter_swarm"})
        check = there.pip("check").strip()
        table(["package", "before", "after"], [[name, before.get(name), after.get(name)] for name in SHOWN])
        print(f"Changed by installing jupyter_swarm: {changed or 'nothing'}; added: {', '.join(added) or 'nothing'}.")
        print(f"pip check: {check}", flush=True)

        here = server(folder, stack)
        recipe = load_recipe("digits")
        session = host(recipe, rounds=10, train=False, server=here.owner_url)
        start = time.monotonic()
        said = there.cell(_CELL.format(link=session.invite("peer").link, digest=recipe.sha256))
        seconds = time.monotonic() - start
        records = here.client.records(session.id)
    print(f"In the kernel:\n{said}")
    if len(records) != 10 or "finished True" not in said:
        raise Failed(f"The kernel's peer made {len(records)} of 10 rounds.")
    return {
        "python": version, "here": platform.python_version(), "before": before, "changed": changed, "added": added,
        "pip_check": check, "rounds": len(records), "seconds": seconds,
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the Python of the environment (default: this one)")
    main(parser, measure)
