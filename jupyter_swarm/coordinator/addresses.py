"""By which address others reach this server: kernels on this machine, and people with an invite elsewhere."""

from __future__ import annotations

import ipaddress
import os
import socket
from urllib.parse import urlsplit

from jupyter_server.serverapp import ServerApp

_EVERYWHERE = {"", "*", "0.0.0.0", "::"}


def local_url(app: ServerApp) -> str:
    """The server's base URL for programs on this machine, without a slash at its end; '' on a Unix socket."""
    if app.sock:
        return ""
    host = {"::": "::1"}.get(app.ip, "127.0.0.1") if app.ip in _EVERYWHERE else app.ip
    return _url("https" if app.certfile else "http", host, app)


def public_url(app: ServerApp, protocol: str, host: str) -> str:
    """The server's base URL for people elsewhere, as far as the server can know, without a slash at its end.

    protocol, host: as in the request that asks. A JupyterHub says where its servers are; else the address in the
    request is right, unless it comes from this machine and the server listens to others too.
    """
    hub = os.environ.get("JUPYTERHUB_PUBLIC_URL", "")
    if hub:
        return hub.rstrip("/")
    if is_loopback(host) and app.custom_display_url:
        shown = urlsplit(app.custom_display_url)
        return f"{shown.scheme}://{shown.netloc}{app.base_url}".rstrip("/")
    if is_loopback(host) and app.ip in _EVERYWHERE and not app.sock:
        return _url("https" if app.certfile else "http", _outward_address(), app)
    return f"{protocol}://{host}{app.base_url}".rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether a host, with or without a port, is reached on its own machine only."""
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


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
