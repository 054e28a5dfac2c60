"""A kernel that trains, on a server that ends idle kernels."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from jupyter_swarm.peer.client import Client
from tests import kernels
from tests.waiting import until

from .classroom import PLAIN
from .conftest import Server

CULLING = ("--MappingKernelManager.cull_idle_timeout=4", "--MappingKernelManager.cull_interval=1")
TRAIN = f"""
import jupyter_swarm
from jupyter_swarm.peer import activity
activity._EVERY_SECONDS = 0.2
session = jupyter_swarm.host(jupyter_swarm.Recipe.from_source({PLAIN!r}), rounds=10**6)
"""


@pytest.mark.usefixtures("direct")
def test_it_is_not_idle_before_it_is_paused(tmp_path: Path) -> None:
    server = Server(tmp_path)
    try:
        server.start(*CULLING)
        owner = Client.of_owner(server.url)

        def alive() -> set[str]:
            return {one["id"] for one in httpx.get(f"{owner.server}/api/kernels", headers=owner.headers).json()}

        training = kernels.start(owner.server, owner.headers)
        assert "Error" not in kernels.execute(owner.server, owner.headers, training, TRAIN)
        idle = kernels.start(owner.server, owner.headers)
        until(lambda: idle not in alive())
        assert training in alive()
        owner.act(owner._ask("GET", "sessions")["sessions"][0]["session"], "pause")
        until(lambda: training not in alive())
    finally:
        server.stop()
