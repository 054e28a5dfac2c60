"""The server's REST interface, as its owner or as a member with an invite sees it."""

from __future__ import annotations

import hashlib
import itertools
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import msgspec

from ..protocol.addresses import base_of
from ..protocol.errors import (
    InviteError,
    LinkError,
    RecipeError,
    Refusal,
    SessionError,
    SettingError,
    StoreError,
    SwarmError,
    VersionMismatch,
)
from ..protocol.invites import INVITE_HEADER, OWNER_HEADER, Invite, Role, parse_invite
from ..protocol.layout import Layout
from ..protocol.rules import RoundRule, SessionSpec

SERVER_VARIABLE = "JUPYTER_SWARM_SERVER"
OWNER_VARIABLE = "JUPYTER_SWARM_OWNER"

_TIMEOUT = httpx.Timeout(30.0, read=120.0)
_WRITING = httpx.Timeout(30.0, read=1800.0)
"""For what the server answers when it has written a checkpoint of a large model."""
# As the link does it: no proxy leads to this very machine.
_MOUNTS: Mapping[str, None] = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}
_ERRORS: dict[int, type[SwarmError]] = {
    400: SettingError,
    401: InviteError,
    403: InviteError,
    404: SessionError,
    409: SessionError,
    410: SessionError,
    413: Refusal,
    429: LinkError,
    503: LinkError,
    507: StoreError,
}


class _Problem(msgspec.Struct):
    what: str
    why: str = ""
    todo: str = ""


class Probe(NamedTuple):
    """Whether jupyter_swarm answered, the HTTP status, what the answer says of the software that gave it."""

    ours: bool
    status: int
    software: str


