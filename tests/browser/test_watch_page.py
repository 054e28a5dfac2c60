"""The page behind a viewer's link, in a browser: what it shows, what it says when something fails, who can use it."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import msgspec
import pytest
from playwright.async_api import Page, Route, WebSocketRoute, expect

from jupyter_swarm.coordinator.session import SessionRuntime
from jupyter_swarm.history.themes import THEMES
from jupyter_swarm.protocol.invites import new_secret
from jupyter_swarm.store.rows import Metric
from tests.coordinator.scripted import ScriptedPeer
from tests.coordinator.server import Swarm
from tests.waiting import eventually

HOSTILE = "<img src=x onerror=document.title=1>"
ROUNDS = 3000
HIDE = "Object.defineProperty(document, 'hidden', {{get: () => {}, configurable: true}});"
TURN = " document.dispatchEvent(new Event('visibilitychange'))"


async def trained(swarm: Swarm, versions: int, **settings: Any) -> tuple[str, ScriptedPeer]:
    """A session with one peer, which has trained so far."""
    session = await swarm.open_session(**settings)
    peer = await ScriptedPeer.join(swarm, session, await swarm.member(session, "peer"), device="cpu")
    await peer.train(versions)
    return session, peer


async def state_is(page: Page, word: str, *reasons: str) -> None:
    """The state in big type, and what else is to be read beside it."""
    await expect(page.locator("#word")).to_have_text(word)
    for reason in reasons:
        await expect(page.locator("#state")).to_contain_text(reason)


async def points(page: Page, line: str) -> int:
    """How many points a line of the curve has."""
    return len((await page.locator(f"#chart .line.{line}").get_attribute("points") or "").split())


def viewers(runtime: SessionRuntime) -> int:
    return len(runtime._viewers)


async def let_go(runtime: SessionRuntime) -> None:
    """Close the connections of those who watch, as for being too slow; it says nothing about the session."""
    for number in range(10):
        runtime.publish("event", text="." * (1 << 20), number=number)
    await eventually(lambda: not viewers(runtime))


async def test_a_session_is_seen_as_it_goes(swarm: Swarm, page: Page) -> None:
    session, peer = await trained(swarm, 3, rounds=20, evaluate_every=2)
    await page.goto(await swarm.link(session, "viewer"))
    await state_is(page, "training", "round 4: 0 of 8 samples are in")
    await expect(page).to_have_title("training · CS 101")
    chart = page.get_by_role("img")
    said = "Training loss 1.000 in round 1, 1.000 in round 3. Held-out loss 2.000 after round 2."
    await expect(chart).to_have_attribute("aria-label", said)
    await peer.train(7)
    await expect(page.locator("#tiles .tile").first).to_have_text("round7of 20")
    await expect(chart).to_have_attribute("aria-label", re.compile("in round 7.* after round 6"))
    assert (await points(page, "training"), await points(page, "held-out")) == (7, 4)
    await expect(page.locator("#peer-rows tr")).to_have_text(["ann100 %training computing 4 samples"])
    await expect(page.locator("#tiles")).to_contain_text(re.compile(r"samples a second[\d.]+.*data moved.* a second$"))
    await swarm.call("POST", f"sessions/{session}/actions", swarm.owner(), '{"action": "pause"}')
    await state_is(page, "paused", "owner")
    await expect(page.get_by_role("status")).to_have_text(re.compile("^paused: .*owner"))
    await swarm.call("POST", f"sessions/{session}/actions", swarm.owner(), '{"action": "stop"}')
    await state_is(page, "finished", "after 7 rounds: stopped by owner")
    assert await page.context.cookies() == []


async def test_whoever_is_invited_to_train_may_watch_from_a_phone(swarm: Swarm, page: Page) -> None:
    session = await swarm.open_session()
    await page.goto(await swarm.link(session, "peer"))
    await page.get_by_role("link", name="watch the session").click()
    await state_is(page, "waiting", "for peers: nobody has joined yet")


async def test_a_session_that_is_over_is_shown_as_it_ended(swarm: Swarm, page: Page) -> None:
    session, peer = await trained(swarm, 4, rounds=4)
    runtime = swarm.manager.runtime(session)
    evaluating = asyncio.create_task(peer.train(5))
    await eventually(lambda: runtime.status().state == "finished")
    evaluating.cancel()
    await ScriptedPeer.join(swarm, session, await swarm.member(session, "peer"), "too late")
    for attached in runtime.members.peers():
        attached.connection.close("")
    await eventually(lambda: not runtime.members.peers())
    await shows(swarm, session, "To be", "To be or not", round=4)
    link = await swarm.link(session, "viewer")
    await page.goto(link)
    took_part = ["ann100 %took part", "too late0 %took part"]
    await state_is(page, "finished", "after 4 rounds: all 4 rounds are done")
    await expect(page.locator("#peer-rows tr")).to_have_text(took_part)
    # A server that is started again reads it from its disk only.
    await swarm.manager.stop()
    await swarm.manager.start()
    assert swarm.manager.running(session) is None
    await page.reload()
    await state_is(page, "finished", "after 4 rounds: all 4 rounds are done")
    await expect(page.locator("#tiles")).to_contain_text("round4of 4")
    await expect(page.locator("#tiles")).to_contain_text("samples32in")
    await expect(page.locator("#tiles")).to_contain_text(re.compile(r"data moved[\d.]+ kB"))
    await expect(page.locator("#peer-rows tr")).to_have_text(took_part)
    await expect(page.locator("#sample-text")).to_have_text("To be or not")
    assert await points(page, "training") == 4


async def test_what_the_model_writes_is_to_be_read(swarm: Swarm, page: Page) -> None:
    session, _ = await trained(swarm, 1)
    await page.goto(await swarm.link(session, "viewer"))
    await state_is(page, "training")
    sample = page.get_by_role("region", name="The model writes")
    await expect(sample).to_be_hidden()
    await shows(swarm, session, HOSTILE, f"{HOSTILE}, my lord.\nExit.", round=1)
    await expect(sample.locator("b")).to_have_text(HOSTILE)
    await expect(sample).to_contain_text("The model writes after round 1")
    text = sample.get_by_role("region", name="The text")
    assert await text.inner_text() == f"{HOSTILE}, my lord.\nExit."
    await shows(swarm, session, "A shoe?", "boot", round=1)
    await expect(text).to_have_text("A shoe?\nboot", use_inner_text=True)
    await shows(swarm, session, "", "\nWords, words, words. " * 90, round=1)
    await expect(text).to_have_text(re.compile("^Words"), use_inner_text=True)
    for width in (1280, 360):
        await page.set_viewport_size({"width": width, "height": 720})
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        assert await page.evaluate("document.querySelector('#peers').clientHeight") > 60
        assert await page.evaluate("document.querySelector('#sample-scroll').clientHeight") < 720


async def shows(swarm: Swarm, session: str, prompt: str, text: str, round: int) -> None:
    """The host's kernel shows a text; those before it are a while ago."""
    runtime = swarm.manager.runtime(session)
    if runtime.sample is not None:
        runtime.sample = msgspec.structs.replace(runtime.sample, unix_time=0.0)
    body = json.dumps({"prompt": prompt, "text": text, "round": round})
    swarm.json(await swarm.call("POST", f"sessions/{session}/sample", swarm.kernel(), body), 201)


