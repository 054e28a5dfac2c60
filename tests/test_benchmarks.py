"""The benchmarks' parts that need no calm machine: they run, and report what they are said to report."""

from __future__ import annotations

import argparse
import inspect
import json
import math
import re
from pathlib import Path

import pytest

from jupyter_swarm import Sophia, load_recipe
from tests.benchmarks import (
    checkpoint,
    churn,
    codecs,
    computing,
    convergence,
    crowd,
    large,
    networks,
    observed,
    reporting,
    rounds,
    simulation,
    soak,
    sophia,
    status_latency,
)
from tests.benchmarks.harness import Failed, server, workplace


@pytest.mark.parametrize("kind", ["tornado", "link"])
def test_a_star_moves_every_byte_up_and_down(kind: str) -> None:
    figures = rounds.transport(kind, elements=300_000, rounds=2)
    assert len(figures["all_seconds"]) == figures["rounds"] == 2
    assert min(figures["all_seconds"]) > 0
    assert figures["bytes"] >= 2 * rounds.PEERS * 4 * 300_000


def test_only_rounds_of_all_peers_count() -> None:
    ends = [(1.0, 4), (2.0, 4), (3.0, 4), (5.0, 3), (9.0, 4)]
    records = [{"unix_time": end, "contributors": [None] * count} for end, count in ends]
    assert rounds._whole_rounds(records) == [1.0, 4.0]


