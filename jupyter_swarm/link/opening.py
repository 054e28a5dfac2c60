"""From a URL to an open WebSocket: proxy, TCP, TLS, handshake, each with a deadline and a reason when it fails."""

from __future__ import annotations

import base64
import logging
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Mapping
from http import HTTPStatus
from io import BufferedReader
from typing import NamedTuple, cast
from urllib.parse import unquote, urlsplit

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake
from websockets.http11 import Response
from websockets.uri import WebSocketURI, parse_uri

from ..protocol.errors import InviteError, LinkError, ProtocolError, SessionError, SwarmError
from ..protocol.messages import Refused, read_to_member

READ_AHEAD = 16 << 10

# Belongs to no hierarchy and never writes: at level DEBUG the library logs all headers, and one carries the invite.
_SILENT = logging.Logger("jupyter_swarm.handshake", logging.CRITICAL)


class Unreachable(LinkError):
    """The server could not be reached this time; it is worth another try."""


class Opened(NamedTuple):
    """A WebSocket after its handshake; `stream` may already hold the first bytes of the first message."""

    socket: socket.socket
    stream: BufferedReader


def open_websocket(
    url: str,
    headers: Mapping[str, str],
    seconds: float,
    register: Callable[[socket.socket], None],
) -> Opened:
    """Connect to `url` (ws or wss) within `seconds`. Each socket goes to `register` first, so that others can cut it.

    HTTP proxies are taken from the environment or the system, as `urllib` finds them; TLS trusts what the system
    trusts, and SSL_CERT_FILE. Raises `Unreachable`, and for what another try cannot mend `InviteError`,
    `SessionError` or `LinkError`.
    """
    uri = parse_uri(url)
    deadline = time.monotonic() + seconds
    proxy = find_proxy(uri)
    sock = _dial(proxy.host if proxy else uri.host, proxy.port if proxy else uri.port, deadline, register)
    try:
        if proxy:
            _tunnel(sock, uri, proxy, deadline)
        if uri.secure:
            # The handshake comes apart, so that it too can be cut.
            context = ssl.create_default_context()
            sock = context.wrap_socket(sock, server_hostname=uri.host, do_handshake_on_connect=False)
            register(sock)
            _encrypt(sock, uri.host, deadline)
        return Opened(sock, _handshake(sock, uri, headers, deadline))
    except TimeoutError:
        sock.close()
        raise Unreachable(f"{uri.host} did not answer within {seconds:.0f} s.") from None
    except (OSError, ValueError) as error:
        sock.close()
        raise Unreachable(f"The connection to {uri.host} broke while it was being opened.", str(error)) from None
    except BaseException:
        sock.close()
        raise