async def test_whoever_may_not_look_reads_why(swarm: Swarm, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    session = await swarm.open_session()
    link = await swarm.link(session, "viewer")
    await page.goto(link[:-1])
    await state_is(page, "not open", "This link is not complete", "Copy the whole link")
    await page.goto(link.partition("#")[0] + f"#{new_secret()}")  # only the fragment differs
    await state_is(page, "not open", "You are not invited to this session.", "If the session was deleted")
    await page.goto(link)
    await state_is(page, "waiting", "nobody has joined yet")
    await swarm.call("DELETE", f"sessions/{session}/invites/1", swarm.owner())
    await state_is(page, "not open", "This invite was revoked.")
    await expect(page.locator("#peers")).to_be_hidden()
    await page.get_by_role("button", name="Try now").click()
    await state_is(page, "not open", "withdrew it", "Ask whoever runs the session for a new invite.")
    late = await swarm.link(session, "viewer", seconds=60)
    monkeypatch.setattr(swarm.manager.invites, "_clock", lambda: time.time() + 61)
    await page.goto(late)
    await state_is(page, "not open", "This invite has expired.", "It was good until")
    await page.goto(await swarm.link(session, "viewer"))
    await state_is(page, "waiting")
    swarm.json(await swarm.call("DELETE", f"sessions/{session}", swarm.owner()))
    await state_is(page, "not open", "This session was deleted.")


async def test_a_server_that_is_gone_comes_back(swarm: Swarm, page: Page) -> None:
    session, peer = await trained(swarm, 2)
    await page.goto(await swarm.link(session, "viewer"))
    await state_is(page, "training")
    await expect(page.get_by_role("img")).to_have_attribute("aria-label", re.compile("round 2"))

    async def gone(route: Route) -> None:
        await route.abort()

    async def other(route: Route) -> None:
        await route.fulfill(status=503, content_type="text/html", body="<h1>The hub has no such server</h1>")

    runtime = swarm.manager.runtime(session)
    await page.route("**/swarm/api/**", gone)
    await let_go(runtime)
    await state_is(page, "no connection", "The server does not answer.", "What is shown below is of")
    await expect(page.locator("#curve")).to_be_visible()
    await page.unroute("**/swarm/api/**")
    await page.route("**/swarm/api/**", other)
    await state_is(page, "no connection", "something else answers in its place (503)")
    await peer.train(5)  # nobody is told
    await page.unroute("**/swarm/api/**")
    await page.locator("#retry").dispatch_event("click")  # the page may have tried by itself, and put it away
    await state_is(page, "training")
    await expect(page.get_by_role("img")).to_have_attribute("aria-label", re.compile("round 5"))
    await expect(page.locator("#note")).to_be_hidden()
    assert await points(page, "training") == 5


async def test_nobody_looks_at_a_hidden_page_and_it_asks_nothing(swarm: Swarm, page: Page) -> None:
    session, peer = await trained(swarm, 1)
    await page.goto(await swarm.link(session, "viewer"))
    await state_is(page, "training")
    runtime = swarm.manager.runtime(session)
    await eventually(lambda: viewers(runtime) == 1)
    await page.evaluate(HIDE.format("true") + TURN)
    await eventually(lambda: not viewers(runtime))
    await peer.train(3)
    await page.evaluate(HIDE.format("false") + TURN)
    await expect(page.get_by_role("img")).to_have_attribute("aria-label", re.compile("in round 3"))
    await eventually(lambda: viewers(runtime) == 1)


async def test_where_web_sockets_do_not_get_through_the_page_asks_again_and_again(swarm: Swarm, page: Page) -> None:
    async def stopped(socket: WebSocketRoute) -> None:
        await socket.close(code=3000)

    await page.route_web_socket("**/watch", stopped)
    await page.clock.install()
    session, peer = await trained(swarm, 1)
    await page.goto(await swarm.link(session, "viewer"))
    await state_is(page, "training", "Live news do not get through")
    await peer.train(2)
    await page.clock.fast_forward("00:06")
    await expect(page.locator("#tiles .value").first).to_have_text("2")
    await expect(page.locator("#note")).to_be_visible()


@pytest.mark.parametrize(("width", "scheme"), [(1920, "light"), (360, "dark")])
async def test_thousands_of_rounds_and_two_hundred_peers(
    swarm: Swarm, page: Page, monkeypatch: pytest.MonkeyPatch, width: int, scheme: Any
) -> None:
    session, _ = await trained(swarm, 1)
    runtime = swarm.manager.runtime(session)
    rows = [
        Metric(session, version, member, name, 2.0 + 1 / version, 1)
        for version in range(1, ROUNDS + 1)
        for member, name in (("", "loss"), ("", "held_out_loss"), ("peer-1", "bytes_up"), ("peer-2", "bytes_up"))
    ]
    await swarm.manager.in_record(session, lambda database, _: database.add_metrics(rows))
    await page.set_viewport_size({"width": width, "height": 800})
    await page.emulate_media(color_scheme=scheme)
    await page.goto(await swarm.link(session, "viewer"))
    await expect(page.get_by_role("img")).to_have_attribute("aria-label", re.compile(f"in round {ROUNDS}"))
    assert 100 <= await points(page, "training") <= 150
    status = msgspec.to_builtins(runtime.status())
    (one,) = status["peers"]
    names = [HOSTILE, "a" * 60, *(f"peer {number}" for number in range(3, 201))]
    status["peers"] = [{**one, "id": str(number), "name": name} for number, name in enumerate(names)]
    status["peers"][7] |= {"state": "waiting", "reason": "for the other peers of this round", "waited_for": "peer 3"}
    monkeypatch.setattr(runtime, "publish_status", lambda: None)
    status["crowd"] |= {"peers": 1200, "states": {"training": 1198, "waiting": 2}}
    runtime.publish("status", **status)
    await expect(page.locator("#crowd")).to_have_text("1,200: 1,198 training, 2 waiting; 200 are listed")
    shown = page.locator("#peer-rows tr")
    await expect(shown).to_have_count(200)
    assert [await shown.nth(number).locator("th").inner_text() for number in (0, 1, 199)] == [*names[:2], names[199]]
    await expect(shown.nth(7)).to_contain_text(
        "waiting for the other peers of this round, so far mostly because of peer 3"
    )
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    assert await page.evaluate("document.querySelector('#peers-scroll').clientHeight") < 800
    for colour in ("background", "text", "muted", "grid", "training", "held_out", "others"):
        name = f"--{colour.replace('_', '-')}"
        used = await page.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('{name}')")
        assert used.strip() == getattr(THEMES[scheme], colour)


async def test_it_can_be_used_by_keyboard_and_read_by_a_screen_reader(swarm: Swarm, page: Page) -> None:
    session, _ = await trained(swarm, 3, rounds=20)
    await page.goto(await swarm.link(session, "viewer"))
    await expect(page.get_by_role("img")).to_have_attribute("aria-label", re.compile("in round 3"))
    reached = []
    for _ in range(4):
        await page.keyboard.press("Tab")
        reached.append(await page.evaluate("document.activeElement.textContent.trim().split(/\\n/)[0]"))
        if reached[-1] == "The curve as a table":
            await page.keyboard.press("Enter")
    assert reached[:2] == ["Full screen", "The curve as a table"]
    table = page.get_by_role("region", name="The curve as a table").get_by_role("row")
    await expect(table).to_have_text([re.compile("round"), "31.000–", "21.000–", "11.000–"])
    outline = await page.locator("body").aria_snapshot()
    for found in (
        "main:",
        "banner:",
        'region "State"',
        'region "Numbers"',
        'region "Peers"',
        'heading "CS 101" [level=1]',
    ):
        assert f"- {found}" in outline
    assert '- progressbar "Rounds done"' in outline
    assert '- rowheader "ann"' in outline


async def test_it_says_what_was_measured_of_a_link(swarm: Swarm, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    session, _ = await trained(swarm, 1, rounds=20)
    runtime = swarm.manager.runtime(session)
    await page.goto(await swarm.link(session, "viewer"))
    row = page.locator("#peer-rows tr")
    await expect(row).to_contain_text("ann100 %")
    status = msgspec.to_builtins(runtime.status())
    monkeypatch.setattr(runtime, "publish_status", lambda: None)
    for up, down, said in ((0.0, 1.5e8, "↑ – ↓ 1,200 Mbit/s"), (1.234e6, 1.1e6, "↑ 9.9 ↓ 8.8 Mbit/s")):
        status["peers"][0] |= {"up": up, "down": down}
        runtime.publish("status", **status)
        await expect(row.locator(".link")).to_have_text(said)
