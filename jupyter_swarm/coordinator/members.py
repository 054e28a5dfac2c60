"""The members of a session as the server knows them: identities by token, connections, what each is being sent."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Literal, TypeVar

import msgspec

from .. import __version__
from ..protocol.errors import LayoutError, ProtocolError, RecipeError, SessionError, VersionMismatch
from ..protocol.invites import hash_secret, new_secret
from ..protocol.messages import PROTOCOL_VERSION, Hello, Message, Progress
from ..protocol.rules import FIRST_CODECS, SessionSpec
from ..store.rows import Member
from .connection import Connection
from .refusals import Removed

_TEXT = 1000
"""So many characters of a text that a member sends are shown and kept."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_M = TypeVar("_M", bound=Message)

Feed = Literal["none", "catching up", "live"]
"""none: gets no packets; catching up: gets those of past rounds from the journal; live: gets packets as they come."""


class Attached:
    """A member on a connection. `sending`: what brings it up to date at the moment; `pin`: the number of the snapshot
    that it fetches, or 0; `behind`: the version after which it needs the packets of past rounds, if it does;
    `arriving`: of the contribution that comes from it the number, since when it comes, and how many bytes have come."""

    def __init__(self, member: Member, connection: Connection, hello: Hello) -> None:
        self.member = member
        self.connection = connection
        self.hello = hello
        self.feed: Feed = "none"
        self.sending: asyncio.Task[None] | None = None
        self.pin = 0
        self.behind: int | None = None
        self.restarts = 0
        self.told = ""
        self.progress = Progress(0.0, 0.0, 0.0, free_memory=hello.free_memory)
        self.arriving = (0, 0.0, 0)

    @property
    def id(self) -> str:
        return self.member.member


class Members:
    """Who has ever been in the session, and who is connected now."""

    def __init__(self, session: str, known: list[Member]) -> None:
        self.session = session
        self.connected: dict[str, Attached] = {}
        self._known = {member.token_hash: member for member in known}
        self._numbers = {"peer": 0, "holder": 0}
        for member in known:
            kind, _, number = member.member.rpartition("-")
            if kind in self._numbers and number.isdigit():
                self._numbers[kind] = max(self._numbers[kind], int(number))

    def identify(self, hello: Hello) -> tuple[Member, str, bool]:
        """The member that says hello, its token, and whether it is new. Raises `Removed`."""
        known = self._known.get(hash_secret(hello.token)) if hello.token else None
        if known is not None and known.standing.removed:
            raise Removed
        if known is not None and known.role == hello.role:
            return known, hello.token, False
        self._numbers[hello.role] += 1
        identity = f"{hello.role}-{self._numbers[hello.role]}"
        token = new_secret()
        now = time.time()
        # Reasons list names with commas between them.
        name = self._free_name(" ".join(hello.name.replace(",", " ").split())[:64] or identity)
        member = Member(self.session, identity, hello.role, name, hash_secret(token), now, now)
        self._known[member.token_hash] = member
        return member, token, True

    def _free_name(self, name: str) -> str:
        taken = {member.name for member in self._known.values()}
        if name not in taken:
            return name
        number = 2
        while f"{name} {number}" in taken:
            number += 1
        return f"{name} {number}"

    def steered(self, member: Member) -> tuple[str, Attached | None]:
        """The instructor has decided something about a member: the name that others saw before, and its connection, if
        it is here."""
        before = self._known.get(member.token_hash, member).shown
        self._known[member.token_hash] = member
        attached = self.connected.get(member.member)
        if attached is not None:
            attached.member = member
        return before, attached

    def left(self, member: Member, unix_time: float) -> None:
        """A member was connected until then."""
        known = self._known[member.token_hash]
        self._known[member.token_hash] = msgspec.structs.replace(known, last_seen=unix_time)

    def others(self, hello: Hello) -> int:
        """How many peers are connected beside the one that says hello, whose old connection may not be known to be
        dead."""
        token_hash = hash_secret(hello.token) if hello.token else ""
        return sum(attached.member.token_hash != token_hash for attached in self.peers())

    def everybody(self) -> list[Member]:
        """Who has ever been in the session, in the order in which they joined."""
        return list(self._known.values())

    def peers(self) -> list[Attached]:
        """The connected peers."""
        return [attached for attached in self.connected.values() if attached.member.role == "peer"]

    def holders(self) -> list[Attached]:
        """The connected holders, without the server's own."""
        return [attached for attached in self.connected.values() if attached.member.role == "holder"]


