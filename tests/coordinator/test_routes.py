"""Every route and verb of the extension, and who may call it: the table, and calls by everybody to all of them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from jupyter_swarm.coordinator.guard import Guarded

from .server import Swarm, wrong_secret

OWNER = {"owner"}
STEER = OWNER | {"instructor"}
MEMBERS = STEER | {"peer", "viewer", "holder"}
TABLE = {
    ("swarm/join/SESSION/?", "GET"): {"anyone"},
    ("swarm/watch/SESSION/?", "GET"): {"anyone"},
    ("swarm/wheel/NAME", "GET"): {"anyone"},
    ("swarm/api/sessions", "GET"): OWNER,
    ("swarm/api/sessions", "POST"): OWNER,
    ("swarm/api/blobs/SHA256", "PUT"): OWNER,
    ("swarm/api/sessions/SESSION", "GET"): MEMBERS,
    ("swarm/api/sessions/SESSION/invites", "GET"): OWNER,
    ("swarm/api/sessions/SESSION/invites", "POST"): OWNER,
    ("swarm/api/sessions/SESSION/invites/NUMBER", "DELETE"): OWNER,
    ("swarm/api/sessions/SESSION/settings", "GET"): MEMBERS,
    ("swarm/api/sessions/SESSION/settings", "PATCH"): STEER,
    ("swarm/api/sessions/SESSION/actions", "POST"): STEER,
    ("swarm/api/sessions/SESSION/strategy", "POST"): STEER,
    ("swarm/api/sessions/SESSION/sample", "POST"): STEER,
    ("swarm/api/sessions/SESSION/metrics", "GET"): MEMBERS,
    ("swarm/api/sessions/SESSION/records", "GET"): MEMBERS,
    ("swarm/api/sessions/SESSION/events", "GET"): MEMBERS,
    ("swarm/api/sessions/SESSION/peers", "GET"): MEMBERS,
    ("swarm/api/sessions/SESSION/peers/PEER/actions", "POST"): STEER,
    ("swarm/api/sessions/SESSION/checkpoints", "GET"): STEER | {"peer", "viewer"},
    ("swarm/api/sessions/SESSION/checkpoints", "POST"): STEER,
    ("swarm/api/sessions/SESSION/checkpoints/NUMBER", "DELETE"): STEER,
    ("swarm/api/sessions/SESSION/blobs/SHA256", "GET"): STEER | {"peer", "holder"},
    ("swarm/api/sessions/SESSION/peer", "GET"): {"peer", "instructor", "holder"},
    ("swarm/api/sessions/SESSION/watch", "GET"): STEER | {"peer", "viewer"},
    ("swarm/api/sessions/SESSION", "DELETE"): OWNER,  # last: it takes the session away
}
VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
SOCKETS = ("/peer", "/watch")
REFUSED = {401, 403, 405}
KNOWN = {"owner", "a wrong owner's secret"}


@pytest.fixture
def extension_config() -> dict[str, Any]:
    return {"wrong_invites_per_minute": 10_000}


def readable(pattern: str) -> str:
    return re.sub(r"\(\?P<(\w+)>[^)]*\)", lambda match: match[1].upper(), pattern)


def path_of(route: str, session: str) -> str:
    path = route.replace("SESSION", session).replace("PEER", "peer-1")
    return path.replace("SHA256", "0" * 64).replace("NUMBER", "99").removesuffix("/?")


def callers_of(handler: type[Any], verb: str) -> set[str]:
    return set(getattr(getattr(handler, verb.lower()), "swarm_callers", ()))


def test_the_table_is_all_there_is(swarm: Swarm) -> None:
    found = {
        (readable(pattern), verb): callers_of(handler, verb)
        for pattern, handler, _ in swarm.extension.handlers
        for verb in VERBS
        if callers_of(handler, verb)
    }
    assert found == TABLE


def test_every_handler_is_guarded(swarm: Swarm) -> None:
    served = [
        rule.target
        for router in swarm.app.web_app.default_router.rules
        for rule in getattr(router.target, "rules", [])
        if "swarm" in getattr(rule.matcher, "regex", re.compile("")).pattern
    ]
    assert len(served) == len(swarm.extension.handlers)
    assert all(issubclass(handler, Guarded) for handler in served)


async def status(swarm: Swarm, verb: str, path: str, headers: dict[str, str]) -> int:
    """The answer's status; 101 for a WebSocket that was opened."""
    if verb == "GET" and path.endswith(SOCKETS):
        answer = await swarm.connect(path, headers)
        return answer if isinstance(answer, int) else 101
    return (await swarm.call(verb, path, headers, None if verb == "GET" else b"{}")).code


async def test_everybody_calls_everything(swarm: Swarm) -> None:
    session = await swarm.open_session()
    other = await swarm.open_session()
    callers = {role: await swarm.member(session, role) for role in ("instructor", "peer", "viewer", "holder")}
    callers |= {
        "nobody": {},
        "a wrong secret": wrong_secret(),
        "a member of another session": await swarm.member(other, "instructor"),
        "a wrong owner's secret": {"X-Swarm-Owner": "guess"},
        "owner": swarm.owner(),
    }
    wrong = []
    for (route, verb), allowed in TABLE.items():
        path = path_of(route, session)
        for name, headers in callers.items():
            code = await status(swarm, verb, path, headers)
            if {"anyone", name} & allowed:
                fits = code not in REFUSED
            else:  # 401: who are you? 403: you are known, or it takes a login
                in_session = "SESSION" in route and name in MEMBERS
                fits = code == (403 if in_session or name in KNOWN or (not headers and allowed == OWNER) else 401)
            if not fits:
                wrong.append((verb, route, name, code))
    assert wrong == []


async def test_verbs_that_are_not_in_the_table_are_refused(swarm: Swarm) -> None:
    session = await swarm.open_session()
    for pattern, _, _ in swarm.extension.handlers:
        route = readable(pattern)
        path = path_of(route, session)
        for verb in VERBS:
            if (route, verb) not in TABLE:
                response = await swarm.call(verb, path, swarm.owner(), b"{}")
                assert response.code == 405, (verb, route)
