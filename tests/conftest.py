"""What every test shares: the Jupyter server's fixtures, one torch thread, property tests without time limits.

Tests of several processes, some of them browsers or kernels, have a second try: on a busy machine one of these may once
be too late. What went wrong in the first is shown at the end, and who needed a second is named (RERUN). Property tests,
and tests of one process, have one try.

A plain ``async def test_…`` runs on the event loop of the Jupyter server's fixtures. ``@pytest.mark.asyncio`` gives a
test (and its ``pytest_asyncio`` fixtures) a loop of its own, where a ``jp_…`` server never answers: do not mix the two.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

pytest_plugins = ["pytest_jupyter.jupyter_server"]

# Set before torch is imported and inherited by the processes that tests start: small tensors on few cores.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
_HERE = Path(__file__).parent
os.environ["PYTHONPATH"] = str(_HERE / "stand_ins")

settings.register_profile("swarm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("swarm")

_SYSTEMS = {"browser", "cli", "faults", "network", "tutorials", "test_benchmarks.py", "test_readme.py"}
_SERVERS = {"server", "own_server"}


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    for item in items:
        place = item.path.relative_to(_HERE).parts[0] if item.path.is_relative_to(_HERE) else ""
        several = place in _SYSTEMS or _SERVERS & set(item.fixturenames)
        if several and not is_hypothesis_test(item.obj):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"first try of {report.nodeid}")
        terminalreporter.write_line(report.longreprtext)
