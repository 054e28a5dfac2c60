"""The REST interface, under BASE_URL/swarm/api/: thin verbs over the `SessionManager`.

Every decorator says who may call; `routes` is the whole list. Answers are JSON; times are seconds since 1970.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ..protocol.addresses import reach_of
from ..protocol.invites import Invite, Role, page_of
from ..protocol.layout import Layout
from ..protocol.rules import RoundRule, SessionSpec
from ..protocol.samples import SAMPLE_CHARACTERS
from ..protocol.standing import SteerAction
from ..store.database import Database
from ..store.rows import Done, Member, StoredInvite, in_all
from .addresses import PublicAddress
from .blobs import Download, Upload
from .bodies import ApiHandler
from .guard import Gate, allows
from .html_pages import JoinPage, WatchPage
from .pages import event_page, metric_page, record_page
from .peer_socket import PeerSocket
from .status import LISTED
from .watch import WatchSocket
from .wheel import NAME, Wheel

_SESSION = r"(?P<session>[a-z0-9][a-z0-9-]{0,63})"
_SHA256 = r"(?P<sha256>[0-9a-f]{64})"
_REMOVED = (
    "Whoever was removed may come in again as somebody else, by an invite that is still good. To let nobody new in, "
    "set the session's capacity to the number of its peers; to revoke the invite sends away all who came by it."
)


class OpenSession(msgspec.Struct, frozen=True):
    """Body of `POST sessions`."""

    spec: SessionSpec
    layout: Layout


class NewInvite(msgspec.Struct, frozen=True):
    """Body of `POST sessions/ID/invites`; zeros mean the server's defaults. `url`: the base URL by which whoever asks
    reaches this server."""

    role: Role = "peer"
    seconds: float = 0.0
    capacity: int = 0
    label: str = ""
    url: str = ""


class Action(msgspec.Struct, frozen=True):
    """Body of `POST sessions/ID/actions`."""

    action: Literal["pause", "resume", "stop"]


class PeerAction(msgspec.Struct, frozen=True):
    """Body of `POST sessions/ID/peers/PEER/actions`; `share` is what `slow` leaves of the peer's work."""

    action: SteerAction
    share: float = 0.5


class NewSample(msgspec.Struct, frozen=True):
    """Body of `POST sessions/ID/sample`: what the model of version `round` has made of `prompt`."""

    text: str
    prompt: str = ""
    round: int = 0


class NewStrategy(msgspec.Struct, frozen=True):
    """Body of `POST sessions/ID/strategy`: `rule` holds from `round` on, or from the next one."""

    rule: RoundRule
    round: int | None = None


class Sessions(ApiHandler):
    @allows("owner")
    async def get(self) -> None:
        self.answer({"sessions": await self.manager.sessions()})

    @allows("owner")
    async def post(self) -> None:
        body = self.body_as(OpenSession)
        session = await self.manager.open(body.spec, body.layout)
        self.answer(await self.manager.describe(session), 201)


class OneSession(ApiHandler):
    @allows("owner", "instructor", "peer", "viewer", "holder")
    async def get(self, session: str) -> None:
        self.answer({**await self.manager.describe(session), "your_role": self.caller.role})

    @allows("owner")
    async def delete(self, session: str) -> None:
        await self.manager.delete(session)
        self.answer({"deleted": session})


class Invites(ApiHandler):
    """The link with its secret is in the answer to `post` and nowhere else. With it comes from where it can be reached
    at best, by its looks, whether anybody has come from another machine so far, and where this server's own package is
    for whoever has it not."""

    def initialize(self, gate: Gate, address: PublicAddress) -> None:  # type: ignore[override]
        super().initialize(gate)
        self._address = address

    @allows("owner")
    async def get(self, session: str) -> None:
        invites = await self.manager.in_record(session, Database.invites)
        self.answer({"invites": [invite_view(invite) for invite in invites]})

    @allows("owner")
    async def post(self, session: str) -> None:
        body = self.body_as(NewInvite)
        server = self._address.base(self.request, body.url)
        invite, secret = await self.manager.invites.make(session, body.role, body.seconds, body.capacity, body.label)
        link = Invite(server, session, secret, page_of(body.role)).link
        outside = session in self.manager.invites.outside
        wheel = f"{server}/swarm/wheel/{NAME}"
        more = {"link": link, "reach": reach_of(link), "outside": outside, "wheel": wheel}
        self.answer({**invite_view(invite), **more}, 201)


