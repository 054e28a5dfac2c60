"""The panel in JupyterLab: what it shows of a session, and what its buttons do."""

from __future__ import annotations

import asyncio
import json
import re
import zipfile
from pathlib import Path

import pytest
from playwright.async_api import Locator, Page, WebSocketRoute, expect

from jupyter_swarm.coordinator.status import PeerStatus
from jupyter_swarm.peer.checkpoints import open_checkpoint
from jupyter_swarm.protocol.invites import parse_invite
from tests.coordinator.server import Swarm
from tests.waiting import eventually

from .classroom import write_notebook
from .lab import choose_command, find_command, joined, jp_server_config, open_lab, open_panel, panel_folder

__all__ = ["jp_server_config", "panel_folder"]

SMALL = """
import torch
from torch import nn

from jupyter_swarm import SGD, Data, EveryStep, Recipe


def data():
    return Data(train=(torch.ones(64, 2),))


def loss(model, batch):
    return model(batch[0]).square().mean()


recipe = Recipe(
    name="small", model=lambda: nn.Linear(2, 1), data=data, loss=loss, optimizer=SGD(lr=1e-3),
    strategy=EveryStep(target_batch=8), evaluate_every=0,
)
"""


def tile(panel: Locator, name: str) -> Locator:
    return panel.locator(".swarm-tiles div", has_text=name).locator("dd")


async def test_a_session_is_seen_as_it_goes(swarm: Swarm, page: Page) -> None:
    session = await swarm.open_session(rounds=300, evaluate_every=2)
    panel = await open_panel(swarm, page)
    await expect(panel.locator(".swarm-reason")).to_have_text("waiting for peers: nobody has joined yet")
    await expect(panel.locator(".swarm-connection")).to_have_text("live")
    peer = await joined(swarm, session)
    await peer.train(3)
    await expect(tile(panel, "of 300 rounds")).to_have_text("3")
    await expect(tile(panel, "held-out loss")).to_have_text("2")
    await expect(panel.locator(".swarm-peer .swarm-name")).to_have_text("ann")
    await expect(panel.locator(".swarm-peer .swarm-facts")).to_contain_text("100\u202f% of all")
    await expect(panel.locator(".swarm-peer .swarm-facts")).to_contain_text(re.compile(r"↑ [\d.]+.* ↓ .* Mbit/s"))
    await expect(panel.locator(".swarm-peer .swarm-facts")).to_contain_text("ms round trip")
    curve = panel.get_by_role("slider", name="Curve of loss")
    await expect(curve).to_have_attribute("aria-valuetext", "round 3: training 1, held-out 2")
    await peer.train(7)
    await expect(curve).to_have_attribute("aria-valuetext", re.compile("^round 7: "))
    await curve.focus()
    await page.keyboard.press("ArrowLeft")
    await page.keyboard.press("ArrowLeft")
    await expect(curve).to_have_attribute("aria-valuetext", re.compile("^round 6: "))
    await expect(page.locator(".swarm-status-button")).to_have_text("CS 101: training · round 7 · 1 peer")


async def test_the_status_bar_goes_on_when_the_panel_is_closed(swarm: Swarm, page: Page) -> None:
    session = await swarm.open_session(rounds=9)
    peer = await joined(swarm, session)
    await peer.train(1)
    panel = await open_panel(swarm, page)
    await expect(panel.locator(".swarm-connection")).to_have_text("live")
    await page.locator('.jp-SideBar [data-id="jupyter-swarm"]').click()
    await expect(panel).not_to_be_visible()
    await peer.train(3)
    await expect(page.locator(".swarm-status-button")).to_have_text("CS 101: training · round 3 · 1 peer")


async def test_a_page_that_is_loaded_again_shows_the_same(swarm: Swarm, page: Page) -> None:
    first = await swarm.open_session(rounds=9)
    await (await joined(swarm, first)).train(4)
    await swarm.open_session(rounds=9)
    panel = await open_panel(swarm, page)
    await expect(panel.locator(".swarm-reason")).to_contain_text("nobody has joined")
    await panel.get_by_role("combobox", name="Session to be shown").select_option(first)
    curve = panel.get_by_role("slider", name="Curve of loss")
    await expect(curve).to_have_attribute("aria-valuetext", re.compile("^round 4: "))
    await page.wait_for_timeout(1000)  # JupyterLab saves its state a little later
    await page.reload()
    await expect(curve).to_have_attribute("aria-valuetext", re.compile("^round 4: "))


