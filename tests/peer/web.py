"""Web servers that are not Jupyter's: what a mistyped link, a proxy or a hostile host may lead to."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import trustme

from jupyter_swarm.protocol.rules import SGD, SessionSettings, SessionSpec
from jupyter_swarm.strategies import EveryStep

SPEC = SessionSpec("toy", "0" * 64, "", EveryStep(8).rule(SGD(0.1)), SessionSettings(), 100, 0, "")


def described(**fields: Any) -> str:
    """What a server says of the session toy, with other `fields`."""
    status = {"version": 0, "state": "waiting", "peers": []}
    session = {"spec": msgspec.to_builtins(SPEC), "name": "toy", "your_role": "peer", "problem": "", "status": status}
    return json.dumps({**session, **fields})


class Site:
    """Answers by the end of the path, with a page for what it does not know; remembers what it was asked.

    connections: how many there were. ended: whether one has been closed by the other side.
    """

    def __init__(self, pages: Mapping[str, tuple[int, str]]) -> None:
        self.port = 0
        self.pages = pages
        self.asked: list[Mapping[str, str]] = []
        self.connections = 0
        self.ended = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def setup(self) -> None:
        super().setup()
        self.site.connections += 1

    def finish(self) -> None:
        super().finish()
        self.site.ended.set()

    def do_GET(self) -> None:
        self.site.asked.append(dict(self.headers))
        pages = self.site.pages.items()
        status, body = next((page for end, page in pages if self.path.endswith(end)), (200, "<h1>Hi</h1>"))
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if body.startswith("{") else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Set-Cookie", "login=ann; Path=/")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def answering(pages: Mapping[str, tuple[int, str]], context: ssl.SSLContext | None = None) -> Iterator[Site]:
    """An HTTP server, with TLS if there is a context."""
    site = Site(pages)
    handler = type("Handler", (_Handler,), {"site": site})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hangs up is meant
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        site.port = server.server_address[1]
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


def serving(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """What a server with this certificate needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context
