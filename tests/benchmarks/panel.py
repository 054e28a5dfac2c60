"""Does the panel stay light with a large class? JupyterLab in a browser, 200 peers, a round a second, five minutes.

    python -m tests.benchmarks.panel [--seconds N] [--peers N] [--screenshot FILE.png] [--json FILE]

Real are JupyterLab in headless chromium, with the panel in the sidebar and large beside a notebook; the kernel of that
notebook, which hosts the session and shows its live widgets; the Jupyter server; and a WebSocket for each peer. What
the peers compute is made up (`light_peers`), and the model has a hundred parameters.

A task of the page's main thread has two lengths: *on the clock*, which a busy machine stretches, and *of processor*,
which the browser's own trace tells. The heap is read after forced collections; the tasks of these are left out. What
the trace costs is in the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
from playwright.sync_api import CDPSession, Page, sync_playwright

from tests.browser.classroom import CALM, NAMES, browser_path, build_panel, write_notebook

from .harness import Failed, Process, Server, server, wait_until, workplace
from .light_peers import ALL_IN
from .reporting import Figures, main, table
from .soak import grown

LONGEST_MS = 100.0
HEAP_BYTES = 5e6
FLAT = 1e6
"""Bytes a minute by which a process may grow and be called flat."""
_START_SECONDS = 180.0
_SETTLE_ROUNDS = 15
_SLICE_SECONDS = 30.0
"""The trace is read piece by piece: a long one takes much memory."""

RECIPE = """\
import torch
import torch.nn.functional as F
from torch import nn

from jupyter_swarm import SGD, Data, EveryStep, Recipe


def data():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(5000, 20, generator=generator)
    labels = inputs[:, :4].argmax(1)
    return Data(train=(inputs[:4500], labels[:4500]), held_out=(inputs[4500:], labels[4500:]))


def loss(model, batch):
    inputs, labels = batch
    return F.cross_entropy(model(inputs), labels)


def accuracy(model, batch):
    inputs, labels = batch
    return (model(inputs).argmax(1) == labels).float().mean()


recipe = Recipe(
    name="crowd", model=lambda: nn.Linear(20, 4), data=data, loss=loss, optimizer=SGD(lr=1e-3),
    strategy=EveryStep(target_batch={batch}), metrics={{"accuracy": accuracy}}, evaluate_every=5,
)
"""

WATCHED = """() => {
    window.swarmTasks = [];
    const note = list => list.getEntries().forEach(one => window.swarmTasks.push([one.startTime, one.duration]));
    new PerformanceObserver(note).observe({entryTypes: ['longtask']});
    let last = performance.now();
    window.swarmGaps = [];
    setInterval(() => {
        const now = performance.now();
        if (now - last > 70) {
            window.swarmGaps.push([last, now - last]);
        }
        last = now;
    }, 20);
}"""
"""Tasks of at least 50 ms, and how long the page's loop came to nothing else: [start, duration] in ms."""

LARGE = """async notebook => {
    const {shell, commands} = window.jupyterapp;
    await commands.execute('jupyter-swarm:show-large');
    await commands.execute('jupyter-swarm:show');
    const main = [...shell.widgets('main')];
    const [large] = main.filter(one => one.id === 'jupyter-swarm-large');
    const [beside] = main.filter(one => one.context?.path === notebook);
    shell.add(large, 'main', {mode: 'split-right', ref: beside.id});
    shell.activateById(beside.id);
}"""

Span = tuple[float, float]
"""Start and duration, in ms of the page's clock."""


def notebook(folder: Path, peers: int) -> str:
    """Write the notebook that hosts the session; its path."""
    (folder / "crowd.py").write_text(RECIPE.format(batch=2 * peers), encoding="utf-8")
    source = f"%load_ext jupyter_swarm\n%swarm host crowd --recipe crowd.py --no-train capacity={peers + 10}"
    write_notebook(folder / "crowd.ipynb", source)
    return "crowd.ipynb"


def lab(folder: Path, stack: contextlib.ExitStack) -> Server:
    """A server with JupyterLab and the panel as it is built here."""
    quiet = ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    return server(
        folder, stack, "--LabApp.expose_app_in_browser=True",
        f"--LabApp.extra_labextensions_path={build_panel()}",
        f"--LabApp.user_settings_dir={folder / 'settings'}", f"--LabApp.workspaces_dir={folder / 'workspaces'}", *quiet,
    )  # fmt: skip


def only_session(here: Server) -> str:
    answer = httpx.get(
        f"{here.url}/swarm/api/sessions", headers={"Authorization": f"token {here.token}"}, trust_env=False
    )  # fmt: skip
    (one,) = answer.raise_for_status().json()["sessions"]
    return str(one["session"])


