"""The record keeps what was committed, in order, and knows who may come in."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jupyter_swarm.protocol.errors import InviteError, SessionError, StoreError
from jupyter_swarm.protocol.invites import hash_secret, new_secret
from jupyter_swarm.protocol.layout import Layout, Stream, TensorSpec
from jupyter_swarm.protocol.records import BookState, Contributor, RoundRecord, ShardDigest, Skip
from jupyter_swarm.protocol.rules import SGD, RoundRule, SessionSettings, SessionSpec
from jupyter_swarm.store import database as database_module
from jupyter_swarm.store.database import SCHEMA_VERSION, Database
from jupyter_swarm.store.rows import Event, Member, Metric

LAYOUT = Layout((TensorSpec("w", (2, 3), "float32", Stream.PARAMETERS, 0, 6, ties=("v",)),))
SPEC = SessionSpec(
    name="Digits", recipe="r" * 64, layout_digest=LAYOUT.digest, rule=RoundRule("EveryStep", SGD(0.1)),
    settings=SessionSettings(), samples=100, held_out=10, initial="i" * 64, session="cs101",
)  # fmt: skip


def record(round: int, session: str = "cs101", **changes: Any) -> RoundRecord:
    contributor = Contributor(1, 17, "peer-1", 32, ((0, 20), (40, 52)), round - 1, 12.5, 32, {"gradient": 0.25})
    whole = RoundRecord(
        session, 1, round, 1, (contributor,), 32, (Skip((60, 61), "nan twice"),), BookState(64, ((52, 60),), 32, 1),
        (ShardDigest(0, 24, "d" * 64),), 0.1, 32, 1000.0 + round,
    )  # fmt: skip
    return msgspec.structs.replace(whole, **changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "swarm.sqlite"


@pytest.fixture
def reopen(path: Path) -> Iterator[Callable[[], Database]]:
    """Opens the file anew, as a restart does, and closes it at the end."""
    opened: list[Database] = []

    def reopen() -> Database:
        for database in opened:
            database.close()
        opened.append(Database(path))
        return opened[-1]

    yield reopen
    for database in opened:
        database.close()


@pytest.fixture
def database(reopen: Callable[[], Database]) -> Database:
    database = reopen()
    database.add_session("cs101", SPEC, LAYOUT, 1000.0)
    return database


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
    database.save_state("cs101", "finished", 2000.0)
    database = reopen()
    (session,) = database.sessions()
    assert session.spec == msgspec.structs.replace(SPEC, settings=settings)
    assert (session.state, session.ended) == ("finished", 2000.0)
    database.save_state("cs101", "paused", 2001.0)
    assert database.sessions()[0].ended is None


def test_an_id_is_given_once(database: Database) -> None:
    with pytest.raises(SessionError, match="'cs101' already"):
        database.add_session("cs101", SPEC, LAYOUT, 1.0)


def test_what_needs_a_session_says_that_there_is_none(database: Database) -> None:
    uses = [
        lambda: database.layout("no"),
        lambda: database.raise_generation("no"),
        lambda: database.change_spec("no", SessionSettings()),
        lambda: database.save_state("no", "paused", 1.0),
        lambda: database.add_invite("no", "peer", new_secret(), "", 1.0, 1),
    ]
    for use in uses:
        with pytest.raises(SessionError, match="no session 'no'"):
            use()
    with pytest.raises(StoreError):
        database.add_round(record(1, session="no"))
    assert database.last_round("no") == 0


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
    database.saw_members("cs101", ["peer-1", "peer-9"], 1500.0)
    database = reopen()
    found = database.find_member("cs101", tokens[1])
    assert found == Member("cs101", "peer-1", "peer", "Ann 1", hash_secret(tokens[1]), 1001.0, 1500.0)
    assert [member.last_seen for member in database.members("cs101")] == [1000.0, 1500.0]
    for wrong in ("", new_secret(), hash_secret(tokens[1])):
        assert database.find_member("cs101", wrong) is None
    with pytest.raises(StoreError):
        database.add_member(found)


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


# --- the file


def test_a_committed_round_survives_a_kill_and_one_under_way_does_not(path: Path) -> None:
    database = Database(path)
    database.add_session("cs101", SPEC, LAYOUT, 1000.0)
    database.close()
    script = f"""
