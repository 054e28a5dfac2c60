"""A server for each test, and no proxy but the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.link.loopback import Server, serving


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http", "https", "ws", "wss", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_PROXY".upper(), raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        yield one
