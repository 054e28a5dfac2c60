"""Somebody at a page who has a keyboard, and perhaps a screen reader, and no more."""

from __future__ import annotations

from playwright.async_api import Locator, Page, expect

_SHOWN = """one => {
    const {outlineStyle, outlineWidth, boxShadow} = getComputedStyle(one);
    return (outlineStyle !== 'none' && parseFloat(outlineWidth) >= 1) || boxShadow !== 'none';
}"""
_LISTEN = """root => {
    window.said = [];
    for (const live of root.querySelectorAll('[aria-live], [role=status], [role=alert]')) {
        const heard = () => live.textContent.trim() && window.said.push(live.textContent.trim());
        new MutationObserver(heard).observe(live, {childList: true, characterData: true, subtree: true});
    }
}"""


async def reach(page: Page, control: Locator) -> None:
    """Go there from where the focus is. Whoever looks sees where it is."""
    await control.wait_for()
    for _ in range(60):
        if await control.evaluate("one => one === document.activeElement"):
            break
        await page.keyboard.press("Tab")
    await expect(control).to_be_focused()
    assert await control.evaluate(_SHOWN), await control.evaluate("one => one.outerHTML")


async def press(page: Page, control: Locator, *keys: str) -> None:
    await reach(page, control)
    for key in keys or ("Enter",):
        await page.keyboard.press(key)


async def listen(part: Locator) -> None:
    """From now on remember what in that part of the page is said to those who listen."""
    await part.evaluate(_LISTEN)


async def said(page: Page) -> list[str]:
    """What was said since."""
    found: list[str] = await page.evaluate("said")
    return found
