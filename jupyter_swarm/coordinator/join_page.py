"""The page behind an invite link, for people: what to run to join. It knows nothing of the session.

The secret is in the link's fragment, which stays in the browser; so the same page is sent to everybody, whether the
session exists or not.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from .guard import Guarded, allows


@cache
def _page() -> tuple[str, str]:
    """The page, and the content security policy that lets its own style and script run and nothing else."""
    html = files(__package__).joinpath("join_page.html").read_text(encoding="utf-8")
    allowed = []
    for tag in ("script", "style"):
        inline = "".join(re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL))
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        allowed.append(f"{tag}-src 'sha256-{digest}'")
    return html, "; ".join(
        ["default-src 'none'", *allowed, "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]
    )


class JoinPage(Guarded):
    """`GET swarm/join/ID`."""

    @property
    def content_security_policy(self) -> str:
        return _page()[1]

    @allows("anyone")
    async def get(self, session: str) -> None:
        self.set_header("Referrer-Policy", "no-referrer")
        self.finish(_page()[0])
