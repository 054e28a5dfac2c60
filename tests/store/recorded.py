"""A session and its rounds, to be recorded."""

from __future__ import annotations

from typing import Any

import msgspec

from jupyter_swarm.protocol.layout import Layout, Stream, TensorSpec
from jupyter_swarm.protocol.records import BookState, Contributor, RoundRecord, ShardDigest, Skip
from jupyter_swarm.protocol.rules import SGD, RoundRule, SessionSettings, SessionSpec

LAYOUT = Layout((TensorSpec("w", (2, 3), "float32", Stream.PARAMETERS, 0, 6, ties=("v",)),))
SPEC = SessionSpec(
    name="Digits", recipe="r" * 64, layout_digest=LAYOUT.digest, rule=RoundRule("EveryStep", SGD(0.1)),
    settings=SessionSettings(), samples=100, held_out=10, initial="i" * 64, session="cs101",
)  # fmt: skip


def record(round: int, session: str = "cs101", **changes: Any) -> RoundRecord:
    contributor = Contributor(1, 17, "peer-1", 32, ((0, 20), (40, 52)), round - 1, 12.5, 32, {"gradient": 0.25})
    whole = RoundRecord(
        session, 1, round, 1, (contributor,), 32, (Skip((60, 61), "nan twice"),), BookState(64, ((52, 60),), 32, 1),
        (ShardDigest(0, 24, "d" * 64),), 0.1, 32, 1000.0 + round,
    )  # fmt: skip
    return msgspec.structs.replace(whole, **changes)
