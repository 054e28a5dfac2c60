"""One running session: it turns what members say into events, and carries out what the decisions want.

Everything here runs on the event loop and is short; numbers are worked off it by `Numbers` in the holder's thread and
by `Recorder` in the journal's. No recipe code ever runs here. What must not happen, an error in this program, pauses
the session and is told like any other reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any, TypeVar

import msgspec

from ..decisions.effects import Disconnect, Effect, Note, Place, SetCodecs, Tell, TellPeers, WriteRecord
from ..decisions.events import AnyEvent, MemberJoined, Tick
from ..decisions.explain import explain, of_pause
from ..decisions.reducer import handle
from ..decisions.state import State, new_state
from ..link.memory import keep_buffers
from ..protocol import failpoints
from ..protocol import messages as m
from ..protocol.errors import LinkError, StoreError, SwarmError
from ..protocol.frames import session_tag
from ..protocol.layout import Layout
from ..protocol.records import RoundRecord
from ..protocol.rules import SessionSpec
from ..protocol.samples import Sample
from ..store.rows import Level, Member
from .checkpoints import Checkpoints
from .delivery import Delivery
from .holding import OWN, Holding
from .joining import Joining
from .keeping import StateKeeper
from .members import Attached, Members
from .numbers import Numbers
from .reception import Reception
from .recording import Recorder
from .status import PeerStatus, SessionStatus, in_order, peers_of, push, status_of
from .steering import Steering
from .storage import Storage
from .traffic import Traffic

_T = TypeVar("_T")


class SessionRuntime:
    """Drives one session. Made, started and stopped by the `SessionManager`."""

    def __init__(self, spec: SessionSpec, layout: Layout, store: Storage, generation: int) -> None:
        self.spec = spec
        self.layout = layout
        self.store = store
        self.generation = generation
        self.tag = session_tag(spec.session)
        self.log = logging.getLogger(f"jupyter_swarm.session.{spec.session}")
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="swarm-holder")
        self.numbers = Numbers(spec, layout, store.folder(spec.session), generation)
        self.recorder = Recorder(spec.session, store, self.numbers.journal)
        self.members = Members(spec.session, [])
        self.traffic = Traffic(spec.session)
        self.state = self._state_after(None)
        self.metrics: dict[str, float] = {}
        self.sample: Sample | None = None
        self.last_activity = datetime.now(timezone.utc)
        self.reception = Reception(self)
        self.steering = Steering(self)
        self.delivery = Delivery(self)
        self.holding = Holding(self)
        self.joining = Joining(self)
        self.checkpoints = Checkpoints(self)
        self.keeping = StateKeeper(self)
        self._viewers: list[Callable[[bytes], None]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._effects: deque[Effect] = deque()
        self._carrying_out = False
        self._started = time.time() - time.monotonic()
        self._stopped = False

    # --- life

    async def start(self) -> None:
        """Load the last recorded version and open for members. Raises `SwarmError` if it cannot be loaded."""
        keep_buffers()
        database = self.store.database
        session = self.spec.session
        last = await self.store.run_in_store(database.last_round, session)
        record = await self.store.run_in_store(database.round, session, last) if last else None
        self.members = Members(session, await self.store.run_in_store(database.members, session))
        initial = await asyncio.to_thread(self.store.blobs.read, self.spec.initial) if not last else None
        lost = await self.in_thread(self.numbers.restore, last, initial)
        self.state = self._state_after(record)
        if self.generation > 1:
            self.note("info", f"The server goes on from version {last}{lost and '; '}{lost}.")
        self.handle(MemberJoined(OWN, "holder"))
        self.spawn(self._tick())

    def _state_after(self, record: RoundRecord | None) -> State:
        spec = self.spec
        return new_state(
            spec.session, spec.rule, spec.settings, spec.samples, spec.held_out, len(self.layout.trained_shards),
            self.generation, record, spec.changes, self.layout.parameters,
        )  # fmt: skip

    async def stop(self) -> None:
        """Close all connections and let go of everything; the session can be taken up again later."""
        self._stopped = True
        self.checkpoints.stop()
        for attached in self.members.connected.values():
            attached.connection.refuse(LinkError("The server stops.", todo="It is tried again by itself."), retry=True)
        late = self.traffic.of_last(self.members)
        self.members.connected.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.keeping.end(self.status_message().state)
        with contextlib.suppress(StoreError):
            await self.recorder.flush()
            await self.store.run_in_store(self.store.database.add_metrics, late)
        await asyncio.to_thread(self.recorder.close)
        await asyncio.to_thread(self.thread.shutdown)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something in the background, at most until the session stops; what it raises is told."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed(error)

    def failed(self, error: BaseException) -> None:
        """Something went wrong that nobody waits for. What the world is to blame for (a full disk) is noted; an error
        in this program pauses the session: nobody can say what it would do next."""
        if isinstance(error, SwarmError):
            self.note("error", " ".join(str(error).split("\n")))
            return
        self.log.error("Something went wrong in session %s.", self.spec.session, exc_info=error)
        if not self.state.paused:
            self.steering.pause(f"the server after an error in it ({type(error).__name__}: {error}); see its log")

    def attempt(self, function: Callable[..., Any], *args: Any) -> None:
        """Call `function` where nobody would hear of its errors."""
        try:
            function(*args)
        except Exception as error:
            self.failed(error)

    def in_thread(self, function: Callable[..., _T], *args: Any) -> asyncio.Future[_T]:
        """Run `function` in the thread that owns the numbers, after what was asked for before."""
        return asyncio.get_running_loop().run_in_executor(self.thread, function, *args)

    def now(self) -> float:
        """Seconds since 1970 that never go back."""
        return self._started + time.monotonic()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.attempt(self._second)
            try:
                await self.recorder.flush()
            except StoreError:
                pass  # what was to be written is kept for the next time
            except Exception as error:
                self.failed(error)

    def _second(self) -> None:
        self.handle(Tick())
        self.publish_status()
        self.joining.release_pins()
        if self.members.peers() and self.state.phase != "finished":
            self.last_activity = datetime.now(timezone.utc)

    # --- watching

    def spec_now(self) -> SessionSpec:
        """The specification with the settings and the rules to come as they are now."""
        settings = self.state.next_settings or self.state.settings
        return msgspec.structs.replace(self.spec, settings=settings, changes=self.state.changes)

    def status(self) -> SessionStatus:
        """What the session is doing, for people and programs."""
        return status_of(self.state, self.members, self.traffic, self.spec.name, self.metrics, self.now(), self.sample)

    def present(self) -> list[Member]:
        """The connected peers, those first who are steered."""
        order = in_order(self.state.peers.values(), 0)
        return [self.members.connected[peer.id].member for peer in order if peer.id in self.members.connected]

    def peers(self, some: Iterable[str]) -> list[PeerStatus]:
        """What those of the peers with these ids do who are connected."""
        here = [peer for one in some if (peer := self.state.peers.get(one))]
        return peers_of(self.state, self.members, here, self.now())

    def status_message(self) -> m.Status:
        """The same in one line, for members."""
        state, reason = explain(self.state, self.now())
        return m.Status(self.generation, state, reason)

    def add_viewer(self, callback: Callable[[bytes], None]) -> Callable[[], None]:
        """`callback` gets every publication from now on, as JSON; returns what ends that."""
        self._viewers.append(callback)
        return lambda: self._viewers.remove(callback)

    def publish(self, kind: str, **facts: Any) -> None:
        """Tell those who watch."""
        if self._viewers:
            text = push(kind, **facts)
            for viewer in list(self._viewers):
                viewer(text)

    def publish_status(self) -> None:
        """Tell peers whose reason is another one, those who watch, and the disk."""
        message = self.status_message()
        self.keeping.see(message.state)
        for attached in self.members.peers():
            peer = self.state.peers.get(attached.id)
            paused = of_pause(peer) if peer is not None and peer.paused else ""
            own = msgspec.structs.replace(message, state="paused", reason=paused) if paused else message
            if own.reason != attached.told and self.send(attached, own):
                attached.told = own.reason
        if self._viewers:
            self.publish("status", **msgspec.structs.asdict(self.status()))

    def note(self, level: Level, text: str, member: str = "") -> None:
        """A line for the session's log and for those who watch."""
        self.log.log({"info": logging.INFO, "warning": logging.WARNING}.get(level, logging.ERROR), "%s", text)
        now = self.now()
        self.recorder.note(now, self.generation, self.state.round.number, level, text, member)
        self.publish("event", level=level, text=text, member=member, unix_time=now)

    # --- carrying out

    def handle(self, event: AnyEvent) -> None:
        """Let the decisions see an event, and do what they want, in their order: what an effect makes happen at once
        comes after those that were decided before."""
        if self._stopped:
            return
        try:
            self.state, effects = handle(self.state, event, self.now())
        except Exception as error:
            self.failed(error)
            return
        self._effects.extend(effects)
        if self._carrying_out:
            return
        self._carrying_out = True
        while self._effects:
            self.attempt(self._carry_out, self._effects.popleft())
        self._carrying_out = False

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Tell():
                self._tell(effect.member, effect.message)
            case TellPeers():
                self._tell_peers(effect)
            case Place():
                self.spawn(self.holding.place(effect))
            case WriteRecord():
                self.delivery.write(effect.record)
            case Disconnect():
                self.reception.disconnect(effect.member, effect.reason)
            case SetCodecs():
                self.spawn(self.steering.set_codecs(effect))
            case Note():
                self.note(effect.level, effect.text, effect.member)

    def _tell(self, member: str, message: m.Message) -> None:
        if isinstance(message, m.Prepare):
            self.delivery.begin(message)
        elif isinstance(message, m.Accepted):
            failpoints.reach("accepted")
        if member == OWN:
            self.holding.own(message)
        elif member in self.members.connected:
            self.send(self.members.connected[member], message)

    def _tell_peers(self, effect: TellPeers) -> None:
        message = effect.message
        if isinstance(message, m.Commit):
            self._committed(message)
        elif isinstance(message, m.Abort):
            self.delivery.void()
        elif isinstance(message, m.Evaluated):
            self._evaluated(message)
        elif isinstance(message, m.Status) and message.state == "finished":
            self.checkpoints.finished()
        for attached in self.members.peers():
            self.send(attached, message, effect.in_order)

    def send(self, attached: Attached, message: m.Message, in_order: bool = False) -> bool:
        """Send a member a message, unless it is for those who have all versions so far: what becomes of a round, and
        that the session has finished, which otherwise a peer would take for the last version. Whether it was sent."""
        finished = isinstance(message, m.Status) and message.state == "finished"
        if attached.feed != "live" and (finished or isinstance(message, m.Commit | m.Abort)):
            return False
        return attached.connection.send(message, in_order=in_order or finished)

    def _committed(self, commit: m.Commit) -> None:
        self.delivery.committed()
        if commit.mean_loss is not None:
            self.metrics["loss"] = commit.mean_loss
        self.checkpoints.committed(commit.round)
        self.publish("commit", **msgspec.structs.asdict(commit))

    def _evaluated(self, message: m.Evaluated) -> None:
        self.metrics |= {f"held_out_{name}": value for name, value in message.metrics.items()}
        self.spawn(self.recorder.evaluated(message))
        self.publish("evaluated", **msgspec.structs.asdict(message))
