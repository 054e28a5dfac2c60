"""Nobody is kept out of JupyterLab's panel: what axe-core finds in it, all of it by the keyboard alone, and what those
who listen are told."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from playwright.async_api import Locator, Page, expect

from jupyter_swarm.coordinator.status import PeerStatus
from jupyter_swarm.protocol.invites import parse_invite
from tests.coordinator.scripted import ScriptedPeer
from tests.coordinator.server import Swarm

from .axe import barriers
from .lab import jp_server_config, open_lab, open_panel, panel_folder

__all__ = ["jp_server_config", "panel_folder"]

SHOWN = """one => {
    const {outlineStyle, outlineWidth, boxShadow} = getComputedStyle(one);
    return (outlineStyle !== 'none' && parseFloat(outlineWidth) >= 1) || boxShadow !== 'none';
}"""
LISTEN = """root => {
    window.said = [];
    for (const live of root.querySelectorAll('[aria-live], [role=status], [role=alert]')) {
        const heard = () => live.textContent.trim() && window.said.push(live.textContent.trim());
        new MutationObserver(heard).observe(live, {childList: true, characterData: true, subtree: true});
    }
}"""


async def joined(swarm: Swarm, session: str, name: str = "ann") -> ScriptedPeer:
    return await ScriptedPeer.join(swarm, session, await swarm.member(session, "peer"), name, device="cpu")


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.05)


async def command(page: Page, *words: str) -> None:
    """What the palette does for those words."""
    await page.keyboard.press("Control+Shift+C")
    await expect(page.locator(".lm-CommandPalette-input")).to_be_focused()
    await page.keyboard.type(" ".join(words))
    await page.locator(".lm-CommandPalette-item.lm-mod-active").wait_for()
    await page.keyboard.press("Enter")


async def reach(page: Page, control: Locator) -> None:
    """Go there from where the focus is. Whoever looks sees where it is."""
    await control.wait_for()
    for _ in range(60):
        if await control.evaluate("one => one === document.activeElement"):
            break
        await page.keyboard.press("Tab")
    await expect(control).to_be_focused()
    assert await control.evaluate(SHOWN), await control.evaluate("one => one.outerHTML")


async def press(page: Page, control: Locator, *keys: str) -> None:
    await reach(page, control)
    for key in keys or ("Enter",):
        await page.keyboard.press(key)


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
    await command(page, "theme dark")
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
    await command(page, "theme light")
    await page.locator("body[data-jp-theme-light='true']").wait_for(state="attached")
    await look_around(page, panel)


async def test_a_session_is_run_by_the_keyboard_alone(swarm: Swarm, page: Page) -> None:
    session = await swarm.open_session(rounds=9)
    await open_lab(swarm, page)
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    panel = page.locator("#jupyter-swarm")
    await command(page, "show sessions")
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

    await command(page, "show sessions")
    await press(page, panel.get_by_role("button", name="Pause", exact=True))
    await expect(panel.get_by_role("button", name="Resume", exact=True)).to_be_focused()
    await page.keyboard.press("Space")
    await expect(panel.get_by_role("button", name="Pause", exact=True)).to_be_focused()
    await press(page, panel.get_by_role("button", name="End"))
    await agree(page, "End")
    await until(lambda: swarm.manager.runtime(session).status().state == "finished")
    await expect(panel.get_by_role("combobox", name="Session to be shown")).to_be_focused()


async def test_peers_are_steered_and_the_focus_stays_while_rounds_go_on(swarm: Swarm, page: Page) -> None:
    session = await swarm.open_session(rounds=99, evaluate_every=2)
    ann, _ = await joined(swarm, session), await joined(swarm, session, "bob")
    await open_lab(swarm, page)
    panel = page.locator("#jupyter-swarm")
    await command(page, "show sessions")

    def peer(name: str = "ann") -> PeerStatus:
        return next(one for one in swarm.manager.runtime(session).status().peers if one.name == name)

    actions = panel.get_by_role("button", name="Actions for ann")
    await press(page, actions, "Enter", "ArrowDown", "Enter")
    await until(lambda: peer().paused_by == "the instructor")
    await expect(actions).to_be_focused()
    await press(page, actions, "Enter", "r", "Enter")
    await until(lambda: peer().paused_by == "")
    await press(page, panel.get_by_role("button", name="Actions for bob"), "Enter", "ArrowUp", "Enter")
    await agree(page, "Remove")
    await expect(panel.locator("summary", has_text="Peers")).to_be_focused()

    await reach(page, actions)
    focused = await page.evaluate_handle("document.activeElement")
    await panel.evaluate(LISTEN)
    await ann.train(12)
    curve = panel.get_by_role("slider", name="Curve of loss")
    await expect(curve).to_have_attribute("aria-valuetext", "round 12: training 1, held-out 2")
    assert await focused.evaluate("one => one === document.activeElement")
    assert await page.evaluate("said") == []
    await press(page, actions, "Enter", "g", "g", "Enter")
    await until(lambda: peer().slowed == 0.5)
    await press(page, actions, "Enter", "h", "Enter")
    await until(lambda: swarm.manager.runtime(session).status().peers[0].muted)
    await expect(panel.get_by_text("The name of ann is hidden.")).to_be_visible()
    assert await focused.evaluate("one => one === document.activeElement")
    assert await page.evaluate("said") == ["ann gets 50\u202f% of its work.", "The name of ann is hidden."]


# --- the pages


SIZES = {"phone": {"width": 360, "height": 740}, "beamer": {"width": 1920, "height": 1080}}


async def look_everywhere(page: Page) -> None:
    """On a phone and on a beamer, light and dark."""
    for size in SIZES.values():
        await page.set_viewport_size(size)
        for scheme in ("light", "dark"):
            await page.emulate_media(color_scheme=scheme)
            assert await barriers(page) == [], (size, scheme, await page.locator("body").inner_text())


async def test_nobody_is_kept_out_of_the_projector_page(swarm: Swarm, page: Page) -> None:
    session = await swarm.open_session(rounds=9, evaluate_every=2)
    word = page.locator("#word")
    link = await swarm.link(session, "viewer")
    await page.goto(link)
    await expect(word).to_have_text("waiting")
    await look_everywhere(page)
    peer = await joined(swarm, session)
    await peer.train(3)
    await expect(page.get_by_role("img")).to_have_attribute("aria-label", re.compile("in round 3"))
    await page.get_by_text("The curve as a table").click()
    await page.locator("#rows td").first.wait_for()
    await look_everywhere(page)
    for action in ("pause", "stop"):
        await swarm.call("POST", f"sessions/{session}/actions", swarm.owner(), f'{{"action": "{action}"}}')
    await expect(word).to_have_text("finished")
    await look_everywhere(page)
    await page.goto(link[:-1])
    await expect(word).to_have_text("not open")
    await look_everywhere(page)


async def test_whoever_watches_by_keyboard_or_by_ear_loses_nothing(swarm: Swarm, page: Page) -> None:
    session = await swarm.open_session(rounds=99)
    peer = await joined(swarm, session)
    await peer.train(1)
    await page.route("**/swarm/api/**", lambda route: route.abort())
    await page.goto(await swarm.link(session, "viewer"))
    await expect(page.locator("#word")).to_have_text("no connection")
    await reach(page, page.get_by_role("button", name="Try now"))
    await page.unroute("**/swarm/api/**")
    await page.keyboard.press("Enter")
    await expect(page.locator("#word")).to_have_text("training")
    await expect(page.get_by_role("region", name="State")).to_be_focused()
    table = page.get_by_text("The curve as a table")
    await press(page, table)
    await page.locator("body").evaluate(LISTEN)
    await peer.train(9)
    await expect(page.locator("#rows td").first).to_have_text("9")
    await expect(table).to_be_focused()
    assert await page.evaluate("said") == []
    await swarm.call("POST", f"sessions/{session}/actions", swarm.owner(), '{"action": "pause"}')
    await expect(page.locator("#word")).to_have_text("paused")
    assert [one.partition(":")[0] for one in await page.evaluate("said")] == ["paused"]
    await page.keyboard.press("Shift+Tab")
    full = page.get_by_role("button", name="Full screen")
    await expect(full).to_be_focused()
    for is_full in ("true", "false"):
        await page.keyboard.press("Enter")
        await page.wait_for_function(f"!!document.fullscreenElement === {is_full}")
        await expect(full).to_be_focused()


async def test_nobody_is_kept_out_of_the_page_for_joining(swarm: Swarm, page: Page) -> None:
    link = await swarm.link(await swarm.open_session())
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.goto(link)
    await look_everywhere(page)
    await press(page, page.get_by_role("button", name="Copy"))
    await expect(page.get_by_role("status")).to_have_text("Copied.")
    assert link in await page.evaluate("navigator.clipboard.readText()")
    await look_everywhere(page)
    await press(page, page.get_by_role("link", name="watch the session"))
    await expect(page.locator("#word")).to_have_text("waiting")
    await page.goto(link.partition("#")[0])
    await page.get_by_text("This link is not complete").wait_for()
    await look_everywhere(page)
