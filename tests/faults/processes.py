"""Real processes that start quickly: forked from a process that has loaded torch and Jupyter, and has no threads yet.

Where there is no forking they are started from nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from .killing import end_with_parent, kill_at

_LOADED = ["jupyter_server.serverapp", "jupyter_swarm.coordinator.app", "jupyter_swarm.coordinator.session",
           "tests.faults.member_process"]  # fmt: skip
_forking = "forkserver" in multiprocessing.get_all_start_methods()
_context: Any = multiprocessing.get_context("forkserver" if _forking else "spawn")
if _forking:
    _context.set_forkserver_preload(_LOADED)


def start(
    main: Callable[[Any], None], argument: Any, log: Path, moment: str = "", environment: dict[str, str] | None = None
) -> BaseProcess:
    """Run `main(argument)` in a process of its own, which kills itself at `moment`; what it prints goes to `log`."""
    process: BaseProcess = _context.Process(
        target=_run, args=(main, argument, log, moment, environment or {}), name=log.stem, daemon=True
    )
    process.start()
    return process


def _run(main: Callable[[Any], None], argument: Any, log: Path, moment: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(handle, stream.fileno())
    end_with_parent()
    kill_at(moment)
    main(argument)


def run_server(arguments: list[str]) -> None:
    """A Jupyter server, as its command would start it."""
    from jupyter_server.serverapp import ServerApp

    ServerApp.launch_instance(argv=arguments)
