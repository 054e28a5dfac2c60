"""The text that the shared model writes, for all who watch: who may show one, who sees it, what it may be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jupyter_swarm.protocol.samples import SAMPLE_CHARACTERS

from .server import Swarm
from .test_watch import seen, until, watch


async def show(swarm: Swarm, session: str, text: str, headers: dict[str, str] | None = None, **how: Any) -> Any:
    body = json.dumps({"text": text, **how})
    return await swarm.call("POST", f"sessions/{session}/sample", headers or swarm.kernel(), body)


async def described(swarm: Swarm, session: str, headers: dict[str, str] | None = None) -> Any:
    return swarm.json(await swarm.call("GET", f"sessions/{session}", headers or swarm.owner()))


async def test_all_who_watch_see_the_text_and_it_outlives_the_server(swarm: Swarm) -> None:
    session = await swarm.open_session()
    viewer = await swarm.member(session, "viewer")
    socket = await watch(swarm, session, viewer)
    assert (await seen(socket))["sample"] is None
    shown = swarm.json(await show(swarm, session, "To be 🎭 or not", prompt="To be", round=3), 201)
    assert (shown["prompt"], shown["text"], shown["round"]) == ("To be", "To be 🎭 or not", 3)
    assert (await until(socket, type="status", sample=shown))["state"] == "waiting"
    seen_by_viewer = await described(swarm, session, viewer)
    assert seen_by_viewer["sample"] == seen_by_viewer["status"]["sample"] == shown
    await swarm.manager.stop()
    await swarm.manager.start()
    assert (await described(swarm, session))["status"]["sample"] == shown


async def test_an_instructor_may_show_a_text(swarm: Swarm) -> None:
    session = await swarm.open_session()
    assert (await show(swarm, session, "x", await swarm.member(session, "instructor"))).code == 201


@pytest.mark.parametrize(
    ("body", "status", "what"),
    [
        ({"text": "x" * (SAMPLE_CHARACTERS + 1)}, 400, "at most 2000 characters"),
        ({"text": "x", "prompt": "x" * (SAMPLE_CHARACTERS + 1)}, 400, "at most 2000 characters"),
        ({"text": "x", "round": -1}, 400, "no round -1"),
        ({"text": 5}, 400, "could not be read"),
        ({"prompt": "x"}, 400, "could not be read"),
        ({"text": "x" * 100_000}, 413, "larger than"),
    ],
)
async def test_what_cannot_be_shown_is_refused(swarm: Swarm, body: dict[str, Any], status: int, what: str) -> None:
    session = await swarm.open_session()
    answer = await swarm.call("POST", f"sessions/{session}/sample", swarm.owner(), json.dumps(body))
    assert what in swarm.json(answer, status)["what"]
    assert (await described(swarm, session))["sample"] is None


async def test_the_longest_text_of_any_characters_goes_through(swarm: Swarm) -> None:
    session = await swarm.open_session()
    long = "🎭" * SAMPLE_CHARACTERS
    assert swarm.json(await show(swarm, session, long, prompt=long), 201)["text"] == long


async def test_what_would_disturb_a_screen_is_not_in_it(swarm: Swarm) -> None:
    session = await swarm.open_session()
    shown = swarm.json(await show(swarm, session, "a\r\nb\tc\x1b[31m\u202e<b>"), 201)
    assert shown["text"] == "a\nb\tc\ufffd[31m\ufffd<b>"


async def test_texts_that_come_too_fast_are_refused(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    session = await swarm.open_session()
    now = [1000.0]
    monkeypatch.setattr(swarm.manager, "_clock", lambda: now[0])
    assert (await show(swarm, session, "one")).code == 201
    now[0] += 0.5
    assert swarm.json(await show(swarm, session, "two"), 429)["todo"]
    now[0] += 0.6
    assert (await show(swarm, session, "three")).code == 201
    assert (await described(swarm, session))["sample"]["text"] == "three"
