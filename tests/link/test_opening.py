"""On the way to the server: proxies, TLS, names, and things that are no server."""

from __future__ import annotations

import base64
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from websockets.uri import parse_uri

from jupyter_swarm.link.opening import Unreachable, find_proxy, open_websocket
from jupyter_swarm.protocol.errors import LinkError
from tests.link.loopback import PATIENCE, Server, member, serving


class Proxy:
    """A CONNECT proxy that leads every name to 127.0.0.1 and writes down what it was asked."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> None:
        self.requests: list[str] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def _serve(self) -> None:
        with suppress(OSError):  # of `stop`
            while True:
                near, _ = self._listener.accept()
                self._sockets.append(near)
                if not self._lead(near):
                    return

    def _lead(self, near: socket.socket) -> bool:
        """Whether it was more than the wake-up call of `stop`."""
        request = b""
        while b"\r\n\r\n" not in request and (data := near.recv(4096)):
            request += data
        if not request:
            near.close()
            return False
        self.requests.append(request.decode())
        near.sendall(self._answer)
        if b" 200 " not in self._answer:
            near.close()
            return True
        far = socket.create_connection(("127.0.0.1", int(request.split(b" ")[1].rsplit(b":", 1)[1])))
        self._sockets.append(far)
        for source, sink in ((near, far), (far, near)):
            self._threads.append(threading.Thread(target=self._pump, args=(source, sink)))
            self._threads[-1].start()
        return True

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def stop(self) -> None:
        # Wakes `accept` on every system; closing the listener alone does not on Linux.
        self._listener.settimeout(0)
        with socket.socket() as wake:
            wake.connect_ex(("127.0.0.1", self.port))
        for one in [self._listener, *self._sockets]:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(PATIENCE)


@contextmanager
def proxy(*args: bytes) -> Iterator[Proxy]:
    one = Proxy(*args)
    try:
        yield one
    finally:
        one.stop()


def test_a_proxy_from_the_environment_is_used_with_its_password(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy() as between:
        monkeypatch.setenv("http_proxy", f"http://ann:p%40ss@127.0.0.1:{between.port}")
        with member(f"ws://swarm.test:{server.port}/") as one:
            one.link.wait(PATIENCE)
            upload = one.link.send_frames([b"through the tunnel"])
            assert one.frames.get(timeout=PATIENCE) == b"through the tunnel"
            assert upload.wait(PATIENCE)
        (request,) = between.requests
        assert request.startswith(f"CONNECT swarm.test:{server.port} HTTP/1.1\r\n")
        assert base64.b64encode(b"ann:p@ss").decode() in request
        assert server.expect("headers")["Host"] == f"swarm.test:{server.port}"


def test_a_proxy_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n") as between:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{between.port}")
        with member("wss://swarm.test/") as one:
            one.expect("connecting")
            assert "The proxy made no tunnel to swarm.test. It answered: 407" in one.expect("connecting")
        assert between.requests[0].startswith("CONNECT swarm.test:443 HTTP/1.1\r\n")


def test_which_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://secure:1")
    monkeypatch.setenv("http_proxy", "plain:2")
    monkeypatch.setenv("no_proxy", "inside.test")

    def chosen(url: str) -> tuple[str, int] | None:
        found = find_proxy(parse_uri(url))
        return found and (found.host, found.port)

    assert chosen("wss://swarm.test/") == ("secure", 1)
    assert chosen("wss://inside.test/") is None
    assert chosen("ws://localhost:8888/") is None
    assert chosen("ws://127.0.0.1:8888/") is None
    monkeypatch.delenv("https_proxy")
    assert chosen("ws://swarm.test/") == ("plain", 2)
    monkeypatch.setenv("http_proxy", "socks5://other:3")
    with pytest.raises(LinkError, match="only HTTP proxies"):
        chosen("ws://swarm.test/")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and self-signed certificate for localhost, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    both = folder / "both.pem"
    both.write_text((folder / "key.pem").read_text() + (folder / "cert.pem").read_text())
    return both


@pytest.fixture
def secure(certificate: Path) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(tls=context) as server:
        yield server


def test_frames_over_tls(secure: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    frames = [bytes([number]) * (1 << 20) for number in range(8)]
    with member(f"wss://localhost:{secure.port}/") as one:
        one.link.wait(PATIENCE)
        one.link.send_frames(frames)
        assert [one.frames.get(timeout=PATIENCE) for _ in frames] == frames


def test_a_certificate_that_nobody_trusts_is_a_reason(secure: Server) -> None:
    with member(f"wss://localhost:{secure.port}/") as one:
        one.expect("connecting")
        assert "No encrypted connection to localhost could be made. self" in one.expect("connecting")


def test_https_towards_a_server_without_tls_says_so(server: Server) -> None:
    with pytest.raises(Unreachable, match="use http:// in the link"):
        open_websocket(f"wss://localhost:{server.port}/", {}, 0.3, lambda sock: None)


def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(Unreachable, match=r"The name swarm\.invalid is not known"):
        open_websocket("ws://swarm.invalid/", {}, PATIENCE, lambda sock: None)


def answering(data: bytes) -> Iterator[int]:
    """A port where `data` is the answer to whatever is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            near, _ = listener.accept()
            with near, suppress(OSError):  # whoever asked may be gone
                near.recv(4096)
                near.sendall(data)
                near.shutdown(socket.SHUT_WR)
                near.recv(4096)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(PATIENCE)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not a WebSocket server"),
        (b"", "not a WebSocket server"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "not a WebSocket server"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "200 OK"),
        (b"HTTP/1.1 302 Found\r\nLocation: /hub/login\r\nContent-Length: 0\r\n\r\n", "302 Found"),
        (b"HTTP/1.1 599 \r\nContent-Length: 0\r\n\r\n", "599"),
    ],
)
def test_what_is_no_websocket_server(data: bytes, words: str) -> None:
    with contextmanager(answering)(data) as port, pytest.raises(Unreachable, match=words):
        open_websocket(f"ws://127.0.0.1:{port}/", {}, PATIENCE, lambda sock: None)


def test_a_machine_that_says_nothing_is_given_up_in_time() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        pytest.raises(Unreachable, match="did not answer within 0 s"),
    ):
        open_websocket(f"ws://127.0.0.1:{mute.getsockname()[1]}/", {}, 0.1, lambda sock: None)
