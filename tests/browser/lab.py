"""JupyterLab with the panel, on the server of the fixtures. The panel is built first if its sources have changed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from playwright.async_api import Locator, Page, expect
from playwright.async_api import TimeoutError as PlaywrightTimeout
from traitlets.config import Config

from tests.coordinator.scripted import ScriptedPeer
from tests.coordinator.server import Swarm

from .classroom import build_panel

_DISABLED = re.compile(r"\blm-mod-disabled\b")
INSTALLED = Path(sys.prefix, "share", "jupyter", "labextensions")
"""What shows widgets is there, and the server's fixtures hide it. The panel built here goes before one there."""


@pytest.fixture(scope="session")
def panel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the built panel is. Where it cannot be built the tests are skipped, but not in continuous integration."""
    with FileLock(tmp_path_factory.getbasetemp().parent / "panel.lock"):  # other workers build it as well
        try:
            return build_panel()
        except subprocess.CalledProcessError as failed:
            said = f"The panel could not be built, and was not tested: {failed.stderr[-500:]}"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(said)


@pytest.fixture
def jp_server_config(jp_server_config: Config, panel_folder: Path, tmp_path: Path) -> Config:
    jp_server_config.ServerApp.jpserver_extensions = {
        **jp_server_config.ServerApp.jpserver_extensions,
        "jupyterlab": True,
    }
    quiet: dict[str, Any] = {"news_url": None, "check_for_updates_class": "jupyterlab.NeverCheckForUpdate"}
    folders = {
        "extra_labextensions_path": [str(panel_folder), str(INSTALLED)],
        "user_settings_dir": str(tmp_path / "settings"),
        "workspaces_dir": str(tmp_path / "workspaces"),
    }
    jp_server_config.merge({"LabApp": {**quiet, **folders}, "LabServerApp": folders})
    return jp_server_config


async def open_lab(swarm: Swarm, page: Page, path: str = "lab") -> None:
    """Load the page, as its owner."""
    token = swarm.app.identity_provider.token
    await page.goto(f"http://127.0.0.1:{swarm.port}{swarm.base}{path}?token={token}")
    await page.locator("#main").wait_for()
    await page.locator("#jupyterlab-splash").wait_for(state="detached")


async def open_panel(swarm: Swarm, page: Page) -> Locator:
    """Load the page and show the panel in the sidebar."""
    await open_lab(swarm, page)
    await page.locator('.jp-SideBar [data-id="jupyter-swarm"]').click()
    return page.locator("#jupyter-swarm")


async def joined(swarm: Swarm, session: str, name: str = "ann") -> ScriptedPeer:
    """A peer that trains when it is told to."""
    return await ScriptedPeer.join(
        swarm, session, await swarm.member(session, "peer"), name, device="cpu", measurable=True
    )


async def find_command(page: Page, words: str, disabled: bool = False) -> None:
    """Look for it in the palette until it is there, and can be chosen or cannot."""
    field = page.locator("#modal-command-palette input")
    one = ".lm-CommandPalette-item" if disabled else ".lm-CommandPalette-item.lm-mod-active"
    found = expect(page.locator(one, has_text=re.compile(".*".join(words.split()), re.IGNORECASE)))
    while True:
        if not await field.is_visible():  # shortcuts come a little after the page
            await page.keyboard.press("Control+Shift+C")
        try:
            await field.fill(words, timeout=1000)
            await (found.to_have_class if disabled else found.not_to_have_class)(_DISABLED, timeout=3000)
            return
        except (PlaywrightTimeout, AssertionError):  # what is still loading has taken the focus: the palette is closed
            continue


async def choose_command(page: Page, words: str) -> None:
    """From the palette, with the keyboard."""
    while True:
        await find_command(page, words)
        try:
            await page.locator("#modal-command-palette input").press("Enter", timeout=1000)
            return
        except PlaywrightTimeout:  # the palette has been closed since, as above
            continue
