"""A real browser beside a real Jupyter server, both on the loop of the server's fixtures."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
from playwright.async_api import Browser, Error, Page, async_playwright, expect

from tests.coordinator.conftest import extension_config, jp_server_config, swarm

from .classroom import CALM, NAMES, browser_path

__all__ = ["extension_config", "jp_server_config", "swarm"]

_PATIENCE_MS = 60_000
expect.set_options(timeout=_PATIENCE_MS)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a browser. Without one the tests are skipped, but not where continuous integration runs them."""
    found = browser_path()
    if found is None and not os.environ.get("CI"):
        pytest.skip(f"NO BROWSER on the PATH ({', '.join(NAMES)}): what people see was not tested.")
    assert found, "Install chromium: the pages are tested in a browser."
    return found


@pytest.fixture
def browser(jp_asyncio_loop: asyncio.AbstractEventLoop, chromium: str) -> Iterator[Browser]:
    run = jp_asyncio_loop.run_until_complete
    driver = run(async_playwright().start())
    one = run(driver.chromium.launch(executable_path=chromium, args=CALM))
    yield one
    run(one.close())
    run(driver.stop())


@pytest.fixture
def page(jp_asyncio_loop: asyncio.AbstractEventLoop, browser: Browser, jp_http_port: int) -> Iterator[Page]:
    """A tab. No script in it fails, nothing is blocked by the page's own policy, and it asks no other server."""
    opened = jp_asyncio_loop.run_until_complete(browser.new_page(viewport={"width": 1280, "height": 720}))
    opened.set_default_timeout(_PATIENCE_MS)
    wrong: list[str] = []

    def failed(error: Error) -> None:
        wrong.append(f"{error.name}: {error.message}")

    opened.on("pageerror", failed)
    opened.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    opened.on("request", lambda request: asked.append(request.url.removeprefix("blob:")))
    asked: list[str] = []
    yield opened
    assert wrong == []
    assert [url for url in asked if not url.startswith(f"http://127.0.0.1:{jp_http_port}/")] == []
