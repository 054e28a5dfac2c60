"""The addresses that links and kernels get, for the ways in which a server can be reached; who came from outside."""

from __future__ import annotations

import json
import socket
from typing import Any

import psutil
import pytest
from jupyter_server.serverapp import ServerApp
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from jupyter_swarm.coordinator.addresses import PublicAddress, from_elsewhere, local_url
from jupyter_swarm.protocol.errors import SettingError

from .server import Swarm


def app_of(ip: str = "localhost", **traits: object) -> ServerApp:
    return ServerApp(ip=ip, port=8888, base_url="/user/ann/", **traits)


class Connection:
    """What a request came on."""

    def __init__(self, remote_ip: str = "127.0.0.1", protocol: str = "http") -> None:
        self.context = self
        self.remote_ip = remote_ip
        self.protocol = protocol


def request(host: str, remote_ip: str = "127.0.0.1", protocol: str = "http", **headers: str) -> HTTPServerRequest:
    named = HTTPHeaders({"Host": host, **{name.replace("_", "-"): value for name, value in headers.items()}})
    line = RequestStartLine("POST", "/", "HTTP/1.1")
    connection: Any = Connection(remote_ip, protocol)
    return HTTPServerRequest(start_line=line, headers=named, connection=connection)


@pytest.mark.parametrize(
    ("ip", "url"),
    [
        ("localhost", "http://localhost:8888/user/ann"),
        ("", "http://127.0.0.1:8888/user/ann"),
        ("0.0.0.0", "http://127.0.0.1:8888/user/ann"),
        ("::", "http://[::1]:8888/user/ann"),
        ("10.1.2.3", "http://10.1.2.3:8888/user/ann"),
    ],
)
def test_kernels_on_this_machine(ip: str, url: str) -> None:
    assert local_url(app_of(ip)) == url


def test_a_unix_socket_has_no_address() -> None:
    assert local_url(app_of(sock="/tmp/jupyter.sock")) == ""


def test_people_elsewhere_get_the_address_that_the_request_used() -> None:
    address = PublicAddress(app_of(), "")
    assert address.base(request("lab.example.org", protocol="https")) == "https://lab.example.org/user/ann"
    assert address.base(request("localhost:8888")) == "http://localhost:8888/user/ann"


def test_a_request_from_this_machine_is_no_address_for_others() -> None:
    url = PublicAddress(app_of("0.0.0.0"), "").base(request("127.0.0.1:8888"))
    assert url.endswith(":8888/user/ann")
    shown = app_of("0.0.0.0", custom_display_url="https://lab.example.org/lab")
    assert PublicAddress(shown, "").base(request("127.0.0.1:8888")) == "https://lab.example.org/user/ann"


