"""What every test shares: the Jupyter server's fixtures, one torch thread, property tests without time limits.

A plain ``async def test_…`` runs on the event loop of the Jupyter server's fixtures. ``@pytest.mark.asyncio`` gives a
test (and its ``pytest_asyncio`` fixtures) a loop of its own, where a ``jp_…`` server never answers: do not mix the two.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

pytest_plugins = ["pytest_jupyter.jupyter_server"]

# Set before torch is imported and inherited by the processes that tests start: small tensors on few cores.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

settings.register_profile("swarm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("swarm")
