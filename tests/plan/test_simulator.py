"""The real decisions under a virtual clock: as the formulas say where nobody comes or goes, and the same each time."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from jupyter_swarm.plan.clock import Clock, SharedLink
from jupyter_swarm.plan.formulas import round_of
from jupyter_swarm.plan.scenario import Link
from jupyter_swarm.plan.simulator import Report, Trial, simulate
from jupyter_swarm.protocol.errors import SettingError

from .test_formulas import RULES, scenario


@pytest.mark.parametrize("name", list(RULES))
@pytest.mark.parametrize("server", [20.0, 1000.0])
@pytest.mark.parametrize("peers", [1, 12])
def test_without_churn_and_with_equal_peers_both_say_the_same(name: str, server: float, peers: int) -> None:
    plan = scenario(RULES[name], peers=peers, server=server, parameters=2_000_000)
    found, expected = simulate(plan, Trial(rounds=6)), round_of(plan)
    assert found.round_seconds == pytest.approx(expected.seconds, rel=0.05)
    assert found.share == pytest.approx(expected.share, rel=0.05)
    assert found.counted / 6 == pytest.approx(expected.samples, rel=0.02)
    assert (found.missed, found.drops, found.departures) == (0, 0, 0)
    assert found.contributors == (peers,) * 6


def undated(report: Report) -> Report:
    """Without what the machine's speed decides."""
    return replace(report, decisions_per_second=0.0)


def test_the_same_seed_is_the_same_session() -> None:
    plan = scenario(peers=40, server=1000.0)
    trial = Trial(rounds=4, churn=0.5 / 60, spread=0.5, seed=7)
    first = undated(simulate(plan, trial))
    assert first == undated(simulate(plan, trial))
    assert first != undated(simulate(plan, replace(trial, seed=8)))
    assert msgspec.json.decode(msgspec.json.encode(first), type=Report) == first


@pytest.mark.parametrize("name", list(RULES))
def test_unequal_peers_that_come_and_go_train_on_and_nobody_starves(name: str) -> None:
    plan = scenario(RULES[name], peers=60, server=1000.0, parameters=200_000)
    found = simulate(plan, Trial(rounds=8, churn=1.0 / 60, away=5.0, spread=0.4, seed=3))
    assert found.departures > 10
    assert found.missed <= 4
    assert min(found.contributors) > 20
    assert 0 < found.goodput < 1
    assert 0 < found.shares[0] <= found.share <= found.shares[-1] <= 1
    assert 0 < found.median_wait <= found.longest_wait


def test_churn_costs_samples() -> None:
    plan = scenario(peers=30, server=1000.0)
    calm, restless = (simulate(plan, Trial(rounds=6, churn=churn / 60)) for churn in (0.0, 1.0))
    assert restless.goodput < 0.9 * calm.goodput
    assert restless.median_join > 0 == calm.median_join


def test_a_session_that_cannot_go_on_is_said_to_stand_still() -> None:
    plan = scenario(peers=2, parameters=10_000_000_000, up=0.01, down=0.01)
    with pytest.raises(SettingError, match="stands still"):
        simulate(plan, Trial(rounds=1))


@pytest.mark.parametrize("trial", [Trial(rounds=0), Trial(churn=-1.0), Trial(spread=9.0), Trial(away=-1.0)])
def test_a_trial_that_cannot_be_is_said(trial: Trial) -> None:
    with pytest.raises(SettingError, match="Choose"):
        simulate(scenario(), trial)


@given(
    sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=12),
    starts=st.lists(st.floats(0.0, 10.0), min_size=12, max_size=12),
    lost=st.lists(st.booleans(), min_size=12, max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_a_shared_link_carries_all_bytes_at_its_rate_and_no_faster(
    sizes: list[int], starts: list[float], lost: list[bool]
) -> None:
    clock, rate = Clock(), 100.0
    link, ends = SharedLink(clock, rate), {}

    def begin(number: int, size: int) -> None:
        transfer = link.send(size, 0.5, lambda: ends.setdefault(number, clock.now))
        if lost[number]:
            clock.after(0.1, link.lose, transfer)

    for number, size in enumerate(sizes):
        clock.after(starts[number], begin, number, size)
    while clock.step():
        pass
    kept = [number for number in range(len(sizes)) if not lost[number]]
    assert set(kept) <= set(ends)
    for number in kept:
        alone = max(sizes[number] / rate, 0.5)
        assert ends[number] >= starts[number] + alone - 1e-6
        assert ends[number] <= max(starts) + sum(sizes) / rate + 0.5 + 1e-6
    if kept and not any(lost[: len(sizes)]):
        assert max(ends.values()) >= min(starts[: len(sizes)]) + sum(sizes) / rate - 1e-6


def test_equal_transfers_share_a_link_equally() -> None:
    clock, ends = Clock(), []
    link = SharedLink(clock, 100.0)
    for _ in range(4):
        link.send(100.0, 0.0, lambda: ends.append(clock.now))
    while clock.step():
        pass
    assert ends == pytest.approx([4.0] * 4)
    plan = replace(scenario(peers=3), server=Link(1e3, 1e9))
    assert round_of(plan).phases["packets"] == pytest.approx(3 * round_of(plan).traffic.down / 1e3)
