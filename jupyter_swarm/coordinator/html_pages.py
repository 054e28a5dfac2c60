"""The pages behind invite links, for people: how to join, and the session as it goes, for phones and projectors.

The secret is in the link's fragment, which stays in the browser; so the same page is sent to everybody, whether the
session exists or not, and what the page shows of a session it asks for like any other viewer.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import ClassVar

from .guard import Guarded, allows

_STYLE = re.compile(r'<link rel="stylesheet" href="(\w+\.css)">')
_SCRIPT = re.compile(r'<script src="(\w+\.js)"></script>')


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _page(name: str, connects: bool) -> tuple[str, str]:
    """The page, in one piece with the files that it names, and the content security policy that lets its own styles and
    scripts run and nothing else."""
    html = _STYLE.sub(lambda match: f"<style>\n{_text(match[1])}</style>", _text(name))
    html = _SCRIPT.sub(lambda match: f"<script>\n{_text(match[1])}</script>", html)
    policy = ["default-src 'none'"]
    for tag in ("script", "style"):
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inline)
        policy.append(f"{tag}-src " + " ".join(f"'sha256-{digest}'" for digest in digests))
    policy += ["connect-src 'self'"] * connects
    policy += ["base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]
    return html, "; ".join(policy)


class HtmlPage(Guarded):
    """Base of the pages. `file`: of the page, beside this module; `connects`: whether it calls the server."""

    file: ClassVar[str]
    connects: ClassVar[bool] = False

    @property
    def content_security_policy(self) -> str:
        return _page(self.file, self.connects)[1]

    @allows("anyone")
    async def get(self, session: str) -> None:
        self.set_header("Referrer-Policy", "no-referrer")
        self.finish(_page(self.file, self.connects)[0])


class JoinPage(HtmlPage):
    """`GET swarm/join/ID`: what to run to join."""

    file = "join_page.html"


class WatchPage(HtmlPage):
    """`GET swarm/watch/ID`: the session as it goes."""

    file = "watch_page.html"
    connects = True
