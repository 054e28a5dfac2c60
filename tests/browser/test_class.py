"""A class from its first click to pages that are loaded again: an instructor and students in JupyterLab, Notebook."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from jupyter_swarm.peer.checkpoints import open_checkpoint
from jupyter_swarm.peer.recipe import load_recipe
from jupyter_swarm.protocol.invites import parse_invite

from . import classroom
from .classroom import Classroom
from .lab import panel_folder

__all__ = ["panel_folder"]

pytestmark = pytest.mark.timeout(600)  # several kernels load torch; everything waits for what it needs
ENOUGH = "enough"
BUSY = f"import pathlib, time\nwhile not pathlib.Path({ENOUGH!r}).exists():\n    time.sleep(0.1)"


@pytest.fixture(autouse=True)
def jp_asyncio_loop() -> None:
    """The only loop here is the one that drives the browser."""


@pytest.fixture(autouse=True)
def jp_server_cleanup() -> None:
    """The server is a process of its own."""


@pytest.fixture(scope="module")
def room(panel_folder: Path, chromium: str) -> Iterator[Classroom]:
    with Classroom(panel_folder, chromium) as room:
        yield room
        assert room.wrong == []


@pytest.fixture(scope="module")
def host(room: Classroom) -> Page:
    """The instructor's page: the launcher has opened a session there, which lasts."""
    page = room.sits_down()
    classroom.opens_session(classroom.asks_for_session(page, "CS 101", rounds=100_000))
    expect(classroom.panel_of(page).locator(".swarm-peer .swarm-name")).to_have_text(["host"])
    return page


@pytest.fixture(scope="module")
def link(host: Page) -> str:
    """The invite, as the instructor copies it."""
    copied = classroom.copies_invite(host)
    assert parse_invite(copied).session.startswith("cs-101-")
    return copied


def test_a_class_from_both_sides(room: Classroom, host: Page, link: str, tmp_path: Path) -> None:
    panel = classroom.panel_of(host)
    curve = panel.get_by_role("slider", name="Curve of loss")
    peers = panel.locator(".swarm-peer .swarm-name")

    # Two students paste the link, see the recipe, agree, and train.
    room.writes("ann.ipynb", classroom.JOIN, BUSY)
    room.writes("ben.ipynb", classroom.JOIN)
    ann = room.sits_down("lab/workspaces/ann/tree/ann.ipynb")
    classroom.runs(ann, 0)
    anns = classroom.pastes_link(ann, link, "Ann")
    expect(anns).to_contain_text(load_recipe("digits").sha256)
    expect(anns.get_by_role("region", name="the recipe")).to_contain_text("load_digits()")
    expect(peers).to_have_text(["host"])  # nobody trains who has not agreed
    classroom.agrees(anns)
    ben = room.sits_down("lab/workspaces/ben/tree/ben.ipynb")
    classroom.runs(ben, 0)
    bens = classroom.pastes_link(ben, link, "Ben")
    classroom.agrees(bens)
    expect(peers).to_have_text(["host", "Ann", "Ben"])

    # The curves move, in the sidebar and in both notebooks.
    classroom.goes_on(panel)
    shown = curve.get_attribute("aria-valuetext") or ""
    assert shown.startswith("round ")
    expect(curve).not_to_have_attribute("aria-valuetext", shown)
    for card in (anns, bens):
        picture = card.locator("img.swarm-curve")
        expect(picture).not_to_have_attribute("src", picture.get_attribute("src") or "")

    # The sidebar pauses a kernel that is busy with a cell; the others go on.
    busy = classroom.runs(ann, 1)
    expect(busy.locator(".jp-InputPrompt")).to_have_text("[*]:")
    state = classroom.peer_in(panel, "Ann").locator(".swarm-state")
    classroom.tells_peer(panel, "Ann", "Pause")
    expect(state).to_have_attribute("data-state", "paused")
    expect(anns).to_contain_text("by the instructor")
    classroom.goes_on(panel)
    expect(state).to_have_attribute("data-state", "paused")
    classroom.tells_peer(panel, "Ann", "Resume")
    expect(state).not_to_have_attribute("data-state", "paused")
    panel.get_by_role("button", name="Pause", exact=True).click()
    for card in (anns, bens):
        expect(card.locator("b", has_text="paused")).to_be_visible()
    expect(busy.locator(".jp-InputPrompt")).to_have_text("[*]:")
    panel.get_by_role("button", name="Resume", exact=True).click()
    classroom.goes_on(panel)
    (room.folder / ENOUGH).touch()
    expect(busy.locator(".jp-InputPrompt")).to_have_text("[2]:")

    # One leaves; what is trained by then is saved, downloaded, and works.
    classroom.button_at(bens, "Leave").click()
    expect(peers).to_have_text(["host", "Ann"])
    expect(classroom.button_at(bens, "Leave")).to_have_count(0)  # what is left is a picture
    classroom.keeps_checkpoint(panel, "before lunch")
    found = open_checkpoint(classroom.fetches_checkpoint(panel, "before lunch", tmp_path))
    recipe = load_recipe("digits")
    model, held_out = recipe.build().eval(), recipe.data().held_out
    assert recipe.metrics["accuracy"](model, held_out) < 0.5
    found.load(model)
    assert recipe.metrics["accuracy"](model, held_out) > 0.5

    # Pages that are loaded again show and do the same.
    rounds = classroom.rounds_in(panel)
    for page in (host, ann):
        classroom.loads_again(page)
    expect(panel.locator("h2")).to_contain_text("CS 101")
    expect(panel.get_by_role("button", name="Download the checkpoint before lunch")).to_be_visible()
    expect(peers).to_have_text(["host", "Ann"])
    classroom.goes_on(panel)
    assert classroom.rounds_in(panel) > rounds
    expect(host.get_by_title("Copy Link", exact=True)).to_be_visible()
    picture = anns.locator("img.swarm-curve")
    expect(picture).not_to_have_attribute("src", picture.get_attribute("src") or "")
    classroom.button_at(anns, "Pause").click()
    expect(state).to_have_attribute("data-state", "paused")
    classroom.button_at(anns, "Resume").click()
    expect(state).not_to_have_attribute("data-state", "paused")


