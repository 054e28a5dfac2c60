"""What axe-core, a checker of web pages for barriers, finds on a page."""

from __future__ import annotations

from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from playwright.async_api import Page

_SERIOUS = ("serious", "critical")
_RUN = """([include, exclude]) => axe.run(
    {include: include.map(one => [one]), exclude: exclude.map(one => [one])}, {resultTypes: ['violations']}
)"""


async def barriers(page: Page, *within: str, without: tuple[str, ...] = ()) -> list[str]:
    """What keeps people out, a line each: the rule, the element and what is wrong; [] if nothing serious does. within,
    without: selectors of what is looked at and of what in it is not; a selector that finds nothing raises Error."""
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(AXE_SCRIPT)
    found: dict[str, Any] = await page.evaluate(_RUN, [list(within or ("html",)), list(without)])
    return [
        f"{one['impact']} {one['id']}: {' '.join(map(str, node['target']))}: {' '.join(node['failureSummary'].split())}"
        for one in found["violations"]
        if one["impact"] in _SERIOUS
        for node in one["nodes"]
    ]
