"""The sessions of one server: opened, resumed, listed, changed and deleted; plain Python, without a web server.

Nothing is written before the first session is opened, since every user of a JupyterHub loads the extension; and torch
is not loaded before, since most of them never open one.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import re
import secrets
import time
import unicodedata
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import msgspec

from ..protocol.checks import check_spec
from ..protocol.errors import LayoutError, SessionError, SettingError, SwarmError
from ..protocol.layout import LAYOUT_VERSION, Layout
from ..protocol.manifest import check_export_names
from ..protocol.rules import RoundRule, SessionSettings, SessionSpec
from ..protocol.samples import Sample, check_sample, readable_text
from ..protocol.standing import SteerAction
from ..store.database import Database
from ..store.rows import StoredSession
from .archive import Archive
from .inviting import Invites
from .refusals import SessionEnded, SessionNotReady, TooOften, UnknownPeer, UnknownSession
from .storage import Storage

if TYPE_CHECKING:
    from .session import SessionRuntime
    from .steering import StrategyChanged

_P = ParamSpec("_P")
_T = TypeVar("_T")
_SAMPLE_SECONDS = 1.0


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
        self.invites = Invites(self, clock)
        self.archive = Archive(self)
        self._clock = clock
        self._log = log or logging.getLogger(__name__)
        self._runtimes: dict[str, SessionRuntime] = {}
        self._resuming: set[str] = set()
        self._problems: dict[str, SwarmError] = {}
        self._storage: Storage | None = None
        self._opening = asyncio.Lock()
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
            storage = await self.storage()
            for session in unfinished:
                await self._resume(storage, session)

    async def known(self) -> None:
        """Wait until it is known which sessions and invites are stored: the server answers requests before."""
        await self._known.wait()

    async def _read_stored(self) -> list[StoredSession]:
        storage = await self.storage()
        sessions = await storage.run_in_store(storage.database.sessions)
        for session in sessions:
            self.invites.put(await storage.run_in_store(storage.database.invites, session.session))
        return [session for session in sessions if session.state != "finished"]

    async def stop(self) -> None:
        """End all connections and close the store. The sessions go on when a server starts with this store again."""
        runtimes, self._runtimes = self._runtimes, {}
        ends = await asyncio.gather(*(runtime.stop() for runtime in runtimes.values()), return_exceptions=True)
        for session, end in zip(runtimes, ends, strict=True):
            if isinstance(end, BaseException):
                self._log.error("Session %s did not stop cleanly: %s", session, end)
        await self._close_storage()

    @property
    def last_activity(self) -> datetime | None:
        """When somebody last did something in any live session."""
        return max((runtime.last_activity for runtime in self._runtimes.values()), default=None)

    @property
    def live(self) -> list[str]:
        """The ids of the sessions that run or are paused on this server."""
        return [name for name, runtime in self._runtimes.items() if runtime.state.phase != "finished"]

    @property
    def attended(self) -> list[str]:
        """The ids of the live sessions that peers are connected to."""
        return [name for name in self.live if self._runtimes[name].state.peers]

    # --- sessions

    async def open(self, spec: SessionSpec, layout: Layout) -> str:
        """Open a session whose blobs have been uploaded; returns its id.

        Raises `SettingError`, `LayoutError` or `SessionError` for what could not be trained, or not on this server,
        `StoreError`.
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
        check_export_names(name for name, _ in spec.export)
        room = (await self._with_torch("room")).check_room(spec, layout)
        storage = await self.storage()
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
        if room:
            self._runtimes[session].note("info", room)
        return session

    async def sessions(self) -> list[dict[str, Any]]:
        """All sessions, oldest first, as `describe` tells of each."""
        if not self._stored:
            return []
        storage = await self.storage()
        return [self._view(stored) for stored in await storage.run_in_store(storage.database.sessions)]

    async def describe(self, session: str) -> dict[str, Any]:
        """What there is to know of a session: specification, state, and, while it lives, its status."""
        return self._view(await self.stored(session))

    async def stored(self, session: str) -> StoredSession:
        """The session as it is stored. Raises `UnknownSession`."""
        if self._stored:
            storage = await self.storage()
            for row in await storage.run_in_store(storage.database.sessions):
                if row.session == session:
                    return row
        raise UnknownSession(session)

    def running(self, session: str) -> SessionRuntime | None:
        """The session, if it is live on this server, or was when it ended."""
        return self._runtimes.get(session)

    def runtime(self, session: str) -> SessionRuntime:
        """The same. Raises `SessionNotReady` while the session is being read, else `SessionEnded`."""
        if session in self._runtimes:
            return self._runtimes[session]
        if session in self._resuming:
            raise SessionNotReady(session)
        raise (self._problems.get(session) or SessionEnded(session)).with_traceback(None)

    async def act(self, session: str, action: str, by: str) -> None:
        """pause, resume or stop, on behalf of `by`."""
        await self.stored(session)
        steering = self.runtime(session).steering
        {"pause": steering.pause, "resume": steering.resume, "stop": steering.finish}[action](by)

    async def steer_peer(self, session: str, peer: str, action: SteerAction, share: float) -> None:
        """What the instructor wants of one peer, here or not. Raises `SettingError`, `UnknownPeer`, `StoreError`."""
        if session in self._resuming:
            raise SessionNotReady(session)
        member = await self.in_record(session, Database.steer_member, peer, action, share)
        if member is None:
            raise UnknownPeer(peer)
        runtime = self.running(session)
        if runtime is not None:
            runtime.steering.steered(member, action)

    async def show_sample(self, session: str, prompt: str, text: str, round: int) -> Sample:
        """Show all who watch what the model has made of a prompt, in the place of what was shown before. Raises
        `SettingError` for what is too long, `TooOften`, `StoreError`."""
        check_sample(prompt, text, round)
        await self.stored(session)
        runtime = self.runtime(session)
        before, now = runtime.sample, self._clock()
        if before is not None and 0 <= now - before.unix_time < _SAMPLE_SECONDS:
            raise TooOften(_SAMPLE_SECONDS)
        runtime.sample = sample = Sample(readable_text(prompt), readable_text(text), round, now)
        await self.in_record(session, Database.save_sample, sample)
        runtime.publish_status()
        return sample

    async def change_settings(self, session: str, changes: Mapping[str, Any], by: str) -> SessionSettings:
        """Change some settings from the next round on; returns all of them. Raises `SettingError`, `StoreError`."""
        await self.stored(session)
        return await self.runtime(session).steering.change_settings(changes, by)

    async def change_strategy(
        self, session: str, rule: RoundRule, by: str, round: int | None = None
    ) -> StrategyChanged:
        """Let `rule` hold from `round` on (None: from the next one). Raises `SettingError`, `StoreError`."""
        await self.stored(session)
        return await self.runtime(session).steering.change_strategy(rule, by, round)

    async def delete(self, session: str) -> None:
        """End a session and remove all that is stored of it but the blobs that its founder has uploaded, which another
        session may be about to name: the next start of a server removes what none does."""
        spec = (await self.stored(session)).spec
        if session in self._resuming:
            raise SessionNotReady(session)
        storage = await self.storage()
        self.invites.drop_session(session)
        self._problems.pop(session, None)
        runtime = self._runtimes.pop(session, None)
        if runtime:
            await runtime.stop()
        await storage.run_in_store(storage.forget, spec, lambda: storage.database.delete_session(session))
        await asyncio.to_thread(storage.remove_folder, session)

    # --- what is stored

    async def storage(self) -> Storage:
        """The open store, made if it is missing. Raises `StoreError`."""
        async with self._opening:
            if self._storage is None:
                self._storage = await Storage.open(self.options.storage)
            return self._storage

    async def in_record(
        self,
        session: str,
        function: Callable[Concatenate[Database, str, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """What `function(database, session, …)` finds in the record of a session, or does to it. Raises
        `UnknownSession`, `StoreError`."""
        await self.stored(session)
        storage = await self.storage()
        return await storage.run_in_store(function, storage.database, session, *args, **kwargs)

    # --- inside

    @property
    def _stored(self) -> bool:
        return self._storage is not None or (self.options.storage / "swarm.sqlite").exists()

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
            "outside": stored.session in self.invites.outside,
        }

    async def _resume(self, storage: Storage, stored: StoredSession) -> None:
        try:
            layout = await storage.run_in_store(storage.database.layout, stored.session)
            runtime = await self._run(storage, stored.spec, layout)
            runtime.sample = stored.sample
            if stored.state == "paused":
                runtime.steering.pause("whoever paused it before the server stopped")
            self._log.info("Session %s goes on.", stored.session)
        except Exception as error:
            self._log.exception("Session %s cannot go on.", stored.session)
            self._problems[stored.session] = error if isinstance(error, SwarmError) else SessionError(
                f"The session {stored.session} could not be taken up after a restart.", f"{error}",
                "See the server's log.",
            )  # fmt: skip
        finally:
            self._resuming.discard(stored.session)

    @staticmethod
    async def _with_torch(name: str) -> Any:
        """A module of this package that loads torch, which takes a while."""
        return await asyncio.to_thread(importlib.import_module, f"{__package__}.{name}")

    async def _run(self, storage: Storage, spec: SessionSpec, layout: Layout) -> SessionRuntime:
        module = await self._with_torch("session")
        generation = await storage.run_in_store(storage.database.raise_generation, spec.session)
        runtime: SessionRuntime = module.SessionRuntime(spec, layout, storage, generation)
        try:
            await runtime.start()
        except BaseException:
            await runtime.stop()
            raise
        self._runtimes[spec.session] = runtime
        return runtime


def session_id(name: str) -> str:
    """A new id, to be read and typed by people: cs101-7f3a."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-")
    return f"{slug or 'session'}-{secrets.token_hex(2)}"
