"""Invites: what each kind of bad one is told, and that guessing is slowed down while a class is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jupyter_swarm.coordinator.invites import FailureLimiter, InviteBook
from jupyter_swarm.coordinator.refusals import InviteOver, NotInvited
from jupyter_swarm.protocol.errors import InviteError, SettingError
from jupyter_swarm.protocol.invites import hash_secret, new_secret, parse_invite
from jupyter_swarm.store.rows import StoredInvite

from .server import Clock, Swarm, managed, open_session, spec_of, wrong_secret


def invite_of(secret: str, expires: float = 100.0, revoked: float | None = None) -> StoredInvite:
    return StoredInvite("a-1", 1, "peer", hash_secret(secret), "", expires, 5, 0, revoked)


def test_a_good_invite_opens_its_own_session_only() -> None:
    clock, secret = Clock(), new_secret()
    book = InviteBook(clock)
    invite = invite_of(secret, expires=clock.now + 10)
    book.put([invite])
    assert book.check("a-1", secret) == invite
    with pytest.raises(NotInvited):
        book.check("b-2", secret)


def test_expired_and_revoked_invites_say_so() -> None:
    clock, secret = Clock(), new_secret()
    book = InviteBook(clock)
    book.put([invite_of(secret, expires=clock.now + 10)])
    clock.now += 10
    with pytest.raises(InviteOver, match=r"expired(.|\n)*good until 2023-11-14 22:13 UTC"):
        book.check("a-1", secret)
    book.put([invite_of(secret, expires=clock.now + 10, revoked=clock.now)])
    with pytest.raises(InviteOver, match="revoked"):
        book.check("a-1", secret)


def test_revoking_closes_the_connections_made_with_that_invite() -> None:
    book, closed = InviteBook(), list[str]()
    first, second = invite_of(new_secret()), StoredInvite("a-1", 2, "peer", "h", "", 1.0, 5)
    left = book.connected(first, closed.append)
    book.connected(first, closed.append)
    book.connected(second, closed.append)
    left()
    book.disconnect(first, "gone")
    assert closed == ["gone"]
    left()  # again, as a socket that was closed from here does
    book.disconnect(first, "gone")
    assert closed == ["gone"]


def test_wrong_secrets_are_counted_by_address_and_forgotten_after_a_while() -> None:
    clock = Clock()
    limiter = FailureLimiter(2, seconds=60, clock=clock)
    assert [limiter.failed("a"), limiter.failed("a")] == [0, 0]
    clock.now += 20
    assert limiter.failed("a") == 40
    assert limiter.failed("b") == 0
    clock.now += 40
    assert limiter.failed("a") == 0


def test_the_limiter_takes_no_more_memory_when_many_addresses_attack() -> None:
    clock = Clock()
    limiter = FailureLimiter(2, clock=clock)
    for number in range(10_000):
        limiter.failed(f"10.0.{number >> 8}.{number & 255}")
    assert len(limiter._windows) <= 4096
    assert limiter.failed("new") > 0
    clock.now += 60
    assert limiter.failed("new") == 0


async def test_an_invite_lets_in_as_many_as_it_says_and_members_again(tmp_path: Path) -> None:
    async with managed(tmp_path / "swarm") as manager:
        session = await open_session(manager)
        _, secret = await manager.invites.make(session, "peer", capacity=1)
        await manager.invites.admit(session, secret, token="")
        with pytest.raises(InviteError, match="full"):
            await manager.invites.admit(session, secret, token="unknown")


@pytest.mark.parametrize("wrong", [{"seconds": -1.0}, {"seconds": 1e9}, {"capacity": -1}, {"capacity": 10**7}])
async def test_an_invite_has_sane_limits(tmp_path: Path, wrong: dict[str, Any]) -> None:
    async with managed(tmp_path / "swarm") as manager:
        session = await open_session(manager, spec_of())
        with pytest.raises(SettingError):
            await manager.invites.make(session, "peer", **wrong)


async def test_the_link_is_given_once_and_works(swarm: Swarm) -> None:
    session = await swarm.open_session()
    made = swarm.json(await swarm.call("POST", f"sessions/{session}/invites", swarm.owner(), '{"label": "row 3"}'), 201)
    invite = parse_invite(made["link"])
    assert (invite.session, invite.server) == (session, f"http://127.0.0.1:{swarm.port}{swarm.base}".rstrip("/"))
    seen = swarm.json(await swarm.call("GET", f"sessions/{session}", {"X-Swarm-Invite": invite.secret}))
    assert (seen["your_role"], seen["name"]) == ("peer", "CS 101")
    listed = await swarm.call("GET", f"sessions/{session}/invites", swarm.owner())
    assert swarm.json(listed)["invites"][0]["label"] == "row 3"
    assert invite.secret.encode() not in listed.body
    assert hash_secret(invite.secret).encode() not in listed.body


async def test_bad_invites_are_told_why(swarm: Swarm) -> None:
    session = await swarm.open_session()
    path = f"sessions/{session}"
    revoked, short = await swarm.member(session, "peer"), await swarm.member(session, "peer", seconds=0.001)
    await swarm.call("DELETE", f"{path}/invites/1", swarm.owner())
    said = {
        name: ((answer := await swarm.call("GET", path, headers)).code, json.loads(answer.body)["what"])
        for name, headers in {"revoked": revoked, "expired": short, "wrong": wrong_secret(), "none": {}}.items()
    }
    assert said == {
        "revoked": (410, "This invite was revoked."),
        "expired": (410, "This invite has expired."),
        "wrong": (401, "You are not invited to this session."),
        "none": (401, "You are not invited to this session."),
    }


async def test_whether_a_session_exists_is_nobodys_business(swarm: Swarm) -> None:
    session = await swarm.open_session()
    there, not_there = [await swarm.call("GET", f"sessions/{name}", wrong_secret()) for name in (session, "other-1")]
    assert (there.code, there.body) == (not_there.code, not_there.body)
    assert (await swarm.call("GET", "sessions/other-1", swarm.owner())).code == 404


class TestRates:
    @pytest.fixture
    def extension_config(self) -> dict[str, Any]:
        return {"wrong_invites_per_minute": 2}

    async def test_guessing_is_slowed_down_and_the_class_is_not(self, swarm: Swarm) -> None:
        session = await swarm.open_session()
        good = await swarm.member(session, "viewer")
        codes = [(await swarm.call("GET", f"sessions/{session}", wrong_secret())).code for _ in range(3)]
        assert codes == [401, 401, 429]
        limited = await swarm.call("GET", f"sessions/{session}", wrong_secret())
        assert 0 < int(limited.headers["Retry-After"]) <= 60
        assert (await swarm.call("GET", f"sessions/{session}", good)).code == 200
        assert (await swarm.call("GET", "sessions", swarm.kernel())).code == 200


async def test_the_secret_of_an_owner_is_not_an_invite(swarm: Swarm) -> None:
    session = await swarm.open_session()
    secret = swarm.kernel()["X-Swarm-Owner"]
    assert (await swarm.call("GET", f"sessions/{session}", {"X-Swarm-Invite": secret})).code == 401


async def test_a_secret_of_ours_counts_alone(swarm: Swarm) -> None:
    """A page elsewhere that adds a made-up secret gains nothing from the cookies of who looks at it."""
    session = await swarm.open_session()
    answer = await swarm.call("GET", f"sessions/{session}", {**swarm.owner(), **wrong_secret()})
    assert answer.code == 401
