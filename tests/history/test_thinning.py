"""A thinned history has few rounds, and all that was counted in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_swarm.history import Rows, build, dataset_of
from jupyter_swarm.history.figure import CurveFigure
from jupyter_swarm.protocol.records import RoundRecord

from .rows import contributor, metric, plain, record, run

SUMS = ("loss_sum", "loss_count", "samples", "own_samples", "inner_steps", "computing", "waiting")
MOST = 20


@st.composite
def classes(draw: st.DrawFn) -> tuple[list[RoundRecord], list[dict[str, Any]]]:
    """Up to 120 rounds of three peers who come and go, an evaluation now and then, perhaps another strategy."""
    rounds = draw(st.integers(1, 120))
    change = draw(st.integers(1, 200))
    absent = draw(st.sets(st.integers(1, 120), max_size=30))
    records, metrics = [], []
    for round in range(1, rounds + 1):
        here = [place for place in range(3) if place == 0 or round not in absent]
        parts = [
            contributor(f"peer-{place}", 0, 1 + (round + place) % 5, round, waiting=0.1 * place, own=place)
            for place in here
        ]
        records.append(record(round, *parts, strategy="LocalUpdates" if round >= change else "EveryStep"))
        metrics += [metric(round, "bytes_up", 100.0 + round, 1, f"peer-{place}") for place in here]
        if round % 7 == 0:
            metrics.append(metric(round, "held_out_loss", 1.0 / round, 10))
    return records, metrics


def thinned(records: list[RoundRecord], metrics: list[dict[str, Any]], look: int) -> xr.Dataset:
    """As a panel has it that looks again after so many rounds."""
    rows = Rows()
    for start in range(0, len(records), look):
        rows.add(plain(*[one for one in records[start : start + look] if one.round > rows.last_round]))
        rows.add(metrics=[one for one in metrics if rows.last_version < one["version"] <= rows.last_round])
        rows.thin(MOST)
    return dataset_of(rows)


@settings(max_examples=40, deadline=None)
@given(classes(), st.integers(1, 60))
def test_what_was_counted_stays(class_: tuple[list[RoundRecord], list[dict[str, Any]]], look: int) -> None:
    whole, few = build(plain(*class_[0]), class_[1]), thinned(*class_, look)
    # Beside them the newest, whose evaluations may still come, and what is left of one at a change of strategy.
    assert few.sizes["round"] <= MOST + 2
    assert few["round"].values[-1] == whole["round"].values[-1]
    assert set(few["round"].values) <= set(whole["round"].values)
    assert few.peer.values.tolist() == whole.peer.values.tolist()
    for name in (*SUMS, "bytes_up"):
        np.testing.assert_allclose(few[name].sum("round"), whole[name].sum("round"))
    for name in ("seconds", "contributions", "skipped"):
        # Of the first round nobody knows how long it took, nor of those that are counted together with it.
        assert few[name].sum() <= whole[name].sum()
    assert few.contributions.sum() == whole.contributions.sum()
    assert few.samples_done.values[-1] == whole.samples_done.values[-1]
    assert few.staleness.max() == whole.staleness.max()
    ends = np.flatnonzero(few.strategy.values[1:] != few.strategy.values[:-1])
    changes = np.flatnonzero(whole.strategy.values[1:] != whole.strategy.values[:-1])
    assert few["round"].values[ends].tolist() == whole["round"].values[changes].tolist(), "a change is where it was"
    if "held_out_loss" in whole:
        kept = few.held_out_loss.dropna("round").values
        assert set(kept) <= set(whole.held_out_loss.values)
        assert kept[-1] == whole.held_out_loss.dropna("round").values[-1]


def test_the_longest_wait_says_why() -> None:
    records = [
        record(round, contributor("p", 0, 4, round, waiting=2.0 if round == 3 else 1.0, waited_for=f"for {round}"))
        for round in range(1, 60)
    ]
    few = thinned(records, [], 59)
    assert few.sizes["round"] <= MOST + 2
    assert few.waiting_reason.values[0, 0] == "for 3"


def test_a_picture_of_it_says_how_many_rounds_there_were() -> None:
    rows, figure = Rows(), CurveFigure()
    given = run(90)
    rows.add(given["records"], given["metrics"], given["events"])
    rows.set_members(given["members"])
    rows.thin(MOST)
    assert figure.png(dataset_of(rows, given["spec"])).startswith(b"\x89PNG")
    assert "2 peers, 90 rounds" in figure.figure.texts[0].get_text()