def test_the_same_join_in_notebook(room: Classroom, host: Page, link: str) -> None:
    panel = classroom.panel_of(host)
    room.writes("cleo.ipynb", classroom.JOIN)
    page = room.sits_down("notebooks/cleo.ipynb")
    classroom.runs(page, 0)
    card = classroom.pastes_link(page, link, "Cleo")
    expect(card).to_contain_text(load_recipe("digits").sha256)
    classroom.agrees(card)
    expect(classroom.peer_in(panel, "Cleo")).to_be_visible()
    picture = card.locator("img.swarm-curve")
    expect(picture).not_to_have_attribute("src", picture.get_attribute("src") or "")
    classroom.tells_peer(panel, "Cleo", "Pause")
    expect(card).to_contain_text("by the instructor")
    classroom.button_at(card, "Leave").click()
    expect(classroom.peer_in(panel, "Cleo")).to_have_count(0)


def test_a_page_that_may_not_copy_has_the_link_selected(room: Classroom, host: Page, link: str) -> None:
    copy = host.get_by_title("Copy Link", exact=True)
    host.evaluate("""() => {
        navigator.clipboard.writeText = () => Promise.reject(new DOMException('no', 'NotAllowedError'));
        document.execCommand = () => false;
    }""")
    copy.click()
    expect(copy).to_have_text("Selected: press Ctrl+C")
    assert (
        host.evaluate(
            "() => { const f = document.activeElement; return f.value.slice(f.selectionStart, f.selectionEnd); }"
        )
        == link
    )
    panel = classroom.panel_of(host)
    shown = classroom.invites_viewers(panel)
    panel.get_by_role("button", name="Copy", exact=True).click()
    dialog = host.get_by_role("dialog")
    expect(dialog).to_contain_text("Press Ctrl+C")
    expect(dialog.get_by_label("To be copied")).to_have_value(shown)
    dialog.get_by_role("button", name="Close").click()


def test_a_kernel_that_is_restarted_with_widgets_on_screen_is_the_same_peer(
    room: Classroom, host: Page, link: str
) -> None:
    panel = classroom.panel_of(host)
    room.writes("dora.ipynb", classroom.JOIN)
    page = room.sits_down("lab/workspaces/dora/tree/dora.ipynb")
    classroom.runs(page, 0)
    card = classroom.pastes_link(page, link, "Dora")
    classroom.agrees(card)
    dora = panel.locator(".swarm-peer .swarm-name", has_text="Dora")
    expect(dora).to_have_count(1)

    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    expect(dora).to_have_count(0)
    classroom.button_at(card, "Leave").click()
    expect(card).to_contain_text("after a restart of the kernel, run the cell again")
    classroom.runs(page, 0)
    classroom.agrees(classroom.pastes_link(page, link, "Dora"))
    expect(dora).to_have_text(["Dora"])
    expect(panel).not_to_contain_text("Dora (")