def kernel_of(here: Server) -> psutil.Process:
    """The only kernel of that server."""
    for child in here.use.children(recursive=True):
        if any("ipykernel" in word for word in child.cmdline()):
            return child
    raise Failed("The notebook's kernel does not run.")


@contextlib.contextmanager
def opened(here: Server, path: str) -> Iterator[Page]:
    """JupyterLab with the notebook, in a browser."""
    chromium = browser_path()
    if chromium is None:
        raise Failed(f"There is no browser on the PATH: {', '.join(NAMES)}.")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=CALM)
        try:
            page = browser.new_page(viewport={"width": 1920, "height": 1080})
            page.set_default_timeout(1000 * _START_SECONDS)
            page.goto(f"{here.url}/lab/tree/{path}?token={here.token}")
            page.locator("#jupyterlab-splash").wait_for(state="detached")
            yield page
        finally:
            browser.close()


class Tracer:
    """The tasks of the page's main thread, slice by slice: milliseconds (on the clock, of processor) of each."""

    def __init__(self, client: CDPSession, page: Page) -> None:
        self._client, self._page = client, page
        self._done: list[dict[str, Any]] = []
        client.on("Tracing.tracingComplete", lambda event: self._done.append(event))
        self.tasks: list[Span] = []

    def start(self) -> None:
        self._client.send(
            "Tracing.start",
            {
                "transferMode": "ReturnAsStream",
                "traceConfig": {"includedCategories": ["toplevel"], "excludedCategories": ["*"]},
            },
        )

    def stop(self) -> None:
        self._client.send("Tracing.end")
        while not self._done:
            self._page.wait_for_timeout(20)
        stream, pieces = self._done.pop()["stream"], []
        while True:
            piece = self._client.send("IO.read", {"handle": stream, "size": 1 << 22})
            pieces.append(piece["data"])
            if piece.get("eof"):
                break
        self._client.send("IO.close", {"handle": stream})
        self.tasks += main_tasks(json.loads("".join(pieces))["traceEvents"])


