"""Holders as the session drives them: its own in a thread beside the event loop, others over their connections.

Both get the same messages and answer with the same messages; only the way differs. A frame from a peer for a shard
that another holder keeps is passed on as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from ..decisions.effects import Place
from ..decisions.events import Placed, Said
from ..protocol import failpoints
from ..protocol import messages as m
from ..protocol.errors import StoreError, SwarmError
from ..protocol.frames import Header
from ..shards.incoming import PacketSet
from ..store.atomic import Buffer
from .members import Attached
from .numbers import State

if TYPE_CHECKING:
    from .session import SessionRuntime

OWN = "server"
FRAMES_WAITING = 32
"""A connection is read on only while fewer frames wait for the holder's thread: memory stays bounded."""
ANSWER_SECONDS = 120.0


class Holding:
    """The session's side of all its holders."""

    def __init__(self, session: SessionRuntime) -> None:
        self.session = session
        self._waiting = 0
        self._room = asyncio.Event()
        self._prepare: m.Prepare | None = None
        self._answers: dict[tuple[str, type], asyncio.Future[m.FromMember]] = {}
        self._collected: State = {}
        self._started = False

    # --- contributions

    async def stage(self, attached: Attached, header: Header, frame: Buffer) -> None:
        """A frame of a contribution came: to the holder of its shard. What is late or not granted is dropped."""
        session = self.session
        contribution = session.state.round.contributions.get(header.number)
        if contribution is None or contribution.peer != attached.id or contribution.state != "granted":
            return
        owner = session.state.placement.get(header.shard, OWN)
        if owner != OWN:
            other = session.members.connected.get(owner)
            if other is not None:
                other.connection.send_frame(frame)
            return
        failpoints.reach("mid-upload")
        self._waiting += 1
        self._in_thread(session.numbers.holder.stage, frame, then=lambda f: self._staged(header.number, f))
        while self._waiting >= FRAMES_WAITING:
            self._room.clear()
            await self._room.wait()

    def _staged(self, number: int, done: Future[m.Staged | None]) -> None:
        self._waiting -= 1
        self._room.set()
        self._answer(number, done)

    def _answer(self, number: int, done: Future[m.Staged | None]) -> None:
        session = self.session
        error = done.exception()
        if isinstance(error, SwarmError):
            self._say(m.StageFailed(session.generation, number, " ".join(str(error).split("\n"))))
        elif error is not None:
            raise error
        elif (answer := done.result()) is not None:
            self._say(answer)

    # --- the server's own holder

    def own(self, message: m.Message) -> None:
        """What the decisions tell the server's own holder."""
        numbers = self.session.numbers
        match message:
            case m.Expect():
                self._in_thread(numbers.holder.expect, message, then=lambda f: self._answer(message.number, f))
            case m.Forget():
                self._in_thread(numbers.holder.forget, message.number)
            case m.Prepare():
                self._prepare = message
                self._in_thread(numbers.holder.merge, message, then=lambda f: self._merged(message, f))
            case m.ClipBy():
                self._step(message.norm)
            case m.Install():
                self._install(message)
            case m.Revert():
                self._prepare = None
                self._in_thread(numbers.holder.revert)

    def _merged(self, prepare: m.Prepare, done: Future[float]) -> None:
        error = done.exception()
        if error is not None:
            self._failed(prepare, error)
        elif prepare.clip_norm > 0:
            self._say(m.PartialNorm(prepare.generation, prepare.round, prepare.attempt, done.result()))
        else:
            self._step(done.result() ** 0.5)

    def _step(self, norm: float) -> None:
        prepare, session = self._prepare, self.session
        if prepare is None:
            return
        loop = asyncio.get_running_loop()

        def send(frame: bytes) -> None:
            loop.call_soon_threadsafe(session.packet, frame)

        self._in_thread(session.numbers.step, prepare, norm, send, then=lambda f: self._stepped(prepare, f))

    def _stepped(self, prepare: m.Prepare, done: Future[Any]) -> None:
        error = done.exception()
        if error is not None:
            self._failed(prepare, error)
        else:
            self._say(m.Prepared(prepare.generation, prepare.round, prepare.attempt, done.result()))

    def _failed(self, prepare: m.Prepare, error: BaseException) -> None:
        if not isinstance(error, SwarmError):
            self.session.log.error("The server's holder failed.", exc_info=error)
        reason = " ".join(str(error).split("\n"))
        self._say(m.PrepareFailed(prepare.generation, prepare.round, prepare.attempt, reason))

    def _install(self, message: m.Install) -> None:
        session, packets = self.session, self.session.packets
        self._prepare = None
        if packets is None:
            raise RuntimeError("a round was committed without packets")
        shard = message.round % session.state.shard_count
        self._in_thread(
            session.numbers.install, packets, shard, then=lambda f: self._installed(message.round, shard, packets, f)
        )
        if message.round % session.state.settings.snapshot_rounds == 0:
            session.spawn(self._snapshot(message.round))

    def _installed(self, version: int, shard: int, packets: PacketSet, done: Future[str]) -> None:
        digests = self.session.view_digests
        digests[version] = (shard, done.result())
        digests.pop(version - 8, None)

    def _say(self, message: m.FromMember) -> None:
        self.session.handle(Said(OWN, message))

    def _in_thread(
        self, function: Callable[..., Any], *args: Any, then: Callable[[Future[Any]], None] | None = None
    ) -> None:
        """Ask for `function` in the numbers' thread, now, so that the order of the calls is the order of the work."""
        loop = asyncio.get_running_loop()
        future = self.session.thread.submit(function, *args)
        if then is not None:
            future.add_done_callback(lambda done: _on_loop(loop, then, done))

    # --- state: snapshots and handing over

    async def _snapshot(self, version: int) -> None:
        """Write a snapshot of the version that was just installed. If the disk refuses, the journal goes on."""
        session = self.session
        try:
            state = await self._whole_state(version)
            await session.in_thread(session.numbers.save, version, state, session.numbers.optimizer_step)
        except (StoreError, asyncio.TimeoutError) as error:
            session._note("error", f"The snapshot of version {version} was not written. {error}", "")

    async def _whole_state(self, version: int) -> State:
        """The state of all shards from those who hold them. The server's own part is asked for first: what is asked
        for in its thread after this comes after this."""
        session = self.session
        own = session.in_thread(session.numbers.own_state)
        for attached in session.members.holders():
            if session.state.holders[attached.id].shards:
                attached.connection.send(m.WantState(session.generation, version))
                await self._wait(attached, m.StateSent)
        collected, self._collected = self._collected, {}
        return collected | await own

    async def place(self, effect: Place) -> None:
        """Hand the shards to the holders that the decisions have chosen."""
        session, numbers = self.session, self.session.numbers
        shards: dict[str, list[int]] = {}
        for shard, holder in effect.placement.items():
            shards.setdefault(holder, []).append(shard)
        others = any(holder != OWN for holder in shards)
        if not self._started:
            state = await session.in_thread(numbers.restored_state)
        else:
            state = await session.in_thread(numbers.state_on_disk)
            with_others = await self._whole_state(numbers.version)
            state = {name: tensor for name, tensor in state.items() if not name.endswith(".0")} | with_others
            view = await session.in_thread(numbers.view)
            state |= {f"{shard.index}.0": view.shard(shard) for shard in session.layout.shards}
        await session.in_thread(numbers.keep_view, others)
        self._started = True
        await session.in_thread(numbers.adopt, tuple(shards.get(OWN, ())), state)
        for attached in session.members.holders():
            await self._hand_over(attached, tuple(shards.get(attached.id, ())), state)
        if not others:
            await session.in_thread(numbers.keep_view, False)
        session.handle(Placed(effect.number))

    async def _hand_over(self, attached: Attached, shards: tuple[int, ...], state: State) -> None:
        session, numbers = self.session, self.session.numbers
        frames = await session.in_thread(lambda: [bytes(frame) for frame in numbers.state_frames(shards, state)])
        for frame in frames:
            attached.connection.send_frame(frame)
        adopt = m.Adopt(session.generation, numbers.version, numbers.optimizer_step, shards)
        attached.connection.send(adopt, in_order=True)
        await self._wait(attached, m.Adopted)

    async def _wait(self, attached: Attached, kind: type[m.Message]) -> m.FromMember:
        future: asyncio.Future[m.FromMember] = asyncio.get_running_loop().create_future()
        self._answers[attached.id, kind] = future
        try:
            return await asyncio.wait_for(future, ANSWER_SECONDS)
        finally:
            self._answers.pop((attached.id, kind), None)

    def answered(self, attached: Attached, message: m.FromMember) -> None:
        """A holder has answered what `_wait` waits for."""
        future = self._answers.get((attached.id, type(message)))
        if future is not None and not future.done():
            future.set_result(message)

    def lost(self, member: str) -> None:
        """A holder is gone: nobody waits for its answer any more."""
        for (name, _), future in self._answers.items():
            if name == member and not future.done():
                future.cancel()

    def state_frame(self, attached: Attached, frame: Buffer) -> None:
        """A STATE frame that was asked for."""
        self.session.numbers.take_state(frame, self._collected)


def _on_loop(loop: asyncio.AbstractEventLoop, then: Callable[[Future[Any]], None], done: Future[Any]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(then, done)