async def test_the_session_is_paused_and_ended(swarm: Swarm, page: Page) -> None:
    session = await swarm.open_session(rounds=9)
    status = swarm.manager.runtime(session).status
    panel = await open_panel(swarm, page)
    await panel.get_by_role("button", name="Pause", exact=True).click()
    await expect(panel.locator(".swarm-status .swarm-state strong")).to_have_text("paused")
    await expect(panel.get_by_role("status").filter(has_text="CS 101: paused")).to_have_count(1)
    assert status().state == "paused"
    await panel.get_by_role("button", name="Resume", exact=True).click()
    await expect(panel.locator(".swarm-status .swarm-state strong")).to_have_text("waiting")
    await panel.get_by_role("button", name="End").click()
    await page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert status().state == "waiting"
    await panel.get_by_role("button", name="End").click()
    await page.get_by_role("dialog").get_by_role("button", name="End").click()
    await eventually(lambda: status().state == "finished")
    await panel.get_by_role("button", name="Delete").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(panel.locator(".swarm-reason")).to_have_text("This session was deleted.")


async def test_a_peer_is_steered_from_its_menu(swarm: Swarm, page: Page) -> None:
    session = await swarm.open_session(rounds=9)
    panel = await open_panel(swarm, page)
    await joined(swarm, session)
    why = panel.locator(".swarm-peer .swarm-why")

    def peer() -> PeerStatus:
        return swarm.manager.runtime(session).status().peers[0]

    async def choose(action: str, *, done: str) -> None:
        await panel.get_by_role("button", name="Actions for").click()
        await page.get_by_role("menuitem", name=action).click()
        await expect(panel.locator(".swarm-said")).to_have_text(done)  # and its menu is another one

    await choose("Pause", done="ann is paused.")
    assert peer().paused_by == "the instructor"
    await expect(why).to_contain_text("the instructor")
    await choose("Resume", done="ann goes on.")
    assert peer().paused_by == ""
    await choose("Give it 50 % of its work", done="ann gets 50\u202f% of its work.")
    assert peer().slowed == 0.5
    await expect(why).to_contain_text("gets 50\u202f% of its work")
    await choose("Hide its name", done="The name of ann is hidden.")
    assert peer().muted
    await expect(panel.locator(".swarm-peer .swarm-name")).to_have_text("peer 1")
    await choose("Show its name: ann", done="The name of peer 1 is shown.")
    await expect(panel.locator(".swarm-peer .swarm-name")).to_have_text("ann")


