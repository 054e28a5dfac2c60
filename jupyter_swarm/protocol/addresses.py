"""Addresses of servers, as people and programs write them: which part counts, and who can reach it."""

from __future__ import annotations

import ipaddress
import re
from typing import Literal
from urllib.parse import urlsplit

from .errors import LinkError

Reach = Literal["machine", "network", "internet"]
"""From where an address can be reached at best, by its looks: from its own machine, the network that it is in, or
everywhere."""

_NOWHERE = re.compile(r"""[\x00-\x20\x7f-\xa0"'<>\\`{}|^\u2028\u2029]|.{2000}""")
"""What stands in no address, but ends a text, a line or a tag in which one is shown."""
_SHARED = ipaddress.ip_network("100.64.0.0/10")
"""Of providers and virtual private networks, behind a translation of addresses."""
_LOCAL_NAMES = (".local", ".lan", ".home", ".internal", ".home.arpa", ".intranet", ".corp")


def base_of(address: str) -> str:
    """The base URL of the Jupyter server at an `address` as it is printed or copied: without token, name and password
    of a user, /lab and /tree.

    Raises `LinkError` if it is not an address.
    """
    address = address.strip()
    try:
        parts = urlsplit(address)
        plain = _NOWHERE.search(address) is None
        valid = plain and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise LinkError(
            "This is not the address of a server.",
            "It does not begin with http:// or https://, or what follows is no address.",
            "Pass the address that Jupyter prints when it starts.",
        )
    path = parts.path.rstrip("/").removesuffix("/lab").removesuffix("/tree")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{path}"


def ip_of(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a host's name is, None for other names. IPv4 stays that inside IPv6."""
    try:
        found = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def is_loopback(host: str) -> bool:
    """Whether a host, with or without a port, is reached on its own machine only."""
    name = urlsplit(f"//{host}").hostname or ""
    address = ip_of(name)
    if address is not None:
        return address.is_loopback or address.is_unspecified
    return name == "localhost" or name.endswith(".localhost")


def reach_of(url: str) -> Reach:
    """From where a URL can be reached at best. Whether firewalls let it be, its looks do not tell."""
    name = urlsplit(url).hostname or ""
    if is_loopback(urlsplit(url).netloc.rpartition("@")[2]):
        return "machine"
    address = ip_of(name)
    if address is not None:
        private = address.is_private or address.is_link_local or (address.version == 4 and address in _SHARED)
        return "network" if private else "internet"
    return "network" if "." not in name or name.endswith(_LOCAL_NAMES) else "internet"