def test_a_transfer_lasts_from_its_first_byte_to_its_last_with_the_pauses_in_it() -> None:
    rate, rows, sent = 1e6, [], 0
    for number in range(600):  # every 10 ms; a transfer of 1 MB begins at 0, 2 and 4 s and pauses half-way
        place = number % 200
        sent += 10_000 if place < 50 or 60 <= place < 110 else 100  # what is acknowledged is no transfer
        rows.append((number / 100, sent, number // 10))
    found = networks.used(rows, rate, size=1e6)
    assert found["down"]["seconds"] == pytest.approx([1.1], abs=0.03), "those to warm up are left out"
    assert found["down"]["share"] == pytest.approx(1 / 1.1, rel=0.03)
    assert found["up"] == {"bytes": None, "seconds": [], "share": None}


@pytest.mark.long
def test_the_share_of_time_computing_and_the_bytes_of_a_strategy() -> None:
    with workplace() as (folder, stack):
        here = server(folder, stack)
        case = next(one for one in computing.cases(30_000, 2, steps=80, step=0.002) if one.name == "Streaming int4")
        found = computing.run(here, case, ("one", "two"), rounds=2)
    assert found["rounds"] == 2 * computing.FRAGMENTS
    assert found["rounds"] < found["contributions"] <= 2 * found["rounds"]
    assert 0 < found["share_by_steps"] < 1.2
    assert 0.5 < found["up"] / (2 * 30_000 / 2) < 2, "each number once in half a byte"
    assert 0.5 < found["down"] / (2 * 30_000 / 2) < 2


def test_percentiles_are_in_milliseconds() -> None:
    found = status_latency.summary([number / 1000 for number in range(1, 101)])
    assert found["p50"] == pytest.approx(50.5)
    assert found["p99"] == pytest.approx(99.01)
    assert found["largest"] == pytest.approx(100.0)


@pytest.mark.long
def test_300_rounds_with_their_memory_and_a_journal_that_stays_small(tmp_path: Path) -> None:
    found = soak.soak(300)
    soak.draw(found, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 10_000
    assert found["rounds"] == 300
    assert len(found["series"]) >= 3
    assert found["series"][-1]["round"] == 300
    assert {name for name, one in found["summary"].items() if "flat" in one} == {"server", "peer 1", "peer 2"}
    assert all(found["series"][-1][name] > 50e6 for name in ("server", "peer 1", "peer 2"))
    frame = 4 * 6000
    assert frame < found["summary"]["journal"]["largest"] < 110 * frame, "packets since the snapshot before the last"
    assert found["summary"]["write-ahead log"]["largest"] < 5 << 20
    assert found["summary"]["database"]["largest"] + found["summary"]["write-ahead log"]["largest"] > 0


def test_memory_is_flat_by_its_second_half() -> None:
    warm = [(10.0 * x, 1e6 * min(x, 30)) for x in range(100)]
    assert soak.grown(warm)["slope"] == pytest.approx(0, abs=1)
    stepped = [(10.0 * x, 1e6 * (1 + (x > 70))) for x in range(100)]
    assert soak.grown(stepped)["slope"] == pytest.approx(0, abs=1)
    leaking = [(10.0 * x, 1e6 + 20_000.0 * x) for x in range(100)]
    assert soak.grown(leaking)["slope"] == pytest.approx(2e6)
    assert soak.grown(leaking)["largest"] == leaking[-1][1]


def test_phases_of_a_round_are_those_of_its_slowest_peer() -> None:
    quick = {
        "compute": [[0, 1], [2, 3]], "announce": [[3, 3.5]], "granted": [[4, 4]], "accepted": [[6, 6]],
        "packets": [[8, 9]], "commit": [[10, 11]], "apply": [[10, 10.5]], "load": [[10.5, 11]],
    }  # fmt: skip
    slow = quick | {"compute": [[0, 5]], "announce": [[5, 5.25]], "granted": [[5.5, 5.5]], "accepted": [[7, 7]]}
    found = large.phases([{"spans": {"3": quick}}, {"spans": {"3": slow}}], 3)
    assert found == {
        "compute": 5, "announce": 0.5, "grant": 0.5, "upload": 2, "merge": 1, "packets": 1, "record": 1, "apply": 0.5,
        "load": 0.5,
    }  # fmt: skip
    assert set(large.phases([{"spans": {}}], 3).values()) == {None}


def test_what_is_observed_of_a_peer_is_there() -> None:
    for owner, method, _ in observed.TIMED:
        assert inspect.isfunction(getattr(owner, method))
    phases = {phase for _, _, phase in observed.TIMED}
    assert phases == {"compute", "announce", "granted", "accepted", "apply", "load", "commit"}


@pytest.mark.long
def test_plain_transformers_computes_what_the_session_did() -> None:
    constants = {"SIZE": "tiny", "TEXT": "python", "HELD_OUT": 0.005, "WARM_ROUNDS": 3, "LOCAL_STEPS": 2}
    found = checkpoint.compared(load_recipe("language", LOCAL_ROUNDS=1, **constants))
    ours, plain = found["session"], found["plain"]
    assert not plain["imports_jupyter_swarm"]
    assert plain["not_as_saved"] == []
    assert (plain["model"], plain["predictions"]) == (ours["model"], ours["predictions"])
    assert plain["loss"] == pytest.approx(ours["loss"], abs=1e-5)
    assert found["logits"] <= 1e-5


def test_each_benchmark_is_in_the_readme_and_says_how_to_run_it() -> None:
    folder = Path(reporting.__file__).parent
    listed = re.findall(r"^\| `tests\.benchmarks\.(\w+)`", (folder / "README.md").read_text("utf-8"), re.MULTILINE)
    texts = {path.stem: path.read_text("utf-8") for path in folder.glob("*.py")}
    runnable = {name for name, text in texts.items() if "main(parser, measure)" in text}
    assert sorted(listed) == sorted(runnable)
    assert not [name for name in runnable if f"    python -m tests.benchmarks.{name} " not in texts[name]]


def test_where_a_curve_reaches_a_loss() -> None:
    places, losses = [10, 20, 30, 40], [3.0, 2.0, 2.5, 1.0]
    found = [reporting.reached(places, losses, target) for target in (3.5, 2.5, 1.0)]
    assert found == [10, 15, 40]
    assert math.isnan(reporting.reached(places, losses, 0.5))


def test_both_optimizers_are_tuned_over_as_many_settings() -> None:
    tried = sophia.settings(quick=False, warm_up=30)
    assert len(set(tried["AdamW"])) == len(set(tried["Sophia"])) >= 9
    assert all(isinstance(rule, Sophia) for rule in tried["Sophia"])
    assert len({rule.schedule for rules in tried.values() for rule in rules}) == 1


def test_a_crowd_that_comes_and_goes_is_simulated() -> None:
    chosen = argparse.Namespace(
        peers=[20, 60], rounds=3, strategy="sparse", steps=200, parameters=100_000, churn=1.0, away=5.0, spread=0.5,
        link=20.0, server=10_000.0, seed=0,
    )  # fmt: skip
    found = simulation.measure(chosen)["peers"]
    assert list(found) == [20, 60]
    for one in found.values():
        assert len(one["seconds"]) == 3
        assert one["decisions"] > 200
        assert one["decisions_per_second"] > 0
        assert 0 < one["goodput"] < one["share"] <= 1
        assert one["missed"] <= 3
        assert one["longest_wait"] >= one["median_wait"]


def test_figures_go_into_the_json_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    monkeypatch.setattr("sys.argv", ["benchmark", "--json", str(file)])
    reporting.main(argparse.ArgumentParser(), lambda chosen: {"seconds": [0.5, 0.25]})
    written = json.loads(file.read_text())
    assert written["seconds"] == [0.5, 0.25]
    assert written["machine"]["cores"] >= 1
    assert "cores" in capsys.readouterr().out


def test_what_cannot_be_measured_is_said_and_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(chosen: argparse.Namespace) -> reporting.Figures:
        raise Failed("The server ended at once.")

    file = tmp_path / "figures.json"
    monkeypatch.setattr("sys.argv", ["benchmark", "--json", str(file)])
    with pytest.raises(SystemExit, match="Not measured: The server ended at once"):
        reporting.main(argparse.ArgumentParser(), measure)
    assert not file.exists()


@pytest.mark.long
def test_every_way_of_the_convergence_benchmark_learns_and_counts_its_bytes() -> None:
    chosen = argparse.Namespace(
        peers=2, warm=2, local=2, steps=2, rates=[0.01], size="tiny", ways=list(convergence.ways(2, 2)), threads=1,
        figure=None,
    )  # fmt: skip
    found = convergence.measure(chosen)
    assert list(found) == chosen.ways
    ends = {name: points[-1] for name, (_, points) in convergence.best(found).items()}
    assert len({point.samples for point in ends.values()}) == 1
    up = {name: point.up for name, point in ends.items()}
    assert up["LocalUpdates fp32"] / up["Sparse, down int4"] > 100
    assert up["EveryStep fp32"] == 2 * up["LocalUpdates fp32"]
    assert ends["Sparse, down top-k"].down < ends["Sparse, down int4"].down
    for _, points in convergence.best(found).values():
        assert points[-1].loss < points[0].loss
        assert points[0].bytes == 0 < points[-1].bytes
    convergence.figure_of(found)


def test_the_speed_of_each_codec_is_measured() -> None:
    found = codecs.measure(argparse.Namespace(device="cpu", seconds=0.01, threads=1))
    assert set(found["codecs"]) == {codec.name for codec in codecs.CODECS}
    assert all(speed > 0 for one in found["codecs"].values() for speed in one.values())
    assert found["codecs"]["TOPK"]["times fewer"] > 143


@pytest.mark.long
def test_a_crowd_contributes_to_each_round_and_its_server_is_measured() -> None:
    every, local = crowd.measured(5, 0.1, viewers=2, steps=False), crowd.measured(3, 0.1, viewers=0, steps=True)
    assert [one["contributors"] for one in (every, local)] == [5, 3]
    assert all(one["said"] == "" and one["rounds"] >= 5 and one["peer_cpu"] > 0 for one in (every, local))
    assert every["answers"]["session"]["bytes"] > 500
    crowd.report([every, local])


def test_a_third_is_killed_in_every_minute_and_the_seed_says_who_and_when() -> None:
    plan = churn.kills(seed=3, minutes=10, minute=60, peers=8)
    assert plan == churn.kills(seed=3, minutes=10, minute=60, peers=8) != churn.kills(4, 10, 60, 8)
    assert len(plan) == 27
    for minute in range(10):
        victims = [kill.peer for kill in plan if 60 * minute <= kill.seconds < 60 * minute + 60]
        assert len(set(victims)) == len(victims) in (2, 3)


@pytest.mark.timeout(400)  # eight processes import torch, which takes what else the machine does lets it take
@pytest.mark.long
def test_killed_peers_come_back_and_what_counts_is_counted(tmp_path: Path) -> None:
    chosen = argparse.Namespace(
        minutes=0.4, minute=8.0, peers=2, seed=1, strategies=["sparse"], figure=tmp_path / "churn.png"
    )
    found = churn.measure(chosen)["results"]["sparse"]
    assert found["kills"]
    for kind in ("churn", "undisturbed"):
        one = found[kind]
        assert one["samples"] == sum(one["samples_in_round"]) > 0
        assert 0 < one["peer_seconds"] <= 2 * 25
        assert one["curve"]
    assert found["churn"]["peer_seconds"] < found["undisturbed"]["peer_seconds"] == pytest.approx(48, abs=2)
    assert found["goodput"]["of_the_clock"] > 0
    assert (tmp_path / "churn.png").stat().st_size > 10_000