def main_tasks(events: Sequence[dict[str, Any]]) -> list[Span]:
    """(on the clock, of processor) in ms of the tasks of the busiest page's main thread."""
    threads: dict[tuple[int, int], list[Span]] = {
        (event["pid"], event["tid"]): []
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    for event in events:
        found = threads.get((event["pid"], event["tid"]))
        if found is not None and event["name"] == "ThreadControllerImpl::RunTask" and "dur" in event:
            found.append((event["dur"] / 1000, event.get("tdur", 0) / 1000))
    return max(threads.values(), key=lambda tasks: sum(spent for _, spent in tasks), default=[])


class Heap:
    """What the page holds after everything else is collected."""

    def __init__(self, client: CDPSession, page: Page) -> None:
        self._client, self._page = client, page
        self.forced: list[Span] = []

    def read(self) -> Figures:
        start = self._now()
        for _ in range(2):
            self._client.send("HeapProfiler.collectGarbage")
        used = self._client.send("Runtime.getHeapUsage")
        counters = self._client.send("Memory.getDOMCounters")
        self.forced.append((start, self._now() - start))
        backing = used.get("backingStorageSize", 0) + used.get("embedderHeapUsedSize", 0)
        return {"used": used["usedSize"], "outside": backing, **counters}

    def _now(self) -> float:
        return float(self._page.evaluate("performance.now()"))


def apart_from(spans: Sequence[Span], forced: Sequence[Span]) -> list[Span]:
    """Those that do not overlap with anything in `forced`."""
    return [
        (start, length)
        for start, length in spans
        if not any(start < other + lasting and other < start + length for other, lasting in forced)
    ]


def observe(page: Page, here: Server, session: str, seconds: float) -> Figures:
    """Watch everything for that long."""
    client = page.context.new_cdp_session(page)
    client.send("HeapProfiler.enable")
    processes = {"server": here.use, "kernel": kernel_of(here)}
    tracer, heap = Tracer(client, page), Heap(client, page)
    page.evaluate(WATCHED)
    first, start = here.status(session)["version"], time.monotonic()
    heaps: list[Figures] = []
    memory: list[tuple[float, dict[str, int]]] = []
    looks = [min(60.0, seconds / 5), seconds]
    for stage in slices(seconds):
        tracer.start()
        while time.monotonic() < start + stage:
            memory.append((time.monotonic() - start, {name: one.memory_info().rss for name, one in processes.items()}))
            page.wait_for_timeout(1000)
        tracer.stop()
        if time.monotonic() - start >= looks[len(heaps)]:
            heaps.append({"second": time.monotonic() - start, **heap.read()})
    lasted = time.monotonic() - start
    tasks = apart_from(page.evaluate("window.swarmTasks"), heap.forced)
    gaps = apart_from(page.evaluate("window.swarmGaps"), heap.forced)
    return {
        "seconds": lasted,
        "rounds": here.status(session)["version"] - first,
        "long_tasks": tasks,
        "gaps": gaps,
        "tasks": {
            "count": len(tracer.tasks),
            "share": sum(spent for _, spent in tracer.tasks) / lasted / 1000,
            "processor": sorted((spent for _, spent in tracer.tasks if spent > 20), reverse=True),
            "clock": sorted((clock for clock, _ in tracer.tasks if clock > 20), reverse=True),
        },
        "heap": heaps,
        "memory": {name: [(at, sample[name]) for at, sample in memory] for name in processes},
    }


def slices(seconds: float) -> list[float]:
    """When the pieces of that time end, one of them where the heap is to be read."""
    marks = {min(60.0, seconds / 5), seconds}
    marks |= {_SLICE_SECONDS * place for place in range(1, int(seconds / _SLICE_SECONDS) + 1)}
    return sorted(marks)


def measured(seconds: float, peers: int, screenshot: Path | None = None) -> Figures:
    with workplace() as (folder, stack):
        here = lab(folder, stack)
        path = notebook(folder, peers)
        page = stack.enter_context(opened(here, path))
        page.locator(".jp-Notebook .jp-Cell").first.click()
        page.get_by_text("| Idle").wait_for()
        page.keyboard.press("Control+Enter")
        page.locator(".jp-OutputArea .widget-image").first.wait_for(state="attached")
        session = only_session(here)
        page.evaluate(LARGE, path)
        here.client.act(session, "pause")
        link = here.client.invite(session, "peer", capacity=peers).link
        crowd = Process(
            [sys.executable, "-m", "tests.benchmarks.light_peers", link, str(peers), "1.0"], folder / "crowd.log"
        )  # fmt: skip
        stack.callback(crowd.stop)
        wait_until(until_in(crowd), "all peers to join", _START_SECONDS)
        here.client.act(session, "resume")
        wait_until(lambda: here.status(session)["version"] >= _SETTLE_ROUNDS, "the first rounds", _START_SECONDS)
        found = observe(page, here, session, seconds)
        if screenshot:
            page.screenshot(path=screenshot)
        found["peers"] = len(here.status(session)["peers"])
        return found


def until_in(crowd: Process) -> Callable[[], bool]:
    def look() -> bool:
        if crowd.popen.poll() is not None:
            raise Failed(f"The crowd has ended:\n{crowd.said()}")
        return ALL_IN in crowd.said()

    return look


def counts(lengths: Sequence[float], minutes: float) -> tuple[float, int, float]:
    """The longest, how many are over the aim, and how many a minute are of 50 ms and more."""
    over = sum(length > LONGEST_MS for length in lengths)
    return max(lengths, default=0.0), over, sum(length >= 50 for length in lengths) / minutes


def measure(chosen: argparse.Namespace) -> Figures:
    found = measured(chosen.seconds, chosen.peers, chosen.screenshot)
    minutes = found["seconds"] / 60
    print(f"\n{found['peers']} peers, {found['rounds']} rounds in {found['seconds']:.0f} s")
    lengths = {
        "of processor": found["tasks"]["processor"],
        "on the clock": [length for _, length in found["long_tasks"]],
        "gaps in the page's loop": [length for _, length in found["gaps"]],
    }
    heads = ["tasks of the page", "longest, ms", f"over {LONGEST_MS:.0f} ms", "of 50 ms and more, a minute"]
    table(heads, [[name, *counts(some, minutes)] for name, some in lengths.items()])
    print(f"Busy {100 * found['tasks']['share']:.0f} % of the time. Aim: none over {LONGEST_MS:.0f} ms.")
    first, last = found["heap"]
    names = {"used": "heap, MB", "outside": "its buffers, MB"}
    rows = [
        [text, first[name] / 1e6, last[name] / 1e6, (last[name] - first[name]) / 1e6] for name, text in names.items()
    ]
    rows += [[name, first[name], last[name], last[name] - first[name]] for name in ("nodes", "jsEventListeners")]
    table(["of the page", f"at {first['second']:.0f} s", f"at {last['second']:.0f} s", "growth"], rows)
    print(f"Aim: the heap grows by less than {HEAP_BYTES / 1e6:.0f} MB.")
    found["summary"] = {name: grown(points) for name, points in found["memory"].items()}
    table(
        ["memory, MB", "first", "median of the second half", "largest", "growth a minute"],
        [
            [name, *(one[key] / 1e6 for key in ("first", "median", "largest")), 60 * one["slope"] / 1e9]
            for name, one in found["summary"].items()
        ],
    )
    print(f"Aim: less than {FLAT / 1e6:.0f} MB a minute in the second half.")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--peers", type=int, default=200)
    parser.add_argument("--screenshot", type=Path, metavar="FILE.png")
    main(parser, measure)
