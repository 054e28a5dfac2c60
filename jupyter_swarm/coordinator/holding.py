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
from ..protocol.errors import LinkError, SwarmError
from ..protocol.frames import Buffer, Header
from .members import Attached
from .numbers import State

if TYPE_CHECKING:
    from .session import SessionRuntime

OWN = "server"
FRAMES_WAITING = 32
"""A connection is read on only while fewer frames wait for the holder's thread: memory stays bounded."""
QUEUED_BYTES = 32 << 20
"""So much is put into another holder's connection ahead of what its link takes."""
ANSWER_SECONDS = 120.0


class Holding:
    """The session's side of all its holders."""

    def __init__(self, session: SessionRuntime) -> None:
        self.session = session
        self._waiting = 0
        self._room = asyncio.Event()
        self._prepare: m.Prepare | None = None
        self._answers: dict[tuple[str, type], asyncio.Future[m.FromMember]] = {}
        self._adopted: dict[str, tuple[int, ...]] = {}
        self._collected: State = {}
        self._state_lock = asyncio.Lock()
        self._snapshot_due = False
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
                await other.connection.drain(QUEUED_BYTES)
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
                if self._prepare is not None:
                    self._step(self._prepare, message.norm)
            case m.Install():
                self._install(message)
            case m.Revert():
                self._prepare = None
                self._in_thread(numbers.holder.revert)

    def _merged(self, prepare: m.Prepare, done: Future[float]) -> None:
        error = done.exception()
        if self._prepare is not prepare:
            return
        if error is not None:
            self._failed(prepare, error)
        elif prepare.clip_norm > 0:
            self._say(m.PartialNorm(prepare.generation, prepare.round, prepare.attempt, done.result()))
        else:
            self._step(prepare, done.result() ** 0.5)

    def _step(self, prepare: m.Prepare, norm: float) -> None:
        session = self.session
        loop = asyncio.get_running_loop()

        def send(frame: Buffer) -> None:
            loop.call_soon_threadsafe(session.attempt, session.delivery.packet, frame)

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
        session, packets = self.session, self.session.delivery.packets
        self._prepare = None
        if packets is None:
            raise RuntimeError("a round was committed without packets")
        shard = message.round % session.state.shard_count
        self._in_thread(
            session.numbers.install, packets, shard,
            then=lambda f: session.joining.installed(message.round, shard, f.result()),
        )  # fmt: skip
        if message.round % session.state.settings.snapshot_rounds == 0 and not self._snapshot_due:
            self._snapshot_due = True
            session.spawn(self._snapshot())

    def _say(self, message: m.FromMember) -> None:
        self.session.handle(Said(OWN, message))

    def _in_thread(
        self, function: Callable[..., Any], *args: Any, then: Callable[[Future[Any]], Any] = Future.result
    ) -> None:
        """Ask for `function` in the numbers' thread, now, so that the order of the calls is the order of the work."""
        loop = asyncio.get_running_loop()

        def finish(done: Future[Any]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self.session.attempt, then, done)

        self.session.thread.submit(function, *args).add_done_callback(finish)

    # --- state: snapshots and handing over, one at a time

    async def _snapshot(self) -> None:
        """Write a snapshot of the version that stands. If it cannot be had or written, the journal goes on."""
        session = self.session
        async with self._state_lock:
            self._snapshot_due = False  # those due while this one is written become one
            try:
                version, step, state = await self._whole_state()
                await session.in_thread(session.numbers.save, version, state, step, session.joining.needed(version))
            except SwarmError as error:
                reason = " ".join(str(error).split("\n"))
                session.note("error", f"No snapshot was written after round {session.state.version}: {reason}")

    async def _whole_state(self) -> tuple[int, int, State]:
        """Version, optimizer step and state of all shards, from those who hold them. Raises `SwarmError`.

        All are asked at once, behind the installs that they were told before: so all answer for one version.
        """
        session = self.session
        self._collected = {}
        own = session.in_thread(session.numbers.own_state)
        want = m.WantState(session.generation, session.state.version)
        asked = [attached for attached in session.members.holders() if self._adopted.get(attached.id)]
        waiting = [self._ask(attached, want, m.StateSent) for attached in asked]
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        version, step, state = await own
        for attached, answer in zip(asked, answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            if isinstance(answer, m.StateSent) and answer.version != version:
                session.reception.disconnect(attached.id, f"it is at version {answer.version} instead of {version}")
                raise LinkError(f"Holder {attached.id} was at version {answer.version} instead of {version}.")
        collected, self._collected = self._collected, {}
        return version, step, collected | state

    async def place(self, effect: Place) -> None:
        """Hand the shards to the holders that the decisions have chosen. Another choice, made because a holder came or
        went meanwhile, ends this one; what else goes wrong pauses the session, and resuming it tries again."""
        session = self.session
        async with self._state_lock:
            while effect.number == session.state.placing:
                try:
                    await self._place(effect.placement)
                    session.handle(Placed(effect.number))
                    return
                except LinkError as error:
                    session.note("warning", error.what)
                except SwarmError as error:
                    session.steering.pause(
                        f"the server, which could not hand over the shards: {error.what} {error.why}"
                    )
                    while session.state.paused and effect.number == session.state.placing:
                        await asyncio.sleep(0.1)

    async def _place(self, placement: dict[int, str]) -> None:
        session, numbers = self.session, self.session.numbers
        shards: dict[str, list[int]] = {}
        for shard, holder in placement.items():
            shards.setdefault(holder, []).append(shard)
        others = any(holder != OWN for holder in shards)
        if self._started:
            state = await session.in_thread(numbers.state_on_disk) | (await self._whole_state())[2]
        else:
            state = await session.in_thread(numbers.restored_state)
        if others:
            await session.in_thread(numbers.keep_view, True)
        view = await session.in_thread(numbers.view)
        state |= {f"{shard.index}.0": view.shard(shard) for shard in session.layout.shards}
        await session.in_thread(numbers.adopt, tuple(shards.get(OWN, ())), state)
        self._started = True
        for attached in session.members.holders():
            await self._hand_over(attached, tuple(shards.get(attached.id, ())), state)
        if not others:
            await session.in_thread(numbers.keep_view, False)

    async def _hand_over(self, attached: Attached, shards: tuple[int, ...], state: State) -> None:
        session, numbers, connection = self.session, self.session.numbers, attached.connection
        for shard in shards:
            frames = await session.in_thread(lambda one: list(numbers.state_frames([one], state)), shard)
            for frame in frames:
                connection.send_frame(frame)
            await connection.drain(QUEUED_BYTES)
        adopt = m.Adopt(session.generation, numbers.version, numbers.optimizer_step, shards)
        await self._ask(attached, adopt, m.Adopted)
        self._adopted[attached.id] = shards

    async def _ask(self, attached: Attached, question: m.Message, kind: type[m.Message]) -> m.FromMember:
        """Send a message behind the frames that wait, and wait for the answer of that kind. Raises `LinkError`, also
        for a holder that does not answer in time: it is sent away."""
        key = attached.id, kind
        answer = self._answers[key] = asyncio.get_running_loop().create_future()
        if self.session.members.connected.get(attached.id) is not attached:
            self.lost(attached.id)
        attached.connection.send(question, in_order=True)
        try:
            return await asyncio.wait_for(answer, ANSWER_SECONDS)
        except asyncio.TimeoutError:
            self.session.reception.disconnect(attached.id, "it did not answer in time")
            raise LinkError(f"Holder {attached.id} did not answer in {ANSWER_SECONDS:.0f} s.") from None
        finally:
            del self._answers[key]

    def answered(self, attached: Attached, message: m.FromMember) -> None:
        """A holder has answered what `_ask` waits for."""
        answer = self._answers.get((attached.id, type(message)))
        if answer is not None and not answer.done():
            answer.set_result(message)

    def lost(self, member: str) -> None:
        """A holder is gone: nobody waits for its answer any more."""
        self._adopted.pop(member, None)
        for (name, _), answer in self._answers.items():
            if name == member and not answer.done():
                answer.set_exception(LinkError(f"Holder {member} is gone."))

    def state_frame(self, frame: Buffer) -> None:
        """A STATE frame that was asked for."""
        self.session.numbers.take_state(frame, self._collected)
