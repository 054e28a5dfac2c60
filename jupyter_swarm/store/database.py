"""The record of a server: sessions, invites, members, events, committed rounds, metrics, checkpoints.

A round is committed when `Database.add_round` has returned. All times are seconds since 1970, given by the caller.
"""

from __future__ import annotations

import hmac
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ..protocol.errors import InviteError, SessionError, StoreError
from ..protocol.invites import Role, hash_secret
from ..protocol.layout import Layout
from ..protocol.records import RoundRecord
from ..protocol.rules import SessionSettings, SessionSpec, StrategyChange
from ..protocol.samples import Sample
from ..protocol.standing import Standing, SteerAction, steered
from .rows import Done, Event, Member, Metric, SessionState, StoredCheckpoint, StoredInvite, StoredSession
from .schema import STEPS
from .sqlite import SqliteFile

_S = TypeVar("_S", bound=msgspec.Struct)


class Database:
    """The open record, to be used by one thread, as the `SqliteFile` that it is in.

    Every method raises `StoreError` where the disk refuses or the file is damaged; what was there before stays.
    """

    def __init__(self, path: Path, lock_seconds: float = 5.0) -> None:
        """Open or make the file; waits `lock_seconds` for another server to let it go."""
        self._file = SqliteFile(path, STEPS, lock_seconds)

    def close(self) -> None:
        """Close the file and let others open it."""
        self._file.close()

    # --- sessions

    def add_session(self, session: str, spec: SessionSpec, layout: Layout, now: float) -> None:
        """Record a new session, running, at generation 0. Raises `SessionError` if its id is taken."""
        row = (session, _json(spec), _json(layout), "running", now, None, 0, "", None)
        with self._file.transaction():
            if self._file.run("SELECT 1 FROM sessions WHERE session = ?", session):
                raise SessionError(f"There is a session {session!r} already.", todo="Choose another name.")
            self._file.insert("sessions", row)

    def sessions(self) -> list[StoredSession]:
        """All sessions, oldest first."""
        rows = self._file.run(
            "SELECT session, spec, state, created, ended, generation, ending, sample FROM sessions "
            "ORDER BY created, session"
        )
        return [
            msgspec.structs.replace(
                StoredSession(row[0], _from_json(row[1], SessionSpec), *row[2:-1]),
                sample=row[-1] and _from_json(row[-1], Sample),
            )
            for row in rows
        ]

    def layout(self, session: str) -> Layout:
        """The layout that the session was opened with. Raises `SessionError` if there is no such session."""
        return _from_json(self._of_session("layout", session), Layout)

    def change_spec(
        self,
        session: str,
        settings: SessionSettings | None = None,
        changes: tuple[StrategyChange, ...] | None = None,
    ) -> SessionSpec:
        """Replace what is given in the session's spec; returns the new spec. Raises `SessionError`."""
        with self._file.transaction():
            spec = _from_json(self._of_session("spec", session), SessionSpec)
            if settings is not None:
                spec = msgspec.structs.replace(spec, settings=settings)
            if changes is not None:
                spec = msgspec.structs.replace(spec, changes=changes)
            self._file.run("UPDATE sessions SET spec = ? WHERE session = ?", _json(spec), session)
        return spec

    def save_state(self, session: str, state: SessionState, now: float, ending: str = "") -> None:
        """Record what the session does from now on, and why if it ends. Raises `SessionError`."""
        ended = now if state == "finished" else None
        with self._file.transaction():
            self._of_session("state", session)
            self._file.run(
                "UPDATE sessions SET state = ?, ended = ?, ending = ? WHERE session = ?", state, ended, ending, session
            )

    def save_sample(self, session: str, sample: Sample) -> None:
        """Record the text that is shown, in the place of the one before. Raises `SessionError`."""
        with self._file.transaction():
            self._of_session("sample", session)
            self._file.run("UPDATE sessions SET sample = ? WHERE session = ?", _json(sample), session)

    def raise_generation(self, session: str) -> int:
        """Count one more start of the server for this session; returns the new generation. Raises `SessionError`."""
        with self._file.transaction():
            generation: int = self._of_session("generation", session) + 1
            self._file.run("UPDATE sessions SET generation = ? WHERE session = ?", generation, session)
        return generation

    def delete_session(self, session: str) -> None:
        """Forget a session and everything recorded of it. Does nothing if there is no such session."""
        with self._file.transaction():
            for table in ("checkpoints", "metrics", "rounds", "events", "members", "invites", "sessions"):
                self._file.run(f"DELETE FROM {table} WHERE session = ?", session)

    # --- invites

    def add_invite(
        self, session: str, role: Role, secret: str, label: str, expires: float, capacity: int
    ) -> StoredInvite:
        """Record a new invite by the hash of its secret. Raises `SessionError`."""
        with self._file.transaction():
            number = self._next_number("invites", session)
            invite = StoredInvite(session, number, role, hash_secret(secret), label, expires, capacity)
            self._file.insert("invites", msgspec.structs.astuple(invite))
        return invite

    def invites(self, session: str) -> list[StoredInvite]:
        """All invites of a session, in the order they were made."""
        return self._read(StoredInvite, "SELECT * FROM invites WHERE session = ? ORDER BY number", session)

    def check_invite(self, session: str, secret: str, now: float) -> StoredInvite:
        """The invite with this secret. Raises `InviteError` if it is wrong, revoked or expired (not if it is full)."""
        found = _by_hash(((invite.secret_hash, invite) for invite in self.invites(session)), secret)
        ask = "Ask the instructor for a new invite."
        if found is None:
            raise InviteError("The server does not know this invite.", "Its secret belongs to no invite here.", ask)
        if found.revoked is not None:
            raise InviteError("This invite is no longer valid.", "The instructor has revoked it.", ask)
        if found.expires <= now:
            raise InviteError("This invite is no longer valid.", "It has expired.", ask)
        return found

    def use_invite(self, session: str, secret: str, now: float) -> StoredInvite:
        """As `check_invite`, and count one use. Raises `InviteError` also if the invite is full."""
        with self._file.transaction():
            found = self.check_invite(session, secret, now)
            if found.uses >= found.capacity:
                raise InviteError(
                    "This invite is full.",
                    f"It lets {found.capacity} in, and so many have used it.",
                    "Ask the instructor for an invite with more places.",
                )
            found = msgspec.structs.replace(found, uses=found.uses + 1)
            self._file.run(
                "UPDATE invites SET uses = ? WHERE session = ? AND number = ?", found.uses, session, found.number
            )
        return found

    def revoke_invite(self, session: str, number: int, now: float) -> None:
        """Let nobody in by this invite from now on; the time of a first revocation stays."""
        with self._file.transaction():
            self._file.run(
                "UPDATE invites SET revoked = ? WHERE session = ? AND number = ? AND revoked IS NULL",
                now, session, number,
            )  # fmt: skip

    # --- members

    def add_member(self, member: Member) -> None:
        """Record a new member. Raises `StoreError` if the session has a member of this id, or is not there."""
        with self._file.transaction():
            self._file.insert("members", (*msgspec.structs.astuple(member)[:-1], _json(member.standing)))

    def members(self, session: str) -> list[Member]:
        """All members, in the order they joined."""
        rows = self._file.run("SELECT * FROM members WHERE session = ? ORDER BY joined, member", session)
        return [msgspec.structs.replace(Member(*row[:-1]), standing=_from_json(row[-1], Standing)) for row in rows]

    def find_member(self, session: str, token: str) -> Member | None:
        """The member that this token was given to."""
        return _by_hash(((member.token_hash, member) for member in self.members(session)), token)

    def steer_member(self, session: str, member: str, action: SteerAction, share: float) -> Member | None:
        """Record what the instructor has decided about a member, who is returned (None: there is none of this id).
        Raises `SettingError`."""
        with self._file.transaction():
            found = next((one for one in self.members(session) if one.member == member), None)
            if found is None:
                return None
            found = msgspec.structs.replace(found, standing=steered(found.standing, action, share))
            self._file.run(
                "UPDATE members SET standing = ? WHERE session = ? AND member = ?",
                _json(found.standing), session, member,
            )  # fmt: skip
        return found

    def saw_members(self, session: str, seen: Mapping[str, float]) -> None:
        """Record until when these members were connected."""
        with self._file.transaction():
            for member, unix_time in seen.items():
                self._file.run(
                    "UPDATE members SET last_seen = ? WHERE session = ? AND member = ?", unix_time, session, member
                )

    # --- rounds, metrics, events

    def add_round(self, record: RoundRecord, metrics: Iterable[Metric] = (), events: Iterable[Event] = ()) -> None:
        """Commit a round: when this returns, the record is durable, and with it what came of the round.

        Raises `StoreError`, having written nothing, for any round but the one after the last, and for a record that
        could not be read back.
        """
        text = _json(record)
        try:
            faithful = msgspec.json.decode(text, type=RoundRecord) == record
        except msgspec.ValidationError:
            faithful = False
        if not faithful:
            raise StoreError(
                f"Round {record.round} cannot be recorded.", "Its record holds numbers that are not finite."
            )
        with self._file.transaction():
            last = self.last_round(record.session)
            if record.round != last + 1:
                raise StoreError(
                    f"Round {record.round} cannot be recorded.",
                    f"The last recorded round is {last}, so the next one is {last + 1}.",
                    "Restart the server: it goes on from what is recorded.",
                )
            self._file.insert("rounds", (record.session, record.round, text))
            self._insert_metrics(metrics)
            self._insert_events(events)

    def last_round(self, session: str) -> int:
        """The last committed round, which is the session's version; 0 without any."""
        ((last,),) = self._file.run("SELECT COALESCE(MAX(round), 0) FROM rounds WHERE session = ?", session)
        return int(last)

    def round(self, session: str, round: int) -> RoundRecord | None:
        """The record of one round."""
        rows = self._file.run("SELECT record FROM rounds WHERE session = ? AND round = ?", session, round)
        return _from_json(rows[0][0], RoundRecord) if rows else None

    def rounds(self, session: str, after: int = 0) -> Iterator[RoundRecord]:
        """The records of the rounds after `after`, in order, read one by one."""
        for number in range(after + 1, self.last_round(session) + 1):
            record = self.round(session, number)
            if record is None:
                raise StoreError(f"The record of round {number} is missing.", f"{self._file.path} is damaged.")
            yield record

    def add_metrics(self, metrics: Iterable[Metric]) -> None:
        """Record metrics; one with the same version, member and name is replaced."""
        with self._file.transaction():
            self._insert_metrics(metrics)

    def metrics(self, session: str, after: int = -1, limit: int = -1, together: bool = False) -> list[Metric]:
        """The metrics of the versions after `after`, in the order of versions, members and names: at most `limit` rows
        (-1: all). together: only those of all members together."""
        only = "AND member = ''" if together else ""
        rows = self._file.run(
            f"SELECT * FROM metrics WHERE session = ? AND version > ? {only} ORDER BY version, member, name LIMIT ?",
            session, after, limit,
        )  # fmt: skip
        return [
            Metric(session, version, member, name, _number(total), count)
            for session, version, member, name, total, count in rows
        ]

    def done(self, session: str) -> dict[str, Done]:
        """What each member has done in all rounds. Reads every record: for whoever asks once."""
        samples: Counter[str] = Counter()
        for number in range(1, self.last_round(session) + 1):
            for (text,) in self._file.run("SELECT record FROM rounds WHERE session = ? AND round = ?", session, number):
                for one in _from_json(text, _Weights).contributors:
                    samples[one.peer] += one.weight
        found = {member: {"samples": count} for member, count in samples.items()}
        moved = self._file.run(
            "SELECT member, name, SUM(sum) FROM metrics WHERE session = ? AND name IN ('bytes_up', 'bytes_down') "
            "GROUP BY member, name", session,
        )  # fmt: skip
        for member, name, total in moved:
            found.setdefault(member, {})[name] = round(total or 0)
        return {member: Done(**facts) for member, facts in found.items()}

    def latest_metrics(self, session: str, version: int) -> dict[str, float]:
        """The newest mean of each metric of all members together, as of `version`; those that are finite."""
        rows = self._file.run(
            "SELECT name, sum, count, MAX(version) FROM metrics WHERE session = ? AND member = '' AND version <= ? "
            "GROUP BY name ORDER BY name", session, version,
        )  # fmt: skip
        return {name: total / count for name, total, count, _ in rows if count and math.isfinite(_number(total))}

    def add_events(self, events: Iterable[Event]) -> None:
        """Record events; their `number` is given here."""
        with self._file.transaction():
            self._insert_events(events)

    def events(self, session: str, after: int = 0, limit: int = 1000) -> list[Event]:
        """At most `limit` events whose number is above `after`, in order."""
        return self._read(
            Event,
            "SELECT * FROM events WHERE session = ? AND number > ? ORDER BY number LIMIT ?",
            session, after, limit,
        )  # fmt: skip

    # --- checkpoints

    def add_checkpoint(self, session: str, name: str, version: int, manifest: str, created: float) -> StoredCheckpoint:
        """Record a checkpoint by the SHA-256 of its manifest. Raises `SessionError`."""
        with self._file.transaction():
            number = self._next_number("checkpoints", session)
            checkpoint = StoredCheckpoint(session, number, name, version, manifest, created)
            self._file.insert("checkpoints", msgspec.structs.astuple(checkpoint))
        return checkpoint

    def checkpoints(self, session: str) -> list[StoredCheckpoint]:
        """All checkpoints of a session, in the order they were made."""
        return self._read(StoredCheckpoint, "SELECT * FROM checkpoints WHERE session = ? ORDER BY number", session)

    def delete_checkpoint(self, session: str, number: int) -> None:
        """Forget a checkpoint. Does nothing if there is no such checkpoint."""
        with self._file.transaction():
            self._file.run("DELETE FROM checkpoints WHERE session = ? AND number = ?", session, number)

    # --- inside

    def _read(self, kind: type[_S], sql: str, *values: Any) -> list[_S]:
        """Rows whose columns are the fields of `kind`, in its order."""
        return [kind(*row) for row in self._file.run(sql, *values)]

    def _insert_metrics(self, metrics: Iterable[Metric]) -> None:
        rows = map(msgspec.structs.astuple, metrics)
        self._file.run_each("INSERT OR REPLACE INTO metrics VALUES (?, ?, ?, ?, ?, ?)", rows)

    def _insert_events(self, events: Iterable[Event]) -> None:
        for event in events:
            self._file.insert("events", (*msgspec.structs.astuple(event)[:-1], None))

    def _of_session(self, column: str, session: str) -> Any:
        rows = self._file.run(f"SELECT {column} FROM sessions WHERE session = ?", session)
        if not rows:
            raise SessionError(
                f"There is no session {session!r} on this server.", todo="Check the name, or ask for a new invite."
            )
        return rows[0][0]

    def _next_number(self, table: str, session: str) -> int:
        """The number of a row that is to be added to one of the session's tables. Raises `SessionError`."""
        self._of_session("session", session)
        ((last,),) = self._file.run(f"SELECT COALESCE(MAX(number), 0) FROM {table} WHERE session = ?", session)
        return int(last) + 1


class _Weight(msgspec.Struct):
    peer: str
    weight: int


class _Weights(msgspec.Struct):
    """Of a round's record what each contributor counted, which is read many times faster than all of it."""

    contributors: list[_Weight]


def _number(stored: float | None) -> float:
    """SQLite has no NaN: it stores NULL."""
    return math.nan if stored is None else stored


def _json(value: msgspec.Struct) -> str:
    return msgspec.json.encode(value).decode()


def _from_json(text: str, kind: type[_S]) -> _S:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise StoreError(
            f"A stored {kind.__name__} cannot be read.", f"{error}", "Upgrade jupyter_swarm on the server."
        ) from error


def _by_hash(candidates: Iterable[tuple[str, _S]], secret: str) -> _S | None:
    """Compares with all of them, in constant time each, so that timing tells nothing about who is there."""
    wanted = hash_secret(secret)
    found = None
    for known, candidate in candidates:
        if hmac.compare_digest(known, wanted):
            found = candidate
    return found
