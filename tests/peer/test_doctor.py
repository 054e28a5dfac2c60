"""The doctor against a real server, and against everything that is not one."""

from __future__ import annotations

import datetime
import socket
import ssl
from pathlib import Path

import httpx
import pytest
import trustme

from jupyter_swarm.cli import main
from jupyter_swarm.peer import api
from jupyter_swarm.peer.diagnosis import Diagnosis
from jupyter_swarm.peer.doctor import doctor
from jupyter_swarm.peer.recipe import Recipe
from jupyter_swarm.protocol.invites import Invite, new_secret

from .classroom import PLAIN
from .conftest import Server
from .web import answering, described, serving

pytestmark = pytest.mark.usefixtures("direct")


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
    found = doctor(f"  <{invite.link}>\n")
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


def test_another_web_server() -> None:
    with answering({}) as site:
        name, said = problem(doctor(f"http://127.0.0.1:{site.port}/"))
    assert name == "HTTP"
    assert "not a Jupyter server with jupyter_swarm" in said


def test_a_proxy_that_lets_no_websocket_through() -> None:
    pages = {"/api/sessions": (403, '{"what": "Only the owner."}'), "/sessions/toy-1": (200, described())}
    with answering(pages) as site:
        name, said = problem(doctor(Invite(f"http://127.0.0.1:{site.port}", "toy-1", new_secret()).link))
    assert name == "WebSocket"
    assert "200" in said


def test_a_session_that_does_not_run() -> None:
    pages = {"/api/sessions": (403, '{"what": "Only the owner."}'),
             "/sessions/toy-1": (200, described(status=None, problem="Its disk is full."))}  # fmt: skip
    with answering(pages) as site:
        name, said = problem(doctor(Invite(f"http://127.0.0.1:{site.port}", "toy-1", new_secret()).link))
    assert name == "invite"
    assert "Its disk is full." in said


def test_a_socks_proxy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    name, said = problem(doctor("https://swarm.invalid/"))
    assert name == "proxy"
    assert "socks5" in said


def test_a_proxy_on_the_way_is_named_and_its_failure_told_from_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering({"": (502, "bad gateway")}) as site:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{site.port}")
        found = doctor("http://swarm.invalid/")
    assert f"through 127.0.0.1, port {site.port}" in found.steps[1].found
    name, said = problem(found)
    assert name == "HTTP"
    assert "502" in said


# --- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls_problem(context: ssl.SSLContext) -> str:
    with answering({}, context) as site:
        name, said = problem(doctor(f"https://127.0.0.1:{site.port}/"))
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
    with answering({}) as site:
        name, said = problem(doctor(f"https://127.0.0.1:{site.port}/"))
    assert name == "TLS"
    assert "http://" in said


# --- the command


def test_the_command_ends_with_1_on_problems(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", server.url.partition("/?")[0]]) == 0
    assert main(["doctor", "no link"]) == 1
    assert "PROBLEM" in capsys.readouterr().out
