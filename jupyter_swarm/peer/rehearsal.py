"""A class before the class: simulated students train a recipe on a server, and a verdict says whether that works.

    print(rehearse("digits", peers=30))

The session is one of its own, called rehearsal-…, and is deleted at the end, also after an interrupt or when this
process has been killed. The students live in a process of their own (`students`), speak the real protocol over real
sockets and move all bytes that a class moves.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from ..protocol.errors import LinkError, RecipeError, SessionError, SettingError, SwarmError
from ..protocol.rules import RoundRule, SessionSettings
from ..strategies import rules_of
from . import apart
from .assignment import Advanced, Assignment, Failed, Joined, Pace, Report
from .client import Client
from .compute import Computer, prepare
from .founding import open_session
from .preflight import check_machine, try_out
from .progress import Line
from .recipe import Recipe, load_recipe
from .server_memory import ServerMemory
from .steering import changed
from .verdict import Phase, Rehearsal

MOST_PEERS = 200
_ROUNDS = 5
_JOIN_SECONDS = 60.0
_ROUND_SECONDS = 120.0
_COMPUTING_SECONDS = 1.0
_END_SECONDS = 15.0
_LOOK_SECONDS = 1.0


def rehearse(
    recipe: Recipe | str | Path, peers: int = 30, server: str | None = None, rounds: int = _ROUNDS, **settings: Any
) -> Rehearsal:
    """Have `peers` simulated students train `recipe` on the server that started this kernel, or on `server`.

    rounds: that are measured, of each strategy that the recipe has. settings: as for `host`. An interrupt ends it, and
    the result says how far it came. Raises `LinkError` without a server, `RecipeError`, `SettingError`.
    """
    if not 1 <= peers <= MOST_PEERS:
        raise SettingError(f"A rehearsal with {peers} students is not possible.", todo=f"Choose 1 to {MOST_PEERS}.")
    if rounds < 1:
        raise SettingError("It is not said how many rounds to rehearse.", todo="Pass rounds=, at least 1.")
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    client = Client.of_owner(server)
    first = SessionSettings(seed=recipe.seed, evaluate_every=recipe.evaluate_every)
    # One snapshot at least is written, for it takes memory; nothing ends by itself.
    chosen = changed(first, {"capacity": max(first.capacity, peers), **settings, "rounds": 0, "snapshot_rounds": 2})
    computer, seconds = _prepare(recipe, chosen.seed)
    rehearsing = _Rehearsing(client, recipe, peers, rounds, chosen, computer, seconds)
    with Line() as line:
        return rehearsing.run(line)


def _prepare(recipe: Recipe, seed: int) -> tuple[Computer, float]:
    """The recipe's model, and the seconds that a sample takes here; 0.0 where this machine is not what it needs."""
    try:
        check_machine(recipe)
    except RecipeError as error:
        print(f"How long computing takes is not known: {error.what}")
        return prepare(recipe, seed, device="cpu"), 0.0
    computer = prepare(recipe, seed)
    report = try_out(computer)
    report.check()
    return computer, 1 / report.samples_per_second