async def test_of_a_crowd_the_first_are_listed_and_the_others_are_found(
    swarm: Swarm, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jupyter_swarm.coordinator.status.LISTED", 2)
    session = await swarm.open_session(minimum_peers=9)
    for name in ("ann", "bob", "Cem", "dan"):
        await joined(swarm, session, name)
    panel = await open_panel(swarm, page)
    names = panel.locator(".swarm-peer .swarm-name")
    await expect(names).to_have_text(["ann", "bob"])
    await expect(panel.get_by_text("2 of 4 are shown: find the others by their names.")).to_be_visible()
    await expect(tile(panel, "peers")).to_have_text("4")
    find = panel.get_by_role("searchbox", name="Find a peer by its name")
    await find.fill("cem")
    await expect(names).to_have_text(["Cem"])
    await panel.get_by_role("button", name="Actions for Cem").click()
    await page.get_by_role("menuitem", name="Pause").click()
    await expect(panel.locator(".swarm-said")).to_have_text("Cem is paused.")
    await find.fill("")
    await expect(names).to_have_text(["Cem", "ann"])
    await find.fill("nobody")
    await expect(panel.get_by_text("Nobody here is called so.")).to_be_visible()


async def test_what_the_model_writes_is_read_in_the_panel(swarm: Swarm, page: Page) -> None:
    session = await swarm.open_session(rounds=9)
    panel = await open_panel(swarm, page)
    body = json.dumps({"prompt": "To be", "text": "To be <b>or</b> not", "round": 3})
    swarm.json(await swarm.call("POST", f"sessions/{session}/sample", swarm.kernel(), body), 201)
    text = panel.get_by_role("region", name="What the model writes")
    await expect(text).to_have_text("To be <b>or</b> not")


async def test_an_invite_is_made_copied_and_revoked(swarm: Swarm, page: Page) -> None:
    session = await swarm.open_session()
    panel = await open_panel(swarm, page)
    await panel.get_by_label("For whom").fill("row 3")
    await panel.get_by_role("button", name="Make a link").click()
    link = await panel.get_by_label("The link", exact=True).input_value()
    invite = parse_invite(link)
    assert invite.session == session
    assert invite.server == f"http://127.0.0.1:{swarm.port}{swarm.base}".rstrip("/")
    await expect(panel.get_by_text("Reachable from this machine only")).to_be_visible()
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await panel.get_by_role("button", name="Copy row 3").click()
    await expect(panel.get_by_text("The link is copied.")).to_be_visible()
    assert await page.evaluate("navigator.clipboard.readText()") == link
    await panel.get_by_role("button", name="Revoke row 3").click()
    await page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    await expect(panel.get_by_text("Nobody is invited.")).to_be_visible()
    answer = await swarm.call("GET", f"sessions/{session}", {"X-Swarm-Invite": invite.secret})
    assert answer.code in (401, 403, 410)


async def test_where_nothing_may_be_copied_the_link_is_shown(swarm: Swarm, page: Page) -> None:
    await page.add_init_script("navigator.clipboard.writeText = () => Promise.reject(new Error('no'))")
    await swarm.open_session()
    panel = await open_panel(swarm, page)
    await panel.get_by_role("button", name="Make a link").click()
    await panel.get_by_role("button", name="Copy", exact=True).click()
    field = page.get_by_role("dialog").get_by_label("To be copied")
    await expect(field).to_be_focused()
    assert parse_invite(await field.input_value())


async def test_a_checkpoint_is_saved_and_downloaded_whole(swarm: Swarm, page: Page, tmp_path: Path) -> None:
    session = await swarm.open_session(rounds=9)
    await (await joined(swarm, session)).train(2)
    panel = await open_panel(swarm, page)
    await panel.get_by_label("Name of the checkpoint").fill("before lunch")
    await panel.get_by_role("button", name="Save now").click()
    async with page.expect_download() as download:
        await panel.get_by_role("button", name="Download the checkpoint before lunch").click()
    kept = await download.value
    assert kept.suggested_filename == "before lunch.zip"
    with zipfile.ZipFile(await kept.path()) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path)
    found = open_checkpoint(tmp_path / "before lunch")
    assert (found.name, found.version) == ("before lunch", 2)


async def test_polling_goes_on_where_the_websocket_does_not_come_through(swarm: Swarm, page: Page) -> None:
    await page.route_web_socket(re.compile("/watch$"), lambda route: asyncio.ensure_future(route.close()))
    session = await swarm.open_session(rounds=9)
    panel = await open_panel(swarm, page)
    await expect(panel.locator(".swarm-connection")).to_have_text("read every few seconds")
    await (await joined(swarm, session)).train(2)
    await expect(tile(panel, "of 9 rounds")).to_have_text("2")


async def test_nobody_is_followed_while_the_page_is_hidden(swarm: Swarm, page: Page) -> None:
    session = await swarm.open_session(rounds=9)
    runtime = swarm.manager.runtime(session)
    panel = await open_panel(swarm, page)
    await expect(panel.locator(".swarm-connection")).to_have_text("live")
    turn = "Object.defineProperty(document, 'hidden', {get: () => %s, configurable: true});"
    turn += "document.dispatchEvent(new Event('visibilitychange'))"
    await page.evaluate(turn % "true")
    await eventually(lambda: not runtime._viewers)
    await (await joined(swarm, session)).train(3)
    await page.evaluate(turn % "false")
    await expect(tile(panel, "of 9 rounds")).to_have_text("3")
    curve = panel.get_by_role("slider", name="Curve of loss")
    await expect(curve).to_have_attribute("aria-valuetext", re.compile("^round 3: "))


