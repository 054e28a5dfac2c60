"""Rows as a server gives them out, of runs that tests make up."""

from __future__ import annotations

from typing import Any

import msgspec

from jupyter_swarm.protocol.records import BookState, Contributor, RoundRecord
from jupyter_swarm.protocol.rules import AdamW, Nesterov, RoundRule, SessionSettings, SessionSpec, StrategyChange

START = 1_790_000_000.0


def contributor(peer: str, start: int, count: int, round: int, **fields: Any) -> Contributor:
    """`count` samples from `start` on, at a loss of 2 each, in half a second."""
    known = {"base_version": round - 1, "loss_sum": 2.0 * count, "loss_count": count, "seconds": 0.5, **fields}
    return Contributor(1, 1, peer, count, leases=((start, start + count),), norms={}, **known)


def record(round: int, *parts: Contributor, seconds: float = 1.0, **fields: Any) -> RoundRecord:
    """A round that ends `round` times `seconds` after the start."""
    done = max((stop for part in parts for _, stop in part.leases), default=0)
    samples = sum(part.weight for part in parts)
    return RoundRecord(
        "toy-1", 1, round, 1, parts, samples, (), BookState(done, (), done), (), 0.01, samples,
        START + seconds * round, **{"strategy": "EveryStep", **fields},
    )  # fmt: skip


def plain(*records: RoundRecord) -> list[dict[str, Any]]:
    """As JSON brings them."""
    return msgspec.json.decode(msgspec.json.encode(records))


def metric(version: int, name: str, mean: float | None, count: int = 1, member: str = "") -> dict[str, Any]:
    return {"version": version, "member": member, "name": name, "mean": mean, "count": count}


def event(number: int, round: int, text: str, member: str = "", seconds: float = 0.0) -> dict[str, Any]:
    return {
        "session": "toy-1", "unix_time": START + round + seconds, "generation": 1, "round": round, "level": "info",
        "member": member, "text": text, "number": number,
    }  # fmt: skip


def member(id_: str, name: str) -> dict[str, Any]:
    return {
        "session": "toy-1", "member": id_, "role": "peer", "name": name, "joined": START, "last_seen": START,
        "device": "cpu",
    }  # fmt: skip


def spec() -> SessionSpec:
    local = RoundRule("LocalUpdates", Nesterov(0.7), work="steps", inner_optimizer=AdamW(0.01), predictions=8)
    return SessionSpec(
        "toy", "a" * 64, "b" * 64, RoundRule("EveryStep", AdamW(0.01), target_batch=12, predictions=8),
        SessionSettings(seed=3), 100, 10, "", session="toy-1", changes=(StrategyChange(4, local),), parent="c" * 64,
    )  # fmt: skip


NAMES = ("Ann", "Bob", "Çiğdem", "Dmitri", "Eve", "Farid", "Grace", "Hoang", "Ines", "Jo")


def run(rounds: int = 6, peers: int = 2, names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    """Arguments for `build`: each peer makes 4 samples a round; the strategy changes at round 4; the first peer pauses
    in round 3."""
    records, metrics = [], []
    for round in range(1, rounds + 1):
        start = 4 * peers * (round - 1)
        parts = [
            contributor(
                f"peer-{place}", start + 4 * place, 4, round, waiting=0.25 * place, waited_for="for a grant" * place,
                steps=2, base_version=round - 1 - (place == 1 and round == 5),
            )
            for place in range(peers)
        ]  # fmt: skip
        records.append(record(round, *parts, strategy="LocalUpdates" if round >= 4 else "EveryStep"))
        for place in range(peers):
            metrics += [metric(round, name, 1000.0, 1, f"peer-{place}") for name in ("bytes_up", "bytes_down")]
        if round % 2 == 0:
            metrics += [metric(round, "held_out_loss", 3.0 / round, 10), metric(round, "held_out_accuracy", 0.5, 10)]
    return {
        "records": plain(*records),
        "metrics": metrics,
        "events": [
            event(1, 0, f"{names[0]} joined (cpu).", "peer-0"),
            event(2, 3, f"{names[0]} is paused: KeyboardInterrupt", "peer-0"),
            event(3, 3, f"{names[0]} goes on.", "peer-0", 0.5),
        ],
        "members": [member(f"peer-{place}", names[place]) for place in range(peers)],
        "spec": spec(),
    }
