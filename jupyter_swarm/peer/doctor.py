"""What stands between this machine and a session: name, proxy, TLS, invite, WebSocket, speed, each looked at by itself.

    print(doctor("https://host/swarm/join/cs101-7f3a#…"))

Nobody joins by this: the last thing said to the server is a `Hello` that agrees to no recipe, which it must refuse.
"""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from queue import Empty, SimpleQueue
from typing import Any

from websockets.uri import WebSocketURI, parse_uri

from ..decisions.links import mbit_text
from ..link.opening import find_proxy, open_websocket
from ..protocol.addresses import base_of
from ..protocol.errors import InviteError, LinkError, SwarmError
from ..protocol.invites import parse_invite
from ..protocol.rules import SessionSpec
from .client import Client
from .diagnosis import Diagnosis, Step
from .echo import ECHO_SECONDS, Speed, be_refused, estimate, measure

_PAGE = re.compile("/swarm/(?:join|watch)/")
_BLOCKED = "Something on the way (a proxy, a virus scanner) stops WebSockets: try another network, or ask for them."
# https://www.openssl.org/docs/man3.0/man3/X509_STORE_CTX_get_error.html
_UNKNOWN_AUTHORITY = (
    "Its certificate is signed by an authority that this machine does not know.",
    "Set SSL_CERT_FILE to that authority's certificate: usual in schools and firms that look into all traffic. Or the "
    "server must send the whole chain of certificates.",
)
_OTHER_HOST = ("Its certificate is for another host name.", "Use the name in the link that the certificate is for.")
_CERTIFICATE = {
    9: ("Its certificate is not valid yet.", "Check this machine's clock."),
    10: ("Its certificate has expired.", "Ask whoever runs the server to renew it; check this machine's clock."),
    18: ("Its certificate is self-signed.", "Set SSL_CERT_FILE to a copy of it that you got from the server's owner."),
    19: _UNKNOWN_AUTHORITY,
    20: _UNKNOWN_AUTHORITY,
    62: _OTHER_HOST,
    64: _OTHER_HOST,
}


_Found = tuple[str, str] | str
"""What a step found, and perhaps an advice."""


def doctor(link: str, seconds: float = 10.0) -> Diagnosis:
    """Try all that joining needs, with an invite `link` or as far as a server's address goes, and say what is found.

    Joins nothing and runs no recipe. seconds: longest that one step waits (the echo of 1 MiB: 60). What goes wrong is
    in the result; nothing is raised for it.
    """
    return _Examination(link, seconds).run()