def _limit(sock: socket.socket, deadline: float) -> None:
    """Let no call on the socket wait past the deadline. Raises TimeoutError when it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    sock.settimeout(left)


class _Proxy(NamedTuple):
    host: str
    port: int
    username: str
    password: str


def find_proxy(uri: WebSocketURI) -> _Proxy | None:
    """The HTTP proxy on the way to `uri`, if any; never one for this machine itself. Raises `LinkError`."""
    if uri.host == "localhost" or uri.host.startswith("127.") or uri.host == "::1":
        return None
    if urllib.request.proxy_bypass(f"{uri.host}:{uri.port}"):
        return None
    known = urllib.request.getproxies()
    names = ("wss", "https", "all") if uri.secure else ("ws", "https", "http", "all")
    found = next((known[name] for name in names if known.get(name)), None)
    if found is None:
        return None
    parts = urlsplit(found if "://" in found else f"http://{found}")
    if parts.scheme != "http" or not parts.hostname:
        raise LinkError(
            f"The proxy at {parts.hostname} cannot be used.",
            f"It is a proxy of the kind {parts.scheme}; only HTTP proxies are supported.",
            f"Set HTTPS_PROXY to an address that begins with http://, or add {uri.host} to NO_PROXY.",
        )
    return _Proxy(parts.hostname, parts.port or 80, unquote(parts.username or ""), unquote(parts.password or ""))


def _dial(host: str, port: int, deadline: float, register: Callable[[socket.socket], None]) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Unreachable(
            f"The name {host} is not known.", "It is mistyped, or this machine has no way to look up names."
        ) from None
    failure: OSError = TimeoutError()
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind, protocol)
        try:
            register(sock)
            _limit(sock, deadline)
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    if isinstance(failure, TimeoutError):
        raise Unreachable(f"{host}, port {port}, does not answer.", "It is switched off, or a firewall is in between.")
    raise Unreachable(f"{host}, port {port}, cannot be reached.", failure.strerror or str(failure))


def _tunnel(sock: socket.socket, uri: WebSocketURI, proxy: _Proxy, deadline: float) -> None:
    host = f"[{uri.host}]" if ":" in uri.host else uri.host
    lines = [f"CONNECT {host}:{uri.port} HTTP/1.1", f"Host: {host}:{uri.port}"]
    if proxy.username:
        secret = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {secret}")
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    # Byte by byte: what follows the proxy's answer belongs to the tunnel.
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        _limit(sock, deadline)
        byte = sock.recv(1)
        if not byte or len(answer) > READ_AHEAD:
            raise Unreachable("The proxy closed the connection.", f"It was asked for a tunnel to {uri.host}.")
        answer += byte
    words = answer.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
    if len(words) < 2 or words[1] != "200":
        raise Unreachable(f"The proxy made no tunnel to {uri.host}.", "It answered: " + " ".join(words[1:]))


def _encrypt(sock: ssl.SSLSocket, host: str, deadline: float) -> None:
    try:
        _limit(sock, deadline)
        sock.do_handshake()
    except (ssl.SSLError, TimeoutError) as error:
        why = "It does not answer in TLS."
        if isinstance(error, ssl.SSLError):
            why = getattr(error, "verify_message", "") or error.reason or str(error)
        raise Unreachable(
            f"No encrypted connection to {host} could be made.",
            why,
            "If its certificate is your own, set SSL_CERT_FILE to it; if the server has none, use http:// in the link.",
        ) from None


def _handshake(sock: socket.socket, uri: WebSocketURI, headers: Mapping[str, str], deadline: float) -> BufferedReader:
    protocol = ClientProtocol(uri, logger=_SILENT)
    request = protocol.connect()
    request.headers.update(headers)
    protocol.send_request(request)
    sock.sendall(b"".join(protocol.data_to_send()))
    stream = cast(BufferedReader, sock.makefile("rb", READ_AHEAD))
    try:
        answer = _read_answer(sock, stream, protocol, deadline)
        if answer is not None and answer.status_code != 101:
            raise refusal(answer.status_code, bytes(answer.body or b""), uri.host)
        if answer is None or protocol.handshake_exc is not None:
            failure = protocol.handshake_exc
            why = str(failure) if isinstance(failure, InvalidHandshake) else "It closed the connection."
            raise Unreachable(f"What answers at {uri.host} is not a WebSocket server.", why)
    except BaseException:
        stream.close()
        raise
    return stream


def _read_answer(
    sock: socket.socket, stream: BufferedReader, protocol: ClientProtocol, deadline: float
) -> Response | None:
    in_head = True
    while protocol.handshake_exc is None:
        _limit(sock, deadline)
        # By lines, so that what follows the head of a good answer stays in the stream.
        data = stream.readline(READ_AHEAD) if in_head else stream.read1(READ_AHEAD)
        in_head = in_head and data not in (b"\r\n", b"\n")
        if data:
            protocol.receive_data(data)
        else:
            protocol.receive_eof()
        for event in protocol.events_received():
            if isinstance(event, Response):
                return event
        if not data:
            break
    return None


def refusal(status: int, body: bytes, host: str) -> SwarmError:
    """The error for a handshake that was answered with an HTTP status other than 101. `Unreachable`: try again.

    A body that is a `Refused` message is taken at its word.
    """
    try:
        said = read_to_member(body)
    except ProtocolError:
        said = None
    if isinstance(said, Refused):
        words = (said.what, said.why, said.todo)
        kinds: dict[int, type[SwarmError]] = {401: InviteError, 403: InviteError, 404: SessionError, 410: SessionError}
        return Unreachable(*words) if said.retry else kinds.get(status, LinkError)(*words)
    if status == 401:
        return InviteError(
            "The server does not accept this invite.",
            "It has expired, was revoked, or is for another session.",
            "Ask the instructor for a new invite link.",
        )
    if status == 403:
        return InviteError(
            "The server does not let this invite in.",
            "Its role does not allow it, or something in front of the server asks for a login.",
            "Ask the instructor for an invite link for peers.",
        )
    if status == 404:
        return SessionError(
            "There is no such session on this server.",
            "The link is mistyped, the session was deleted, or the server runs without jupyter_swarm.",
            "Check the link with the instructor.",
        )
    if status == 410:
        return SessionError("The session has ended.", todo="Ask the instructor for an invite to a new one.")
    try:
        phrase = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = str(status)
    return Unreachable(f"{host} refused the connection.", f"It answered: {phrase}.")
