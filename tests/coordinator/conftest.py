"""A Jupyter server with the extension loaded, on which nothing is public that does not say so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from tests.link.loopback import Server, serving

from .server import Swarm


@pytest.fixture
def extension_config() -> dict[str, Any]:
    """Settings of the extension, to be overridden by tests."""
    return {}


@pytest.fixture
def jp_server_config(tmp_path: Path, extension_config: dict[str, Any]) -> Config:
    return Config(
        {
            "ServerApp": {
                "jpserver_extensions": {"jupyter_swarm": True, "jupyter_server_terminals": False},
                "allow_unauthenticated_access": False,
            },
            "SwarmExtension": {"storage": str(tmp_path / "swarm"), **extension_config},
        }
    )


@pytest.fixture
def swarm(
    jp_serverapp: Any, http_server_client: Any, jp_http_port: int, jp_asyncio_loop: asyncio.AbstractEventLoop
) -> Iterator[Swarm]:
    swarm = Swarm(jp_serverapp, http_server_client, jp_http_port)
    yield swarm
    jp_asyncio_loop.run_until_complete(swarm.close())


@pytest.fixture
def server(caplog: pytest.LogCaptureFixture) -> Iterator[Server]:
    """Whatever a member does, the server's log stays free of errors."""
    with caplog.at_level(logging.WARNING), serving() as one:
        yield one
    assert caplog.records == []
