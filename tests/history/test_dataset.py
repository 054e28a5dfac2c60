"""A history says what the records say, in whatever order and pieces they came."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_swarm.history import Rows, build, build_alone, dataset_of
from jupyter_swarm.protocol.records import RoundRecord

from .rows import contributor, event, member, metric, plain, record, run, spec

PEERS = ("peer-1", "peer-2", "peer-3")

parts = st.builds(
    lambda peer, count, own, late, loss: (peer, count, own, late, loss),
    st.sampled_from(PEERS), st.integers(0, 9), st.integers(0, 3), st.integers(0, 2),
    st.floats(-1e6, 1e6),
)  # fmt: skip


@st.composite
def sessions(draw: st.DrawFn) -> list[RoundRecord]:
    """Rounds with some missing, in which any peers contribute, also twice."""
    numbers = draw(st.lists(st.integers(1, 12), unique=True, max_size=6).map(sorted))
    position, result = 0, []
    for round in numbers:
        made = []
        for peer, count, own, late, loss in draw(st.lists(parts, max_size=4)):
            base = max(round - 1 - late, 0)
            made.append(
                contributor(peer, position, count, round, own=own, base_version=base, loss_sum=loss, steps=count)
            )
            position += count
        result.append(record(round, *made))
    return result


@settings(max_examples=40)
@given(sessions(), st.randoms())
def test_any_order_and_repetition_of_pages_is_the_same_history(records: list[RoundRecord], random: object) -> None:
    whole = build(plain(*records))
    rows = Rows()
    pages = plain(*records) * 2
    random.shuffle(pages)  # type: ignore[attr-defined]
    for page in (pages[::2], pages[1::2]):
        rows.add(records=page)
        dataset_of(rows)
    xr.testing.assert_identical(dataset_of(rows), whole)


@settings(max_examples=40)
@given(sessions())
def test_every_contribution_is_counted_once(records: list[RoundRecord]) -> None:
    history = build(plain(*records))
    assert history["round"].values.tolist() == [record.round for record in records]
    for record_ in records:
        one = history.sel(round=record_.round)
        for peer in PEERS:
            made = [part for part in record_.contributors if part.peer == peer]
            if peer not in history.peer_id.values:
                assert not made
                continue
            of_peer = one.isel(peer=history.peer_id.values.tolist().index(peer))
            assert of_peer.samples == sum(part.weight + part.own for part in made)
            assert of_peer.own_samples == sum(part.own for part in made)
            assert of_peer.inner_steps == sum(part.steps for part in made)
            assert of_peer.loss_count == sum(part.loss_count for part in made)
            if made:
                assert of_peer.loss_sum == pytest.approx(sum(part.loss_sum for part in made))
                assert of_peer.staleness == max(record_.round - 1 - part.base_version for part in made)
            else:
                assert np.isnan(of_peer.loss_sum)
                assert np.isnan(of_peer.staleness)
        assert one.loss == pytest.approx(record_.mean_loss, nan_ok=True)
    counts = (
        "samples",
        "own_samples",
        "inner_steps",
        "loss_count",
        "bytes_up",
        "bytes_down",
        "contributions",
        "skipped",
    )
    assert {history[name].dtype for name in counts} == {np.dtype(np.int64)}


def test_what_a_history_says() -> None:
    history = build(**run())
    assert history.peer.values.tolist() == ["Ann", "Bob"]
    assert history.held_out_loss.dropna("round").to_dict()["coords"]["round"]["data"] == [2, 4, 6]
    assert history.strategy.values.tolist() == ["EveryStep"] * 3 + ["LocalUpdates"] * 3
    assert history.samples_per_second.sel(peer="Ann", round=2) == 8.0
    assert np.isnan(history.seconds[0])
    assert (history.seconds[1:] == 1.0).all()
    assert history.waiting_reason.sel(peer="Bob", round=2) == "for a grant"
    assert history.staleness.sel(peer="Bob").values.tolist() == [0, 0, 0, 0, 1, 0]
    assert history.bytes_up.sum() == 12_000
    assert history.event_peer.values.tolist() == ["Ann"] * 3
    assert history.samples_done.values.tolist() == [8, 16, 24, 32, 40, 48]
    for name, variable in history.variables.items():
        assert variable.attrs["long_name"], name
        assert "units" in variable.attrs or variable.dtype.kind in "OUMb" or name in ("round", "event_round"), name
    assert history.attrs["strategy"] == "EveryStep, then LocalUpdates"


def test_an_evaluation_before_the_first_round_is_round_zero() -> None:
    history = build(plain(record(1, contributor("p", 0, 4, 1))), [metric(0, "held_out_loss", 4.0)])
    assert history["round"].values.tolist() == [0, 1]
    assert history.held_out_loss.values[0] == 4.0
    assert history.samples.values.tolist() == [[0], [4]]
    assert np.isnat(history.time.values[0])


def test_metrics_that_no_round_has_or_that_are_no_numbers() -> None:
    records = plain(record(1, contributor("p", 0, 4, 1)))
    history = build(records, [metric(2, "held_out_loss", 1.0), metric(1, "held_out_loss", None)])
    assert history.held_out_loss.isnull().all()


def test_nothing_yet() -> None:
    history = build([], [metric(3, "bytes_up", 5.0, member="p")], [event(1, 0, "Ann joined (cpu).", "p")])
    assert dict(history.sizes) == {"round": 0, "peer": 1, "event": 1}
    assert history.swarm.card.totals.loss is None


def test_peers_of_one_name_are_told_apart() -> None:
    records = plain(record(1, contributor("a", 0, 1, 1), contributor("b", 1, 2, 1)))
    history = build(records, members=[member("a", "Ann"), member("b", "Ann")])
    assert history.samples.sel(peer="Ann (b)").item() == 2


def test_only_what_is_new_is_asked_for() -> None:
    rows = Rows()
    assert (rows.last_round, rows.last_version, rows.last_event) == (0, -1, 0)
    rows.add(records=plain(record(30)), metrics=[metric(30, "held_out_loss", 1.0)], events=[event(7, 1, "")])
    assert (rows.last_round, rows.last_event) == (30, 7)
    assert rows.last_version < 29, "an evaluation may be reported late"


def test_a_record_that_is_none_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="contributors"):
        build([{**plain(record(1))[0], "contributors": 3}])


def test_a_training_alone_is_a_session_with_one_peer() -> None:
    entries = [
        {"round": number, "strategy": "EveryStep", "loss": 2.0, "loss_sum": 8.0, "loss_count": 4, "samples": 4,
         "samples_done": 4 * number, "seconds": 0.5, "learning_rate": 0.1, "inner_learning_rate": 0.0, "steps": 0,
         "contributions": 1, "unix_time": 100.0 + 10.0 * number}
        for number in (1, 2, 3)
    ]  # fmt: skip
    history = build_alone(entries, [{"round": 2, "count": 10, "loss": 1.5}], spec(), device="cpu")
    assert history.peer.values.tolist() == ["alone"]
    assert history.held_out_loss.dropna("round").values.tolist() == [1.5]
    assert history.swarm.speed() == 8.0, "evaluations between rounds do not count"
    assert history.swarm.share("alone") == 1.0
    together = build(**run())
    assert together.swarm.speedup(history) == together.swarm.speedup(8.0) == 1.0
