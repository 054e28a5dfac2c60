"""The benchmarks' parts that need no calm machine: they run, and report what they are said to report."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from tests.benchmarks import reporting, rounds, status_latency
from tests.benchmarks.harness import Failed


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


def test_percentiles_are_in_milliseconds() -> None:
    found = status_latency.summary([number / 1000 for number in range(1, 101)])
    assert found["p50"] == pytest.approx(50.5)
    assert found["p99"] == pytest.approx(99.01)
    assert found["largest"] == pytest.approx(100.0)


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