@pytest.mark.parametrize(
    ("pasted", "said"),
    [
        ("%swarm join", "This is not an invite link."),
        ("http://x/swarm/join/class#k3Zt", "This link is not complete"),
        ("http://x/swarm/watch/class#" + 36 * "k", "This link is for watching"),
        ("http://x/{1}/swarm/join/class#" + 36 * "k", "This link is not complete"),
    ],
)
async def test_what_is_no_invite_gets_into_no_cell(swarm: Swarm, page: Page, pasted: str, said: str) -> None:
    panel = await open_panel(swarm, page)
    await panel.get_by_role("button", name="Join by a link").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_role("textbox").fill(pasted)
    await dialog.get_by_role("button", name="Join").click()
    await expect(dialog).to_contain_text(said)
    await expect(dialog.get_by_role("textbox")).to_have_value(pasted)


async def test_the_launcher_opens_a_session_in_a_new_notebook(swarm: Swarm, page: Page) -> None:
    await open_lab(swarm, page)
    await page.locator(".jp-LauncherCard", has_text="Train together").click()
    await page.get_by_label("Name").fill('CS "101"')
    await page.get_by_role("dialog").get_by_role("button", name="Open").click()
    cell = page.locator(".jp-Notebook .jp-Cell").first
    await expect(cell).to_contain_text('%swarm host "CS 101" --recipe digits')
    panel = page.locator("#jupyter-swarm")
    await expect(panel.locator("h2")).to_contain_text("CS 101", timeout=90_000)
    await expect(panel.locator(".swarm-peer .swarm-name")).to_have_count(1)


async def test_the_colours_follow_the_theme(swarm: Swarm, page: Page, tmp_path: Path) -> None:
    kept = tmp_path / "settings" / "@jupyterlab" / "apputils-extension" / "themes.jupyterlab-settings"
    kept.parent.mkdir(parents=True)
    kept.write_text('{"theme": "JupyterLab Dark"}')
    session = await swarm.open_session(rounds=9)
    await (await joined(swarm, session)).train(3)
    panel = await open_panel(swarm, page)
    await expect(tile(panel, "of 9 rounds")).to_have_text("3")
    await page.locator("body[data-jp-theme-light='false']").wait_for(state="attached")
    drawn = """() => {
        const canvas = document.querySelector('#jupyter-swarm canvas');
        const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        const found = new Set();
        for (let at = 0; at < data.length; at += 4) {
            found.add(data.slice(at, at + 4).join());
        }
        return found.has('86,180,233,255');  // of the training's line in the dark
    }"""
    await page.wait_for_function(drawn)


async def test_an_invite_is_copied_by_a_command_and_the_same_again(swarm: Swarm, page: Page) -> None:
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    panel = await open_panel(swarm, page)
    await find_command(page, "Copy an Invite", disabled=True)
    await page.keyboard.press("Escape")
    session = await swarm.open_session()
    await expect(panel.locator("h2")).to_contain_text("CS 101")
    links = []
    for _ in range(2):
        await page.evaluate("navigator.clipboard.writeText('')")
        await choose_command(page, "Copy an Invite")
        await expect(page.get_by_role("alert").filter(has_text="The link is copied.").first).to_be_visible()
        await page.wait_for_function("navigator.clipboard.readText()")
        links.append(str(await page.evaluate("navigator.clipboard.readText()")))
    assert parse_invite(links[0]).session == session
    assert links[0] == links[1]
    await expect(panel.get_by_role("list", name="Invites").get_by_role("listitem")).to_have_count(1)


async def test_a_cell_that_joins_is_put_into_the_open_notebook(swarm: Swarm, page: Page, jp_root_dir: Path) -> None:
    write_notebook(jp_root_dir / "mine.ipynb", "1 + 1")
    session = await swarm.open_session()
    await open_lab(swarm, page, "lab/tree/mine.ipynb")
    cells = page.locator(".jp-Notebook .jp-Cell")
    await expect(cells).to_have_count(1)
    await page.locator('.jp-SideBar [data-id="jupyter-swarm"]').click()
    await expect(page.locator("#jupyter-swarm h2")).to_contain_text("CS 101")
    await choose_command(page, "Insert a Cell that Joins")
    await expect(cells).to_have_count(2)
    source = await cells.nth(1).locator(".cm-line").all_inner_texts()
    found = re.fullmatch(r'%swarm join (\S+) --name (\w+|"[\w ]+")', source[1])
    assert source[0] == "%load_ext jupyter_swarm"
    assert found, source
    assert parse_invite(found[1]).session == session
    await expect(cells.nth(1).locator(".jp-InputPrompt")).to_have_text("[ ]:")  # to be read before it is run


