"""What an invite offers, to be looked at before anything of it runs."""

from __future__ import annotations

import msgspec

from ..protocol.errors import RecipeError
from ..protocol.invites import parse_invite_to_join
from ..protocol.rules import RoundRule, SessionSpec
from .client import Client
from .progress import bytes_text
from .source import check_source, hash_source


class Offer(msgspec.Struct, frozen=True):
    """A session as somebody sees it who has not joined. source: the recipe's text. Sizes in bytes."""

    session: str
    name: str
    source: str
    samples: int
    parameter_bytes: int
    data_bytes: int
    rule: RoundRule

    @property
    def sha256(self) -> str:
        """The hash of the recipe, which is what is agreed to."""
        return hash_source(self.source)

    def facts(self) -> list[tuple[str, str]]:
        """What matters for a decision, in words."""
        data = f"{self.samples:,} samples, "
        data += f"{bytes_text(self.data_bytes)} from the server" if self.data_bytes else "loaded by the recipe here"
        return [
            ("recipe's SHA-256", self.sha256),
            ("to be fetched", f"{bytes_text(self.parameter_bytes)} of parameters"),
            ("data", data),
            ("strategy", self.rule.strategy),
            ("on this machine", self._problem() or "all that it imports is installed"),
        ]

    def _problem(self) -> str:
        """What the text alone says is missing here."""
        try:
            check_source(self.source, "<recipe>")
        except RecipeError as error:
            return str(error)
        return ""


def look(link: str) -> Offer:
    """Read what an invite link offers. Nothing is joined, nothing runs. Raises `InviteError`, `LinkError`,
    `SessionError`."""
    invite = parse_invite_to_join(link)
    return look_at(Client.of_member(invite), invite.session)[0]


def look_at(client: Client, session: str) -> tuple[Offer, SessionSpec]:
    """What a session offers, and all that it is."""
    described = client.describe(session)
    spec: SessionSpec = described["spec"]
    first, data = (client.blob_size(session, blob) if blob else 0 for blob in (spec.initial, spec.data))
    version = described["status"]["version"] if described["status"] else 0
    source = client.recipe(session, spec.recipe)
    return Offer(session, spec.name, source, spec.samples, first, data, spec.rule_of(version + 1)), spec
