"""What stands between this machine and a session: name, proxy, TLS, invite, WebSocket, speed, each looked at by itself.

    print(doctor("https://host/swarm/join/cs101-7f3a#…"))

Nobody joins by this: the last thing said to the server is a `Hello` that agrees to no recipe, which it must refuse.
"""

from __future__ import annotations

import base64
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
from websockets.uri import WebSocketURI, parse_uri

from .. import __version__
from ..link.opening import Opened, find_proxy, open_websocket
from ..link.wire import BINARY, CLOSE, TEXT, Reader, Writer
from ..protocol.errors import InviteError, LinkError, ProtocolError, SwarmError, VersionMismatch
from ..protocol.frames import HEADER_BYTES, Header, Kind, session_tag
from ..protocol.invites import Invite, parse_invite
from ..protocol.layout import CHUNK_ELEMENTS, Stream
from ..protocol.messages import PROTOCOL_VERSION, Hello, Refused, encode, read_to_member
from ..protocol.rules import Codec, RoundRule, SessionSpec
from ..shards.codecs import encoded_bytes
from .client import Client

_ECHO_SECONDS = 60.0
_PINGS = 3
_BLOCKED = "Something on the way (a proxy, a virus scanner) stops WebSockets: try another network, or ask for them."
_SLOW_ROUND_SECONDS = 2.0
_NO_RECIPE = "0" * 64
_SHOWN_DIGITS = 12
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


class Step(msgspec.Struct, frozen=True):
    """One thing that was looked at: whether it works, what was found, what to do about it."""

    name: str
    ok: bool
    found: str
    advice: str = ""


class Diagnosis(msgspec.Struct, frozen=True):
    """What `doctor` found, in the order in which a connection is made. Speeds in bytes/s, round trip in seconds; 0:
    not measured. `print` it; no secret is in it."""

    server: str
    steps: tuple[Step, ...]
    round_trip: float = 0.0
    up: float = 0.0
    down: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing stands in the way."""
        return all(step.ok for step in self.steps)

    def __str__(self) -> str:
        width = max(len(step.name) for step in self.steps)
        lines = [f"From this machine to {self.server}:" if self.server else "The link:"]
        for step in self.steps:
            lines.append(f"  {'ok     ' if step.ok else 'PROBLEM'}  {step.name:<{width}}  {step.found}")
            if step.advice:
                lines.append(f"{'':{width + 13}}{'->'} {step.advice}")
        lines.append("Nothing stands in the way." if self.ok else "Mend the first problem, then ask again.")
        return "\n".join(lines)

    __repr__ = __str__


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
        self._invite: Invite | None = None
        self._spec: SessionSpec | None = None
        self._role = ""
        self._version = 0
        self._echo = (0.0, 0.0, 0.0)

    def run(self) -> Diagnosis:
        link_ok = self._try("link", self._link)
        if self._server:
            checks: dict[str, Callable[[], _Found]] = {
                "proxy": self._proxy, "name": self._name, "TCP": self._tcp, "TLS": self._tls, "HTTP": self._http,
            }  # fmt: skip
            if link_ok and self._invite:
                checks |= {"invite": self._membership, "WebSocket": self._websocket, "speed": self._estimate}
            for name, check in checks.items():
                if not self._try(name, check) or self._role not in ("", "peer", "holder"):
                    break
        return Diagnosis(self._server, tuple(self._steps), *self._echo)

    def _try(self, name: str, check: Callable[[], _Found]) -> bool:
        try:
            found = check()
            said, advice = (found, "") if isinstance(found, str) else found
            step = Step(name, True, said, advice)
        except SwarmError as error:
            step = Step(name, False, f"{error.what} {error.why}".strip(), error.todo)
        except (OSError, EOFError, ValueError, HTTPException, httpx.HTTPError, ImportError) as error:
            step = Step(name, False, f"{type(error).__name__}: {error}", "Try again; then show this to the instructor.")
        self._steps.append(step)
        return step.ok

    # --- one step each: what was found, or an error that says what is wrong

    def _link(self) -> str:
        text = "".join(self._text.split())
        try:
            parts = urlsplit(text)
            host = parts.hostname if parts.port != 0 else None
        except ValueError:
            host = None
        if host and parts.scheme in ("http", "https"):
            # Without a user's name and password, a token, or the invite's secret.
            place = parts.netloc.rpartition("@")[2]
            path = parts.path.partition("/swarm/join/")[0].rstrip("/").removesuffix("/lab").removesuffix("/tree")
            self._server = f"{parts.scheme}://{place}{path}"
        if self._server and not parts.fragment and "/swarm/join/" not in parts.path:
            return "The address of a server; an invite link would be tried to the end."
        self._invite = parse_invite(text)
        return f"An invite to {self._invite.session}, complete."

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
        invite = self._invite
        assert invite is not None
        described = Client.of_member(invite).describe(invite.session)
        self._spec = msgspec.convert(described["spec"], SessionSpec)
        status = described["status"]
        if status is None:
            raise InviteError("The invite is good, but the session does not run.", described["problem"])
        self._version = status["version"]
        role = self._role = described["your_role"]
        found = f"Good, for a {role}: {described['name']}, {status['state']}, {len(status['peers'])} connected."
        return found, "" if role in ("peer", "holder") else f"A {role} cannot train: that takes an invite for a peer."

    def _websocket(self) -> str:
        invite = self._invite
        assert invite is not None
        member = Client.of_member(invite)
        try:
            opened = open_websocket(
                member.socket_url(invite.session), member.headers, self._seconds, lambda socket: None
            )
        except LinkError as error:
            raise LinkError(error.what, error.why, error.todo or _BLOCKED) from None
        late = threading.Event()

        def cut() -> None:
            late.set()
            socket.socket.shutdown(opened.socket, socket.SHUT_RDWR)

        timer = threading.Timer(_ECHO_SECONDS, cut)
        timer.daemon = True
        timer.start()
        try:
            self._echo = _measure(opened, invite.session)
            if self._role == "peer":
                _hello(opened)
        except (OSError, EOFError):
            raise LinkError(
                "The WebSocket opens, but what is sent does not come back"
                + (f" within {_ECHO_SECONDS:.0f} s." if late.is_set() else ": the connection is cut."),
                todo=_BLOCKED,
            ) from None
        finally:
            timer.cancel()
            opened.stream.close()
            opened.socket.close()
        trip, up, down = self._echo
        return (
            f"Open; 1 MiB came back whole. Round trip {1000 * trip:.0f} ms, up {up / 1e6:.3g} MB/s, "
            f"down {down / 1e6:.3g} MB/s."
        )

    def _estimate(self) -> tuple[str, str]:
        invite, spec = self._invite, self._spec
        assert invite is not None
        assert spec is not None
        size = Client.of_member(invite).blob_size(invite.session, spec.initial) if spec.initial else 0
        trip, up, down = self._echo
        return estimate(spec.rule_of(self._version + 1), size // 4, trip, up, down)


def estimate(rule: RoundRule, elements: int, trip: float, up: float, down: float) -> tuple[str, str]:
    """What a round of `rule` costs on a link of `up` and `down` bytes/s, in words, and what would make it cheaper."""
    stream = rule.stream(Stream.GRADIENT)
    sent, received = encoded_bytes(stream.up, elements), encoded_bytes(stream.down, elements)
    seconds = sent / up + received / down + 2 * trip
    once = f"once in {rule.inner_steps} steps" if rule.work == "steps" else "at every step"
    found = f"{sent / 1e6:.3g} MB up and {received / 1e6:.3g} MB down {once}: about {seconds:.2g} s a round."
    if seconds < _SLOW_ROUND_SECONDS:
        return found, ""
    advice = []
    if rule.work == "samples":
        advice.append(f"LocalUpdates(steps=50) sends as much once in 50 steps: {seconds / 50:.2g} s a step.")
    if Codec.FP32 in (stream.up, stream.down):
        advice.append("Codec.FP16 up and down halves the bytes, Codec.INT8 quarters them.")
    return found, " ".join(advice)


class _Timed:
    """A stream that remembers when the first bytes of a message came."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.first = 0.0

    def readinto(self, view: memoryview) -> int:
        got = int(self._stream.readinto(view) or 0)
        self.first = self.first or time.monotonic()
        return got


