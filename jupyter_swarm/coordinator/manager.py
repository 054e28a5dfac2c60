"""The sessions of one server: opened, resumed, listed, changed and deleted; plain Python, without a web server.

Nothing is written before the first session is opened, since every user of a JupyterHub loads the extension; and torch
is not loaded before, since most of them never open one.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import logging
import re
import secrets
import time
import unicodedata
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import msgspec

from ..protocol.errors import LayoutError, SessionError, SettingError, SwarmError
from ..protocol.invites import Role, new_secret
from ..protocol.layout import LAYOUT_VERSION, Layout
from ..protocol.manifest import check_export_names
from ..protocol.records import RoundRecord
from ..protocol.rules import RoundRule, SessionSettings, SessionSpec, check_spec
from ..store.database import Database
from ..store.rows import Event, Member, Metric, SessionState, StoredCheckpoint, StoredInvite, StoredSession
from .invites import InviteBook
from .refusals import SessionEnded, SessionNotReady, UnknownSession
from .storage import Storage, spec_blobs

if TYPE_CHECKING:
    from .session import SessionRuntime
    from .steering import StrategyChanged

_P = ParamSpec("_P")

_LONGEST_INVITE = 366 * 86400.0
_MOST = 10**6
_LAST_CHECKPOINT_SECONDS = 60.0
_STORED_STATES: dict[str, SessionState] = {
    "waiting": "running",
    "training": "running",
    "paused": "paused",
    "finished": "finished",
}


class ManagerOptions(msgspec.Struct, frozen=True):
    """`storage`: the folder of all that is stored. `max_blob_bytes`: of one upload. An invite is good for
    `invite_seconds` and `invite_capacity` people unless it says otherwise."""

    storage: Path
    max_blob_bytes: int = 4 << 30
    invite_seconds: float = 7 * 86400.0
    invite_capacity: int = 256


class SessionManager:
    """All sessions of one server. Methods raise `SwarmError`s that say what the caller did wrong; not thread-safe."""

    def __init__(
        self, options: ManagerOptions, log: logging.Logger | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.options = options
        self.invites = InviteBook(clock)
        self._clock = clock
        self._log = log or logging.getLogger(__name__)
        self._runtimes: dict[str, SessionRuntime] = {}
        self._resuming: set[str] = set()
        self._problems: dict[str, SwarmError] = {}
        self._storage: Storage | None = None
        self._opening = asyncio.Lock()
        self._saving: set[asyncio.Task[None]] = set()
        self._known = asyncio.Event()

    # --- the server's life

    async def start(self, resume: bool = True) -> None:
        """Read what is stored, if anything is, and take up the sessions that had not ended.

        A session that cannot be taken up is left as it is, with its reason to be read in `describe`.
        """
        try:
            unfinished = await self._read_stored() if self._stored else []
            if unfinished and resume:
                self._resuming = {session.session for session in unfinished}
            else:
                await self._close_storage()  # another server of the same user may want it
        except SwarmError as error:
            self._log.warning("The stored sessions are not available on this server.\n%s", error)
        finally:
            self._known.set()
        if self._resuming:
            storage = await self._open_storage()
            for session in unfinished:
                await self._resume(storage, session)

    async def known(self) -> None:
        """Wait until it is known which sessions and invites are stored: the server answers requests before."""
        await self._known.wait()

    async def _read_stored(self) -> list[StoredSession]:
        storage = await self._open_storage()
        sessions = await storage.run_in_store(storage.database.sessions)
        for session in sessions:
            self.invites.put(await storage.run_in_store(storage.database.invites, session.session))
        return [session for session in sessions if session.state != "finished"]

    async def stop(self, reason: str = "The server stops.") -> None:
        """End all connections and close the store. The sessions go on when a server starts with this store again."""
        runtimes, self._runtimes = self._runtimes, {}
        ends = await asyncio.gather(*(runtime.stop(reason) for runtime in runtimes.values()), return_exceptions=True)
        for session, end in zip(runtimes, ends, strict=True):
            if isinstance(end, BaseException):
                self._log.error("Session %s did not stop cleanly: %s", session, end)
        await asyncio.gather(*self._saving)
        await self._close_storage()

    @property
    def last_activity(self) -> datetime | None:
        """When somebody last did something in any live session."""
        return max((runtime.last_activity for runtime in self._runtimes.values()), default=None)

    @property
    def live(self) -> list[str]:
        """The ids of the sessions that run or are paused on this server."""
        return [name for name, runtime in self._runtimes.items() if runtime.status().state != "finished"]

    @property
    def attended(self) -> list[str]:
        """The ids of the live sessions that peers are connected to."""
        return [name for name in self.live if self._runtimes[name].status().peers]

    # --- sessions

    async def open(self, spec: SessionSpec, layout: Layout) -> str:
        """Open a session whose blobs have been uploaded; returns its id.

        Raises `SettingError`, `LayoutError` or `SessionError` for what could not be trained, `StoreError`.
        """
        if not spec.name.strip() or len(spec.name) > 200:
            raise SettingError("The session has no usable name.", todo="Give it a name of 1 to 200 characters.")
        check_spec(spec)
        if layout.version != LAYOUT_VERSION or layout.digest != spec.layout_digest:
            raise LayoutError(
                "The session's layout is not the one that its specification names.",
                "Its digest differs." if layout.version == LAYOUT_VERSION else f"It has format {layout.version}.",
                "Install the same jupyter_swarm version on both ends and open the session again.",
            )
        storage = await self._open_storage()
        check_export_names(name for name, _ in spec.export)
        needed = [("recipe", spec.recipe), ("first parameters", spec.initial), ("samples", spec.data)]
        needed += [(f"files of the name {name}", blob) for name, blob in spec.export]
        for what, blob in needed:
            if blob and not storage.blobs.exists(blob):
                raise SessionError(f"The session's {what} are not on the server.", todo="Upload them first.")
        session = session_id(spec.name)
        spec = msgspec.structs.replace(spec, session=session)
        await storage.run_in_store(storage.database.add_session, session, spec, layout, self._clock())
        try:
            await self._run(storage, spec, layout)
        except BaseException:
            await storage.run_in_store(storage.database.delete_session, session)
            await asyncio.to_thread(storage.remove_folder, session)
            raise
        return session

    async def sessions(self) -> list[dict[str, Any]]:
        """All sessions, oldest first, as `describe` tells of each."""
        if not self._stored:
            return []
        storage = await self._open_storage()
        return [self._view(stored) for stored in await storage.run_in_store(storage.database.sessions)]

    async def describe(self, session: str) -> dict[str, Any]:
        """What there is to know of a session: specification, state, and, while it lives, its status."""
        return self._view(await self.stored(session))

    async def stored(self, session: str) -> StoredSession:
        """The session as it is stored. Raises `UnknownSession`."""
        if self._stored:
            storage = await self._open_storage()
            for row in await storage.run_in_store(storage.database.sessions):
                if row.session == session:
                    return row
        raise UnknownSession(session)

    def runtime(self, session: str) -> SessionRuntime:
        """The live session. Raises `SessionNotReady` while it is being read, else `SessionEnded`."""
        if session in self._runtimes:
            return self._runtimes[session]
        if session in self._resuming:
            raise SessionNotReady(session)
        raise self._problems.get(session) or SessionEnded(session)

    async def act(self, session: str, action: str, by: str) -> None:
        """pause, resume or stop, on behalf of `by`."""
        await self.stored(session)
        runtime = self.runtime(session)
        {"pause": runtime.pause, "resume": runtime.resume, "stop": runtime.finish}[action](by)

    async def change_settings(self, session: str, changes: Mapping[str, Any], by: str) -> SessionSettings:
        """Change some settings from the next round on; returns all of them. Raises `SettingError`."""
        spec = (await self.stored(session)).spec
        runtime = self.runtime(session)
        unknown = changes.keys() - set(SessionSettings.__struct_fields__)
        if unknown:
            known = ", ".join(SessionSettings.__struct_fields__)
            raise SettingError(f"There is no setting {sorted(unknown)[0]}.", todo=f"The settings are: {known}.")
        try:
            settings = msgspec.convert({**msgspec.to_builtins(spec.settings), **changes}, SessionSettings)
        except msgspec.ValidationError as error:
            raise SettingError("A setting has a value of the wrong kind.", str(error)) from None
        if settings.seed != spec.settings.seed:
            raise SettingError(
                "The seed of a session cannot change.", "Its sample order was drawn from it.", "Open a new session."
            )
        check_spec(msgspec.structs.replace(spec, settings=settings))
        runtime.change_settings(settings, by)
        storage = await self._open_storage()
        await storage.run_in_store(storage.database.change_spec, session, settings)
        return settings

    async def change_strategy(
        self, session: str, rule: RoundRule, by: str, round: int | None = None
    ) -> StrategyChanged:
        """Let `rule` hold from `round` on (None: from the next one). Raises `SettingError`, `StoreError`."""
        await self.stored(session)
        return await self.runtime(session).change_strategy(rule, by, round)

    async def delete(self, session: str, by: str) -> None:
        """End a session and remove all that is stored of it but the blobs that its founder has uploaded, which another
        session may be about to name: the next start of a server removes what none does."""
        spec = (await self.stored(session)).spec
        storage = await self._open_storage()
        self.invites.drop_session(session)
        runtime = self._runtimes.pop(session, None)
        if runtime:
            await runtime.stop(f"The session was deleted by {by}.")
        await self._forget(storage, spec, storage.database.delete_session, session)
        await asyncio.to_thread(storage.remove_folder, session)

    # --- checkpoints

    async def checkpoints(self, session: str) -> list[dict[str, Any]]:
        """All checkpoints of a session, oldest first, each with its manifest (None, and the problem, if that cannot be
        read). Of a session that has just finished, with the last one."""
        await self.stored(session)
        runtime = self._runtimes.get(session)
        if runtime is not None and runtime.status().state == "finished":
            await asyncio.wait({runtime.checkpoints.ended}, timeout=_LAST_CHECKPOINT_SECONDS)
        storage = await self._open_storage()
        return await storage.run_in_store(
            lambda: [_checkpoint_view(storage, row) for row in storage.database.checkpoints(session)]
        )

    async def checkpoint(self, session: str, name: str) -> dict[str, Any]:
        """Write a checkpoint of the version that stands now; returns when it is durable. Raises `StoreError`."""
        await self.stored(session)
        if len(name) > 200 or not (name.isprintable() and name == name.strip()):
            raise SettingError(
                "This cannot be the name of a checkpoint.", todo="Choose up to 200 printable characters."
            )
        row = await self.runtime(session).checkpoints.take(name)
        storage = await self._open_storage()
        return await storage.run_in_store(_checkpoint_view, storage, row)

    async def delete_checkpoint(self, session: str, number: int) -> None:
        """Remove a checkpoint, and its files unless another one shares them."""
        spec = (await self.stored(session)).spec
        if not any(one["number"] == number for one in await self.checkpoints(session)):
            raise SessionError(f"The session has no checkpoint {number}.", todo="List its checkpoints.")
        storage = await self._open_storage()
        runtime = self._runtimes.get(session)
        async with runtime.checkpoints.lock if runtime else contextlib.nullcontext():
            await self._forget(storage, spec, storage.database.delete_checkpoint, session, number)

    async def names_blob(self, session: str, sha256: str) -> bool:
        """Whether the session, or a checkpoint of it, names this blob."""
        spec = (await self.stored(session)).spec
        storage = await self._open_storage()
        return sha256 in await storage.run_in_store(storage.blobs_of, session, spec)

    async def _forget(
        self, storage: Storage, spec: SessionSpec, forget: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs
    ) -> None:
        """Delete rows, and then the blobs of the session's checkpoints that nothing names any more."""

        def run() -> None:
            named = storage.blobs_of(spec.session, spec) - spec_blobs(spec)
            forget(*args, **kwargs)
            storage.remove_unnamed(named)

        await storage.run_in_store(run)

    # --- invites

    async def invite(
        self, session: str, role: Role, seconds: float = 0.0, capacity: int = 0, label: str = ""
    ) -> tuple[StoredInvite, str]:
        """Make an invite; returns it with its secret, which nobody can get again. Zeros mean the server's defaults."""
        await self.stored(session)
        seconds = seconds or self.options.invite_seconds
        capacity = capacity or self.options.invite_capacity
        if not 0 < seconds <= _LONGEST_INVITE:
            raise SettingError("An invite is good for some time, at most a year.", todo="Choose other hours.")
        if not 0 < capacity <= _MOST:
            raise SettingError(f"An invite for {capacity} people.", todo=f"Choose a capacity from 1 to {_MOST}.")
        secret = new_secret()
        storage = await self._open_storage()
        invite = await storage.run_in_store(
            storage.database.add_invite, session, role, secret, label[:200], self._clock() + seconds, capacity
        )
        self.invites.put([invite])
        return invite, secret

    async def invites_of(self, session: str) -> list[StoredInvite]:
        """All invites of a session, also those that are over."""
        await self.stored(session)
        storage = await self._open_storage()
        return await storage.run_in_store(storage.database.invites, session)

    async def revoke(self, session: str, number: int) -> None:
        """Let nobody in by this invite any more, and close the connections made with it."""
        if not any(invite.number == number for invite in await self.invites_of(session)):
            raise SessionError(f"The session has no invite {number}.", todo="List its invites.")
        storage = await self._open_storage()
        await storage.run_in_store(storage.database.revoke_invite, session, number, self._clock())
        changed = [invite for invite in await self.invites_of(session) if invite.number == number]
        self.invites.put(changed)
        self.invites.disconnect(changed[0], "This invite was revoked.")

    async def admit(self, session: str, secret: str, token: str) -> None:
        """Count one more use of an invite, unless `token` shows that its bearer is a member already.

        Raises `InviteError` if the invite has been used up.
        """
        storage = await self._open_storage()

        def count() -> list[StoredInvite]:
            if token and storage.database.find_member(session, token):
                return []
            return [storage.database.use_invite(session, secret, self._clock())]

        self.invites.put(await storage.run_in_store(count))

    # --- what was recorded

    async def records(self, session: str, after: int, limit: int) -> list[RoundRecord]:
        """At most `limit` records of rounds after `after`."""
        await self.stored(session)
        storage = await self._open_storage()
        return await storage.run_in_store(
            lambda: list(itertools.islice(storage.database.rounds(session, after), limit))
        )

    async def metrics(self, session: str, after: int, limit: int) -> tuple[list[Metric], int | None]:
        """The metrics of versions after `after`, whole versions in about `limit` rows, and the last of these versions
        if more may follow."""
        await self.stored(session)
        storage = await self._open_storage()
        return await storage.run_in_store(_whole_versions, storage.database, session, after, limit)

    async def events(self, session: str, after: int, limit: int) -> list[Event]:
        """At most `limit` events whose number is above `after`."""
        await self.stored(session)
        storage = await self._open_storage()
        return await storage.run_in_store(storage.database.events, session, after, limit)

    async def members(self, session: str) -> list[Member]:
        """Everybody who has ever been in the session."""
        await self.stored(session)
        storage = await self._open_storage()
        return await storage.run_in_store(storage.database.members, session)

    async def storage(self) -> Storage:
        """The open store, made if it is missing."""
        return await self._open_storage()

    # --- inside

    @property
    def _stored(self) -> bool:
        return self._storage is not None or (self.options.storage / "swarm.sqlite").exists()

    async def _open_storage(self) -> Storage:
        async with self._opening:
            if self._storage is None:
                self._storage = await Storage.open(self.options.storage)
            return self._storage

    async def _close_storage(self) -> None:
        async with self._opening:
            storage, self._storage = self._storage, None
            if storage:
                await storage.close()

    def _view(self, stored: StoredSession) -> dict[str, Any]:
        runtime, problem = self._runtimes.get(stored.session), self._problems.get(stored.session)
        return {
            **msgspec.to_builtins(stored),
            "name": stored.spec.name,
            "status": msgspec.to_builtins(runtime.status()) if runtime else None,
            "problem": str(problem) if problem else "",
        }

    async def _resume(self, storage: Storage, stored: StoredSession) -> None:
        try:
            layout = await storage.run_in_store(storage.database.layout, stored.session)
            runtime = await self._run(storage, stored.spec, layout)
            if stored.state == "paused":
                runtime.pause("whoever paused it before the server stopped")
            self._log.info("Session %s goes on.", stored.session)
        except Exception as error:
            self._log.exception("Session %s cannot go on.", stored.session)
            self._problems[stored.session] = error if isinstance(error, SwarmError) else SessionError(
                f"The session {stored.session} could not be taken up after a restart.", f"{error}",
                "See the server's log.",
            )  # fmt: skip
        finally:
            self._resuming.discard(stored.session)

    async def _run(self, storage: Storage, spec: SessionSpec, layout: Layout) -> SessionRuntime:
        module = await asyncio.to_thread(importlib.import_module, f"{__package__}.session")  # loads torch
        generation = await storage.run_in_store(storage.database.raise_generation, spec.session)
        runtime: SessionRuntime = module.SessionRuntime(spec, layout, storage, generation)
        await runtime.start()
        self._runtimes[spec.session] = runtime
        runtime.add_viewer(self._keeper(storage, runtime))
        return runtime

    def _keeper(self, storage: Storage, runtime: SessionRuntime) -> Callable[[dict[str, Any]], None]:
        """A viewer of a session that writes down what a restarted server must go on with, when that changes.

        That it has finished is written down once its last checkpoint is there: a server that dies before makes it.
        """
        session = runtime.spec.session
        kept: SessionState = "running"

        def see(message: dict[str, Any]) -> None:
            nonlocal kept
            state = _STORED_STATES.get(message.get("state", "")) if message["type"] == "status" else None
            if state and state != kept:
                kept = state
                task = asyncio.get_running_loop().create_task(save(state))
                self._saving.add(task)
                task.add_done_callback(self._saving.discard)

        async def save(state: SessionState) -> None:
            try:
                if state == "finished" and not await runtime.checkpoints.ended:
                    return
                await storage.run_in_store(storage.database.save_state, session, state, self._clock())
            except SwarmError as error:
                self._log.error("That session %s is %s could not be written down.\n%s", session, state, error)

        return see


def _whole_versions(database: Database, session: str, after: int, limit: int) -> tuple[list[Metric], int | None]:
    while len(rows := database.metrics(session, after, limit + 1)) > limit:
        whole = [row for row in rows if row.version < rows[-1].version]
        if whole:
            return whole, whole[-1].version
        limit *= 2  # a version of so many members
    return rows, None


def _checkpoint_view(storage: Storage, row: StoredCheckpoint) -> dict[str, Any]:
    try:
        manifest, problem = msgspec.to_builtins(storage.manifest(row.manifest)), ""
    except SwarmError as error:
        manifest, problem = None, str(error)
    return {
        "number": row.number, "name": row.name, "version": row.version, "created": row.created, "sha256": row.manifest,
        "manifest": manifest, "problem": problem,
    }  # fmt: skip


def session_id(name: str) -> str:
    """A new id, to be read and typed by people: cs101-7f3a."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-")
    return f"{slug or 'session'}-{secrets.token_hex(2)}"
