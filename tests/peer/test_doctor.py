"""The doctor against a real server, and against everything that is not one."""

from __future__ import annotations

import contextlib
import datetime
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx
import msgspec
import pytest
import trustme

from jupyter_swarm.cli import main
from jupyter_swarm.peer import api
from jupyter_swarm.peer.doctor import Diagnosis, doctor, estimate
from jupyter_swarm.peer.recipe import Recipe
from jupyter_swarm.protocol.invites import Invite, new_secret
from jupyter_swarm.protocol.rules import SGD, AdamW, Codec, SessionSettings, SessionSpec
from jupyter_swarm.strategies import EveryStep, LocalUpdates

from .classroom import PLAIN
from .conftest import Server

SPEC = SessionSpec("toy", "0" * 64, "", EveryStep(8).rule(SGD(0.1)), SessionSettings(), 100, 0, "")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def hosted(server: Server, kernel: None) -> api.Session:
    return api.host(Recipe.from_source(PLAIN), "cs101", train=False, server=server.url, preflight=False)


def problem(found: Diagnosis) -> tuple[str, str]:
    """The step that does not work, and all that is said of it; the steps after it were not tried."""
    assert not found.ok
    (bad,) = [step for step in found.steps if not step.ok]
    assert found.steps[-1] is bad
    assert bad.advice
    return bad.name, f"{bad.found} {bad.advice}"


# --- a real server


def test_a_good_invite_is_tried_to_the_end_and_joins_nothing(hosted: api.Session) -> None:
    invite = hosted.invite()
    found = doctor(f"  {invite.link}\n")
    assert found.ok, found
    assert [step.name for step in found.steps] == [
        "link", "proxy", "name", "TCP", "TLS", "HTTP", "invite", "WebSocket", "speed",
    ]  # fmt: skip
    assert found.up > 0
    assert found.down > 0
    assert found.round_trip > 0
    assert invite.secret not in str(found) + repr(found)
    assert hosted._client.records(hosted.id) == []
    assert hosted.peers() == []


def test_what_is_wrong_with_an_invite_is_in_the_servers_words(hosted: api.Session, server: Server) -> None:
    stranger = Invite(hosted.invite().server, hosted.id, new_secret())
    name, said = problem(doctor(stranger.link))
    assert name == "invite"
    assert "not accept" in said or "not good" in said or "no invite" in said.lower(), said
    assert stranger.secret not in said

    invite = hosted.invite(label="to revoke")
    base, _, token = server.url.partition("/?token=")
    owner = {"Authorization": f"token {token}"}
    listed = httpx.get(f"{base}/swarm/api/sessions/{hosted.id}/invites", headers=owner).json()["invites"]
    (number,) = [one["number"] for one in listed if one["label"] == "to revoke"]
    httpx.delete(f"{base}/swarm/api/sessions/{hosted.id}/invites/{number}", headers=owner).raise_for_status()
    assert problem(doctor(invite.link))[0] == "invite"


def test_a_mistyped_link_does_not_keep_it_from_the_network(hosted: api.Session) -> None:
    found = doctor(hosted.invite().link[:-3])
    assert [(step.name, step.ok) for step in found.steps] == [
        ("link", False), ("proxy", True), ("name", True), ("TCP", True), ("TLS", True), ("HTTP", True),
    ]  # fmt: skip


def test_a_viewer_is_told_that_viewers_do_not_train(hosted: api.Session) -> None:
    found = doctor(hosted.invite("viewer").link)
    assert found.steps[-1].name == "invite"
    assert "invite for a peer" in found.steps[-1].advice


def test_the_owners_address_shows_no_token(server: Server) -> None:
    found = doctor(server.url)
    assert found.ok
    assert server.url.rpartition("=")[2] not in str(found)


# --- no server, or another one


def test_a_closed_port() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    name, said = problem(doctor(Invite(f"http://127.0.0.1:{port}", "x-1", new_secret()).link))
    assert name == "TCP"
    assert str(port) in said


def test_an_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert problem(doctor("https://swarm.invalid/"))[0] == "name"


@pytest.mark.parametrize("text", ["", "hello", "https://", "ftp://host/swarm/join/x#y", "http://[::1/swarm/join/x#y"])
def test_what_is_no_link_is_said_and_not_raised(text: str) -> None:
    found = doctor(text)
    assert problem(found)[0] == "link"
    assert "not an invite link" in str(found)


