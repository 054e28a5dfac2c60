"""What a rehearsal's figures mean, in words."""

from __future__ import annotations

import msgspec

from jupyter_swarm.peer.verdict import Phase, Rehearsal

FAST = Phase(
    strategy="EveryStep", rounds=5, seconds=0.4, played=0.1, computing=0.1, up=3_000_000, down=3_000_000,
    sample_seconds=0.01, batch=300, local=False,
)  # fmt: skip
SLOW = msgspec.structs.replace(FAST, seconds=20.1, up=100_000_000, down=100_000_000)
ROOMY = {"memory_before": 100 << 20, "memory_peak": 400 << 20, "memory_free": 6 << 30, "memory_total": 8 << 30}


def found(*phases: Phase, **fields: object) -> Rehearsal:
    facts = {"joined": 30, "join_seconds": 2.0, **ROOMY, **fields}
    return Rehearsal(recipe="toy", server="http://host", peers=30, phases=phases, **facts)  # type: ignore[arg-type]


def test_what_works_needs_no_advice() -> None:
    good = found(FAST)
    assert good.ok
    assert good.verdict == "A class of 30 can train toy here."
    assert not good.advice
    text = str(good)
    assert "30 of 30" in text
    assert "0.3 s of exchange" in text
    assert "left out" in text


def test_a_class_that_mostly_exchanges_is_told_to_do_so_less_often() -> None:
    slow = found(SLOW)
    assert slow.ok
    assert "but slowly: 20 s, 100% of the time, of a round of EveryStep" in slow.verdict
    # 10 samples a step take 0.1 s; 1,800 such steps would make 20 s of exchange a tenth.
    assert "LocalUpdates(steps=500, batch=10)" in slow.advice[0]
    assert any("smaller model" in text for text in slow.advice)
    local = found(msgspec.structs.replace(SLOW, strategy="LocalUpdates", local=True, batch=40))
    assert "steps=450" in local.advice[0]


def test_how_much_is_exchanged_beside_little_computing_disturbs_nobody_if_it_is_short() -> None:
    assert found(msgspec.structs.replace(FAST, computing=0.001)).verdict.endswith("can train toy here.")


def test_what_a_usual_link_would_take_is_said_where_the_rehearsals_was_faster() -> None:
    bytes_ = found(msgspec.structs.replace(FAST, up=100_000_000))
    assert bytes_.ok
    assert "Behind a link of 100 Mbit/s it would be slow: 8 s" in bytes_.verdict
    assert bytes_.advice


def test_a_warm_start_is_to_be_shorter_not_replaced() -> None:
    later = msgspec.structs.replace(FAST, strategy="LocalUpdates", local=True, computing=20.0)
    advice = found(SLOW, later).advice
    assert "sooner" in advice[0]
    assert "LocalUpdates(" not in advice[0]


def test_a_machine_that_is_nearly_full_is_too_small() -> None:
    full = found(FAST, memory_free=200 << 20, memory_total=2 << 30)
    assert not full.ok
    assert "only 209.7 MB of 2.1 GB left" in str(full)
    assert "at least 2.9 GB of memory" in full.advice[-1]


def test_whoever_could_not_join_is_counted_with_the_reason() -> None:
    partial = found(FAST, joined=28, failures=("The session is full.",) * 2)
    assert not partial.ok
    assert partial.verdict == "A class of 30 cannot train toy here as it is."
    assert "2 of 30 students could not join or stay: The session is full." in str(partial)


def test_what_ended_it_early_speaks_against_it_and_unknown_memory_does_not() -> None:
    unknown = dict.fromkeys(ROOMY, 0) | {"memory_unknown": "look there"}
    assert found(FAST, **unknown).ok
    assert "of the server not known: look there" in str(found(FAST, **unknown))
    assert not found(problems=("It was interrupted.",), **unknown).ok
    assert not found(msgspec.structs.replace(SLOW, seconds=90.0)).ok
