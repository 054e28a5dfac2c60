"""The addresses that links and kernels get, for the ways in which a server can be reached."""

from __future__ import annotations

import pytest
from jupyter_server.serverapp import ServerApp

from jupyter_swarm.coordinator.addresses import is_loopback, local_url, public_url


def app_of(ip: str = "localhost", **traits: object) -> ServerApp:
    return ServerApp(ip=ip, port=8888, base_url="/user/ann/", **traits)


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
    assert public_url(app_of(), "https", "lab.example.org") == "https://lab.example.org/user/ann"
    assert public_url(app_of(), "http", "localhost:8888") == "http://localhost:8888/user/ann"


def test_a_request_from_this_machine_is_no_address_for_others() -> None:
    url = public_url(app_of("0.0.0.0"), "http", "127.0.0.1:8888")
    assert url.endswith(":8888/user/ann")
    shown = app_of("0.0.0.0", custom_display_url="https://lab.example.org/lab")
    assert public_url(shown, "http", "127.0.0.1:8888") == "https://lab.example.org/user/ann"


def test_a_hub_knows_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTERHUB_PUBLIC_URL", "https://hub.example.org/user/ann/")
    assert public_url(app_of(), "http", "127.0.0.1:8888") == "https://hub.example.org/user/ann"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost:8888", True), ("127.0.0.1", True), ("[::1]:8888", True), ("a.localhost", True),
        ("10.0.0.1:80", False), ("lab.example.org", False), ("localhost.example.org", False),
    ],
)  # fmt: skip
def test_what_is_reached_on_its_own_machine_only(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