def readable(message: _M) -> _M:
    """A member's message with texts that can be shown: names, devices and reasons get into logs, onto terminals and
    onto everybody's screens, so they are of bounded length, without control characters and without those that turn
    around what is written behind them."""
    texts = {name: text for name in message.__struct_fields__ if isinstance(text := getattr(message, name), str)}
    cleaned = {name: _CONTROL.sub(" ", text[:_TEXT]) for name, text in texts.items()}
    return message if cleaned == texts else msgspec.structs.replace(message, **cleaned)


def check_knowledge(hello: Hello, spec: SessionSpec) -> None:
    """Raises `VersionMismatch` if a session needs what a member's package does not know. A package that says nothing of
    codecs knows nothing of parameters that are exchanged in parts either."""
    unknown = sorted(f"the codec {codec.name.lower()}" for codec in spec.codecs if codec not in hello.codecs)
    rules = (spec.rule, *(change.rule for change in spec.changes))
    if hello.codecs == FIRST_CODECS and any(rule.fragments > 1 or rule.overlap for rule in rules):
        unknown.append("streaming updates")
    if unknown:
        raise VersionMismatch(
            f"Your jupyter_swarm is older than this session: it does not know {' and '.join(unknown)}.",
            f"You have jupyter_swarm {hello.software}, the server {__version__}.",
            "Run pip install -U jupyter_swarm, or the join cell's install line, restart the kernel and join again.",
        )


def check_hello(hello: Hello, role: str, spec: SessionSpec, peers: int) -> None:
    """Raises the error that tells why `hello` cannot be let in: version, role, codecs, layout, recipe, own data,
    capacity."""
    if hello.protocol != PROTOCOL_VERSION:
        raise VersionMismatch(
            f"This server speaks version {PROTOCOL_VERSION} of the protocol, you speak {hello.protocol}.",
            f"You have jupyter_swarm {hello.software}.",
            "Install the same version of jupyter_swarm as the server has.",
        )
    if hello.role != role and (hello.role, role) != ("peer", "instructor"):
        raise SessionError(
            f"This invite is for a {role}, not for a {hello.role}.", todo="Ask for an invite of the right role."
        )
    check_knowledge(hello, spec)
    if hello.role != "peer":
        return
    if hello.layout_digest and hello.layout_digest != spec.layout_digest:
        raise LayoutError(
            "Your model differs from the session's.",
            "Its tensors have other names, shapes or dtypes.",
            "Build it with the session's recipe, unchanged.",
        )
    if hello.agreed and hello.agreed != spec.recipe:
        raise RecipeError(
            "The recipe you agreed to is not the session's.",
            f"You agreed to {hello.agreed[:12]}, the session trains {spec.recipe[:12]}.",
            "Join again, look at the recipe, and agree to it.",
        )
    if hello.own_samples < 0:
        raise ProtocolError(f"You say that you have {hello.own_samples} samples of your own.")
    if hello.own_samples and not spec.settings.own_samples:
        raise SessionError(
            "This session takes no data of your own.",
            "Its samples are the same for everybody; own_samples is 0.",
            "Join without data of your own, or ask the instructor to set own_samples to what it may count in a round.",
        )
    if peers >= spec.settings.capacity:
        raise SessionError(
            f"The session is full: {peers} peers are connected.",
            todo="Try again later, or ask the instructor to raise its capacity.",
        )