async def test_a_tutorial_is_a_copy_that_is_kept(swarm: Swarm, page: Page, jp_root_dir: Path) -> None:
    panel = await open_panel(swarm, page)

    async def open_first() -> None:
        dialog = page.get_by_role("dialog")
        await expect(dialog.get_by_role("combobox")).to_be_visible()
        await dialog.get_by_role("combobox").select_option(index=0)
        await dialog.get_by_role("button", name="Open").click()
        await expect(page.locator(".jp-Notebook h1").first).to_contain_text("Train alone")

    await panel.get_by_role("button", name="Open a tutorial").click()
    await open_first()
    (copy,) = (jp_root_dir / "swarm-tutorials").glob("*.ipynb")
    changed = copy.read_text().replace("Train alone", "Train alone, with my notes", 1)
    copy.write_text(changed)
    await page.reload()
    await page.locator("#jupyterlab-splash").wait_for(state="detached")
    await choose_command(page, "Open a Tutorial")
    await open_first()
    assert copy.read_text() == changed


async def test_a_session_that_somebody_else_deletes(swarm: Swarm, page: Page) -> None:
    session = await swarm.open_session(rounds=9)
    panel = await open_panel(swarm, page)
    await expect(panel.locator(".swarm-connection")).to_have_text("live")
    await swarm.call("DELETE", f"sessions/{session}", swarm.owner())
    await expect(panel.locator(".swarm-reason")).to_have_text("This session was deleted.")
    for name in ("Pause", "End", "Make a link", "Save now"):
        await expect(panel.get_by_role("button", name=name)).to_have_count(0)


async def test_what_is_done_elsewhere_is_seen(swarm: Swarm, page: Page) -> None:
    session = await swarm.open_session(rounds=9)
    panel = await open_panel(swarm, page)
    await expect(panel.locator(".swarm-connection")).to_have_text("live")
    await joined(swarm, session)
    invites = panel.get_by_role("list", name="Invites").get_by_role("listitem")
    await expect(invites).to_contain_text(re.compile(r"\b1 of \d+ uses"))


async def test_a_server_that_does_not_answer_for_a_while(swarm: Swarm, page: Page) -> None:
    sockets: list[WebSocketRoute] = []

    def through(route: WebSocketRoute) -> None:
        sockets.append(route)
        route.connect_to_server()

    await page.route_web_socket(re.compile("/watch$"), through)
    session = await swarm.open_session(rounds=9)
    peer = await joined(swarm, session)
    await peer.train(2)
    panel = await open_panel(swarm, page)
    await expect(panel.locator(".swarm-connection")).to_have_text("live")
    await page.route("**/swarm/api/**", lambda route: route.abort())
    await sockets[-1].close()
    await expect(panel.locator(".swarm-connection")).to_have_text("the server does not answer; trying again")
    await peer.train(5)
    await page.unroute("**/swarm/api/**")
    await expect(panel.locator(".swarm-connection")).to_have_text("live")
    curve = panel.get_by_role("slider", name="Curve of loss")
    await curve.focus()
    for round in (5, 4, 3, 2):  # none is missing
        await page.keyboard.press("ArrowLeft")
        await expect(curve).to_have_attribute("aria-valuetext", re.compile(f"^round {round}: "))


async def test_the_large_view_comes_back_unless_it_was_closed(swarm: Swarm, page: Page) -> None:
    await swarm.open_session()
    panel = await open_panel(swarm, page)
    await panel.get_by_role("button", name="Show it large").click()
    large = page.locator("#jupyter-swarm-large")
    await expect(large.locator("h2")).to_contain_text("CS 101")
    await page.wait_for_timeout(1000)  # JupyterLab saves its state a little later
    await page.reload()
    await expect(large.locator("h2")).to_contain_text("CS 101")
    await page.locator(".lm-TabBar-tab", has_text="Training together").locator(".lm-TabBar-tabCloseIcon").click()
    await expect(large).to_have_count(0)
    await page.wait_for_timeout(1000)
    await page.reload()
    await expect(panel.locator("h2")).to_contain_text("CS 101")
    await expect(large).to_have_count(0)
