"""`python -m tests.browser.pictures [FOLDER]`: the pictures of a class, light and dark, into tutorials/pictures.

Everything in them is real: a Jupyter server, kernels that train, JupyterLab and Notebook in a browser.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import FloatRect, Locator, Page, expect

from . import classroom
from .classroom import TOP, Classroom

LARGEST = 200_000
"""Bytes that a picture may have."""
_SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


class Camera:
    """Takes pictures of pages into `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def takes(self, name: str, page: Page, *parts: Locator, margin: int = 8) -> None:
        """class-NAME-light.png and class-NAME-dark.png, of the whole page or of the least that has all `parts`."""
        page.mouse.move(2, 2)
        page.evaluate("document.activeElement?.matches('button') && document.activeElement.blur()")
        for scheme in _SCHEMES:
            _turns(page, scheme)
            for told in page.locator(".swarm-said p").all():
                expect(told).to_be_hidden()  # it goes by itself
            page.wait_for_timeout(1500)  # the chart is drawn anew, colours fade over
            clip = _around(page, parts, margin) if parts else None
            self._keep(f"class-{name}-{scheme}.png", page.screenshot(clip=clip))
        _turns(page, "light")

    def _keep(self, name: str, png: bytes) -> None:
        """With the colours that count: a page of text has few."""
        picture = _with_few_colours(Image.open(io.BytesIO(png)).convert("RGB"))
        picture.save(self._folder / name, optimize=True)
        size = (self._folder / name).stat().st_size
        print(f"{name}: {picture.width} × {picture.height}, {size / 1000:.0f} kB")
        if size > LARGEST:
            raise SystemExit(f"{name} is larger than {LARGEST / 1000:.0f} kB: take less of the page.")


def _with_few_colours(picture: Image.Image) -> Image.Image:
    """The commonest colours as they are, so that no grey gets a tinge; of the others the most different ones."""
    counted = sorted(picture.getcolors(picture.width * picture.height) or [], reverse=True)
    common = [colour for _, colour in counted[:160] if isinstance(colour, tuple)]
    others = picture.quantize(96, Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for colour in common for part in colour] + others)
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


def _turns(page: Page, scheme: Literal["light", "dark"]) -> None:
    """As a person chooses a theme, or, on a page of ours, has their system so."""
    if not page.evaluate("'jupyterapp' in window"):
        page.emulate_media(color_scheme=scheme)
        return
    change = "theme => jupyterapp.commands.execute('apputils:change-theme', {theme})"
    page.evaluate(change, f"JupyterLab {scheme.capitalize()}")
    is_light = str(scheme == "light").lower()
    page.locator(f"body[data-jp-theme-light='{is_light}']").wait_for(state="attached")


def _around(page: Page, parts: tuple[Locator, ...], margin: int) -> FloatRect:
    """The least rectangle of what can be seen that has all parts, with a margin."""
    boxes = [box for part in parts if (box := part.bounding_box())]
    seen = page.viewport_size
    assert boxes
    assert seen
    left = max(0.0, min(box["x"] for box in boxes) - margin)
    top = max(0.0, min(box["y"] for box in boxes) - margin)
    right = min(seen["width"], max(box["x"] + box["width"] for box in boxes) + margin)
    bottom = min(seen["height"], max(box["y"] + box["height"] for box in boxes) + margin)
    return {"x": left, "y": top, "width": right - left, "height": bottom - top}


def take_all(room: Classroom, camera: Camera) -> None:
    """One class, from its beginning to the projector."""
    for name in ("ann", "ben", "cleo"):
        room.writes(f"{name}.ipynb", classroom.JOIN)
    host = room.sits_down(width=1240, height=800)
    host.locator(".jp-LauncherCard", has_text="Train together").focus()
    camera.takes("launcher", host)
    dialog = classroom.asks_for_session(host, "CS 101")
    camera.takes("new-session", host, dialog.locator(".jp-Dialog-content"))
    cell = classroom.opens_session(dialog)
    panel = classroom.panel_of(host)
    expect(panel.locator(".swarm-peer")).to_have_count(1)
    link = classroom.copies_invite(host)
    output = cell.locator(".jp-OutputArea-child")
    camera.takes("invite", host, cell.locator(".jp-InputArea"), output.nth(2), margin=2)

    ann = room.sits_down("lab/workspaces/ann/tree/ann.ipynb", 1000, 800)
    ann.keyboard.press("Control+B")
    classroom.runs(ann, 0)
    card = classroom.pastes_link(ann, link, "Ann")
    camera.takes("join", ann, card)
    classroom.agrees(card)
    ben = room.sits_down("lab/workspaces/ben/tree/ben.ipynb", 1000, 800)
    classroom.runs(ben, 0)
    classroom.agrees(classroom.pastes_link(ben, link, "Ben"))
    cleo = room.sits_down("notebooks/cleo.ipynb", 1200, 850)
    classroom.runs(cleo, 0)
    card = classroom.pastes_link(cleo, link, "Cleo")
    camera.takes("notebook7", cleo)
    classroom.agrees(card)
    expect(panel.locator(".swarm-peer")).to_have_count(4)

    host.set_viewport_size({"width": 1400, "height": 900})
    classroom.widens_sidebar(host, 100)
    output.nth(3).evaluate("here => here.scrollIntoView({block: 'start'})")
    host.wait_for_timeout(5000)  # some rounds of all four
    camera.takes("panel", host)
    classroom.tells_peer(panel, "Ann", "Pause")
    classroom.keeps_checkpoint(panel, "before lunch")
    classroom.keeps_checkpoint(panel, "all four are here")
    saved = panel.locator(".swarm-section", has_text="Checkpoints")
    saved.evaluate("here => here.scrollIntoView({block: 'center'})")
    camera.takes("checkpoints", host, saved)
    watching = classroom.invites_viewers(panel)
    panel.get_by_role("button", name="Show it large").click()
    host.keyboard.press("Control+B")
    camera.takes("peers", host, host.locator("#jupyter-swarm-large"), margin=0)

    front = room.stands_up_front(1600, 900)
    front.goto(watching)
    expect(front.locator("#word")).to_have_text("training")
    expect(front.locator("#chart .line.training")).to_be_visible()
    camera.takes("projector", front)


def main() -> None:
    """Build the panel if it has changed, then take the pictures."""
    parser = argparse.ArgumentParser(prog="python -m tests.browser.pictures", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=TOP / "tutorials" / "pictures")
    folder = parser.parse_args().folder
    chromium = classroom.browser_path()
    if chromium is None:
        raise SystemExit(f"There is no browser: one of {', '.join(classroom.NAMES)} is to be on the PATH.")
    with Classroom(classroom.build_panel(), chromium, scale=1.5) as room:
        take_all(room, Camera(folder))


if __name__ == "__main__":
    main()