class Answers(BaseHTTPRequestHandler):
    """Answers by path; what it does not know gets a page."""

    protocol_version = "HTTP/1.1"
    pages: ClassVar[dict[str, tuple[int, str]]]

    def do_GET(self) -> None:
        status, body = next((page for end, page in self.pages.items() if self.path.endswith(end)), (200, "<h1>Hi</h1>"))
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if body.startswith("{") else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def answering(pages: dict[str, tuple[int, str]], context: ssl.SSLContext | None = None) -> Iterator[int]:
    """An HTTP server, with TLS if there is a context; gives its port."""
    handler = type("Handler", (Answers,), {"pages": pages})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hangs up is meant
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_another_web_server() -> None:
    with answering({}) as port:
        name, said = problem(doctor(f"http://127.0.0.1:{port}/"))
    assert name == "HTTP"
    assert "not a Jupyter server with jupyter_swarm" in said


def test_a_proxy_that_lets_no_websocket_through() -> None:
    described = json.dumps(
        {
            "spec": msgspec.to_builtins(SPEC),
            "name": "toy",
            "your_role": "peer",
            "problem": "",
            "status": {"version": 0, "state": "waiting", "peers": []},
        }
    )
    pages = {"/api/sessions": (403, '{"what": "Only the owner."}'), "/sessions/toy-1": (200, described)}
    with answering(pages) as port:
        name, said = problem(doctor(Invite(f"http://127.0.0.1:{port}", "toy-1", new_secret()).link))
    assert name == "WebSocket"
    assert "200" in said


def test_a_socks_proxy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    name, said = problem(doctor("https://swarm.invalid/"))
    assert name == "proxy"
    assert "socks5" in said


def test_a_proxy_on_the_way_is_named_and_its_failure_told_from_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering({"": (502, "bad gateway")}) as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        found = doctor("http://swarm.invalid/")
    assert f"through 127.0.0.1, port {port}" in found.steps[1].found
    name, said = problem(found)
    assert name == "HTTP"
    assert "502" in said


# --- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def serving(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def tls_problem(context: ssl.SSLContext) -> str:
    with answering({}, context) as port:
        name, said = problem(doctor(f"https://127.0.0.1:{port}/"))
    assert name == "TLS"
    return said


def test_certificates_that_cannot_be_trusted_say_why(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "authority" in tls_problem(serving(authority.issue_cert("127.0.0.1")))

    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
    assert "has expired" in tls_problem(serving(authority.issue_cert("127.0.0.1", not_after=long_ago)))
    assert "another host name" in tls_problem(serving(authority.issue_cert("other.example")))


def test_a_self_signed_certificate(authority: trustme.CA, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    file = tmp_path / "own.pem"
    file.write_bytes(authority.private_key_pem.bytes() + authority.cert_pem.bytes())
    context.load_cert_chain(file)
    assert "self-signed" in tls_problem(context)


def test_a_server_without_tls_behind_https() -> None:
    with answering({}) as port:
        name, said = problem(doctor(f"https://127.0.0.1:{port}/"))
    assert name == "TLS"
    assert "http://" in said


# --- advice


def test_a_slow_link_gets_advice_for_what_it_does() -> None:
    million = 1_000_000
    fast = estimate(EveryStep(8).rule(SGD(0.1)), million, 0.001, 1e9, 1e9)
    slow = estimate(EveryStep(8).rule(SGD(0.1)), million, 0.1, 1e6, 1e6)
    local = estimate(LocalUpdates(50, 8, up=Codec.INT8, down=Codec.INT8).rule(AdamW(1e-3)), million, 0.1, 1e5, 1e5)
    assert fast[1] == ""
    assert "8.2 s" in slow[0]
    assert "LocalUpdates" in slow[1]
    assert "INT8" in slow[1]
    assert "once in 50 steps" in local[0]
    assert "LocalUpdates" not in local[1]
    assert "INT8" not in local[1]


def test_the_command_ends_with_1_on_problems(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", server.url.partition("/?")[0]]) == 0
    assert main(["doctor", "no link"]) == 1
    assert "PROBLEM" in capsys.readouterr().out
