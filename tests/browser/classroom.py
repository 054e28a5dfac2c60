"""A class in JupyterLab and Notebook: what an instructor and students do there, one function for each step.

`with Classroom(panel, chromium) as room:` starts a Jupyter server and a browser; `room.sits_down()` gives a person a
page of their own. Each step returns when the page shows that it is done.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import TracebackType

import nbformat
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Request, WebError, expect, sync_playwright

from tests.benchmarks.harness import Server

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CALM = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
_SECONDS = 60.0
_CONNECTED = """() => {
    const kernel = window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel;
    return kernel?.connectionStatus === 'connected' && kernel.status === 'idle';
}"""
JOIN = "%load_ext jupyter_swarm\n%swarm join"
"""What a student's notebook begins with."""


TOP = Path(__file__).resolve().parents[2]


def build_panel() -> Path:
    """Where the panel is, built first if its sources have changed. Raises CalledProcessError with what npm said."""
    command = [sys.executable, str(TOP / "labextension" / "building.py")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return TOP / "jupyter_swarm" / "labextension_build"


def browser_path() -> str | None:
    """Where a browser is."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def write_notebook(path: Path, *cells: str) -> None:
    """A notebook with these cells, of code in Python."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    nbformat.write(notebook, path)


class Classroom:
    """A Jupyter server with JupyterLab, Notebook and our panel, and a browser.

    panel: the folder of the built panel. scale: device pixels for each of a page's. wrong: failures of
    the panel's script in any page (Notebook has some of its own), addresses of other servers that a page asked.
    """

    def __init__(self, panel: Path, chromium: str, scale: float = 1.0) -> None:
        self._panel, self._chromium, self._scale = panel, chromium, scale
        self._stack = contextlib.ExitStack()
        self.wrong: list[str] = []

    def __enter__(self) -> Classroom:
        with contextlib.ExitStack() as stack:
            temporary = tempfile.TemporaryDirectory(prefix="swarm-class-", ignore_cleanup_errors=True)
            self.folder = Path(stack.enter_context(temporary))
            self._configure()
            self.server = Server(self.folder)
            stack.callback(self.server.stop)
            driver = stack.enter_context(sync_playwright())
            expect.set_options(timeout=1000 * _SECONDS)
            self._browser: Browser = driver.chromium.launch(executable_path=self._chromium, args=CALM)
            stack.callback(self._browser.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def sits_down(self, path: str = "lab", width: int = 1280, height: int = 800) -> Page:
        """A page for one more person, who is signed in to Jupyter and may use the clipboard."""
        page = self._context(width, height).new_page()
        page.goto(f"{self.server.url}/{path}?token={self.server.token}")
        is_ready(page)
        return page

    def stands_up_front(self, width: int = 1920, height: int = 1080) -> Page:
        """A page of nobody: of the projector, or of a phone."""
        return self._context(width, height).new_page()

    def writes(self, name: str, *cells: str) -> None:
        """A notebook with these cells."""
        write_notebook(self.folder / name, *cells)

    def _context(self, width: int, height: int) -> BrowserContext:
        made = self._browser.new_context(
            viewport={"width": width, "height": height}, device_scale_factor=self._scale,
            permissions=["clipboard-read", "clipboard-write"],
        )  # fmt: skip
        made.set_default_timeout(1000 * _SECONDS)
        made.on("weberror", self._failed)
        made.on("request", self._asked)
        return made

    def _failed(self, found: WebError) -> None:
        if "jupyter-swarm" in (found.error.stack or ""):
            self.wrong.append(f"{found.error.message}\n{found.error.stack}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((f"{self.server.url}/", "blob:", "data:")):
            self.wrong.append(request.url)

    def _configure(self) -> None:
        kept = self.folder / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
        kept.parent.mkdir(parents=True)
        kept.write_text('{"fetchNews": "false", "checkForUpdates": false}')
        folders = {
            "extra_labextensions_path": [str(self._panel)],
            "user_settings_dir": str(self.folder / "settings"),
            "workspaces_dir": str(self.folder / "workspaces"),
        }
        front = {**folders, "expose_app_in_browser": True}
        extensions = {"jupyter_swarm": True, "jupyterlab": True, "notebook": True, "jupyter_server_terminals": False}
        config = {
            "ServerApp": {"jpserver_extensions": extensions},
            # Of the server's own folders nothing is to be seen in the file browser.
            "ContentsManager": {
                "hide_globs": ["ipythondir", "jupyter_*", "server.log", "settings", "swarm", "workspaces"]
            },
            "SwarmExtension": {"storage": str(self.folder / "swarm")},
            "LabApp": front,
            "JupyterNotebookApp": front,
            "LabServerApp": folders,
        }
        place = self.folder / "jupyter_config_dir"
        place.mkdir()
        (place / "jupyter_server_config.json").write_text(json.dumps(config))


def is_ready(page: Page) -> None:
    """Wait until JupyterLab or Notebook can be used."""
    page.locator("#main").wait_for()
    page.locator("#jupyterlab-splash").wait_for(state="detached")


# --- the instructor, in JupyterLab


def asks_for_session(page: Page, name: str, rounds: int = 0) -> Locator:
    """From the launcher's card to the dialog, filled in. rounds: 0 leaves as many as it proposes."""
    page.locator(".jp-LauncherCard", has_text="Train together").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill(name)
    if rounds:
        dialog.get_by_label("Rounds").fill(str(rounds))
    return dialog


def opens_session(dialog: Locator) -> Locator:
    """From the dialog to the new notebook's cell, below which the invite card is."""
    dialog.get_by_role("button", name="Open").click()
    cell = dialog.page.locator(".jp-Notebook .jp-Cell").first
    expect(cell.get_by_text(re.compile("^Invite to "))).to_be_visible()
    return cell


def copies_invite(page: Page) -> str:
    """The link, from the invite card by way of the clipboard."""
    button = page.get_by_title("Copy Link", exact=True)
    button.click()
    expect(button).to_have_text("Copied")
    link: str = page.evaluate("navigator.clipboard.readText()")
    return link


def panel_of(page: Page) -> Locator:
    """The panel in the sidebar."""
    return page.locator("#jupyter-swarm")


def widens_sidebar(page: Page, by: int) -> None:
    """Drag its edge to the right, by so many pixels."""
    edge = page.locator("#jp-main-split-panel > .lm-SplitPanel-handle:not(.lm-mod-hidden)").first.bounding_box()
    assert edge
    page.mouse.move(edge["x"] + edge["width"] / 2, 400)
    page.mouse.down()
    page.mouse.move(edge["x"] + by, 400)
    page.mouse.up()


def tile(panel: Locator, name: str) -> Locator:
    """One of the panel's large numbers."""
    return panel.locator(".swarm-tiles div", has_text=name).locator("dd")


def rounds_in(panel: Locator) -> int:
    """How far the session is, as the panel says."""
    return int(tile(panel, "of ").first.inner_text())


def goes_on(panel: Locator) -> None:
    """Wait until the session is a few rounds further."""
    done = tile(panel, "of ").first
    for _ in range(2):
        expect(done).not_to_have_text(done.inner_text())


def peer_in(panel: Locator, name: str) -> Locator:
    """One of the panel's peers."""
    return panel.locator(".swarm-peer").filter(has=panel.page.locator(".swarm-name", has_text=name))


def tells_peer(panel: Locator, name: str, action: str) -> None:
    """Choose from a peer's menu."""
    panel.get_by_role("button", name=f"Actions for {name}").click()
    panel.page.get_by_role("menuitem", name=action).click()


def keeps_checkpoint(panel: Locator, name: str) -> None:
    """Save one."""
    panel.get_by_label("Name of the checkpoint").fill(name)
    panel.get_by_role("button", name="Save now").click()
    expect(panel.get_by_role("button", name=f"Download the checkpoint {name}")).to_be_visible()


def fetches_checkpoint(panel: Locator, name: str, folder: Path) -> Path:
    """Download one and unpack it."""
    with panel.page.expect_download() as download:
        panel.get_by_role("button", name=f"Download the checkpoint {name}").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        archive.extractall(folder)
    return folder / name


def invites_viewers(panel: Locator) -> str:
    """A link for the projector."""
    panel.get_by_label("What the link is for").select_option(label="to watch")
    panel.get_by_role("button", name="Make a link").click()
    return panel.get_by_label("The link", exact=True).input_value()


# --- anybody in front of a notebook


def runs(page: Page, number: int) -> Locator:
    """Run one of the notebook's cells, the first is 0; returns the cell."""
    page.wait_for_function(_CONNECTED)  # before that nothing would be run
    cell = page.locator(".jp-Notebook .jp-Cell").nth(number)
    cell.locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    return cell


def loads_again(page: Page) -> None:
    """Save the notebook and load the page again."""
    page.keyboard.press("Control+S")
    page.locator(".lm-TabBar-tab.jp-mod-dirty").wait_for(state="detached")
    page.wait_for_timeout(1500)  # JupyterLab keeps its layout a little later
    page.reload()
    is_ready(page)


def pastes_link(page: Page, link: str, name: str) -> Locator:
    """Into the widget that asks for it, with the keyboard alone; returns the card with the recipe."""
    cell = page.locator(".jp-Notebook .jp-Cell").first
    field = cell.get_by_label("Invite link")
    field.focus()
    page.evaluate("link => navigator.clipboard.writeText(link)", link)
    page.keyboard.press("Control+V")
    cell.get_by_label("Your name").focus()
    page.keyboard.type(name)
    page.keyboard.press("Tab")
    expect(cell.get_by_role("button", name="Show the recipe")).to_be_enabled()
    cell.get_by_role("button", name="Show the recipe").press("Enter")
    expect(cell.get_by_role("region", name="the recipe")).to_be_visible()
    return cell


def agrees(cell: Locator) -> None:
    """Say yes to the recipe; returns when it trains."""
    cell.get_by_role("button", name="Agree and join").click()
    expect(cell.locator("img.swarm-curve")).to_be_visible()
    expect(button_at(cell, "Pause")).to_be_enabled()


def button_at(cell: Locator, name: str) -> Locator:
    """A widget's button, before whose name there is a picture."""
    return cell.get_by_role("button", name=re.compile(rf"^\W*{name}$"))