class Client:
    """Requests to one server. Raises `LinkError` if it does not answer, else the error that it answers with.

    server: its base URL, without a slash at its end. headers: who asks; they appear in no log. Every method may be
    called from any thread.
    """

    def __init__(self, server: str, headers: Mapping[str, str]) -> None:
        self.server = server.rstrip("/")
        self.headers = dict(headers)

    @classmethod
    def of_owner(cls, server: str | None = None) -> Client:
        """The server that started this kernel, or the one at `server`: its URL with ?token=… as Jupyter prints it."""
        if server:
            base = base_of(server)
            token = parse_qs(urlsplit(server).query).get("token", [""])[0]
            if token:
                return cls(base, {"Authorization": f"token {token}"})
            if base != os.environ.get(SERVER_VARIABLE):
                raise LinkError(
                    f"{base} does not know you as its owner.",
                    "The address has no ?token=…",
                    "Pass the address that Jupyter prints when it starts, with its token.",
                )
        base, secret = os.environ.get(SERVER_VARIABLE, ""), os.environ.get(OWNER_VARIABLE, "")
        if not base or not secret:
            raise LinkError(
                "There is no server that could host a session.",
                "This kernel was not started by a Jupyter server with the jupyter_swarm extension.",
                "Install jupyter_swarm where Jupyter runs and start it again; or run `jupyter swarm serve` on a "
                "machine that others reach and pass its address as server=. To train alone, call train(recipe).",
            )
        return cls(base, {OWNER_HEADER: secret})

    @classmethod
    def of_member(cls, invite: Invite) -> Client:
        """Whoever holds `invite`."""
        return cls(invite.server, {INVITE_HEADER: invite.secret})

    def __repr__(self) -> str:
        return f"Client({self.server!r})"

    # --- what can be asked

    def describe(self, session: str) -> dict[str, Any]:
        """What there is to know of a session; its "spec" as a `SessionSpec`. Raises `VersionMismatch` for one that this
        version cannot read."""
        described = self._ask("GET", f"sessions/{session}")
        try:
            return {**described, "spec": msgspec.convert(described.get("spec"), SessionSpec)}
        except msgspec.ValidationError as error:
            raise VersionMismatch(
                f"This version of jupyter_swarm does not know what {session} is.",
                str(error),
                "Install the version that the server has.",
            ) from None

    def spec(self, session: str) -> SessionSpec:
        """What a session is."""
        spec: SessionSpec = self.describe(session)["spec"]
        return spec

    def open(self, spec: SessionSpec, layout: Layout) -> str:
        """Open a session whose blobs are there; returns its id."""
        body = msgspec.json.encode({"spec": spec, "layout": layout})
        return str(self._ask("POST", "sessions", body)["session"])

    def delete(self, session: str) -> None:
        """End a session and forget all of it."""
        self._ask("DELETE", f"sessions/{session}")

    def put_blob(self, content: bytes) -> str:
        """Store `content`; returns its SHA-256."""
        sha256 = hashlib.sha256(content).hexdigest()
        self._ask("PUT", f"blobs/{sha256}", content)
        return sha256

    def blob(self, session: str, sha256: str) -> bytes:
        """A blob that the session names. Raises `LinkError` if what comes is something else."""
        content = self._request("GET", f"sessions/{session}/blobs/{sha256}").content
        if hashlib.sha256(content).hexdigest() != sha256:
            raise LinkError("What the server sent is not what the session names.", todo="Try again.")
        return content

    def recipe(self, session: str, sha256: str) -> str:
        """The text of a session's recipe. Raises `RecipeError` if it is none."""
        try:
            return self.blob(session, sha256).decode()
        except UnicodeDecodeError as error:
            raise RecipeError("The session's recipe is not text.", str(error), "Tell whoever hosts it.") from None

    def blob_size(self, session: str, sha256: str) -> int:
        """Bytes of a blob that the session names."""
        answer = self._request("GET", f"sessions/{session}/blobs/{sha256}", headers={"Range": "bytes=0-0"})
        return int(answer.headers["Content-Range"].rpartition("/")[2])

    def probe(self, seconds: float) -> Probe:
        """Ask, without a secret, what only jupyter_swarm answers in its way; that it refuses is as good."""
        with self._reaching():
            response = self._http.get(f"{self.server}/swarm/api/sessions", timeout=seconds)
        try:
            msgspec.json.decode(response.content, type=_Problem)
            ours = response.status_code in _ERRORS
        except msgspec.DecodeError:
            ours = False
        return Probe(ours, response.status_code, response.headers.get("Server", ""))

    @contextmanager
    def blob_pieces(self, session: str, sha256: str, start: int = 0) -> Iterator[Iterator[bytes]]:
        """The bytes of a large blob that the session names, from `start` on, as they come; the caller checks them."""
        url = f"{self.server}/swarm/api/sessions/{session}/blobs/{sha256}"
        headers = {"Range": f"bytes={start}-"}
        with self._reaching(), self._http.stream("GET", url, headers=headers) as response:
            if not response.is_success:
                response.read()
                raise _error_of(response, self.server)
            yield response.iter_bytes()

    def invite(self, session: str, role: Role, seconds: float = 0.0, capacity: int = 0, label: str = "") -> Invite:
        """A new invite; zeros mean the server's defaults."""
        return parse_invite(self.issue(session, role, seconds, capacity, label)["link"])

    def issue(
        self, session: str, role: Role, seconds: float = 0.0, capacity: int = 0, label: str = "", url: str = ""
    ) -> dict[str, Any]:
        """As `invite`, with all that the server says of it: number, role, expires, link, reach … url: the base URL by
        which whoever is invited reaches the server."""
        body = {"role": role, "seconds": seconds, "capacity": capacity, "label": label, **({"url": url} if url else {})}
        return self._ask("POST", f"sessions/{session}/invites", msgspec.json.encode(body))

    def invites(self, session: str) -> list[dict[str, Any]]:
        """All invites of a session, without their secrets: number, role, label, expires, capacity, uses, revoked."""
        found: list[dict[str, Any]] = self._ask("GET", f"sessions/{session}/invites")["invites"]
        return found

    def revoke(self, session: str, number: int) -> None:
        """From now on nobody comes in by this invite."""
        self._ask("DELETE", f"sessions/{session}/invites/{number}")

    def act(self, session: str, action: str) -> None:
        """pause, resume or stop the whole session."""
        self._ask("POST", f"sessions/{session}/actions", msgspec.json.encode({"action": action}))

    def steer(self, session: str, peer: str, action: str, share: float) -> None:
        """What the instructor wants of the peer with this id; `share` is what `slow` leaves of its work."""
        body = msgspec.json.encode({"action": action, "share": share})
        self._ask("POST", f"sessions/{session}/peers/{peer}/actions", body)

    def show(self, session: str, prompt: str, text: str, round: int) -> None:
        """Show all who watch what the model has made of a prompt after a round."""
        body = msgspec.json.encode({"prompt": prompt, "text": text, "round": round})
        self._ask("POST", f"sessions/{session}/sample", body)

    def change(self, session: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Change settings from the next round on; returns all of them."""
        return self._ask("PATCH", f"sessions/{session}/settings", msgspec.json.encode(settings))

    def change_strategy(self, session: str, rule: RoundRule) -> dict[str, Any]:
        """Follow `rule` from the next round on."""
        return self._ask("POST", f"sessions/{session}/strategy", msgspec.json.encode({"rule": rule}))

    def records(self, session: str, after: int = 0) -> list[dict[str, Any]]:
        """The records of the rounds after `after`, in order."""
        return list(itertools.chain.from_iterable(self.record_pages(session, after)))

    def record_pages(self, session: str, after: int = 0) -> Iterator[list[dict[str, Any]]]:
        """The same as they come: of a large class not all at once in memory."""
        return self._pages(f"sessions/{session}/records", "records", after)

    def metrics(self, session: str, after: int = -1) -> list[dict[str, Any]]:
        """The metrics of the versions after `after`: version, member ('': all together), name, mean, count."""
        return list(itertools.chain.from_iterable(self.metric_pages(session, after)))

    def metric_pages(self, session: str, after: int = -1) -> Iterator[list[dict[str, Any]]]:
        """The same as they come."""
        return self._pages(f"sessions/{session}/metrics", "metrics", after)

    def events(self, session: str, after: int = 0) -> list[dict[str, Any]]:
        """The lines of the session's log whose number is above `after`, in order."""
        return list(itertools.chain.from_iterable(self._pages(f"sessions/{session}/events", "events", after)))

    def peers(self, session: str, find: str = "", here: bool = False, most: int = 0) -> dict[str, Any]:
        """members: everybody who has ever been in the session; connected: what those who are there do; count: how many
        members there are. find: those who have this in their names, or as id. here: only those who are connected, those
        first who are steered. most: at most so many (0: all)."""
        path = f"sessions/{session}/peers?here={int(here)}&find={quote(find)}&after="
        found: dict[str, Any] = {"members": [], "connected": []}
        after: int | None = 0
        while after is not None:
            page = self._ask("GET", f"{path}{after}" + (f"&limit={most}" if most else ""))
            found = {"count": page["count"], **{key: found[key] + page[key] for key in ("members", "connected")}}
            after = None if most else page["next"]
        return found

    def checkpoints(self, session: str) -> list[dict[str, Any]]:
        """All checkpoints of a session: number, name, version, created, sha256 and manifest."""
        found: list[dict[str, Any]] = self._ask("GET", f"sessions/{session}/checkpoints")["checkpoints"]
        return found

    def make_checkpoint(self, session: str, name: str) -> dict[str, Any]:
        """Have the version that stands written; returns what `checkpoints` says of it once it is."""
        return self._ask("POST", f"sessions/{session}/checkpoints", msgspec.json.encode({"name": name}), _WRITING)

    def delete_checkpoint(self, session: str, number: int) -> None:
        """Remove a checkpoint from the server."""
        self._ask("DELETE", f"sessions/{session}/checkpoints/{number}")

    def socket_url(self, session: str) -> str:
        """Where peers of a session connect."""
        return f"ws{self.server.removeprefix('http')}/swarm/api/sessions/{session}/peer"

    # --- how

    def _pages(self, path: str, key: str, after: int | None) -> Iterator[list[dict[str, Any]]]:
        while after is not None:
            page = self._ask("GET", f"{path}?limit=10000&after={after}")
            yield page[key]
            after = page["next"]

    def _ask(
        self, method: str, path: str, content: bytes | None = None, timeout: httpx.Timeout = _TIMEOUT
    ) -> dict[str, Any]:
        response = self._request(method, path, content, timeout=timeout)
        try:
            return msgspec.json.decode(response.content, type=dict[str, Any])
        except msgspec.DecodeError:
            raise _not_ours(response, self.server) from None

    def _request(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: httpx.Timeout = _TIMEOUT,
    ) -> httpx.Response:
        url = f"{self.server}/swarm/api/{path}"
        with self._reaching():
            response = self._http.request(method, url, content=content, headers=headers, timeout=timeout)
        kind = response.headers.get("Content-Type", "json")
        if response.is_success and ("json" in kind or "octet-stream" in kind):
            return response
        raise _error_of(response, self.server)

    @cached_property
    def _http(self) -> httpx.Client:
        try:
            return httpx.Client(
                headers=self.headers,
                # A login that Jupyter offers in a cookie is not ours to keep.
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
                timeout=_TIMEOUT,
                mounts=_MOUNTS,
                # A server that has refused something may close the connection and not say so: none is used again.
                limits=httpx.Limits(max_keepalive_connections=0),
                # The same trust as the WebSocket's: the system's, with what schools and firms add to it.
                verify=ssl.create_default_context(),
            )
        except (ImportError, ValueError) as error:
            raise LinkError(
                "From this machine nothing can be asked of a server.",
                str(error),
                "Check the proxies that it is told to use (HTTPS_PROXY, ALL_PROXY), and the token.",
            ) from None

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise _unreachable(self.server, error) from None


def _unreachable(server: str, error: Exception) -> LinkError:
    return LinkError(
        f"The server at {server} cannot be reached.",
        f"{type(error).__name__}: {error}" if str(error) else type(error).__name__,
        "Check that it runs, that the link is right, and that this machine can reach it (VPN, firewall).",
    )


def _error_of(response: httpx.Response, server: str) -> SwarmError:
    try:
        problem = msgspec.json.decode(response.content, type=_Problem)
    except msgspec.DecodeError:
        return _not_ours(response, server)
    kind = _ERRORS.get(response.status_code, SwarmError)
    if INVITE_HEADER.lower() in response.request.headers and response.status_code in (409, 410):
        kind = InviteError
    return kind(problem.what, problem.why, problem.todo)


def _not_ours(response: httpx.Response, server: str) -> LinkError:
    return LinkError(
        f"What answers at {server} is not a Jupyter server with jupyter_swarm.",
        f"It answered with HTTP status {response.status_code} and nothing that jupyter_swarm would say.",
        "Check the link; install jupyter_swarm where that Jupyter server runs and start it again.",
    )
