"""What is there that need not be: import time, threads, processes.

    python -m tests.benchmarks.footprint [--repeats N] [--no-demo] [--json FILE]

Import times are medians over fresh processes. The demo is killed with SIGKILL while its kernels train; ten seconds
later those of its processes are counted that still live (and then ended).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from jupyter_swarm import host, join, load_recipe
from tests.cli.processes import gone

from .harness import ROOT, Failed, Process, server, wait_until, workplace
from .reporting import Figures, main, table

NOT_WANTED = ("jupyter_server", "jupyterlab", "tornado.web")
_IMPORT = """
import json, sys, time
{before}
start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
print(json.dumps([seconds, [name for name in {names!r} if name in sys.modules]]))
"""
_STATEMENTS = {
    "import jupyter_swarm": ("import torch", "import jupyter_swarm"),
    "its public names (host, join, Recipe, …)": (
        "import torch",
        "from jupyter_swarm import AdamW, Data, EveryStep, Nesterov, Recipe, Session, host, join, train",
    ),
    "the server extension, in a Jupyter server": (
        "import jupyter_server.serverapp",
        "import jupyter_swarm.coordinator.app",
    ),
}
_LEFT_SECONDS = 10.0


def imports(repeats: int) -> Figures:
    """Seconds that imports take beyond what is imported before, and what they bring that they should not."""
    figures: Figures = {}
    for name, (before, statement) in _STATEMENTS.items():
        names = ("torch",) if "extension" in name else NOT_WANTED
        code = _IMPORT.format(before=before, statement=statement, names=names)
        runs = [
            json.loads(subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True).stdout)
            for _ in range(repeats + 1)
        ][1:]
        figures[name] = {
            "seconds": statistics.median(seconds for seconds, _ in runs),
            "brings": sorted({name for _, brought in runs for name in brought}),
        }
    table(["", "s, beyond what is there", "brings"], [
        [name, one["seconds"], ", ".join(one["brings"]) or "nothing unwanted"] for name, one in figures.items()
    ])  # fmt: skip
    return figures


def threads() -> Figures:
    """Threads of this process before, during and after it trains in a session."""
    with workplace() as (folder, stack):
        here = server(folder, stack)
        recipe = load_recipe("digits")
        hosted = host(recipe, rounds=0, train=False, server=here.owner_url)
        before = _threads()
        session = join(hosted.invite("peer").link, agree=recipe.sha256)
        wait_until(lambda: session.status().version >= 2, "the first rounds", 60)
        during = _threads()
        processes = [child.name() for child in psutil.Process().children() if child.pid != here.popen.pid]
        session.leave()
        wait_until(lambda: not session.trains, "the end of training", 20)
        after = _threads()
    figures = {
        "before": before, "during": during, "after": after, "processes_started": processes,
        "more_during": sorted(set(during) - set(before)), "left_after": sorted(set(after) - set(before)),
    }  # fmt: skip
    for what, names in (
        ("Threads while training", figures["more_during"]),
        ("threads left after leave()", figures["left_after"]),
        ("processes started", processes),
    ):
        print(f"{what}: {', '.join(names) or 'none'}.")
    return figures


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def killed_demo() -> Figures:
    """Kill the demo while it trains; what is left of it ten seconds later."""
    with tempfile.TemporaryDirectory(prefix="swarm-benchmark-") as name:
        folder = Path(name)
        command = [sys.executable, "-m", "jupyter_swarm.cli", "demo", "--recipe", "digits", "--rounds", "100000"]
        demo = Process([*command, "--output", str(folder)], folder / "demo.log")
        seen: dict[int, psutil.Process] = {}

        def trains() -> bool:
            if demo.popen.poll() is not None:
                raise Failed(f"The demo ended by itself:\n{demo.said()}")
            seen.update({child.pid: child for child in demo.use.children(recursive=True)})
            return "round" in demo.said() and len(seen) >= 4

        try:
            wait_until(trains, "the demo's kernels to train", 120, every=0.5)
            for _ in range(10):
                trains()
                time.sleep(0.5)
            demo.popen.kill()
            demo.popen.wait()
            time.sleep(_LEFT_SECONDS)
            left = [process for process in seen.values() if not gone(process)]
            figures: Figures = {
                "processes": len(seen) + 1,
                "left": [" ".join(process.cmdline()[:4]) for process in left],
            }
        finally:
            for process in [*seen.values(), demo.use]:
                # A Process knows when it was started: a number that is used again is not killed.
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            demo.popen.wait()
    print(f"The demo ran {figures['processes']} processes; {_LEFT_SECONDS:.0f} s after its SIGKILL "
          f"{len(left)} were left{': ' if left else '.'}{'; '.join(figures['left'])}")  # fmt: skip
    return figures


def measure(chosen: argparse.Namespace) -> Figures:
    figures: Figures = {"imports": imports(chosen.repeats)}
    figures["threads"] = threads()
    if not chosen.no_demo:
        figures["killed_demo"] = killed_demo()
    print("Aims: import at most 0.3 s beyond torch, no thread after leave(), no process after the demo's end.")
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-demo", action="store_true", help="leave out the demo, which takes half a minute")
    main(parser, measure)
