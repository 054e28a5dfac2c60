"""Requests to a server, and to what is none of ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from jupyter_swarm.peer.client import Client
from jupyter_swarm.protocol.errors import LinkError, VersionMismatch

from .web import SPEC, answering, described, serving

pytestmark = pytest.mark.usefixtures("direct")

TOY = {"/sessions/toy-1": (200, described())}


def test_no_request_depends_on_one_before_it() -> None:
    with answering(TOY) as site:
        client = Client(f"http://127.0.0.1:{site.port}", {})
        for number in (1, 2, 3):
            assert client.spec("toy-1") == SPEC
            assert site.ended.wait(60), "the connection is closed"
            site.ended.clear()
            assert site.connections == number
        assert not any("Cookie" in headers for headers in site.asked), "nobody is logged in by the way"


@pytest.mark.parametrize("body", ["{", "<h1>Sign in</h1>", "{}"])
def test_what_answers_otherwise_than_jupyter_swarm_is_said(body: str) -> None:
    with answering({"": (200, body)}) as site, pytest.raises((LinkError, VersionMismatch), match="jupyter_swarm"):
        Client(f"http://127.0.0.1:{site.port}", {}).spec("toy-1")


def test_a_session_of_a_newer_version_is_said() -> None:
    newer = described(spec={"name": "toy", "rule": {"optimizer": {"type": "muon"}}})
    with answering({"": (200, newer)}) as site, pytest.raises(VersionMismatch, match="toy-1") as refused:
        Client(f"http://127.0.0.1:{site.port}", {}).spec("toy-1")
    assert "the version that the server has" in refused.value.todo


def test_the_certificate_of_an_authority_that_the_user_trusts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    with answering(TOY, serving(authority.issue_cert("127.0.0.1"))) as site:
        address = f"https://127.0.0.1:{site.port}"
        with pytest.raises(LinkError, match="cannot be reached"):
            Client(address, {}).spec("toy-1")
        authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        assert Client(address, {}).spec("toy-1") == SPEC


def test_a_proxy_that_cannot_be_used_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "gopher://proxy:70")
    with pytest.raises(LinkError, match="nothing can be asked") as refused:
        Client("http://swarm.invalid", {}).spec("toy-1")
    assert "ALL_PROXY" in refused.value.todo


def test_a_kernel_of_the_server_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_SWARM_SERVER", "http://127.0.0.1:9")
    monkeypatch.setenv("JUPYTER_SWARM_OWNER", "secret")
    assert Client.of_owner().server == Client.of_owner("http://127.0.0.1:9/lab").server == "http://127.0.0.1:9"
    assert "secret" not in repr(Client.of_owner())
    with pytest.raises(LinkError, match="does not know you"):
        Client.of_owner("http://127.0.0.1:10/lab")
