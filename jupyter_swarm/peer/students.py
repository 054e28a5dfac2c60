"""The simulated students of a rehearsal: `python -m jupyter_swarm.peer.students` in a process of its own.

Each is a real `Trainer` on a real connection: it joins by the invite, fetches what a joiner fetches, takes leases,
announces, uploads contributions of the true size, receives every packet and reports digests. What is not real is in
`stand_ins`.

The first line of standard input is an `Assignment`; when standard input ends, all leave and the session is deleted.
Standard output has one `Report` a line, as JSON. The process loads no recipe code.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

import msgspec
import psutil
import torch

from ..link.memory import keep_buffers
from ..protocol.errors import LinkError, SwarmError
from ..protocol.invites import Invite
from ..protocol.messages import Commit
from .assignment import Advanced, Assignment, Failed, Joined, Report
from .client import Client
from .identity import Identity
from .inbox import Item
from .offer import look_at
from .record import OVER, Record
from .stand_ins import Shared, StandIn
from .trainer import Trainer

_LEAVE_SECONDS = 5.0
_SYNCED = ("waiting", "training", "paused")


class _Nobody(Identity):
    """One that nothing is kept of."""

    def __init__(self) -> None:
        self.token = ""
        self._path = self._lock = None


class Student(Trainer):
    """A trainer that shares what came to all, and counts its bytes."""

    def __init__(
        self, assignment: Assignment, client: Client, shared: Shared, advanced: Callable[[int, str], None]
    ) -> None:
        computer = StandIn(assignment, shared, advanced)
        url, record = client.socket_url(assignment.session), Record(assignment.session)
        super().__init__(url, client.headers, computer, record, _Nobody(), assignment.agreed, "student")
        self._shared = shared

    @property
    def bytes(self) -> tuple[int, int]:
        """Sent and received so far."""
        return self._link.bytes_sent, self._link.bytes_received

    def _take_frame(self, frame: memoryview) -> None:
        super()._take_frame(self._shared.only(frame))

    def _take(self, item: Item) -> None:
        # Between applying a commit and telling its digest no other student may go on to the next version.
        with self._shared.lock if isinstance(item, Commit) else contextlib.nullcontext():
            super()._take(item)


class Class:
    """All students. report: told what happens, from any thread."""

    def __init__(self, assignment: Assignment, report: Callable[[Report], None]) -> None:
        self._assignment = assignment
        self._report = report
        self._client = Client.of_member(Invite(assignment.server, assignment.session, assignment.secret))
        self._shared = Shared(assignment.layout)
        self._students: list[Student] = []

    def join(self) -> None:
        """One fetches all parameters; then all others come at once, as at the beginning of a class."""
        self._join_one()
        _at_once([self._join_one] * (self._assignment.peers - 1))

    def leave(self) -> None:
        """All say goodbye."""
        _at_once([partial(student.leave, _LEAVE_SECONDS) for student in self._students])

    def _join_one(self) -> None:
        start = time.monotonic()
        try:
            fetched = self._fetch()
            student = Student(self._assignment, self._client, self._shared, self._advanced)
            self._students.append(student)
            student.start()
            self._wait_until_synced(student, start)
        except Exception as error:
            self._report(Failed(_line_of(error), joined=False))
            return
        self._report(Joined(time.monotonic() - start, fetched))
        threading.Thread(target=self._watch, args=(student,), daemon=True).start()

    def _fetch(self) -> int:
        """What a joiner reads before it connects: what the session is, the recipe, the data."""
        session = self._assignment.session
        offer, spec = look_at(self._client, session)
        size = len(offer.source)
        if spec.data:
            with self._client.blob_pieces(session, spec.data) as pieces:
                size += sum(map(len, pieces))
        return size

    def _wait_until_synced(self, student: Student, start: float) -> None:
        record, seconds = student.record, self._assignment.join_seconds
        rest = start + seconds - time.monotonic()
        record.wait_for(lambda s: s.state in OVER or (s.state in _SYNCED and s.version >= 0), max(rest, 0.0))
        if record.status.state in OVER or record.status.version < 0:
            student.leave(0.0)
            raise record.error or LinkError(f"It was not ready within {seconds:.0f} s.", record.status.reason)

    def _watch(self, student: Student) -> None:
        student.record.wait_for(lambda status: status.state in OVER)
        if student.record.error is not None:
            self._report(Failed(_line_of(student.record.error), joined=True))

    def _advanced(self, version: int, strategy: str) -> None:
        counts = [student.bytes for student in list(self._students)]
        up, down = (sum(one) for one in zip(*counts, strict=True))
        memory = psutil.Process().memory_info().rss
        # Rounds of a small model are shorter than the ticks of Windows' other clock.
        self._report(Advanced(version, strategy, time.perf_counter(), up, down, memory))


def _at_once(calls: list[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _line_of(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, SwarmError) else f"{type(error).__name__}: {text}"


def main() -> None:
    """Play a class until standard input ends."""
    keep_buffers()
    torch.set_num_threads(1)
    assignment = msgspec.json.decode(sys.stdin.buffer.readline(), type=Assignment)
    lock = threading.Lock()

    def report(what: Report) -> None:
        with lock, contextlib.suppress(OSError, ValueError):
            sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
            sys.stdout.buffer.flush()

    students = Class(assignment, report)
    threading.Thread(target=students.join, daemon=True).start()
    # Whoever started this closes it, or is gone: then nobody else would end the session.
    sys.stdin.buffer.read()
    students.leave()
    with contextlib.suppress(SwarmError):
        Client(assignment.server, assignment.owner).delete(assignment.session)


if __name__ == "__main__":
    main()
