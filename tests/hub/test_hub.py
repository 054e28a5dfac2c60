"""Behind a JupyterHub: people outside reach a session through its proxy with their invite, and nothing else."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from jupyter_swarm.peer import api
from jupyter_swarm.peer.client import Client
from jupyter_swarm.peer.recipe import Recipe
from jupyter_swarm.peer.rehearsal import rehearse
from jupyter_swarm.protocol.invites import INVITE_HEADER, Invite, parse_invite
from tests.peer.classroom import PLAIN

from . import installed
from .jupyterhub import USER, Hub

pytestmark = [
    pytest.mark.skipif(not installed.is_installed(), reason=installed.ADVICE),
    pytest.mark.timeout(300),  # of which a hub and a user's server take most, to start
]

LONG = 10**6
# Of the user's Jupyter server, and of the hub.
REFUSED = [
    ("GET", "/api/contents"),
    ("GET", "/api/contents/hub.log"),
    ("PUT", "/api/contents/x.ipynb"),
    ("GET", "/files/x"),
    ("GET", "/api/kernels"),
    ("POST", "/api/kernels"),
    ("GET", "/api/kernelspecs"),
    ("GET", "/api/sessions"),
    ("POST", "/api/sessions"),
    ("GET", "/api/terminals"),
    ("POST", "/api/terminals"),
    ("GET", "/api/config/notebook"),
    ("PATCH", "/api/config/notebook"),
    ("GET", "/api/me"),
    ("GET", "/api/status"),
    ("GET", "/metrics"),
    ("POST", "/api/shutdown"),
    ("POST", "/api/security/csp-report"),
    ("GET", "/swarm/api/sessions"),
    ("POST", "/swarm/api/sessions"),
    ("GET", "/../../hub/api/users"),
    ("POST", "/../../hub/api/users/eve"),
    ("GET", f"/../../hub/api/users/{USER}"),
    ("DELETE", f"/../../hub/api/users/{USER}/server"),
    ("POST", f"/../../hub/api/users/{USER}/tokens"),
    ("GET", "/../../hub/api/proxy"),
    ("POST", "/../../hub/api/shutdown"),
    ("GET", "/../../hub/home"),
    ("GET", "/../../hub/admin"),
]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    hub = Hub(tmp_path_factory.mktemp("hub"))
    try:
        hub.start()
        yield hub
    finally:
        hub.stop()


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process is no kernel of the hub's."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    for name in ("JUPYTER_SWARM_SERVER", "JUPYTER_SWARM_OWNER"):
        monkeypatch.delenv(name, raising=False)
    yield
    for session in list(api._sessions.values()):
        session.leave()
    api._sessions.clear()


def owner_url(hub: Hub) -> str:
    return f"{hub.server}/?token={hub.token}"


@pytest.fixture
def session(hub: Hub, outside: None) -> Iterator[api.Session]:
    """Opened by the user, with the hub's token for them."""
    opened = api.host(Recipe.from_source(PLAIN), rounds=LONG, train=False, server=owner_url(hub))
    yield opened
    Client.of_owner(owner_url(hub)).delete(opened.id)


def link_to(hub: Hub, session: api.Session) -> str:
    """An invite by the address that really leads here, whatever the server has been called by before."""
    return Invite(hub.server, session.id, session.invite().secret).link


def invited(session: api.Session, role: Any = "peer") -> dict[str, str]:
    return {INVITE_HEADER: session.invite(role).secret}


def test_a_peer_outside_joins_by_the_invite_and_trains(hub: Hub, session: api.Session) -> None:
    page = httpx.get(f"{hub.server}/swarm/join/{session.id}", trust_env=False)
    assert page.status_code == 200
    assert "swarm" in page.text
    joined = api.join(link_to(hub, session), agree=session.recipe.sha256)
    assert joined._record.wait_for(lambda status: status.version >= 3, 60)
    assert joined.digest()


def test_forty_joins_from_one_address_all_succeed(hub: Hub, outside: None) -> None:
    found = rehearse(Recipe.from_source(PLAIN), 40, owner_url(hub), rounds=2)
    assert (found.joined, found.failures) == (40, ())
    assert found.ok, found


def test_with_only_the_invite_jupyter_and_the_hub_refuse(hub: Hub, session: api.Session) -> None:
    secret = session.invite("instructor").secret
    let_in = []
    for headers in (
        {INVITE_HEADER: secret},
        {"Authorization": f"token {secret}"},
        {"Authorization": f"Bearer {secret}"},
    ):
        for verb, path in REFUSED:
            answer = httpx.request(verb, f"{hub.server}{path}", headers=headers, content="{}", trust_env=False)
            login = re.search(r"/hub/(login|api/oauth2)", answer.headers.get("Location", ""))
            if not (login if answer.status_code == 302 else answer.status_code in (401, 403, 404, 405)):
                let_in.append((verb, path, answer.status_code, answer.text[:200]))
    assert not let_in


