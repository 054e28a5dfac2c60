"""Nobody is kept out of the pages for watching and joining: what axe-core finds on them, all of it by the keyboard, and
what those who listen are told."""

from __future__ import annotations

import re

from playwright.async_api import Page, expect

from tests.coordinator.scripted import ScriptedPeer
from tests.coordinator.server import Swarm

from .axe import barriers
from .keyboard import listen, press, reach, said

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
    peer = await ScriptedPeer.join(swarm, session, await swarm.member(session, "peer"), "ann")
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
    peer = await ScriptedPeer.join(swarm, session, await swarm.member(session, "peer"), "ann")
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
    await listen(page.locator("body"))
    await peer.train(9)
    await expect(page.locator("#rows td").first).to_have_text("9")
    await expect(table).to_be_focused()
    assert await said(page) == []
    await swarm.call("POST", f"sessions/{session}/actions", swarm.owner(), '{"action": "pause"}')
    await expect(page.locator("#word")).to_have_text("paused")
    assert [one.partition(":")[0] for one in await said(page)] == ["paused"]
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
