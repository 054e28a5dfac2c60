"""The pages behind invite links: public, the same for everybody, and nothing runs in them but what is their own."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

import pytest

from jupyter_swarm.history.themes import THEMES
from jupyter_swarm.protocol.invites import parse_invite
from jupyter_swarm.store.rows import Metric

from .server import Swarm


@pytest.mark.parametrize(("page", "connects"), [("join", False), ("watch", True)])
async def test_a_page_needs_no_account_and_leaves_no_cookie(swarm: Swarm, page: str, connects: bool) -> None:
    answer = await swarm.call("GET", f"swarm/{page}/nobody-knows-1")
    assert answer.code == 200
    assert answer.headers.get_list("Set-Cookie") == []
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert (await swarm.call("GET", f"swarm/{page}/nobody-knows-1/")).body == answer.body
    assert (await swarm.call("GET", f"swarm/{page}/another-1")).body == answer.body
    assert ("connect-src 'self'" in answer.headers["Content-Security-Policy"]) == connects


@pytest.mark.parametrize("page", ["join", "watch"])
async def test_a_page_is_in_one_piece_and_its_policy_names_all_of_it(swarm: Swarm, page: str) -> None:
    answer = await swarm.call("GET", f"swarm/{page}/a-1")
    html, policy = answer.body.decode(), answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    inline = re.findall(r"<(script|style)\b[^>]*>(.*?)</\1>", html, re.DOTALL)
    assert inline
    for _, text in inline:
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy
    assert policy.count("sha256-") == len(inline)
    assert not re.findall(r"""\b(?:src|href|style|on\w+)=["']|@import|url\(""", html)
    assert "http://www.w3.org/2000/svg" in html or "http" not in html  # the name of a language, not an address


async def test_the_links_of_viewers_lead_to_the_page_for_watching(swarm: Swarm) -> None:
    session = await swarm.open_session()
    pages = {role: parse_invite(await swarm.link(session, role)) for role in ("peer", "viewer", "instructor", "holder")}
    assert {role: invite.page for role, invite in pages.items()} == {
        "peer": "join", "viewer": "watch", "instructor": "join", "holder": "join"
    }  # fmt: skip
    viewer = pages["viewer"]
    assert viewer.server.endswith(swarm.base.rstrip("/"))
    assert (await swarm.call("GET", f"swarm/watch/{viewer.session}")).code == 200


async def test_who_shows_no_single_peers_gets_the_metrics_of_all_together(swarm: Swarm) -> None:
    session = await swarm.open_session()
    rows = [
        Metric(session, version, member, name, 1.0, 1)
        for version in range(1, 31)
        for member, name in (("", "loss"), *((f"peer-{number}", "bytes_up") for number in range(20)))
    ]
    await swarm.manager.in_record(session, lambda database, _: database.add_metrics(rows))
    viewer = await swarm.member(session, "viewer")
    found, after, pages = [], -1, 0
    while after is not None:
        query = f"together=1&limit=10&after={after}"
        answer = swarm.json(await swarm.call("GET", f"sessions/{session}/metrics?{query}", viewer))
        found += answer["metrics"]
        after, pages = answer["next"], pages + 1
    assert [(row["version"], row["member"]) for row in found] == [(version, "") for version in range(1, 31)]
    assert pages <= 4
    every = swarm.json(await swarm.call("GET", f"sessions/{session}/metrics", viewer))["metrics"]
    assert len(every) == len(rows)


def test_the_page_has_the_colours_of_the_figures() -> None:
    css = files("jupyter_swarm.coordinator").joinpath("watch_page.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6});", part)) for part in css.split("@media")[:2])
    for colours, theme in ((light, THEMES["light"]), (dark, THEMES["dark"])):
        for name in ("background", "text", "muted", "grid", "training", "held_out", "others"):
            assert colours.pop(name.replace("_", "-")) == getattr(theme, name)
        assert set(colours.values()) <= set(theme.series)  # of the states
