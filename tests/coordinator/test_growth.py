"""Nothing that the server keeps in memory grows with the number of rounds, and on disk only the record does."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections import Counter
from pathlib import Path

from jupyter_swarm.protocol.records import BookState, RoundRecord
from jupyter_swarm.store.database import Database
from jupyter_swarm.store.rows import Metric

from .scripted import ScriptedPeer
from .server import LAYOUT, Swarm, spec_of

EARLY, LATE = 40, 100
SNAPSHOT_ROUNDS = 20
OURS = [
    *(
        tracemalloc.Filter(True, f"*/jupyter_swarm/{part}/*")
        for part in ("coordinator", "decisions", "shards", "store")
    ),
    tracemalloc.Filter(False, "*/store/sqlite.py"),  # sqlite3 remembers up to 200 cursors
]
WAL_BYTES = 5 << 20


def memory() -> tuple[Counter[str], Counter[str]]:
    """How many blocks each of our lines has allocated that are still there; how many objects of ours there are."""
    gc.collect()
    lines = tracemalloc.take_snapshot().filter_traces(OURS).statistics("lineno")
    objects = [type(one) for one in gc.get_objects() if str(type(one).__module__).startswith("jupyter_swarm")]
    return Counter({str(line.traceback): line.count for line in lines}), Counter(kind.__name__ for kind in objects)


async def test_a_hundred_rounds_leave_nothing_behind(swarm: Swarm) -> None:
    session = await swarm.open_session(snapshot_rounds=SNAPSHOT_ROUNDS, evaluate_every=20, target_batch=1)
    peer = await ScriptedPeer.join(swarm, session, await swarm.member(session, "peer"))
    peer.keep = False
    tracemalloc.start()
    try:
        await peer.train(EARLY)
        lines, objects = memory()
        await peer.train(LATE)
        later = memory()
    finally:
        tracemalloc.stop()
    # Whatever stayed of each round would be there so many times more.
    assert {line: count for line, count in (later[0] - lines).items() if count > (LATE - EARLY) // 2} == {}
    assert max((later[1] - objects).values(), default=0) < 10
    folder = swarm.manager.runtime(session).numbers.folder
    while len(list(folder.glob("snapshot-*"))) != 1:
        await asyncio.sleep(0.01)
    assert len(list(folder.glob("round-*"))) <= 2 * SNAPSHOT_ROUNDS
    assert (swarm.manager.options.storage / "swarm.sqlite-wal").stat().st_size < WAL_BYTES


def test_a_class_of_thirty_fills_the_write_ahead_log_no_further_than_its_bound(tmp_path: Path) -> None:
    database = Database(tmp_path / "swarm.sqlite")
    database.add_session("cs101", spec_of(), LAYOUT, 0.0)
    for round in range(1, 201):
        record = RoundRecord("cs101", 1, round, 1, (), 0, (), BookState(), (), 0.1, 8, 0.0)
        metrics = [
            Metric("cs101", round, f"peer-{peer}", name, 1e6 + peer, 1)
            for peer in range(30)
            for name in ("bytes_up", "bytes_down")
        ]
        database.add_round(record, metrics)
    assert (tmp_path / "swarm.sqlite-wal").stat().st_size < WAL_BYTES
    database.close()
    size = (tmp_path / "swarm.sqlite").stat().st_size
    assert size < 200 * 60 * 80, "a row of metrics takes less than 80 bytes"
