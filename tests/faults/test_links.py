"""Links that break, links that trickle, peers that do not read, clocks that are wrong: the class goes on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_swarm.protocol import messages as m

from .account import account_for
from .classroom import classroom, until
from .hostile import Hostile, hostile
from .links import dropping, proxy
from .recipes import CHUNKS, LOCAL, MANY_SHARDS, SPARSE, Size

CUTS = 6


@pytest.mark.parametrize("size", [MANY_SHARDS, CHUNKS, LOCAL, SPARSE], ids=lambda size: size.name)
def test_links_that_drop_again_and_again_cost_time_and_nothing_else(size: Size, tmp_path: Path) -> None:
    with classroom(tmp_path, size) as room, proxy(room.port) as first, proxy(room.port) as second:
        room.start("ann", port=first.port, FAULTS_STEP_SECONDS="0.01")
        room.start("bob", port=second.port, FAULTS_STEP_SECONDS="0.01")
        room.wait_version(1)
        with dropping(first, 1, 0.3, 1.5), dropping(second, 2, 0.3, 1.5):
            until(lambda: min(first.cuts, second.cuts) >= CUTS, room.describe)
        room.wait_version(room.status()["version"] + 3)
        until(lambda: len({c.peer for c in room.contributors()}) == 2, room.describe)
        digests = room.finish()
    account = account_for(room, digests, [])
    assert account.problems() == []
    assert account.samples_skipped == 0
    contributors = {contributor.peer for record in room.recorded() for contributor in record.contributors}
    assert len(contributors) == 2, "whoever comes back is the same peer"


def test_an_upload_that_trickles_is_dropped_and_the_class_does_not_wait_for_it(tmp_path: Path) -> None:
    with classroom(tmp_path, CHUNKS, lease_seconds=2.0) as room, proxy(room.port) as link:
        room.start("ann", port=link.port)
        room.start("bob")
        until(lambda: len({c.peer for c in room.contributors()}) == 2, room.describe)
        link.up_rate = 20_000.0
        until(lambda: "took longer than" in " ".join(room.report("ann").notes), room.describe)
        room.wait_version(room.status()["version"] + 3)
        link.up_rate = 0.0
        digests = room.finish()
    assert account_for(room, digests, []).problems() == []


@contextlib.contextmanager
def talking(peer: Hostile) -> Iterator[None]:
    """It is heard of, and reads nothing."""
    ended = threading.Event()

    def run() -> None:
        with contextlib.suppress(Exception):
            while not ended.wait(0.1):
                peer.say(m.Heartbeat())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("size", [MANY_SHARDS, LOCAL], ids=lambda size: size.name)
def test_nobody_waits_for_a_peer_that_has_taken_work_and_reads_nothing(size: Size, tmp_path: Path) -> None:
    with classroom(tmp_path, size, lease_seconds=1.0) as room, hostile(room) as deaf:
        deaf.hello()
        deaf.sync()
        deaf.say(m.WantWork(deaf.welcome.generation, 0))
        deaf.hear(m.LeaseGrant)
        with talking(deaf):
            room.start("ann")
            room.wait_version(3)
            digests = room.finish()
    account = account_for(room, digests, [])
    assert account.problems() == []
    assert account.samples_skipped == 0


@pytest.mark.parametrize("size", [MANY_SHARDS, SPARSE], ids=lambda size: size.name)
def test_clocks_that_differ_by_hours_change_nothing(size: Size, tmp_path: Path) -> None:
    with classroom(tmp_path, size) as room:
        room.start("ann", FAULTS_CLOCK_SECONDS=str(-5 * 3600))
        room.start("bob", FAULTS_CLOCK_SECONDS=str(7 * 3600))
        until(lambda: len({c.peer for c in room.contributors()}) == 2, room.describe)
        digests = room.finish()
        assert all("clock" not in note for name in ("ann", "bob") for note in room.report(name).notes)
    assert account_for(room, digests, []).problems() == []
