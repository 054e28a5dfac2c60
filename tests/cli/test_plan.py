"""`jupyter swarm plan`: what a session will cost, said before it is opened."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from jupyter_swarm.cli import main
from jupyter_swarm.peer.planning import parameters_of
from jupyter_swarm.peer.steering import STRATEGIES

README = Path(__file__).parents[2] / "README.md"
Capture = pytest.CaptureFixture[str]


def said(capsys: Capture, *arguments: str) -> str:
    assert main(["plan", *arguments]) == 0
    captured = capsys.readouterr()
    assert not captured.err
    return captured.out


def test_the_plans_of_the_readme(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"`jupyter swarm plan (-.*?)`", README.read_text("utf-8"))
    assert len(lines) == 2
    text, simulated = (said(capsys, *line.split()) for line in lines)
    assert "200 peers of unequal speed and links (spread 0.5), 30% gone each minute" in simulated
    assert (tmp_path / "plan.png").is_file()
    assert re.search(
        r"^up +3\.49 MB from each peer a round \(TOPK\), 142\.3 times fewer than fp32$", text, re.MULTILINE
    )
    assert re.search(r"^at the server +105 MB in, 1\.98 GB out: 30 times a peer's$", text, re.MULTILINE)
    assert re.search(r"^limited by +the server's uplink$", text, re.MULTILINE)
    assert re.search(r"^computing +22\.\d% of the time", text, re.MULTILINE)
    assert re.search(
        r"1\. send topk down: share of time computing 22% -> \d\d%, [\d.]+ times the samples a second\n"
        r"  2\. a server with a 10 times faster link: share of time computing 22% -> \d\d%, [\d.]+ times",
        text,
    )
    assert "15 peers instead of 30 at this server" in text
    assert "Simulated" not in text


@pytest.mark.parametrize("name", ["every-step", *STRATEGIES])
def test_every_strategy_can_be_planned_and_simulated(name: str, capsys: Capture) -> None:
    text = said(capsys, "--strategy", name, "--params", "80k", "--peers", "6", "--simulate", "--rounds", "3")
    assert STRATEGIES[name.replace("-", "_")].__name__ in text
    row = re.search(r"^seconds a round +(\S+) +(\S+)$", text, re.MULTILINE)
    assert row is not None
    assert float(row[2]) == pytest.approx(float(row[1]), rel=0.05)
    assert "Simulated: 3 rounds of the real decisions, 6 peers, seed 0." in text
    assert "Every peer that was there contributed to every round." in text
    assert re.search(r"decisions, [\d,]+ a second of one core here", text)


def test_churn_and_unequal_peers_are_told(capsys: Capture) -> None:
    text = said(
        capsys, "--params", "80k", "--peers", "20", "--simulate", "--rounds", "4", "--churn", "0.5", "--spread", "0.5"
    )
    assert "20 peers of unequal speed and links (spread 0.5), 50% gone each minute" in text
    assert re.search(r"Who comes back needs \S+ m?s \(median\) to fetch the parameters", text)


def test_links_codecs_and_steps_are_as_said(capsys: Capture) -> None:
    text = said(
        capsys, "--params", "1.5M", "--uplink", "8", "--downlink", "16", "--server-uplink", "1000",
        "--server-downlink", "500", "--inner-steps", "200", "--batch", "4", "--step-seconds", "0.1", "--codec", "int8",
    )  # fmt: skip
    assert "1,500,000 parameters" in text
    assert "8 / 16 Mbit/s up / down" in text
    assert "1000 / 500 Mbit/s up / down" in text
    assert "200 inner steps of 4 samples a round" in text
    assert re.search(r"^computing +20 s ", text, re.MULTILINE)
    assert "(INT8)" in text
    assert "send int4 up and down" in text


def test_first_steps_that_would_count_as_lost_are_told(capsys: Capture) -> None:
    text = said(capsys, "--inner-steps", "100", "--params", "80k")
    assert (
        "first steps take 100 s, and count as lost after 60 s while its speed is not known: set lease_seconds=150"
        in text
    )
    assert "lease_seconds" not in said(capsys, "--inner-steps", "50", "--params", "80k")
    assert "lease_seconds" not in said(capsys, "--strategy", "every-step", "--step-seconds", "100", "--params", "80k")


def test_the_session_says_which_codecs_it_would_choose(capsys: Capture) -> None:
    text = said(capsys, "--params", "10M", "--codec", "auto")
    assert re.search(r"^codecs +int\d up: \w+ would take \d+ % of a round at [\d.]+ Mbit/s", text, re.MULTILINE)


def test_figures_and_numbers_go_into_files(capsys: Capture, tmp_path: Path) -> None:
    figure, file = tmp_path / "plan.png", tmp_path / "plan.json"
    options = ["--params", "80k", "--simulate", "--rounds", "2", "--figure", str(figure), "--json", str(file)]
    said(capsys, "--peers", "5", *options)
    assert figure.read_bytes()[:4] == b"\x89PNG"
    assert figure.stat().st_size > 30_000
    figures = json.loads(file.read_text("utf-8"))
    assert figures["scenario"]["peers"] == 5
    assert figures["round"]["share"] == pytest.approx(figures["round"]["computing"] / figures["round"]["seconds"])
    assert len(figures["report"]["seconds"]) == 2
    assert all(one["share"] > figures["round"]["share"] for one in figures["helps"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--peers", "0"], "--peers is 0"),
        (["--peers", "-3"], "--peers is -3"),
        (["--uplink", "-20"], "--uplink is -20"),
        (["--server-downlink", "0"], "--server-downlink is 0"),
        (["--step-seconds", "nan"], "--step-seconds is nan"),
        (["--rtt-ms", "-1"], "The round trip is -0.001 s"),
        (["--params", "many"], "--params is 'many'"),
        (["--params", "0"], "--params is '0'"),
        (["--strategy", "spars"], "Did you mean sparse?"),
        (["--strategy", "sparse", "--codec", "auto"], "cannot choose the codecs of SparseLocalUpdates"),
        (["--batch", "0"], "Choose"),
        (["--inner-steps", "0"], "Choose"),
        (["--simulate", "--rounds", "0"], "A trial of 0 rounds"),
        (["--simulate", "--churn", "-1"], "churn -"),
        (["--figure", "/nowhere/plan.png"], "cannot be written"),
        (["--figure", "plan.docx"], "ends in .png, .svg or .pdf"),
        (["--json", "/nowhere/plan.json"], "cannot be written"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_said_with_what_to_do(
    arguments: list[str], says: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", *arguments]) == 2
    shown = capsys.readouterr().err
    assert says in shown
    assert "What to do:" in shown


@pytest.mark.parametrize(
    ("text", "count"), [("124M", 124_000_000), ("1.3b", 1_300_000_000), ("800k", 800_000), ("109,386", 109_386)]
)
def test_sizes_as_people_write_them(text: str, count: int) -> None:
    assert parameters_of(text) == count
