"""Nobody is kept out of JupyterLab's panel: what axe-core finds in it, all of it by the keyboard alone, and what those
who listen are told."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import Locator, Page, expect

from jupyter_swarm.coordinator.status import PeerStatus
from jupyter_swarm.protocol.invites import parse_invite
from tests.coordinator.server import Swarm
from tests.peer.classroom import PLAIN
from tests.waiting import eventually

from .axe import barriers
from .classroom import write_notebook
from .keyboard import listen, press, reach, said
from .lab import choose_command, joined, jp_server_config, open_lab, open_panel, panel_folder

__all__ = ["jp_server_config", "panel_folder"]


async def open_launcher(swarm: Swarm, page: Page) -> None:
    """Load the page, and wait until it takes the focus to nowhere else."""
    await open_lab(swarm, page)
    await page.locator(".jp-LauncherCard", has_text="Train together").wait_for()


async def agree(page: Page, name: str) -> None:
    """Say yes in a dialog, where no is what Enter would say."""
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    await press(page, dialog.get_by_role("button", name=name))
    await expect(dialog).to_have_count(0)


async def look_around(page: Page, panel: Locator) -> None:
    """Everything that opens in the panel, in the theme of now."""
    assert await barriers(page, "#jupyter-swarm", "#jp-main-statusbar") == []
    await panel.get_by_role("button", name="Actions for ann").click()
    await page.keyboard.press("ArrowDown")
    assert await barriers(page, ".lm-Menu") == []
    await page.keyboard.press("Escape")
    for name in ("Revoke row 3", "Delete the checkpoint before lunch", "New session", "Join …"):
        await panel.get_by_role("button", name=name, exact=True).click()
        await page.get_by_role("dialog").wait_for()
        assert await barriers(page, ".jp-Dialog") == [], name
        await page.keyboard.press("Escape")
    await panel.get_by_role("button", name="Show it large").click()
    await page.locator("#jupyter-swarm-large .swarm-peer").wait_for()
    assert await barriers(page, "#jupyter-swarm-large") == []
    await page.locator("#jupyter-swarm-large .swarm-plot").first.focus()
    await page.keyboard.press("Alt+w")


async def test_nobody_is_kept_out_of_the_panel(swarm: Swarm, page: Page) -> None:
    await open_panel(swarm, page)
    await page.get_by_role("heading", name="Train one model together").wait_for()
    assert await barriers(page, "#jupyter-swarm") == []
    await choose_command(page, "theme dark")
    await page.locator("body[data-jp-theme-light='false']").wait_for(state="attached")
    assert await barriers(page, "#jupyter-swarm") == []
    session = await swarm.open_session(rounds=9, evaluate_every=2)
    await (await joined(swarm, session)).train(3)
    await swarm.call("POST", f"sessions/{session}/checkpoints", swarm.owner(), '{"name": "before lunch"}')
    await page.reload()
    panel = page.locator("#jupyter-swarm")
    await panel.get_by_label("For whom").fill("row 3")
    await panel.get_by_role("button", name="Make a link").click()
    await panel.get_by_text("before lunch", exact=True).wait_for()
    await panel.locator("summary", has_text="Log").click()
    await look_around(page, panel)
    await panel.get_by_role("button", name="Pause", exact=True).click()
    await panel.get_by_role("button", name="Resume", exact=True).wait_for()
    await choose_command(page, "theme light")
    await page.locator("body[data-jp-theme-light='true']").wait_for(state="attached")
    await look_around(page, panel)


async def test_a_session_is_run_by_the_keyboard_alone(swarm: Swarm, page: Page) -> None:
    session = await swarm.open_session(rounds=9)
    await open_launcher(swarm, page)
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    panel = page.locator("#jupyter-swarm")
    await choose_command(page, "show sessions")
    await expect(panel).to_be_focused()
    await press(page, panel.get_by_role("button", name="New session"))
    await expect(page.get_by_role("dialog").get_by_label("Name")).to_be_focused()
    await reach(page, page.get_by_role("dialog").get_by_label("Recipe"))
    await page.keyboard.press("Escape")
    await expect(panel.get_by_role("button", name="New session")).to_be_focused()

    await reach(page, panel.get_by_label("For whom"))
    await page.keyboard.type("row 3")
    await page.keyboard.press("Enter")
    await press(page, panel.get_by_role("button", name="Copy row 3"))
    await expect(panel.get_by_text("The link is copied.")).to_be_visible()
    assert parse_invite(await page.evaluate("navigator.clipboard.readText()")).session == session
    await press(page, panel.get_by_role("button", name="Revoke row 3"))
    await agree(page, "Revoke")
    await expect(panel.locator("summary", has_text="Invites")).to_be_focused()

    await reach(page, panel.get_by_label("Name of the checkpoint"))
    await page.keyboard.type("before lunch")
    await page.keyboard.press("Enter")
    download = panel.get_by_role("button", name="Download the checkpoint before lunch")
    await reach(page, download)
    async with page.expect_download() as kept:
        await page.keyboard.press("Enter")
    assert (await kept.value).suggested_filename == "before lunch.zip"
    await expect(download).to_be_focused()
    await press(page, panel.get_by_role("button", name="Delete the checkpoint before lunch"))
    await agree(page, "Delete")
    await expect(panel.locator("summary", has_text="Checkpoints")).to_be_focused()
    await press(page, panel.locator("summary", has_text="Log"))
    await expect(panel.get_by_text("Checkpoint 1", exact=False).first).to_be_visible()

    await choose_command(page, "show sessions")
    await press(page, panel.get_by_role("button", name="Pause", exact=True))
    await expect(panel.get_by_role("button", name="Resume", exact=True)).to_be_focused()
    await page.keyboard.press("Space")
    await expect(panel.get_by_role("button", name="Pause", exact=True)).to_be_focused()
    await press(page, panel.get_by_role("button", name="End"))
    await agree(page, "End")
    await eventually(lambda: swarm.manager.runtime(session).status().state == "finished")
    await expect(panel.get_by_role("combobox", name="Session to be shown")).to_be_focused()


async def test_peers_are_steered_and_the_focus_stays_while_rounds_go_on(swarm: Swarm, page: Page) -> None:
    session = await swarm.open_session(rounds=99, evaluate_every=2)
    ann, _ = await joined(swarm, session), await joined(swarm, session, "bob")
    await open_launcher(swarm, page)
    panel = page.locator("#jupyter-swarm")
    await choose_command(page, "show sessions")

    def peer(name: str = "ann") -> PeerStatus:
        return next(one for one in swarm.manager.runtime(session).status().peers if one.name == name)

    actions, done = panel.get_by_role("button", name="Actions for ann"), panel.locator(".swarm-said")
    await press(page, actions, "Enter", "ArrowDown", "Enter")
    await expect(done).to_have_text("ann is paused.")  # its menu is another one now
    assert peer().paused_by == "the instructor"
    await expect(actions).to_be_focused()
    await press(page, actions, "Enter", "r", "Enter")
    await expect(done).to_have_text("ann goes on.")
    assert peer().paused_by == ""
    await press(page, panel.get_by_role("button", name="Actions for bob"), "Enter", "ArrowUp", "Enter")
    await agree(page, "Remove")
    await expect(panel.locator("summary", has_text="Peers")).to_be_focused()
    await expect(done).to_contain_text("bob was removed.")

    await reach(page, actions)
    focused = await page.evaluate_handle("document.activeElement")
    await listen(panel)
    await ann.train(12)
    curve = panel.get_by_role("slider", name="Curve of loss")
    await expect(curve).to_have_attribute("aria-valuetext", "round 12: training 1, held-out 2")
    assert await focused.evaluate("one => one === document.activeElement")
    assert await said(page) == []
    await press(page, actions, "Enter", "g", "g", "Enter")
    await expect(done).to_have_text("ann gets 50\u202f% of its work.")
    assert peer().slowed == 0.5
    await press(page, actions, "Enter", "h", "Enter")
    await expect(done).to_have_text("The name of ann is hidden.")
    assert swarm.manager.runtime(session).status().peers[0].muted
    assert await focused.evaluate("one => one === document.activeElement")
    assert await said(page) == ["ann gets 50\u202f% of its work.", "The name of ann is hidden."]


async def test_nobody_is_kept_out_of_the_widgets(swarm: Swarm, page: Page, jp_root_dir: Path) -> None:
    cells = [
        "%load_ext jupyter_swarm",
        f"%%swarm recipe\n{PLAIN}",
        "session = %swarm host toy batch=10 --rounds 500",
        "link = session.issue('peer')['link']\n%swarm join {link}",
        "%swarm join",
        "checkpoint = session.checkpoint('before lunch')\nsession.pause()\nprint('all is shown')",
    ]
    write_notebook(jp_root_dir / "class.ipynb", *cells)
    await open_lab(swarm, page, "lab/tree/class.ipynb")
    await page.locator(".jp-Notebook .jp-Cell").first.click()
    await choose_command(page, "run all cells")
    await page.get_by_text("all is shown", exact=True).wait_for(timeout=90_000)
    for theme in ("light", "dark"):
        await choose_command(page, f"theme {theme}")
        await page.locator(f"body[data-jp-theme-light='{str(theme == 'light').lower()}']").wait_for(state="attached")
        await expect(page.get_by_role("img", name="The curve of the loss")).to_be_visible()
        for tab in ("Peers", "Checkpoints", "Try it"):
            await page.get_by_role("tab", name=tab).click()
            assert await barriers(page, ".jp-Cell-outputArea") == [], (theme, tab)
