"""By which address others reach this server: kernels on this machine, and people with an invite elsewhere."""

from __future__ import annotations

import os
import socket
from typing import Any
from urllib.parse import urlsplit

import psutil
from jupyter_server.serverapp import ServerApp
from tornado.httputil import HTTPServerRequest

from ..protocol.addresses import base_of, ip_of, is_loopback
from ..protocol.errors import LinkError, SettingError

_EVERYWHERE = {"", "*", "0.0.0.0", "::"}


def local_url(app: ServerApp) -> str:
    """The server's base URL for programs on this machine, without a slash at its end; '' on a Unix socket."""
    if app.sock:
        return ""
    host = {"::": "::1"}.get(app.ip, "127.0.0.1") if app.ip in _EVERYWHERE else app.ip
    return _url("https" if app.certfile else "http", host, app)


class PublicAddress:
    """Where people elsewhere reach the server, as far as it can know.

    configured: the base URL that its configuration names, or ''. A browser of the owner tells the rest: the address by
    which it has come to this server, through whatever is in between, is good for others too.
    """

    def __init__(self, app: ServerApp, configured: str) -> None:
        self._app = app
        self._configured = configured.rstrip("/")
        self._seen = ""

    def watch(self, settings: dict[str, Any]) -> None:
        """Look at all requests to the server; `settings` are those of its web application."""
        log = settings["log_function"]

        def log_and_look(handler: Any) -> None:
            if getattr(handler, "_jupyter_current_user", None) is not None and handler.get_status() < 400:
                self.see(handler.request)
            log(handler)

        settings["log_function"] = log_and_look

    def see(self, request: HTTPServerRequest) -> None:
        """The owner has made this request."""
        if not is_loopback(request.host):
            self._seen = _origin_of(request)

    def base(self, request: HTTPServerRequest, told: str = "") -> str:
        """The base URL for links, without a slash at its end. told: what whoever asks for the link says that it is;
        one that leads to nothing but its own machine counts last. Raises `SettingError` if it is no address."""
        try:
            told = base_of(told) if told else ""
        except LinkError as error:
            raise SettingError(error.what, error.why, "Pass the address in the browser's address bar.") from None
        if told and not is_loopback(urlsplit(told).netloc):
            return told
        known = self._configured or os.environ.get("JUPYTERHUB_PUBLIC_URL", "").rstrip("/")
        return known or self._as_seen(_origin_of(request)) or told or self._at(_origin_of(request))

    def _as_seen(self, asking: str) -> str:
        """As others have come or come now, or as this machine is called in its network; '' if it listens to none."""
        app = self._app
        for origin in (self._seen, asking, app.custom_display_url):
            parts = urlsplit(origin)
            if parts.netloc and not is_loopback(parts.netloc):
                return self._at(f"{parts.scheme}://{parts.netloc}")
        if app.ip in _EVERYWHERE and not app.sock:
            return _url("https" if app.certfile else "http", _outward_address(), app)
        return ""

    def _at(self, origin: str) -> str:
        return f"{origin}{self._app.base_url}".rstrip("/")


def _origin_of(request: HTTPServerRequest) -> str:
    """Protocol and host as whoever made a request sees them: behind a proxy that ends TLS, the browser's headers say
    https where the server sees http."""
    for name in ("Origin", "Referer"):
        parts = urlsplit(request.headers.get(name, ""))
        if parts.netloc == request.host and parts.scheme in ("http", "https"):
            return f"{parts.scheme}://{request.host}"
    forwarded = request.headers.get("X-Forwarded-Proto", "").split(",")[0].strip()
    return f"{forwarded if forwarded in ('http', 'https') else request.protocol}://{request.host}"


def from_elsewhere(request: HTTPServerRequest) -> bool:
    """Whether a request has come from another machine: directly, or through a proxy or tunnel that ends on this one and
    keeps the foreign name that it was made to."""
    host = urlsplit(f"//{request.host}").hostname or ""
    return not (_is_own(str(request.remote_ip)) and _is_own(host))


def _is_own(name: str) -> bool:
    """Whether a host's name or address is one of this machine's."""
    if is_loopback(f"[{name}]" if ":" in name else name) or name.lower() == socket.gethostname().lower():
        return True
    address = ip_of(name)
    own = (each.address for addresses in psutil.net_if_addrs().values() for each in addresses)
    return address is not None and address in map(ip_of, own)


def _url(scheme: str, host: str, app: ServerApp) -> str:
    netloc = f"[{host}]" if ":" in host else host
    return f"{scheme}://{netloc}:{app.port}{app.base_url}".rstrip("/")


def _outward_address() -> str:
    """This machine's address on the network it uses, which a class can reach where its name is in no directory."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.255.255.255", 1))  # chooses a route; UDP sends nothing yet
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