class OneInvite(ApiHandler):
    @allows("owner")
    async def delete(self, session: str, number: str) -> None:
        await self.manager.invites.revoke(session, int(number))
        self.answer({"revoked": int(number)})


class Settings(ApiHandler):
    @allows("owner", "instructor", "peer", "viewer", "holder")
    async def get(self, session: str) -> None:
        self.answer((await self.manager.stored(session)).spec.settings)

    @allows("owner", "instructor")
    async def patch(self, session: str) -> None:
        changes = self.body_as(dict[str, Any])
        self.answer(await self.manager.change_settings(session, changes, str(self.caller)))


class Actions(ApiHandler):
    @allows("owner", "instructor")
    async def post(self, session: str) -> None:
        await self.manager.act(session, self.body_as(Action).action, str(self.caller))
        self.answer(await self.manager.describe(session))


class PeerActions(ApiHandler):
    """`note` in the answer says what the action does not do."""

    @allows("owner", "instructor")
    async def post(self, session: str, peer: str) -> None:
        body = self.body_as(PeerAction)
        await self.manager.steer_peer(session, peer, body.action, body.share)
        note = _REMOVED if body.action == "remove" else ""
        self.answer({**await self.manager.describe(session), "note": note})


class Samples(ApiHandler):
    """A text that the shared model has written, for all who watch to read: it is in the session's status."""

    @property
    def body_limit(self) -> int:
        return 32 * SAMPLE_CHARACTERS  # as JSON may write text and prompt

    @allows("owner", "instructor")
    async def post(self, session: str) -> None:
        body = self.body_as(NewSample)
        self.answer(await self.manager.show_sample(session, body.prompt, body.text, body.round), 201)


class Strategy(ApiHandler):
    """A rule for the rounds to come; the answer: the round it begins in, all changes, and those that it replaces."""

    @allows("owner", "instructor")
    async def post(self, session: str) -> None:
        body = self.body_as(NewStrategy)
        self.answer(await self.manager.change_strategy(session, body.rule, str(self.caller), body.round))


class NewCheckpoint(msgspec.Struct, frozen=True):
    """Body of `POST sessions/ID/checkpoints`; without a name it is called after its version."""

    name: str = ""


class Checkpoints(ApiHandler):
    """What is kept of the session; their files are blobs that the manifest names. `post` answers when it is written."""

    @allows("owner", "instructor", "peer", "viewer")
    async def get(self, session: str) -> None:
        self.answer({"checkpoints": await self.manager.archive.checkpoints(session)})

    @allows("owner", "instructor")
    async def post(self, session: str) -> None:
        self.answer(await self.manager.archive.write_checkpoint(session, self.body_as(NewCheckpoint).name), 201)


class OneCheckpoint(ApiHandler):
    @allows("owner", "instructor")
    async def delete(self, session: str, number: str) -> None:
        await self.manager.archive.delete_checkpoint(session, int(number))
        self.answer({"deleted": int(number)})


class Metrics(ApiHandler):
    """Means of the metrics of versions after `after`, whole versions in about `limit` rows; `next` as for records.
    `together=1`: only those of all members together, for who shows no single ones."""

    @allows("owner", "instructor", "peer", "viewer", "holder")
    async def get(self, session: str) -> None:
        after, limit = self.number("after", -1, -1, 1 << 62), self.number("limit", 10_000, 1, 10_000)
        together = bool(self.number("together", 0, 0, 1))
        rows, following = await self.manager.in_record(session, metric_page, after, limit, together)
        fields = ("version", "member", "name", "mean", "count")
        self.answer({"metrics": [{field: getattr(row, field) for field in fields} for row in rows], "next": following})


class Records(ApiHandler):
    """Round records after round `after`, at most `limit`, fewer of a large class; `next` is the `after` of the next
    page, null at the end."""

    @allows("owner", "instructor", "peer", "viewer", "holder")
    async def get(self, session: str) -> None:
        after, limit = self.number("after", 0, 0, 1 << 62), self.number("limit", 100, 1, 1000)
        records, following = await self.manager.in_record(session, record_page, after, limit)
        self.answer({"records": records, "next": following})


class Events(ApiHandler):
    """Events whose number is above `after`, at most `limit`; `next` as for records."""

    @allows("owner", "instructor", "peer", "viewer", "holder")
    async def get(self, session: str) -> None:
        after, limit = self.number("after", 0, 0, 1 << 62), self.number("limit", 100, 1, 1000)
        events = await self.manager.in_record(session, event_page, after, limit)
        self.answer({"events": events, "next": events[-1].number if len(events) == limit else None})