def test_what_is_known_better_counts_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Least first: each is better than those before, whatever else there is."""
    asking = request("lab-pc:8888")
    address = PublicAddress(app_of("0.0.0.0"), "")
    assert address.base(asking) == "http://lab-pc:8888/user/ann"
    address.see(request("proxy.example.org", Referer="https://proxy.example.org/user/ann/lab"))
    address.see(request("localhost:8888"))
    assert address.base(asking) == "https://proxy.example.org/user/ann"
    monkeypatch.setenv("JUPYTERHUB_PUBLIC_URL", "https://hub.example.org/user/ann/")
    assert address.base(asking) == "https://hub.example.org/user/ann"
    configured = PublicAddress(app_of(), "https://said.example.org/")
    assert configured.base(asking) == "https://said.example.org"
    told = "https://a.trycloudflare.com/user/ann/lab?token=secret"
    assert configured.base(asking, told) == "https://a.trycloudflare.com/user/ann"
    assert configured.base(asking, "http://localhost:8000/") == "https://said.example.org"
    monkeypatch.delenv("JUPYTERHUB_PUBLIC_URL")
    assert (
        PublicAddress(app_of(), "").base(request("localhost:8888"), "http://localhost:9/x/") == "http://localhost:9/x"
    )
    with pytest.raises(SettingError, match="not the address"):
        address.base(asking, "lab.example.org")


@pytest.mark.parametrize(
    ("headers", "protocol"),
    [
        ({}, "http"),
        ({"Origin": "https://lab.example.org"}, "https"),
        ({"Origin": "https://other.example.org"}, "http"),
        ({"Origin": "null", "X_Forwarded_Proto": "https, http"}, "https"),
        ({"X_Forwarded_Proto": "gopher"}, "http"),
    ],
)
def test_behind_a_proxy_that_ends_tls_the_link_says_https(headers: dict[str, str], protocol: str) -> None:
    base = PublicAddress(app_of(), "").base(request("lab.example.org", **headers))
    assert base == f"{protocol}://lab.example.org/user/ann"


def test_who_comes_from_elsewhere() -> None:
    own = next(
        (one.address for all_ in psutil.net_if_addrs().values() for one in all_ if one.family == socket.AF_INET), ""
    )
    assert not from_elsewhere(request("localhost:8888"))
    assert not from_elsewhere(request("[::1]:8888", remote_ip="::1"))
    assert not from_elsewhere(request(f"{socket.gethostname()}:8888", remote_ip=own or "127.0.0.1"))
    assert not from_elsewhere(request("127.0.0.1:8888", remote_ip="::ffff:127.0.0.1"))
    assert from_elsewhere(request("localhost:8888", remote_ip="203.0.113.7"))
    assert from_elsewhere(request("a.trycloudflare.com")), "a tunnel that ends on this machine"


async def invited(swarm: Swarm, session: str, **body: Any) -> dict[str, Any]:
    answer = await swarm.call("POST", f"sessions/{session}/invites", swarm.owner(), json.dumps(body))
    made: dict[str, Any] = swarm.json(answer, 201)
    return made


async def test_the_invite_says_how_far_it_reaches_and_whether_anybody_came_that_way(swarm: Swarm) -> None:
    session = await swarm.open_session()
    made = await invited(swarm, session)
    assert (made["reach"], made["outside"]) == ("machine", False)
    told = await invited(swarm, session, role="viewer", url="https://x.example.org/lab?token=abc")
    assert told["link"].startswith(f"https://x.example.org/swarm/watch/{session}#")
    assert (told["reach"], told["outside"]) == ("internet", False)
    wrong = await swarm.call("POST", f"sessions/{session}/invites", swarm.owner(), '{"url": "x.example.org"}')
    assert swarm.json(wrong, 400)["what"] == "This is not the address of a server."
    path = f"sessions/{session}"
    peer = await swarm.member(session, "peer")
    assert swarm.json(await swarm.call("GET", path, peer))["outside"] is False
    elsewhere = {**peer, "Host": "x.example.org"}
    assert swarm.json(await swarm.call("GET", path, elsewhere))["outside"] is True
    assert (await invited(swarm, session))["outside"] is True
    assert (
        swarm.json(await swarm.call("GET", f"sessions/{await swarm.open_session()}", swarm.owner()))["outside"] is False
    )


async def test_the_owners_browser_shows_the_way_wherever_it_goes(swarm: Swarm) -> None:
    """Any request to Jupyter will do; one that is not let in, or that comes from this machine, says nothing."""
    session = await swarm.open_session()
    swarm.app.web_app.settings["allow_remote_access"] = True
    swarm.app.allow_remote_access = True
    foreign = {"Host": "lab.example.org", "Origin": "https://lab.example.org"}
    await swarm._client.fetch(f"{swarm.base}api/status", headers=foreign, raise_error=False)
    assert (await invited(swarm, session))["reach"] == "machine"
    await swarm._client.fetch(f"{swarm.base}api/status", headers={**foreign, **swarm.owner()})
    made = await invited(swarm, session)
    assert made["link"].startswith(f"https://lab.example.org{swarm.base}swarm/join/{session}#")
    assert made["reach"] == "internet"
