"""Speeds by the clock, bytes by the socket, steps by the peer: each strategy's rounds for themselves."""

from __future__ import annotations

import math

import msgspec

from jupyter_swarm.cli.demo.findings import Stored
from jupyter_swarm.cli.demo.phases import phases, rate
from jupyter_swarm.protocol.layout import Layout
from jupyter_swarm.protocol.records import RoundRecord
from jupyter_swarm.store.rows import Metric
from tests.cli.demo.test_findings import SAMPLES, record


def timed(round_: int, strategy: str, seconds: float, samples: dict[str, int], steps: int = 0) -> RoundRecord:
    made = record(round_, {peer: [(0, count)] for peer, count in samples.items()}, 0)
    contributors = tuple(msgspec.structs.replace(part, steps=steps) for part in made.contributors)
    return msgspec.structs.replace(made, contributors=contributors, strategy=strategy, unix_time=1000.0 + seconds)


RECORDS = [
    timed(1, "EveryStep", 0.0, {"a": 8}),
    timed(2, "EveryStep", 2.0, {"a": 6, "b": 2}),
    timed(3, "EveryStep", 4.0, {"a": 8}),
    timed(4, "LocalUpdates", 8.0, {"a": 40}, steps=5),
    timed(5, "LocalUpdates", 12.0, {"a": 40, "b": 24}, steps=3),
]


def moved(round_: int, up: int, down: int) -> list[Metric]:
    return [Metric("s", round_, "a", "bytes_up", up, 1), Metric("s", round_, "b", "bytes_down", down, 1)]


METRICS = [one for round_ in (1, 2, 3) for one in moved(round_, 300, 500)] + moved(4, 100, 100) + moved(5, 200, 224)
STORED = Stored(
    SAMPLES, 10, Layout(()), RECORDS, [], [*METRICS, Metric("s", 5, "", "held_out_loss", 9.0, 3)],
    {"a": "host", "b": "slow"}, "",
)  # fmt: skip


def test_each_strategy_has_its_own_speed_bytes_and_steps() -> None:
    together, apart = phases(STORED)
    assert (together.strategy, together.first, together.last) == ("EveryStep", 1, 3)
    # The first round's beginning is not on record: two rounds of 8 samples, 10 predictions each, in 4 seconds.
    assert together.rate.tokens_per_second == 40.0
    assert together.bytes_per_token == 3 * 800 / 240
    assert together.inner_steps == {}
    assert (apart.first, apart.last, apart.rate.seconds) == (4, 5, 8.0)
    assert apart.rate.tokens_per_second == 1040 / 8
    assert apart.bytes_per_token == 624 / 1040
    assert apart.inner_steps == {"host": [5, 3], "slow": [0, 3]}


def test_a_rate_is_of_the_rounds_that_are_asked_for() -> None:
    assert rate(STORED, 5, 5).tokens == 640
    assert rate(STORED, 5, 5).tokens_per_second == 160.0
    assert math.isnan(rate(STORED, 2, 1).tokens_per_second)