def test_a_kernel_is_not_to_be_talked_to_with_an_invite(hub: Hub, session: api.Session) -> None:
    kernel = hub.kernel()
    assert hub.execute(kernel, "print(6 * 7)") == "42\n"
    for headers in (invited(session, "instructor"), {}):
        with pytest.raises(InvalidStatus) as refused:
            hub.execute(kernel, "print(6 * 7)", headers)
        assert refused.value.response.status_code in (302, 401, 403)


def test_a_notebook_on_the_hub_makes_links_by_which_others_come(hub: Hub, outside: None) -> None:
    """Its kernel reaches the server by an address of this machine; the browser knows the right one."""
    tls = {"Host": "hub.school.example", "X-Forwarded-Proto": "https"}
    assert httpx.get(f"{hub.server}/api/me", headers={**hub.owner, **tls}, trust_env=False).status_code == 200
    code = f"""
import jupyter_swarm
session = jupyter_swarm.host(jupyter_swarm.Recipe.from_source({PLAIN!r}), train=False)
print("LINK", session.invite().link)
"""
    said = hub.execute(hub.kernel(), code)
    link = re.search(r"^LINK (\S+)$", said, re.MULTILINE)
    assert link is not None, said
    invite = parse_invite(link[1])
    assert invite.server == f"https://hub.school.example/class/user/{USER}"
    assert Client(hub.server, {INVITE_HEADER: invite.secret}).describe(invite.session)["your_role"] == "peer"


def test_a_browser_watches_through_the_proxy(hub: Hub, session: api.Session) -> None:
    secret = session.invite("viewer").secret
    url = f"{hub.server.replace('http', 'ws', 1)}/swarm/api/sessions/{session.id}/watch"

    async def first() -> Any:
        elsewhere: Any = "https://elsewhere.example"
        async with connect(url, subprotocols=["swarm.v1", secret], origin=elsewhere, proxy=None) as socket:  # type: ignore[list-item]
            return json.loads(await asyncio.wait_for(socket.recv(), 60))

    assert session.id in json.dumps(asyncio.run(first()))


def test_the_owner_steers_from_the_browser_with_cookies_and_nobody_else_does_with_them(
    hub: Hub, session: api.Session
) -> None:
    with httpx.Client(trust_env=False, follow_redirects=True) as browser:
        page = browser.get(f"{hub.url}/hub/login")
        xsrf = re.search(r'name="_xsrf" value="([^"]+)"', page.text)
        assert xsrf is not None
        browser.post(
            f"{hub.url}/hub/login",
            data={"username": USER, "password": hub.password, "_xsrf": xsrf[1]},
        )
        # As on a page of Jupyter's: the login goes on at the user's server.
        assert browser.get(f"{hub.server}/files/nothing").status_code == 404
        assert browser.get(f"{hub.server}/swarm/api/sessions").status_code == 200
        actions, pause = f"{hub.server}/swarm/api/sessions/{session.id}/actions", '{"action": "pause"}'
        assert browser.post(actions, content=pause).status_code == 403
        token = next(one.value for one in browser.cookies.jar if one.name == "_xsrf" and "/user/" in one.path)
        steered = browser.post(actions, content=pause, headers={"X-XSRFToken": str(token)})
        assert steered.status_code == 200, steered.text
        assert steered.json()["status"]["state"] == "paused"


def test_the_link_names_the_address_that_the_browser_has(hub: Hub, session: api.Session) -> None:
    """As behind a proxy of one's own that speaks TLS to the outside."""
    asked = httpx.post(
        f"{hub.server}/swarm/api/sessions/{session.id}/invites", content="{}", trust_env=False,
        headers={
            **hub.owner, "Host": "hub.school.example", "X-Forwarded-Proto": "https",
            "X-Forwarded-For": "203.0.113.7",
        },
    )  # fmt: skip
    assert asked.status_code == 201, asked.text
    assert parse_invite(asked.json()["link"]).server == f"https://hub.school.example/class/user/{USER}"


def test_a_class_that_trains_keeps_the_idle_culler_away(hub: Hub, session: api.Session) -> None:
    joined = api.join(link_to(hub, session), agree=session.recipe.sha256)
    assert joined._record.wait_for(lambda status: status.version >= 1, 60)
    begun = datetime.now(timezone.utc)

    def active() -> datetime:
        text = httpx.get(f"{hub.server}/api/status", headers=hub.owner, trust_env=False).json()["last_activity"]
        return datetime.fromisoformat(text.replace("Z", "+00:00"))

    until = time.monotonic() + 60
    while active() <= begun and time.monotonic() < until:
        time.sleep(0.5)
    assert active() > begun
