"""A process that holds shards for a session instead of training: it takes memory and arithmetic off the server.

It does what the server's own holder does, driven by the same messages, over its own connection. Losing it costs the
attempt under way and the optimizer's state of its shards since the last snapshot, never a committed round.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from .. import __version__
from ..link import Link, State, Timing
from ..protocol import failpoints
from ..protocol import messages as m
from ..protocol.errors import LinkError, SwarmError
from ..protocol.frames import Kind, read_header
from ..protocol.rules import Codec
from ..shards.holder import Holder

_SEND_SECONDS = 600.0


class HolderMember:
    """One membership in the role of a holder, from `start` to `close`."""

    def __init__(self, url: str, headers: Mapping[str, str], name: str = "", timing: Timing = Timing()) -> None:
        self.error: Exception | None = None
        self.state: State = "connecting"
        self._name = name
        self._token = ""
        self._generation = 0
        self._holder: Holder | None = None
        self._prepare: m.Prepare | None = None
        self._work: queue.SimpleQueue[m.ToMember | memoryview | None] = queue.SimpleQueue()
        self._link = Link(url, headers, self._hello, self._work.put, self._take_frame, self._link_state, timing)
        self._thread = threading.Thread(target=self._run, name="swarm-holder", daemon=True)
        self._handlers: dict[type, Callable[[Holder, Any], None]] = {
            m.Strategy: self._change,
            m.Adopt: self._adopt,
            m.Expect: self._expect,
            m.Forget: lambda holder, message: holder.forget(message.number),
            m.Prepare: self._merge,
            m.ClipBy: lambda holder, message: self._step(holder, message.norm),
            m.Install: self._install,
            m.Revert: self._revert,
            m.WantState: self._send_state,
        }

    def start(self) -> None:
        """Connect and hold, in the background."""
        self._link.start()
        self._thread.start()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it has ended. Raises what ended it, if that was an error."""
        self._thread.join(timeout)
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Leave: others take the shards over, with the optimizer's state of the last snapshot."""
        self._link.close("left")
        self._work.put(None)
        self._thread.join(10.0)

    # --- the link's thread

    def _hello(self) -> m.Hello:
        return m.Hello(m.PROTOCOL_VERSION, __version__, "holder", self._name, token=self._token, codecs=tuple(Codec))

    def _take_frame(self, frame: memoryview) -> None:
        self._work.put(frame)

    def _link_state(self, state: State, reason: str) -> None:
        self.state = state
        if state in ("refused", "closed"):
            self._work.put(None)

    # --- the holding thread

    def _run(self) -> None:
        try:
            while (item := self._work.get()) is not None:
                if isinstance(item, memoryview):
                    self._frame(item)
                else:
                    self._message(item)
            self.error = self._link.error
        except Exception as error:
            self.error = error
            self._link.close(f"{type(error).__name__}: {error}")

    def _message(self, message: m.ToMember) -> None:
        if isinstance(message, m.HolderWelcome):
            self._token = message.token
            self._generation = message.generation
            self._prepare = None
            self._spec = message.spec
            self._holder = Holder(message.layout, message.spec.rule_of(1), message.spec.session)
        handler = self._handlers.get(type(message))
        if handler and self._holder and getattr(message, "generation", 0) == self._generation:
            handler(self._holder, message)

    def _frame(self, frame: memoryview) -> None:
        holder = self._holder
        header = read_header(frame)
        if holder is None or header.generation != self._generation:
            return
        if header.kind == Kind.STATE:
            self._follow_rule(holder, header.round)
            holder.take_state(frame)
        elif header.kind == Kind.CONTRIBUTION:
            failpoints.reach("mid-upload")
            self._answer(header.number, lambda: holder.stage(frame))

    def _change(self, holder: Holder, message: m.Strategy) -> None:
        self._spec = msgspec.structs.replace(self._spec, changes=message.changes)

    def _follow_rule(self, holder: Holder, version: int) -> None:
        """What is held at `version` is as the rule of the round after it wants it."""
        holder.change_rule(self._spec.rule_of(version + 1))

    def _adopt(self, holder: Holder, message: m.Adopt) -> None:
        self._follow_rule(holder, message.version)
        holder.adopt(message)
        self._link.send(m.Adopted(message.generation, message.version))

    def _expect(self, holder: Holder, message: m.Expect) -> None:
        self._answer(message.number, lambda: holder.expect(message))

    def _answer(self, number: int, stage: Callable[[], m.Staged | None]) -> None:
        try:
            staged = stage()
        except SwarmError as error:
            self._link.send(m.StageFailed(self._generation, number, " ".join(str(error).split("\n"))))
            return
        if staged is not None:
            self._link.send(staged)

    def _merge(self, holder: Holder, prepare: m.Prepare) -> None:
        failpoints.reach("accepted")
        self._prepare = prepare
        try:
            square = holder.merge(prepare)
        except SwarmError as error:
            self._failed(prepare, error)
            return
        if prepare.clip_norm > 0:
            self._link.send(m.PartialNorm(prepare.generation, prepare.round, prepare.attempt, square))
        else:
            self._step(holder, square**0.5)

    def _step(self, holder: Holder, norm: float) -> None:
        prepare = self._prepare
        if prepare is None:
            return
        try:
            self._send(holder.step(prepare, norm))
        except LinkError:
            return  # a new connection begins with a new holder
        except SwarmError as error:
            self._failed(prepare, error)
            return
        failpoints.reach("prepared")
        self._link.send(m.Prepared(prepare.generation, prepare.round, prepare.attempt, holder.digests))

    def _failed(self, prepare: m.Prepare, error: SwarmError) -> None:
        reason = " ".join(str(error).split("\n"))
        self._link.send(m.PrepareFailed(prepare.generation, prepare.round, prepare.attempt, reason))

    def _install(self, holder: Holder, message: m.Install) -> None:
        failpoints.reach("recorded")
        self._prepare = None
        holder.install()
        self._follow_rule(holder, holder.version)

    def _revert(self, holder: Holder, message: m.Revert) -> None:
        self._prepare = None
        holder.revert()

    def _send_state(self, holder: Holder, message: m.WantState) -> None:
        failpoints.reach("mid-snapshot")
        with contextlib.suppress(LinkError):
            self._send(holder.state_frames())
        self._link.send(m.StateSent(message.generation, holder.version, holder.step_number))

    def _send(self, frames: Any) -> None:
        upload = self._link.send_frames(frames)
        if not upload.wait(_SEND_SECONDS):
            upload.cancel()
            raise LinkError("The server does not take this holder's numbers.")
        if upload.error is not None:
            raise upload.error