import os, signal, sys
from pathlib import Path
import msgspec
from jupyter_swarm.protocol.records import RoundRecord
from jupyter_swarm.store.database import Database
database = Database(Path({str(path)!r}))
first, second = msgspec.json.decode(sys.stdin.read(), type=list[RoundRecord])
database.add_round(first)
def metrics():
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    yield
database.add_round(second, metrics())
"""
    both = msgspec.json.encode([record(1), record(2)])
    process = subprocess.run([sys.executable, "-c", script], input=both, capture_output=True, timeout=60)
    assert process.returncode not in (0, 1), process.stderr
    database = Database(path)
    assert list(database.rounds("cs101")) == [record(1)]
    database.add_round(record(2))
    database.close()


def test_commits_are_on_the_disk_before_they_are_announced(database: Database, path: Path) -> None:
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "user_version": SCHEMA_VERSION}
    found = {name: database._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in wanted}
    assert found == wanted


def test_a_full_disk_loses_nothing_and_goes_on_when_there_is_space(small_disk) -> None:
    database = Database(small_disk.folder / "swarm.sqlite")
    database.add_session("cs101", SPEC, LAYOUT, 1000.0)
    database.add_round(record(1))
    with small_disk.full(), pytest.raises(StoreError) as refused:
        database.add_round(record(2), events=[Event("cs101", 1.0, 1, 1, "info", "", "x" * 200_000)])
    assert str(small_disk.folder) in refused.value.todo
    assert "space" in refused.value.todo
    assert list(database.rounds("cs101")) == [record(1)]
    database.add_round(record(2))
    database.close()
    database = Database(small_disk.folder / "swarm.sqlite")
    assert database.last_round("cs101") == 2
    assert database.events("cs101") == []
    database.close()


def test_a_newer_format_is_left_alone(database: Database, path: Path) -> None:
    database.close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="newer jupyter_swarm") as refused:
        Database(path)
    assert "Upgrade" in refused.value.todo
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_second_server_is_kept_out_until_the_first_has_closed(database: Database, path: Path) -> None:
    with pytest.raises(StoreError, match="in use by another server"):
        Database(path, lock_seconds=0.0)
    database.close()
    second = Database(path, lock_seconds=0.0)
    assert [session.session for session in second.sessions()] == ["cs101"]
    second.close()


@pytest.mark.parametrize("content", [b"not a database" * 1000, b"SQLite format 3\0" + b"\xff" * 8000])
def test_a_damaged_file_is_named(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged") as damaged:
        Database(path)
    assert str(path) in damaged.value.why


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="could not write or read") as refused:
        Database(tmp_path / "gone" / "swarm.sqlite")
    assert "gone" in refused.value.why


def test_a_stored_spec_that_this_release_cannot_read_is_an_error(database: Database, path: Path) -> None:
    database._connection.execute("UPDATE sessions SET spec = '{}'")
    with pytest.raises(StoreError, match="stored SessionSpec cannot be read"):
        database.sessions()


def test_another_thread_is_refused_loudly(database: Database) -> None:
    caught: list[BaseException] = []

    def use() -> None:
        try:
            database.sessions()
        except sqlite3.ProgrammingError as error:
            caught.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(caught) == 1


def test_the_layer_can_be_loaded_without_torch() -> None:
    modules = "atomic, blobs, database, journal, paths, rows"
    code = f"import sys\nfrom jupyter_swarm.store import {modules}\nsys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


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
    database.add_metrics([Metric("cs101", 3, "", "odd", float("nan"), 1)])
    assert database.latest_metrics("cs101", 2) == {"held_out_loss": 3.0, "loss": 2.0}
    assert database.latest_metrics("cs101", 9) == {"held_out_loss": 3.0, "loss": 1.0}


def test_an_older_file_gains_what_it_lacks(path: Path) -> None:
    """As the first release wrote it: without checkpoints, with sessions that go on."""
    connection = sqlite3.connect(path)
    connection.executescript(f"BEGIN; {database_module._STEPS[0]} PRAGMA user_version = 1; COMMIT;")
    row = ("old", json_of(SPEC), json_of(LAYOUT), "running", 1.0, None, 3)
    connection.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    connection.commit()
    connection.close()
    database = Database(path)
    assert [(session.session, session.generation) for session in database.sessions()] == [("old", 3)]
    database.add_checkpoint("old", "first", 0, "ab" * 32, 2.0)
    database.close()
    again = Database(path)
    assert [checkpoint.name for checkpoint in again.checkpoints("old")] == ["first"]
    again.close()


def json_of(value: msgspec.Struct) -> str:
    return msgspec.json.encode(value).decode()