class _Rehearsing:
    def __init__(
        self,
        client: Client,
        recipe: Recipe,
        peers: int,
        rounds: int,
        settings: SessionSettings,
        computer: Computer,
        sample_seconds: float,
    ) -> None:
        self._client = client
        self._recipe = recipe
        self._rounds = rounds
        self._settings = settings
        self._computer = computer
        # Where the speed is not known, computing takes its second all the same: students do not all come at once.
        self._known = sample_seconds > 0
        self._pace = Pace(sample_seconds or 3600.0, _COMPUTING_SECONDS)
        self._memory = ServerMemory(client.server)
        self._found = Rehearsal(
            recipe=recipe.name,
            server=client.server,
            peers=peers,
            parameter_bytes=4 * computer.layout.elements,
        )
        self._session = ""
        self._students: _Students
        self._slowest = 0.0

    def run(self, line: Line) -> Rehearsal:
        line.show(f"Opening a session for {self._found.peers} simulated students …")
        with self._memory, contextlib.ExitStack() as stack, self._noting_problems():
            self._open(stack)
            self._students = stack.enter_context(_Students(self._assignment()))
            self._join(line)
            for rule, advance in self._phases():
                self._rehearse_phase(rule, advance, line)
        memory = self._memory
        return msgspec.structs.replace(
            self._found,
            memory_before=memory.before,
            memory_peak=memory.peak,
            memory_free=memory.free,
            memory_total=memory.total,
            memory_unknown=memory.unknown,
            slowest_answer=self._slowest,
        )

    @contextlib.contextmanager
    def _noting_problems(self) -> Iterator[None]:
        """What stops the rehearsal is part of what it found, unless it has not begun."""
        try:
            yield
        except KeyboardInterrupt:
            if not self._session:
                raise
            self._problem("It was interrupted.")
        except SwarmError as error:
            if not self._session:
                raise
            self._problem(" ".join(str(error).split()))

    def _problem(self, text: str) -> None:
        self._found = msgspec.structs.replace(self._found, problems=(*self._found.problems, text))

    def _open(self, stack: contextlib.ExitStack) -> None:
        name = f"rehearsal {self._recipe.name}"
        self._session = open_session(self._client, self._recipe, name, self._settings, self._computer, None)
        stack.callback(self._delete)
        # Nothing begins until all are there.
        self._client.act(self._session, "pause")

    def _delete(self) -> None:
        try:
            self._client.delete(self._session)
        except SessionError:
            pass  # the students' process has done it
        except SwarmError as error:
            self._problem(f"The session {self._session} could not be deleted: {error.what}")

    def _assignment(self) -> Assignment:
        client, computer, peers = self._client, self._computer, self._found.peers
        return Assignment(
            server=client.server,
            session=self._session,
            owner=client.headers,
            secret=client.invite(self._session, "peer", capacity=peers, label="a rehearsal").secret,
            agreed=self._recipe.sha256,
            peers=peers,
            layout=computer.layout,
            samples=computer.samples,
            settings=self._settings,
            pace=self._pace,
            join_seconds=_JOIN_SECONDS,
        )

    def _join(self, line: Line) -> None:
        found, turned_away = self._found, 0
        until = time.monotonic() + 2 * _JOIN_SECONDS
        while found.joined + turned_away < found.peers:
            report = self._students.next(until - time.monotonic(), "the students have joined")
            if isinstance(report, Joined):
                seconds = max(found.join_seconds, report.seconds)
                found = msgspec.structs.replace(
                    found, joined=found.joined + 1, join_seconds=seconds, join_bytes=report.fetched
                )
            elif isinstance(report, Failed):
                turned_away += not report.joined
                found = msgspec.structs.replace(found, failures=(*found.failures, report.reason))
            self._found = found
            line.show(f"{found.joined} of {found.peers} simulated students have joined …")
        if not found.joined:
            raise LinkError("Nobody could join.", found.failures[0])
        self._client.act(self._session, "resume")

    def _phases(self) -> Iterator[tuple[RoundRule, bool]]:
        """The rules of the recipe's strategy, one after the other, and whether the session is still to follow it."""
        rule, changes = rules_of(self._recipe.strategy, self._recipe.optimizer, self._recipe.predictions)
        yield rule, False
        for change in changes:
            yield change.rule, True

    def _rehearse_phase(self, rule: RoundRule, advance: bool, line: Line) -> None:
        """The first round of a phase is not counted: what is done once is done in it."""
        if advance:
            self._client.change_strategy(self._session, rule)
        seen: list[Advanced] = []
        try:
            self._watch_rounds(rule, seen, line)
        finally:
            if len(seen) > 1:  # also of a phase that is interrupted, or stops: how far it came
                phases = (*self._found.phases, self._phase(rule, seen))
                self._found = msgspec.structs.replace(self._found, phases=phases)

    def _watch_rounds(self, rule: RoundRule, seen: list[Advanced], line: Line) -> None:
        until = time.monotonic() + _ROUND_SECONDS
        while len(seen) <= self._rounds:
            report = self._students.next(until - time.monotonic(), f"a round of {rule.strategy} is done")
            if isinstance(report, Failed):
                failures = (*self._found.failures, report.reason)
                self._found = msgspec.structs.replace(self._found, failures=failures)
            elif isinstance(report, Advanced) and report.strategy == rule.strategy:
                seen.append(report)
                until = time.monotonic() + _ROUND_SECONDS
                self._memory.students = report.memory
                line.show(self._phase(rule, seen).line(self._memory.peak) if len(seen) > 1 else f"{rule.strategy} …")
                self._ask()

    def _ask(self) -> None:
        """Whether the server has time for others meanwhile."""
        start = time.monotonic()
        self._client.describe(self._session)
        self._slowest = max(self._slowest, time.monotonic() - start)

    def _phase(self, rule: RoundRule, seen: list[Advanced]) -> Phase:
        first, last, rounds = seen[0], seen[-1], len(seen) - 1
        real, played = self._pace.of(rule, self._settings, self._found.peers)
        return Phase(
            strategy=rule.strategy,
            rounds=rounds,
            seconds=(last.time - first.time) / rounds,
            played=played,
            computing=real if self._known else 0.0,
            up=(last.up - first.up) // rounds,
            down=(last.down - first.down) // rounds,
            sample_seconds=self._pace.sample_seconds if self._known else 0.0,
            batch=rule.inner_batch or self._settings.target_batch or rule.target_batch,
            local=rule.work == "steps",
        )


class _Students:
    """The process with the students, for as long as the block lasts. An interrupt here does not reach it."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._reports: queue.SimpleQueue[Report | None] = queue.SimpleQueue()

    def __enter__(self) -> _Students:
        self._process = apart.start("students")
        threading.Thread(target=self._read, name="swarm-rehearsal", daemon=True).start()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(msgspec.json.encode(self._assignment) + b"\n")
            self._process.stdin.flush()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        apart.end(self._process, _END_SECONDS)

    def next(self, seconds: float, what: str) -> Report:
        """What happened next. Raises `LinkError` if nothing does for `seconds`, or the process is gone."""
        until = time.monotonic() + seconds
        while True:
            try:  # not for long: an interrupt does not end Windows' own waiting
                report = self._reports.get(timeout=min(max(until - time.monotonic(), 0.0), _LOOK_SECONDS))
                break
            except queue.Empty:
                if time.monotonic() >= until:
                    raise LinkError(f"It took too long until {what}.", "The server does not keep up.") from None
        if report is None:
            raise LinkError("The process with the simulated students has ended.", "Perhaps the memory did not suffice.")
        return report

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            with self._process.stdout as lines:
                for text in lines:
                    self._reports.put(msgspec.json.decode(text, type=Report))  # type: ignore[arg-type]
        finally:
            self._reports.put(None)