class Peers(ApiHandler):
    """Everybody who has ever been in the session and has `find` in the name or as id; `here=1`: of those who are
    connected. A page of them, as for events, but that `after` counts them; `count`: how many there are. `connected`:
    what those on the page do who are here. `done=1`: with what each has done in all rounds, and everybody together.
    Whoever may steer sees the name of those who are muted, too, as `hidden_name`."""

    @allows("owner", "instructor", "peer", "viewer", "holder")
    async def get(self, session: str) -> None:
        after, limit = self.number("after", 0, 0, 1 << 62), self.number("limit", LISTED, 1, 1000)
        wanted = str(self.get_query_argument("find", ""))
        found = [one for one in await self._members(session) if wanted in ("", one.member) or _called(one, wanted)]
        page = found[after : after + limit]
        views = {member.member: member_view(member) for member in page}
        if self.caller.role in ("owner", "instructor"):
            for one in page:
                views[one.member]["hidden_name"] = one.name if one.standing.muted else ""
        answer: dict[str, Any] = {"count": len(found), "next": after + limit if len(found) > after + limit else None}
        if self.number("done", 0, 0, 1):
            done = await self.manager.in_record(session, Database.done)
            answer["done"] = in_all(done.values())
            for name, view in views.items():
                view.update(msgspec.structs.asdict(done.get(name, Done())))
        runtime = self.manager.running(session)
        connected = runtime.peers(views) if runtime else []
        self.answer({**answer, "members": list(views.values()), "connected": connected})

    async def _members(self, session: str) -> list[Member]:
        """Those that are asked for, named or not; of a session that runs here they are in memory."""
        await self.manager.stored(session)
        runtime = self.manager.running(session)
        if runtime is None:
            here = bool(self.number("here", 0, 0, 1))
            return [] if here else await self.manager.in_record(session, Database.members)
        return runtime.present() if self.number("here", 0, 0, 1) else runtime.members.everybody()


def _called(member: Member, wanted: str) -> bool:
    return wanted.casefold() in member.shown.casefold()


def invite_view(invite: StoredInvite) -> dict[str, Any]:
    """What may be shown of an invite."""
    view: dict[str, Any] = msgspec.to_builtins(invite)
    del view["secret_hash"]
    return view


def member_view(member: Member) -> dict[str, Any]:
    """What may be shown of a member, with what the instructor has decided about it."""
    view: dict[str, Any] = {**msgspec.to_builtins(member), "name": member.shown}
    del view["token_hash"]
    return {**view, **view.pop("standing")}


Route = tuple[str, type[Any], dict[str, Any]]


def routes(gate: Gate, address: PublicAddress) -> list[Route]:
    """All routes of the extension."""
    shared = {"gate": gate}
    one = f"swarm/api/sessions/{_SESSION}"
    return [
        (f"swarm/join/{_SESSION}/?", JoinPage, shared),
        (f"swarm/watch/{_SESSION}/?", WatchPage, shared),
        (r"swarm/wheel/(?P<name>[\w.+-]{1,200})", Wheel, shared),
        ("swarm/api/sessions", Sessions, shared),
        (one, OneSession, shared),
        (f"{one}/invites", Invites, {**shared, "address": address}),
        (f"{one}/invites/(?P<number>[0-9]{{1,9}})", OneInvite, shared),
        (f"{one}/settings", Settings, shared),
        (f"{one}/strategy", Strategy, shared),
        (f"{one}/sample", Samples, shared),
        (f"{one}/actions", Actions, shared),
        (f"{one}/peers/(?P<peer>peer-[0-9]{{1,9}})/actions", PeerActions, shared),
        (f"{one}/metrics", Metrics, shared),
        (f"{one}/records", Records, shared),
        (f"{one}/events", Events, shared),
        (f"{one}/peers", Peers, shared),
        (f"{one}/checkpoints", Checkpoints, shared),
        (f"{one}/checkpoints/(?P<number>[0-9]{{1,9}})", OneCheckpoint, shared),
        (f"{one}/blobs/{_SHA256}", Download, shared),
        (f"{one}/peer", PeerSocket, shared),
        (f"{one}/watch", WatchSocket, shared),
        (f"swarm/api/blobs/{_SHA256}", Upload, shared),
    ]
