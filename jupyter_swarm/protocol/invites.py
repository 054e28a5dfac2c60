"""Invite links: an address, a session and a secret.

    https://host:8888/user/ann/swarm/join/cs101-7f3a#k3ZtTq...x9
    https://host:8888/user/ann/swarm/watch/cs101-7f3a#Wc0qLm...e4

The path says what the link is for, to join or only to watch; what its bearer may do is for the server to say. The
secret stands in the fragment, which browsers do not send and servers do not log. Its last four characters are a check,
so that a link that was cut short or mistyped is recognised before anything is sent.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import unicodedata
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from .errors import InviteError

Role = Literal["peer", "viewer", "instructor", "holder"]
Page = Literal["join", "watch"]
INVITE_HEADER = "X-Swarm-Invite"
OWNER_HEADER = "X-Swarm-Owner"

_CHECK = 4
_BODY = 32
_LINK = re.compile(r"(?P<base>.*?)/swarm/(?P<page>join|watch)/(?P<session>[a-z0-9][a-z0-9-]{0,63})/?$")
_WRAPPING = " \t\r\n\"'`<>()[],.;\u201c\u201d\u2018\u2019\u00ab\u00bb\u2026"


def _check_of(body: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(body.encode()).digest())[:_CHECK].decode()


def new_secret() -> str:
    """A new secret: 192 random bits and a check, 36 characters that are safe in a URL."""
    body = secrets.token_urlsafe(24)
    return body + _check_of(body)


def is_secret(text: str) -> bool:
    """Whether `text` is a whole, correctly copied secret (not whether a server accepts it)."""
    return len(text) == _BODY + _CHECK and text.isascii() and text[_BODY:] == _check_of(text[:_BODY])


def hash_secret(secret: str) -> str:
    """What a server stores instead of the secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Invite(msgspec.Struct, frozen=True):
    """A link that lets somebody into one session. `server` is the base URL, without a slash at its end; `page` is what
    a browser shows."""

    server: str
    session: str
    secret: str
    page: Page = "join"

    @property
    def link(self) -> str:
        return f"{self.server}/swarm/{self.page}/{self.session}#{self.secret}"

    def __repr__(self) -> str:
        return f"Invite({self.server!r}, {self.session!r}, secret hidden)"


def page_of(role: Role) -> Page:
    """The page that the links of a role lead to."""
    return "watch" if role == "viewer" else "join"


def ways_in(link: str) -> str:
    """For people: what others type to join by `link`."""
    return (
        f"Others join it in a notebook with\n\n    %load_ext jupyter_swarm\n    %swarm join {link}\n\n"
        f"or in a terminal:\n\n    jupyter swarm peer '{link}'\n\n"
    )


def _is_seen(letter: str) -> bool:
    """Not so: spaces, line breaks, and what has no width, which chats and text processors put into long words."""
    return not letter.isspace() and unicodedata.category(letter) != "Cf"


def parse_invite(text: str) -> Invite:
    """Read a link as people paste it: with spaces, line breaks and invisible letters in it, quotes around it. Raises
    `InviteError`."""
    link = "".join(filter(_is_seen, text)).strip(_WRAPPING)
    again = "Copy the whole link from the invite card and paste it again."
    try:
        parts = urlsplit(link)
        host = parts.hostname and parts.port != 0
    except ValueError as error:
        raise InviteError("This is not an invite link.", f"Its address cannot be right: {error}.", again) from None
    if parts.scheme not in ("http", "https") or not host:
        raise InviteError("This is not an invite link.", "It does not begin with http:// or https://.", again)
    match = _LINK.match(parts.path)
    if not match:
        raise InviteError(
            "This is not an invite link.", "It has no /swarm/join/SESSION or /swarm/watch/SESSION in it.", again
        )
    if not is_secret(parts.fragment):
        why = "Nothing follows the #." if not parts.fragment else "The part after the # is incomplete or mistyped."
        raise InviteError("The invite link is not complete.", why, again)
    page: Page = "watch" if match["page"] == "watch" else "join"
    return Invite(f"{parts.scheme}://{parts.netloc}{match['base']}", match["session"], parts.fragment, page)


def parse_invite_to_join(text: str) -> Invite:
    """The same for whoever wants to train: a link that is for watching only is an `InviteError`, too."""
    invite = parse_invite(text)
    if invite.page == "watch":
        raise InviteError(
            "This link lets you watch the session, not train in it.",
            "It leads to /swarm/watch/, the page for viewers.",
            "Open it in a browser to watch. To train, ask whoever runs the session for a peer's invite: "
            "its link has /swarm/join/ in it.",
        )
    return invite