class _Examination:
    def __init__(self, link: str, seconds: float) -> None:
        self._text = link
        self._seconds = seconds
        self._steps: list[Step] = []
        self._server = ""
        self._session = ""
        self._client = Client("", {})
        self._spec: SessionSpec
        self._role = ""
        self._version = 0
        self._speed = Speed()

    def run(self) -> Diagnosis:
        link_ok = self._try("link", self._link)
        if self._server:
            checks: dict[str, Callable[[], _Found]] = {
                "proxy": self._proxy, "name": self._name, "TCP": self._tcp, "TLS": self._tls, "HTTP": self._http,
            }  # fmt: skip
            if link_ok and self._session:
                checks |= {"invite": self._membership, "WebSocket": self._websocket, "speed": self._estimate}
            for name, check in checks.items():
                if not self._try(name, check) or self._role not in ("", "peer", "holder"):
                    break
        return Diagnosis(self._server, tuple(self._steps), *self._speed)

    def _try(self, name: str, check: Callable[[], _Found]) -> bool:
        try:
            found = check()
            said, advice = (found, "") if isinstance(found, str) else found
            step = Step(name, True, said, advice)
        except SwarmError as error:
            step = Step(name, False, f"{error.what} {error.why}".strip(), error.todo)
        except (OSError, EOFError, ValueError, HTTPException) as error:
            step = Step(name, False, f"{type(error).__name__}: {error}", "Try again; then show this to the instructor.")
        self._steps.append(step)
        return step.ok

    # --- one step each: what was found, or an error that says what is wrong

    def _link(self) -> str:
        text = "".join(self._text.split())
        with contextlib.suppress(LinkError):
            self._server = base_of(_PAGE.split(text)[0])
        if self._server and "#" not in text and not _PAGE.search(text):
            return "The address of a server; an invite link would be tried to the end."
        invite = parse_invite(text)
        self._server, self._session, self._client = base_of(invite.server), invite.session, Client.of_member(invite)
        return f"An invite to {invite.session}, complete."

    @property
    def _uri(self) -> WebSocketURI:
        return parse_uri(f"ws{self._server.removeprefix('http')}/")

    def _proxy(self) -> str:
        proxy = find_proxy(self._uri)
        return f"The way leads through {proxy.host}, port {proxy.port}." if proxy else "None on the way."

    @property
    def _first_host(self) -> tuple[str, int]:
        proxy = find_proxy(self._uri)
        return (proxy.host, proxy.port) if proxy else (self._uri.host, self._uri.port)

    def _name(self) -> str:
        host, port = self._first_host
        found: SimpleQueue[list[Any] | OSError] = SimpleQueue()

        def look_up() -> None:
            try:
                found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            except (OSError, UnicodeError) as error:
                found.put(OSError(str(error)))

        # A look-up cannot be given up; its thread ends by itself.
        threading.Thread(target=look_up, daemon=True).start()
        try:
            answer = found.get(timeout=self._seconds)
        except Empty:
            answer = OSError(f"no answer within {self._seconds:.0f} s")
        if isinstance(answer, OSError):
            raise LinkError(
                f"The name {host} is not known.", f"({answer})", "Check the link, and that this machine is online."
            )
        addresses = dict.fromkeys(str(entry[4][0]) for entry in answer)
        return f"{host} is {', '.join(addresses)}."

    def _tcp(self) -> str:
        host, port = self._first_host
        start = time.monotonic()
        try:
            socket.create_connection((host, port), self._seconds).close()
        except TimeoutError:
            raise LinkError(
                f"{host}, port {port}, does not answer.",
                todo="The server is switched off, or a firewall swallows the port: try another network.",
            ) from None
        except ConnectionRefusedError:
            raise LinkError(
                f"{host} answers, but nothing listens on its port {port}.",
                todo="Check the port in the link, and that the server runs.",
            ) from None
        return f"{host}, port {port}, answers in {1000 * (time.monotonic() - start):.0f} ms."

    def _tls(self) -> str:
        uri = self._uri
        if not uri.secure:
            return "None: the link begins with http://, so others on the way can read along."
        host, port = self._first_host
        # create_default_context is what the connection itself uses.
        connection: HTTPConnection = HTTPSConnection(
            host, port, timeout=self._seconds, context=ssl.create_default_context()
        )
        proxy = find_proxy(uri)
        if proxy:
            secret = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
            connection.set_tunnel(
                uri.host, uri.port, {"Proxy-Authorization": f"Basic {secret}"} if proxy.username else {}
            )
        try:
            connection.connect()
            return f"{getattr(connection.sock, 'version', str)()}, the certificate is good."
        except ssl.SSLCertVerificationError as error:
            why, todo = _CERTIFICATE.get(error.verify_code, (f"{error.verify_message}.", "Show this to its owner."))
            raise LinkError(f"{uri.host} cannot prove who it is.", why, todo) from None
        except ssl.SSLError as error:
            raise LinkError(
                f"What listens at {uri.host}, port {uri.port}, does not speak TLS.",
                error.reason or str(error),
                "If the server has no certificate, the link begins with http://.",
            ) from None
        except TimeoutError:
            raise LinkError(
                f"{uri.host} does not answer in TLS.", todo="Check the port; does the link begin with http://?"
            ) from None
        finally:
            connection.close()

    def _http(self) -> str:
        answer = Client(self._server, {}).probe(self._seconds)
        if answer.ours:
            return "jupyter_swarm answers."
        if answer.status in (502, 503, 504):
            raise LinkError(
                f"Something in front of the server answers in its place, with HTTP status {answer.status}.",
                todo="The Jupyter server behind it is not running or not ready: wait, or tell its owner.",
            )
        raise LinkError(
            "What answers is not a Jupyter server with jupyter_swarm.",
            f"HTTP status {answer.status}{' from ' + answer.software if answer.software else ''}.",
            "Check the link; install jupyter_swarm where that Jupyter server runs and start it again.",
        )

    def _membership(self) -> tuple[str, str]:
        described = self._client.describe(self._session)
        self._spec = described["spec"]
        status = described["status"]
        if status is None:
            todo = "Ask whoever hosts the session."
            raise InviteError("The invite is good, but the session does not run.", described["problem"], todo)
        self._version = status["version"]
        role = self._role = described["your_role"]
        found = f"Good, for a {role}: {described['name']}, {status['state']}, {len(status['peers'])} connected."
        return found, "" if role in ("peer", "holder") else f"A {role} cannot train: that takes an invite for a peer."

    def _websocket(self) -> str:
        url = self._client.socket_url(self._session)
        try:
            opened = open_websocket(url, self._client.headers, self._seconds, lambda socket: None)
        except LinkError as error:
            raise LinkError(error.what, error.why, error.todo or _BLOCKED) from None
        late = threading.Event()

        def cut() -> None:
            late.set()
            socket.socket.shutdown(opened.socket, socket.SHUT_RDWR)

        timer = threading.Timer(ECHO_SECONDS, cut)
        timer.daemon = True
        timer.start()
        try:
            self._speed = measure(opened, self._session)
            if self._role == "peer":
                be_refused(opened)
        except (OSError, EOFError):
            raise LinkError(
                "The WebSocket opens, but what is sent does not come back"
                + (f" within {ECHO_SECONDS:.0f} s." if late.is_set() else ": the connection is cut."),
                todo=_BLOCKED,
            ) from None
        finally:
            timer.cancel()
            opened.stream.close()
            opened.socket.close()
        trip, up, down = self._speed
        return (
            f"Open; 1 MiB came back whole. Round trip {1000 * trip:.0f} ms, {mbit_text(up)} up, {mbit_text(down)} down."
        )

    def _estimate(self) -> tuple[str, str]:
        spec = self._spec
        size = self._client.blob_size(self._session, spec.initial) if spec.initial else 0
        return estimate(spec.rule_of(self._version + 1), size // 4, self._speed)
