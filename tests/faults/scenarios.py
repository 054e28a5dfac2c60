"""Kills at named points and at random moments, each in a class of its own, and what is left afterwards."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import NamedTuple

from jupyter_swarm.protocol.records import RoundRecord

from .account import Account, account_for
from .classroom import HOLDER, SERVER, Classroom, classroom
from .recipes import CHUNKS, CLIPPED, LOCAL, MANY_SHARDS, ONE_SHARD, WARM, WARM_ROUNDS, Size

VICTIM = "ann"
OTHER = "bob"


class Kill(NamedTuple):
    """One cell of the matrix: `nth` is the time that the victim reaches the point at which it dies."""

    point: str
    victim: str
    holders: int
    nth: int
    size: Size = MANY_SHARDS
    note: str = ""

    def __str__(self) -> str:
        holders = "1 holder" if self.holders == 1 else f"{self.holders} holders"
        return f"{self.point}{self.note}, {self.victim}, {holders}, {self.size.name}"


def _matrix() -> list[Kill]:
    kills = []
    for holders in (1, 2):
        kills += [
            Kill("mid-upload", VICTIM, holders, 3),
            Kill("mid-upload", VICTIM, holders, 2, CHUNKS),
            Kill("mid-upload", SERVER, holders, 21),
            Kill("accepted", SERVER, holders, 4),
            Kill("prepared", SERVER, holders, 3),
            Kill("prepared", SERVER, holders, 2, CLIPPED),
            Kill("half-delivered", VICTIM, holders, 3),
            Kill("half-delivered", SERVER, holders, 3, CHUNKS),
            Kill("before-record", SERVER, holders, 4),
            Kill("recorded", SERVER, holders, 4),
            # The first three files are the two blobs and the first snapshot; then each round's, and after three rounds
            # a snapshot.
            Kill("mid-rename", SERVER, holders, 5, note=" of packets"),
            Kill("mid-rename", SERVER, holders, 7, note=" of a snapshot"),
            Kill("mid-snapshot", SERVER, holders, 2),
            Kill("mid-checkpoint", SERVER, holders, 2),
        ]
    return [
        *kills,
        Kill("recorded", SERVER, 1, 2, ONE_SHARD),
        Kill("mid-upload", HOLDER, 2, 13),
        Kill("mid-upload", HOLDER, 2, 3, CHUNKS),
        Kill("accepted", HOLDER, 2, 3),
        Kill("prepared", HOLDER, 2, 3),
        Kill("prepared", HOLDER, 2, 2, CLIPPED),
        Kill("recorded", HOLDER, 2, 3),
        Kill("mid-snapshot", HOLDER, 2, 1),
    ]


def _matrix_of_steps() -> list[Kill]:
    """Local updates; and around the round in which a session that began synchronously goes over to them, in whose
    place its snapshot falls, too."""
    return [
        Kill("mid-upload", VICTIM, 1, 2, LOCAL),
        Kill("mid-upload", SERVER, 1, 21, LOCAL),
        Kill("accepted", SERVER, 1, 3, LOCAL),
        Kill("accepted", SERVER, 2, 4, LOCAL),
        Kill("prepared", SERVER, 1, 3, LOCAL),
        Kill("prepared", SERVER, 2, 2, LOCAL),
        Kill("half-delivered", VICTIM, 1, 2, LOCAL),
        Kill("half-delivered", SERVER, 2, 3, LOCAL),
        Kill("before-record", SERVER, 1, 3, LOCAL),
        Kill("recorded", SERVER, 1, 2, LOCAL),
        Kill("mid-snapshot", SERVER, 1, 2, LOCAL),
        Kill("mid-upload", HOLDER, 2, 13, LOCAL),
        Kill("accepted", HOLDER, 2, 3, LOCAL),
        Kill("prepared", HOLDER, 2, 2, LOCAL),
        Kill("recorded", HOLDER, 2, 2, LOCAL),
        Kill("mid-upload", VICTIM, 1, WARM_ROUNDS + 1, WARM),
        Kill("half-delivered", VICTIM, 1, WARM_ROUNDS, WARM),
        Kill("half-delivered", VICTIM, 2, WARM_ROUNDS + 1, WARM),
        Kill("prepared", SERVER, 1, WARM_ROUNDS, WARM),
        Kill("prepared", SERVER, 1, WARM_ROUNDS + 1, WARM),
        Kill("recorded", SERVER, 1, WARM_ROUNDS, WARM),
        Kill("recorded", SERVER, 2, WARM_ROUNDS + 1, WARM),
        Kill("mid-snapshot", SERVER, 1, 2, WARM),
        Kill("prepared", HOLDER, 2, WARM_ROUNDS, WARM),
        Kill("recorded", HOLDER, 2, WARM_ROUNDS, WARM),
        Kill("prepared", HOLDER, 2, WARM_ROUNDS + 1, WARM),
    ]


MATRIX = [*_matrix(), *_matrix_of_steps()]


def run_kill(kill: Kill, folder: Path) -> Account:
    """Run one cell; the account of the class afterwards. Raises `Gone` if something stands still."""
    before: list[RoundRecord] = []
    moments = {kill.victim: f"{kill.point}:{kill.nth}"}
    checkpoint_rounds = 2 if kill.point == "mid-checkpoint" else 0
    with classroom(folder, kill.size, moments.get(SERVER, ""), checkpoint_rounds=checkpoint_rounds) as room:
        if kill.holders == 2:
            room.start_holder(moments.get(HOLDER, ""))
        room.start(VICTIM, moments.get(VICTIM, ""))
        room.start(OTHER)
        room.killed(kill.victim)
        if kill.victim == SERVER:
            before = room.recorded()
            room.start_server()
        digests = room.finish()
    return account_for(room, digests, before)


LATE = ("accepted:2", "recorded:2")
"""The server dies when it has accepted a contribution that is a round late, or recorded the round that it counts in."""


def run_late(moment: str, folder: Path) -> Account:
    """Local updates with a peer whose step lasts until the other has made a round without it: the second contribution
    is its own, to the first round. The server dies at `moment`; when it is back, the same again."""
    released = folder / "released"
    with classroom(folder, LOCAL, moment, minimum_peers=2) as room:
        room.start(VICTIM, FAULTS_STEP_SECONDS="0.25")
        room.start(OTHER, FAULTS_UNTIL_FILE=str(released))
        room.wait_version(1)
        released.touch()
        room.killed(SERVER)
        released.unlink()
        before = room.recorded()
        room.start_server()
        room.wait_version(len(before) + 1)
        released.touch()
        digests = room.finish(more=1)
    account = account_for(room, digests, before)
    assert account.late, "no contribution was late"
    return account


def run_moments(seed: int, kills: int, folder: Path, size: Size = MANY_SHARDS) -> Account:
    """One class with two holders in which `kills` times a random process, at times two, dies at a random moment, and
    comes back."""
    chance = random.Random(seed)
    before: list[RoundRecord] = []
    with classroom(folder, size) as room:
        room.start_holder()
        room.start(VICTIM)
        room.start(OTHER)
        room.wait_version(2)
        for _ in range(kills):
            time.sleep(chance.uniform(0.0, 0.8))
            victims = chance.sample([SERVER, HOLDER, VICTIM, OTHER], chance.choice([1, 1, 1, 2]))
            before = _kill_and_restart(room, victims, before)
            room.wait_version(room.status()["version"] + 2)
        digests = room.finish()
    return account_for(room, digests, before)


def _kill_and_restart(room: Classroom, victims: list[str], before: list[RoundRecord]) -> list[RoundRecord]:
    """Returns the records at the last crash of the server."""
    for victim in victims:
        room.kill(victim)
    if SERVER in victims:
        recorded = room.recorded()
        assert recorded[: len(before)] == before, "records that were there are gone"
        before = recorded
        room.start_server()
    for victim in victims:
        if victim != SERVER:
            room.start(victim)
    return before
