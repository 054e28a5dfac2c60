"""The record keeps what was committed, in order, and knows who may come in."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from jupyter_swarm.protocol.errors import InviteError, SessionError, SettingError, StoreError
from jupyter_swarm.protocol.invites import hash_secret, new_secret
from jupyter_swarm.protocol.rules import SessionSettings
from jupyter_swarm.protocol.samples import Sample
from jupyter_swarm.protocol.standing import Standing
from jupyter_swarm.store.database import Database
from jupyter_swarm.store.rows import Done, Event, Member, Metric

from .recorded import LAYOUT, SPEC, record

# --- sessions


def test_a_session_comes_back_as_it_was_opened(database: Database, reopen: Callable[[], Database]) -> None:
    database.add_session("ml-2", msgspec.structs.replace(SPEC, session="ml-2"), LAYOUT, 900.0)
    database = reopen()
    first, second = database.sessions()
    assert (first.session, second.session) == ("ml-2", "cs101")
    assert second.spec == SPEC
    assert (second.state, second.created, second.ended, second.generation) == ("running", 1000.0, None, 0)
    assert database.layout("cs101") == LAYOUT
    assert database.layout("cs101").digest == SPEC.layout_digest


def test_each_start_of_the_server_raises_the_generation_of_one_session(
    database: Database, reopen: Callable[[], Database]
) -> None:
    database.add_session("ml-2", SPEC, LAYOUT, 1001.0)
    assert database.raise_generation("cs101") == 1
    database = reopen()
    assert database.raise_generation("cs101") == 2
    assert [session.generation for session in database.sessions()] == [2, 0]


def test_settings_and_state_change_and_the_rest_stays(database: Database, reopen: Callable[[], Database]) -> None:
    settings = SessionSettings(rounds=7, learning_rate=0.5)
    assert database.change_spec("cs101", settings).settings == settings
    database.save_state("cs101", "finished", 2000.0, "stopped by ann")
    database = reopen()
    (session,) = database.sessions()
    assert session.spec == msgspec.structs.replace(SPEC, settings=settings)
    assert (session.state, session.ended, session.ending) == ("finished", 2000.0, "stopped by ann")
    database.save_state("cs101", "paused", 2001.0)
    assert (database.sessions()[0].ended, database.sessions()[0].ending) == (None, "")


def test_the_last_sample_is_kept(database: Database, reopen: Callable[[], Database]) -> None:
    assert database.sessions()[0].sample is None
    for round in (3, 4):
        database.save_sample("cs101", Sample("To be", "To be 🎭\nor not", round, 5.0))
    assert reopen().sessions()[0].sample == Sample("To be", "To be 🎭\nor not", 4, 5.0)


def test_what_each_member_has_done_in_all(database: Database) -> None:
    for round in (1, 2):
        database.add_round(
            record(round), [Metric("cs101", round, peer, "bytes_up", 10.0 * round, 1) for peer in ("peer-1", "peer-9")]
        )
    done = database.done("cs101")
    samples = {one.peer: 0 for one in record(1).contributors}
    for one in (*record(1).contributors, *record(2).contributors):
        samples[one.peer] += one.weight
    assert {peer: facts.samples for peer, facts in done.items()} == {**samples, "peer-9": 0}
    assert done["peer-9"] == Done(0, 30, 0)
    assert database.done("no") == {}


def test_an_id_is_given_once(database: Database) -> None:
    with pytest.raises(SessionError, match="'cs101' already"):
        database.add_session("cs101", SPEC, LAYOUT, 1.0)


def test_what_needs_a_session_says_that_there_is_none(database: Database) -> None:
    uses = [
        lambda: database.layout("no"),
        lambda: database.raise_generation("no"),
        lambda: database.change_spec("no", SessionSettings()),
        lambda: database.save_state("no", "paused", 1.0),
        lambda: database.save_sample("no", Sample("", "", 0, 1.0)),
        lambda: database.add_invite("no", "peer", new_secret(), "", 1.0, 1),
    ]
    for use in uses:
        with pytest.raises(SessionError, match="no session 'no'"):
            use()
    with pytest.raises(StoreError):
        database.add_round(record(1, session="no"))
    assert database.last_round("no") == 0


def test_a_stored_spec_that_this_release_cannot_read_is_an_error(
    database: Database, reopen: Callable[[], Database], path: Path
) -> None:
    database.close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE sessions SET spec = '{}'")
    with pytest.raises(StoreError, match="stored SessionSpec cannot be read"):
        reopen().sessions()


# --- invites and members


def test_an_invite_lets_in_as_many_as_it_has_places(database: Database, reopen: Callable[[], Database]) -> None:
    secret = new_secret()
    invite = database.add_invite("cs101", "peer", secret, "class", 2000.0, 2)
    assert database.check_invite("cs101", secret, 1999.0) == invite
    assert [database.use_invite("cs101", secret, 1999.0).uses for _ in range(2)] == [1, 2]
    database = reopen()
    with pytest.raises(InviteError, match="full"):
        database.use_invite("cs101", secret, 1999.0)
    assert database.check_invite("cs101", secret, 1999.0).uses == 2


def test_a_wrong_secret_and_one_of_another_session_let_nobody_in(database: Database) -> None:
    database.add_session("ml-2", SPEC, LAYOUT, 1001.0)
    secret = new_secret()
    database.add_invite("ml-2", "peer", secret, "", 2000.0, 9)
    for wrong in (secret, new_secret(), "", hash_secret(secret)):
        with pytest.raises(InviteError, match="does not know"):
            database.use_invite("cs101", wrong, 0.0)
    with pytest.raises(InviteError, match="does not know"):
        database.use_invite("ml-2", hash_secret(secret), 0.0)


def test_an_expired_and_a_revoked_invite_say_so(database: Database) -> None:
    secrets = [new_secret(), new_secret()]
    invites = [database.add_invite("cs101", "viewer", secret, "", 2000.0, 9) for secret in secrets]
    with pytest.raises(InviteError, match="expired"):
        database.use_invite("cs101", secrets[0], 2000.0)
    database.revoke_invite("cs101", invites[1].number, 1500.0)
    database.revoke_invite("cs101", invites[1].number, 1600.0)
    with pytest.raises(InviteError, match="revoked"):
        database.check_invite("cs101", secrets[1], 1500.0)
    assert [(invite.number, invite.revoked, invite.uses) for invite in database.invites("cs101")] == [
        (1, None, 0),
        (2, 1500.0, 0),
    ]
    assert database.use_invite("cs101", secrets[0], 1999.0).role == "viewer"


def test_a_token_makes_the_same_member_again(database: Database, reopen: Callable[[], Database]) -> None:
    tokens = [new_secret(), new_secret()]
    for i, token in enumerate(tokens):
        database.add_member(Member("cs101", f"peer-{i}", "peer", f"Ann {i}", hash_secret(token), 1000.0 + i, 1000.0))
    database.saw_members("cs101", {"peer-1": 1500.0, "peer-9": 1600.0})
    database = reopen()
    found = database.find_member("cs101", tokens[1])
    assert found == Member("cs101", "peer-1", "peer", "Ann 1", hash_secret(tokens[1]), 1001.0, 1500.0)
    assert [member.last_seen for member in database.members("cs101")] == [1000.0, 1500.0]
    for wrong in ("", new_secret(), hash_secret(tokens[1])):
        assert database.find_member("cs101", wrong) is None
    with pytest.raises(StoreError):
        database.add_member(found)


def test_what_the_instructor_has_decided_about_a_member_stays(
    database: Database, reopen: Callable[[], Database]
) -> None:
    for name in ("peer-1", "peer-2"):
        database.add_member(Member("cs101", name, "peer", f"Ann {name}", name, 1.0, 1.0))
    for action in ("mute", "slow", "pause", "resume", "remove"):
        database.steer_member("cs101", "peer-1", action, 0.25)
    with pytest.raises(SettingError):
        database.steer_member("cs101", "peer-2", "slow", 0.0)
    assert database.steer_member("cs101", "peer-9", "mute", 1.0) is None
    first, second = reopen().members("cs101")
    assert (first.standing, first.shown) == (Standing(slowed=0.25, muted=True, removed=True), "peer 1")
    assert (second.standing, second.shown) == (Standing(), "Ann peer-2")


def test_secrets_are_not_in_the_file(database: Database, path: Path) -> None:
    secret, token = new_secret(), new_secret()
    database.add_invite("cs101", "peer", secret, "", 2000.0, 9)
    database.add_member(Member("cs101", "peer-1", "peer", "Ann", hash_secret(token), 1.0, 1.0))
    database.close()
    assert hash_secret(secret).encode() in path.read_bytes()
    assert secret.encode() not in path.read_bytes()
    assert token.encode() not in path.read_bytes()


# --- rounds, metrics, events


def test_rounds_come_back_in_order_each_as_recorded(database: Database, reopen: Callable[[], Database]) -> None:
    assert database.last_round("cs101") == 0
    for round in range(1, 12):
        database.add_round(record(round))
    database = reopen()
    assert database.last_round("cs101") == 11
    assert list(database.rounds("cs101")) == [record(round) for round in range(1, 12)]
    assert [each.round for each in database.rounds("cs101", after=9)] == [10, 11]
    assert database.round("cs101", 12) is None


@pytest.mark.parametrize("wrong", [0, 1, 2, 4])
def test_only_the_round_after_the_last_is_taken(database: Database, wrong: int) -> None:
    for round in (1, 2):
        database.add_round(record(round))
    metric = Metric("cs101", wrong, "", "loss", 1.0, 1)
    with pytest.raises(StoreError, match="next one is 3") as refused:
        database.add_round(record(wrong, attempt=5), [metric])
    assert f"Round {wrong} cannot" in refused.value.what
    assert list(database.rounds("cs101")) == [record(1), record(2)]
    assert database.metrics("cs101") == []


def test_a_record_that_could_not_be_read_back_is_not_taken(database: Database) -> None:
    with pytest.raises(StoreError, match="cannot be recorded"):
        database.add_round(record(1, learning_rate=math.nan))
    assert database.last_round("cs101") == 0


def test_a_round_and_what_came_of_it_are_recorded_together_or_not_at_all(database: Database) -> None:
    metric = Metric("cs101", 1, "", "loss", 6.0, 4)
    event = Event("cs101", 1.0, 1, 1, "info", "", "committed")
    with pytest.raises(StoreError):
        database.add_round(record(1), [metric], [msgspec.structs.replace(event, session="no")])
    assert database.last_round("cs101") == 0
    assert database.metrics("cs101") == []
    database.add_round(record(1), [metric], [event])
    assert database.last_round("cs101") == 1
    assert database.metrics("cs101") == [metric]
    assert database.metrics("cs101")[0].mean == 1.5
    assert [each.text for each in database.events("cs101")] == ["committed"]


def test_metrics_keep_numbers_that_are_not_finite_and_the_latest_of_the_same(database: Database) -> None:
    for version, value in [(0, 1.0), (2, math.inf), (2, 3.0), (1, math.nan)]:
        database.add_metrics([Metric("cs101", version, "peer-1", "loss", value, 1)])
    zero, one, two = database.metrics("cs101")
    assert (zero.sum, two.sum) == (1.0, 3.0)
    assert math.isnan(one.sum)
    assert database.metrics("cs101", after=1) == [two]
    assert math.isnan(Metric("cs101", 0, "", "loss", 0.0, 0).mean)


def test_events_are_read_on_from_the_last_one_seen(database: Database) -> None:
    database.add_session("ml-2", SPEC, LAYOUT, 1.0)
    for i in range(5):
        database.add_events(
            Event(session, 1.0, 1, 3, "warning", "peer-1", f"{session} {i}") for session in ("cs101", "ml-2")
        )
    first = database.events("cs101", limit=2)
    rest = database.events("cs101", after=first[-1].number)
    assert [event.text for event in first + rest] == [f"cs101 {i}" for i in range(5)]
    assert rest[0] == Event("cs101", 1.0, 1, 3, "warning", "peer-1", "cs101 2", rest[0].number)


# --- checkpoints


def test_checkpoints_are_numbered_listed_and_forgotten(database: Database, reopen: Callable[[], Database]) -> None:
    first = database.add_checkpoint("cs101", "round-5", 5, "ab" * 32, 1000.0)
    second = database.add_checkpoint("cs101", "mine", 5, "cd" * 32, 1001.0)
    assert (first.number, second.number) == (1, 2)
    database = reopen()
    assert database.checkpoints("cs101") == [first, second]
    database.delete_checkpoint("cs101", 1)
    assert database.checkpoints("cs101") == [second]
    with pytest.raises(SessionError, match="no session 'nobody'"):
        database.add_checkpoint("nobody", "x", 1, "ab" * 32, 1.0)
    database.delete_session("cs101")
    assert database.checkpoints("cs101") == []


def test_the_newest_of_each_metric_at_a_version(database: Database) -> None:
    rows = [(1, "", "loss", 4.0), (3, "", "loss", 2.0), (2, "", "held_out_loss", 6.0), (3, "ann", "bytes_up", 8.0)]
    database.add_metrics(Metric("cs101", version, member, name, value, 2) for version, member, name, value in rows)
    database.add_metrics(Metric("cs101", 3, "", name, float(name), 1) for name in ("nan", "inf"))
    assert database.latest_metrics("cs101", 2) == {"held_out_loss": 3.0, "loss": 2.0}
    assert database.latest_metrics("cs101", 9) == {"held_out_loss": 3.0, "loss": 1.0}


def test_the_layer_can_be_loaded_without_torch() -> None:
    modules = "atomic, blobs, database, journal, paths, rows, schema, sqlite"
    code = f"import sys\nfrom jupyter_swarm.store import {modules}\nsys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
