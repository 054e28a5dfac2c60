"""The file loses nothing that was committed, and says what it refuses."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from jupyter_swarm.protocol.errors import StoreError
from jupyter_swarm.protocol.rules import SessionSettings
from jupyter_swarm.store.database import Database
from jupyter_swarm.store.rows import Event, Member
from jupyter_swarm.store.schema import STEPS
from jupyter_swarm.store.sqlite import SqliteFile

from .recorded import LAYOUT, SPEC, record


def test_a_committed_round_survives_a_kill_and_one_under_way_does_not(path: Path) -> None:
    database = Database(path)
    database.add_session("cs101", SPEC, LAYOUT, 1000.0)
    database.close()
    script = f"""
import os, signal, sys
from pathlib import Path
import msgspec
from jupyter_swarm.protocol.records import RoundRecord
from jupyter_swarm.protocol.rules import SessionSettings
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


def test_commits_are_on_the_disk_before_they_are_announced(path: Path) -> None:
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "user_version": len(STEPS)}
    with contextlib.closing(SqliteFile(path, STEPS, 0.0)) as file:
        assert {name: file.run(f"PRAGMA {name}")[0][0] for name in wanted} == wanted


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
    connection.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
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


@pytest.mark.parametrize("version", range(1, len(STEPS)))
def test_an_older_file_gains_what_it_lacks(path: Path, version: int) -> None:
    """With sessions that go on, one at half its rule's learning rate."""
    with contextlib.closing(SqliteFile(path, STEPS[:version], 0.0)) as file:
        for session, scale in (("half", 0.5), ("old", 1.0)):
            spec = msgspec.to_builtins(SPEC)
            spec = {name: spec[name] for name in spec.keys() - {"changes", "data", "export", "parent"}}
            rate = {"learning_rate_scale": scale} if version < 3 else {"learning_rate": {0.5: 0.05, 1.0: 0.0}[scale]}
            spec["settings"] = {"seed": 7, "rounds": 90, **rate}
            row = (session, json_of(spec), json_of(LAYOUT), "running", 1.0, None, 3)
            file.insert("sessions", row if version < 5 else (*row, "", None))
        ann = ("old", "peer-1", "peer", "Ann", "ab", 1.0, 2.0)
        file.insert("members", ann if version < 4 else (*ann, "{}"))
    for name in ("first", "second"):
        with contextlib.closing(Database(path)) as database:
            half, old = database.sessions()
            assert (old.session, old.generation, old.spec.rule) == ("old", 3, SPEC.rule)
            assert (old.ending, old.sample) == ("", None)
            assert old.spec.settings == SessionSettings(seed=7, rounds=90)
            assert half.spec.settings == SessionSettings(seed=7, rounds=90, learning_rate=0.05)
            database.add_checkpoint("old", name, 0, "ab" * 32, 2.0)
            assert database.members("old") == [Member("old", "peer-1", "peer", "Ann", "ab", 1.0, 2.0)]
    with contextlib.closing(Database(path)) as database:
        assert [checkpoint.name for checkpoint in database.checkpoints("old")] == ["first", "second"]


def json_of(value: object) -> str:
    return msgspec.json.encode(value).decode()
