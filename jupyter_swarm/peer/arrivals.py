"""Where frames wait for the training thread: packets until their commit, a snapshot's chunks until it is whole.

`take` is called by the link's thread, which must not wait while the training thread computes; everything else by the
training thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from ..protocol import failpoints
from ..protocol.errors import ProtocolError, Refusal, SwarmError
from ..protocol.frames import Buffer, Header, Kind, read_header, session_tag
from ..protocol.layout import Layout
from ..protocol.rules import RoundRule
from ..shards.incoming import PacketSet, SnapshotSet

KEPT_BYTES = 1 << 30
"""Packets of committed rounds that may wait for the training thread; beyond it the link stops receiving."""


class SnapshotArrived(NamedTuple):
    """The last chunk of a snapshot is here, or cannot be had because of `problem`."""

    number: int
    problem: str = ""


class Arrivals:
    """Frames of one session. Both functions are called in the link's thread: `rule_of` for the rule by which a round's
    packets come, `post` when a snapshot is here."""

    def __init__(
        self,
        layout: Layout,
        rule_of: Callable[[int], RoundRule | None],
        session: str,
        post: Callable[[SnapshotArrived], None],
    ) -> None:
        self.session = session_tag(session)
        self._layout = layout
        self._rule_of = rule_of
        self._post = post
        self._changed = threading.Condition()
        self._closed = False
        self._generation = 0
        self._done = 0
        self._packets: dict[tuple[int, int], PacketSet] = {}
        self._received: Counter[tuple[int, int]] = Counter()
        self._bytes: Counter[tuple[int, int]] = Counter()
        self._snapshot: SnapshotSet | None = None
        self._number = 0

    def reset(self, generation: int) -> None:
        """Forget everything; from now on frames of `generation` count."""
        with self._changed:
            self._generation = generation
            self._done = 0
            self._packets.clear()
            self._received.clear()
            self._bytes.clear()
            self._snapshot = None
            self._changed.notify_all()

    def expect(self, snapshot: SnapshotSet, number: int) -> None:
        """Chunks of `snapshot`, which was offered as `number`, go into its view as they come."""
        with self._changed:
            self._snapshot = snapshot
            self._number = number

    def has(self, version: int) -> None:
        """The view is at `version`: packets that lead there are late."""
        with self._changed:
            self._forget_up_to(version)

    def packets_of(self, round_: int, attempt: int) -> PacketSet | None:
        """Hand over the packets of a committed round, if all are here, and forget those of older ones."""
        with self._changed:
            packets = self._packets.get((round_, attempt))
            rule = self._rule_of(round_)
            if packets is None and rule is not None:  # a fragment may have no parameters
                packets = PacketSet(self._layout, rule, self.session, self._generation, round_, attempt)
            self._forget_up_to(round_)
        return packets if packets is not None and packets.complete else None

    def drop(self, round_: int, attempt: int) -> None:
        """Forget the packets of a void attempt."""
        with self._changed:
            self._drop((round_, attempt))

    def close(self) -> None:
        """Hold up the link's thread no longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, frame: Buffer) -> None:
        """Keep what a frame brings. Frames that are late, or that nobody waits for, are dropped."""
        with contextlib.suppress(Refusal, ProtocolError):
            header = read_header(frame)
            if header.kind == Kind.PACKET:
                self._take_packet(header, frame)
            elif header.kind == Kind.SNAPSHOT:
                self._take_chunk(header, frame)

    def _take_packet(self, header: Header, frame: Buffer) -> None:
        key = (header.round, header.attempt)
        with self._changed:
            if key not in self._packets and header.round > self._done:
                self._make_room(header.round)
            if header.generation != self._generation or header.round <= self._done:
                return
            if key not in self._packets:
                rule = self._rule_of(header.round)
                if rule is None:
                    return
                self._packets[key] = PacketSet(self._layout, rule, self.session, self._generation, *key)
            self._packets[key].add(frame)
            self._received[key] += 1
            self._bytes[key] += len(frame)
            half = self._received[key] == (self._packets[key].expected + 1) // 2
        if half:
            failpoints.reach("half-delivered")

    def _make_room(self, round_: int) -> None:
        """Before the first packet of an attempt. Of the round under way only the newest attempt is kept, so that all
        others that are kept are committed: the training thread takes them without anything else having to come."""
        for key in [key for key in self._packets if key[0] == round_]:
            self._drop(key)
        self._changed.wait_for(lambda: self._closed or self._bytes.total() < KEPT_BYTES)

    def _take_chunk(self, header: Header, frame: Buffer) -> None:
        problem = ""
        with self._changed:
            if self._snapshot is None or header.number != self._number:
                return
            try:
                complete = self._snapshot.add(frame)
            except SwarmError as error:
                complete, problem = False, error.what
            if complete or problem:
                self._snapshot = None
        if complete or problem:
            self._post(SnapshotArrived(header.number, problem))

    def _forget_up_to(self, round_: int) -> None:
        self._done = round_
        for key in [key for key in self._packets if key[0] <= round_]:
            self._drop(key)

    def _drop(self, key: tuple[int, int]) -> None:
        self._packets.pop(key, None)
        self._received.pop(key, None)
        self._bytes.pop(key, None)
        self._changed.notify_all()
