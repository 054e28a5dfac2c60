"""Who may call what: every verb of every handler says it, and nothing is served that does not.

There are two kinds of callers. The *owner* is whoever the Jupyter server has authenticated, or a kernel that the
server started, which knows the owner's secret from its environment. A *member* holds an invite, which never is the
Jupyter token. A request that carries a secret of ours is judged by that secret alone: nothing a browser adds by itself
(cookies) counts, so neither cross-site requests nor the Origin header matter for it.
"""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Callable
from http.client import responses
from types import TracebackType
from typing import Any, Literal, NamedTuple, TypeVar

from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import ensure_async
from tornado.web import HTTPError

from ..protocol.errors import SwarmError
from ..protocol.invites import INVITE_HEADER, OWNER_HEADER
from ..store.rows import StoredInvite
from .addresses import from_elsewhere
from .invites import FailureLimiter
from .manager import SessionManager
from .refusals import AuthenticationOff, NotInvited, OwnerOnly, RoleRefused, TooManyFailures, status_of

Who = Literal["anyone", "owner", "instructor", "peer", "viewer", "holder"]
SUBPROTOCOL = "swarm.v1"
"""What a browser offers as its first WebSocket subprotocol; its invite's secret is the second."""

_Method = TypeVar("_Method", bound=Callable[..., Any])


class Caller(NamedTuple):
    """Who makes a request; members have an invite."""

    role: Who
    invite: StoredInvite | None = None

    def __str__(self) -> str:
        return f"{self.role} (invite {self.invite.number})" if self.invite else self.role


class Gate(NamedTuple):
    """What the handlers share to tell callers apart."""

    manager: SessionManager
    owner_secret: str
    failures: FailureLimiter


def allows(*callers: Who) -> Callable[[_Method], _Method]:
    """Marks a verb with those who may call it; `Guarded.prepare` checks it before any of the body is read."""

    def mark(method: _Method) -> _Method:
        marked = allow_unauthenticated(method)
        marked.swarm_callers = frozenset(callers)  # type: ignore[attr-defined]
        return marked

    return mark


class Guarded(JupyterHandler):
    """Base of all our handlers. `caller` is set when a verb runs, except in verbs for anyone."""

    caller: Caller

    def initialize(self, gate: Gate) -> None:  # type: ignore[override]
        self.gate = gate
        self.manager = gate.manager

    @property
    def invite_secret(self) -> str | None:
        """The invite's secret from the header, or, on WebSockets of browsers, from the second subprotocol."""
        if INVITE_HEADER in self.request.headers:
            return str(self.request.headers[INVITE_HEADER])
        offered = [item.strip() for item in self.request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        return offered[1] if len(offered) > 1 and offered[0] == SUBPROTOCOL else None

    @property
    def brings_secret(self) -> bool:
        """Whether the request is to be judged by a secret of ours and by nothing else."""
        return OWNER_HEADER in self.request.headers or self.invite_secret is not None

    @property
    def _allowed(self) -> frozenset[Who]:
        verb = getattr(self, str(self.request.method).lower())
        callers: frozenset[Who] = getattr(verb, "swarm_callers", frozenset())
        return callers

    def check_host(self) -> bool:
        # A page elsewhere that gets itself a name for this address borrows a browser's cookies. Secrets of ours are not
        # to be had so, and behind a tunnel the name is always one that the server does not know.
        return self.brings_secret or "anyone" in self._allowed or super().check_host()

    async def prepare(self) -> None:  # type: ignore[override]
        await super().prepare()
        await self.manager.known()
        allowed = self._allowed
        if not allowed:
            raise HTTPError(405)
        if "anyone" in allowed:
            return
        self.caller = await self._identify(self.path_kwargs.get("session", ""), owner_only=allowed == {"owner"})
        if self.caller.role not in allowed:
            raise RoleRefused(self.caller.role)

    async def _identify(self, session: str, owner_only: bool) -> Caller:
        secret = self.request.headers.get(OWNER_HEADER)
        if secret is not None:
            if not hmac.compare_digest(secret.encode(), self.gate.owner_secret.encode()):
                raise self._wrong_secret(OwnerOnly())
        elif (secret := self.invite_secret) is not None:
            try:
                invite = self.manager.invites.check(session, secret)
            except NotInvited as error:
                raise self._wrong_secret(error) from None
            outside = self.manager.invites.outside
            if session not in outside and from_elsewhere(self.request):
                outside.add(session)
            return Caller(invite.role, invite)
        elif self.current_user is None:
            raise OwnerOnly() if owner_only else NotInvited()
        elif not await ensure_async(
            self.authorizer.is_authorized(self, self.current_user, "execute", "jupyter_swarm")  # type: ignore[arg-type]
        ):
            raise OwnerOnly()
        if not self.identity_provider.auth_enabled:
            raise AuthenticationOff()
        return Caller("owner")

    def _wrong_secret(self, error: SwarmError) -> SwarmError:
        """Counts a wrong secret; returns the error to raise."""
        wait = self.gate.failures.failed(str(self.request.remote_ip))
        return TooManyFailures(wait) if wait else error

    def check_xsrf_cookie(self) -> None:
        # Cookies are what cross-site requests abuse. Without a user (tornado asks once before there is one, Jupyter
        # again later) there are none, and the request fails on its own.
        if getattr(self, "_jupyter_current_user", None) is not None and not self.brings_secret:
            super().check_xsrf_cookie()

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        error = (kwargs.get("exc_info") or (None, None))[1]
        if isinstance(error, SwarmError):
            status_code = status_of(error)
        super().send_error(status_code, **kwargs)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = (kwargs.get("exc_info") or (None, None))[1]
        what, why, todo = responses.get(status_code, "The request failed."), "", ""
        if isinstance(error, SwarmError):
            what, why, todo = error.what, error.why, error.todo
        elif isinstance(error, HTTPError):
            why = error.log_message or ""
        if isinstance(error, TooManyFailures):
            self.set_header("Retry-After", str(error.seconds))
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"what": what, "why": why, "todo": todo}))

    def log_exception(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        if isinstance(value, SwarmError):  # an answer to the caller, not a fault of the server
            self.log.log(logging.INFO, "%s %s: %s", self.request.method, self.request.path, value.what)
        else:
            super().log_exception(typ, value, tb)