def _measure(opened: Opened, session: str) -> tuple[float, float, float]:
    """Round trip in seconds, bytes/s up and down. The server sends a frame back when it has all of it, so the time to
    the answer's first byte is that of the way up."""
    timed = _Timed(opened.stream)
    reader, writer = Reader(timed), Writer(opened.socket)

    def send_and_hear(count: int, number: int) -> tuple[float, float]:
        frame = bytearray(HEADER_BYTES + 4 * count)
        Header(
            Kind.ECHO, Stream.GRADIENT, Codec.FP32, session_tag(session), 0, 0, number, 0, 0, count, 4 * count
        ).pack_into(frame)
        frame[HEADER_BYTES::997] = bytes([number % 251 + 1]) * len(frame[HEADER_BYTES::997])
        start = time.monotonic()
        writer.write(BINARY, frame)
        while True:
            timed.first = 0.0
            opcode, payload = reader.read(_on_control)
            if opcode == BINARY:
                break
            said = read_to_member(bytes(payload))
            if isinstance(said, Refused):
                raise ProtocolError(said.what, said.why, said.todo or "Install the same jupyter_swarm as the server.")
        end = time.monotonic()
        if payload != frame:
            raise LinkError("What came back is not what was sent.", todo="A proxy on the way changes it: avoid it.")
        return timed.first - start, end - timed.first

    trip = min(sum(send_and_hear(1, number)) for number in range(_PINGS))
    times: list[tuple[float, float]] = []
    start = time.monotonic()
    while len(times) < _PINGS and time.monotonic() - start < _ECHO_SECONDS / 4:
        times.append(send_and_hear(CHUNK_ELEMENTS, len(times)))
    size = 4 * CHUNK_ELEMENTS
    up, down = min(up for up, _ in times) - trip, min(down for _, down in times)
    return trip, size / max(up, 1e-6), size / max(down, 1e-6)


def _on_control(opcode: int, payload: bytes) -> None:
    if opcode == CLOSE:
        raise EOFError(payload[2:].decode("utf-8", "replace"))


def _hello(opened: Opened) -> None:
    """Be refused for the recipe, which the server looks at after the version and the role."""
    hello = Hello(PROTOCOL_VERSION, __version__, "peer", "doctor", agreed=_NO_RECIPE)
    Writer(opened.socket).write(TEXT, encode(hello).encode())
    reader = Reader(opened.stream)
    while True:
        opcode, payload = reader.read(_on_control)
        said = read_to_member(bytes(payload)) if opcode == TEXT else None
        if isinstance(said, Refused):
            break
    if _NO_RECIPE[:_SHOWN_DIGITS] not in said.why:
        raise VersionMismatch(said.what, said.why, said.todo)
