"""What keeps strangers out besides the table of routes: cookies, origins, servers without authentication."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tornado.websocket import WebSocketClientConnection

from .server import RECIPE, Swarm, opening, sha256, wrong_secret


async def login(swarm: Swarm) -> dict[str, str]:
    """The cookies of somebody who logged in with the token."""
    answer = await swarm.call("GET", "sessions", swarm.owner())
    cookies = [line.split(";")[0] for line in answer.headers.get_list("Set-Cookie")]
    page = await swarm.call("GET", "swarm/join/any-1")
    cookies += [line.split(";")[0] for line in page.headers.get_list("Set-Cookie")]
    return {"Cookie": "; ".join(cookies)}


async def test_a_cookie_alone_changes_nothing(swarm: Swarm) -> None:
    session = await swarm.open_session()
    cookie = await login(swarm)
    here = {"Referer": f"http://127.0.0.1:{swarm.port}/"}
    assert (await swarm.call("GET", "sessions", {**cookie, **here})).code == 200
    for verb, path in (("POST", f"sessions/{session}/actions"), ("DELETE", f"sessions/{session}")):
        answer = await swarm.call(verb, path, {**cookie, **here}, '{"action": "stop"}')
        assert answer.code == 403
        assert "_xsrf" in json.loads(answer.body)["why"]
    assert swarm.manager.live == [session]


async def test_a_made_up_secret_does_not_lend_weight_to_a_cookie(swarm: Swarm) -> None:
    session = await swarm.open_session()
    for header in ("X-Swarm-Invite", "X-Swarm-Owner"):
        answer = await swarm.call("DELETE", f"sessions/{session}", {**await login(swarm), header: "made-up"})
        assert answer.code in (401, 403)
    assert swarm.manager.live == [session]


async def test_a_refusal_that_leaves_a_body_unread_says_that_the_connection_ends(swarm: Swarm) -> None:
    session = await swarm.open_session()
    path, kept = f"sessions/{session}/actions", {"Connection": "keep-alive"}
    refused = await swarm.call("POST", path, {**wrong_secret(), **kept}, '{"action": "pause"}')
    assert (refused.code, refused.headers["Connection"]) == (401, "close")
    read = await swarm.call("POST", path, {**swarm.owner(), **kept}, '{"action": "fly"}')
    assert (read.code, read.headers.get("Connection")) == (400, None)


async def test_secrets_need_no_cookie(swarm: Swarm) -> None:
    session = await swarm.open_session()
    instructor = await swarm.member(session, "instructor")
    paused = await swarm.call("POST", f"sessions/{session}/actions", instructor, '{"action": "pause"}')
    assert swarm.json(paused)["status"]["state"] == "paused"
    assert "instructor" in swarm.json(paused)["status"]["reason"]
    resumed = await swarm.call("POST", f"sessions/{session}/actions", swarm.kernel(), '{"action": "resume"}')
    assert swarm.json(resumed)["status"]["state"] == "waiting"


async def test_another_origin_may_watch_with_an_invite_and_not_with_a_cookie(swarm: Swarm) -> None:
    session = await swarm.open_session()
    elsewhere = {"Origin": "https://elsewhere.example"}
    path = f"sessions/{session}/watch"
    viewer = await swarm.member(session, "viewer")
    assert await swarm.connect(path, {**elsewhere, **await login(swarm)}) == 403
    assert isinstance(await swarm.connect(path, {**elsewhere, **viewer}), WebSocketClientConnection)


async def test_behind_a_tunnel_an_invite_is_good_and_the_owners_rights_are_not_to_be_borrowed(swarm: Swarm) -> None:
    session = await swarm.open_session()
    tunnel = {"Host": "quick-fox.tunnel.example"}
    viewer = await swarm.member(session, "viewer")
    assert (await swarm.call("GET", f"sessions/{session}", {**tunnel, **viewer})).code == 200
    assert (await swarm.call("GET", f"swarm/join/{session}", tunnel)).code == 200
    assert isinstance(await swarm.connect(f"sessions/{session}/watch", {**tunnel, **viewer}), WebSocketClientConnection)
    for headers in (await login(swarm), swarm.owner(), {**await login(swarm), "X-Swarm-Invite": "made-up"}, {}):
        assert (await swarm.call("GET", "sessions", {**tunnel, **headers})).code in (401, 403)


async def test_a_browser_brings_its_invite_as_a_subprotocol(swarm: Swarm) -> None:
    session = await swarm.open_session()
    secret = (await swarm.member(session, "viewer"))["X-Swarm-Invite"]
    socket = await swarm.connect(f"sessions/{session}/watch", protocols=["swarm.v1", secret])
    assert isinstance(socket, WebSocketClientConnection)
    assert socket.selected_subprotocol == "swarm.v1"
    assert await swarm.connect(f"sessions/{session}/watch", protocols=["swarm.v1", "x" * 36]) == 401
    assert await swarm.connect(f"sessions/{session}/watch", protocols=["swarm.v1"]) == 401


async def test_a_secret_in_the_query_is_not_looked_at(swarm: Swarm) -> None:
    session = await swarm.open_session()
    secret = (await swarm.member(session, "viewer"))["X-Swarm-Invite"]
    assert (await swarm.call("GET", f"sessions/{session}?X-Swarm-Invite={secret}&invite={secret}")).code == 401


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        ("sessions", "{", "could not be read"),
        ("sessions", '{"spec": {}}', "could not be read"),
        ("sessions/SESSION/actions", '{"action": "explode"}', "could not be read"),
        ("sessions/SESSION/invites", '{"role": "king"}', "could not be read"),
    ],
)
async def test_bodies_that_make_no_sense(swarm: Swarm, path: str, body: str, why: str) -> None:
    session = await swarm.open_session()
    answer = await swarm.call("POST", path.replace("SESSION", session), swarm.owner(), body)
    assert why in swarm.json(answer, 400)["what"]


class TestAuthenticationOff:
    """``jupyter server --IdentityProvider.token=''``: whoever reaches it can run code on it."""

    @pytest.fixture
    def jp_server_config(self, jp_server_config: Any) -> Any:
        jp_server_config.ServerApp.token = ""
        jp_server_config.IdentityProvider.token = ""
        return jp_server_config

    async def test_no_session_is_opened(self, swarm: Swarm) -> None:
        assert not swarm.app.identity_provider.auth_enabled
        for headers in ({}, swarm.kernel()):
            for verb, path, body in (
                ("POST", "sessions", opening()), ("PUT", f"blobs/{sha256(RECIPE)}", RECIPE), ("GET", "sessions", None)
            ):  # fmt: skip
                answer = await swarm.call(verb, path, headers, body)
                if headers or verb == "GET":
                    said = swarm.json(answer, 403)
                    assert "authentication switched off" in said["what"]
                    assert "Start it with a token" in said["todo"]
                else:
                    assert answer.code == 403


async def test_a_request_waits_until_the_stored_invites_are_known(swarm: Swarm) -> None:
    """A server that has started again answers before it has read them; its peers must not take that for a no."""
    session = await swarm.open_session()
    member = await swarm.member(session, "peer")
    swarm.manager._known.clear()
    asking = asyncio.ensure_future(swarm.call("GET", f"sessions/{session}", member))
    assert (await asyncio.wait([asking], timeout=0.2))[0] == set()
    swarm.manager._known.set()
    assert (await asking).code == 200
