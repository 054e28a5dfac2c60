"""Simulated students on a real server: what they measure, and that nothing of them is left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

import jupyter_swarm
from jupyter_swarm.peer import rehearsal
from jupyter_swarm.peer.assignment import Failed, Joined, Report
from jupyter_swarm.peer.client import Client
from jupyter_swarm.peer.progress import Line
from jupyter_swarm.peer.recipe import Recipe
from jupyter_swarm.peer.rehearsal import rehearse
from jupyter_swarm.peer.server_memory import process_of
from jupyter_swarm.protocol.errors import LinkError, RecipeError, SettingError
from tests.waiting import until

from .classroom import NORMED, PLAIN, local
from .conftest import Server

pytestmark = pytest.mark.usefixtures("kernel")

WARM = "WarmStart(EveryStep(target_batch=12), rounds=50, then=LocalUpdates(steps=4, batch=3))"
SOPHIA = PLAIN.replace("AdamW(lr=0.01)", 'Sophia(lr=0.01, estimator="hutchinson", hessian_every=2)')


def sessions(server: Server) -> list[str]:
    return [one["session"] for one in Client.of_owner(server.url)._ask("GET", "sessions")["sessions"]]


def processes() -> set[int]:
    return {child.pid for child in psutil.Process().children() if "students" in " ".join(child.cmdline())}


def test_every_strategy_of_a_recipe_is_rehearsed_and_nothing_is_left(server: Server) -> None:
    before = sessions(server)
    found = jupyter_swarm.rehearse(local(NORMED, WARM), peers=5, server=server.url, rounds=2)
    assert found.ok, found
    assert found.joined == 5
    assert [phase.strategy for phase in found.phases] == ["EveryStep", "LocalUpdates"]
    first, second = found.phases
    # One contribution of the whole model from each student, and the new version to each.
    assert second.up > 4 * 5 * (6 * 8 + 8 + 8 * 2 + 2)
    assert second.down > second.up / 2
    assert first.up > 0
    assert found.memory_before < found.memory_peak < found.memory_total
    assert sessions(server) == before
    assert not processes()


def test_estimates_of_the_hessian_travel_too(server: Server) -> None:
    assert rehearse(Recipe.from_source(SOPHIA), peers=2, server=server.url, rounds=2).ok


def test_a_recipe_for_other_machines_is_rehearsed_without_their_speed(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    text = PLAIN.replace("seed=3", "seed=3, device='cuda'")
    found = rehearse(Recipe.from_source(text), peers=2, server=server.url, rounds=1)
    assert "not known: This recipe needs a GPU" in capsys.readouterr().out
    assert found.ok, found
    assert found.phases[0].computing == 0
    assert "of computing" not in str(found)


def test_whoever_finds_no_room_is_counted(server: Server) -> None:
    found = rehearse(Recipe.from_source(PLAIN), peers=4, server=server.url, rounds=1, capacity=3)
    assert (found.joined, len(found.failures)) == (3, 1)
    assert not found.ok
    assert "full" in found.failures[0]


def test_whoever_is_put_out_while_others_join_does_not_take_their_place(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Told(rehearsal._Students):
        reports = iter((Joined(1.0, 0), Failed("It fell behind.", joined=True), Joined(2.0, 0)))

        def next(self, seconds: float, what: str) -> Report:
            return next(self.reports, None) or super().next(0.0, what)

    monkeypatch.setattr(rehearsal, "_Students", Told)
    found = rehearse(Recipe.from_source(PLAIN), peers=2, server=server.url)
    assert (found.joined, found.join_seconds) == (2, 2.0)
    assert found.failures[0] == "It fell behind."


def test_an_interrupt_leaves_nothing_behind_but_what_was_found(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    before, shown = sessions(server), []

    def show(line: Line, text: str) -> None:
        shown.append(text)
        if "s each" in text:
            raise KeyboardInterrupt

    monkeypatch.setattr(Line, "show", show)
    found = rehearse(Recipe.from_source(PLAIN), peers=2, server=server.url, rounds=50)
    assert found.problems == ("It was interrupted.",)
    assert [phase.rounds for phase in found.phases] == [1], "what was measured by then is told"
    assert "2 of 2 simulated students have joined …" in shown
    assert sessions(server) == before
    assert not processes()


def test_a_kernel_that_is_killed_leaves_nothing_behind(server: Server, tmp_path: Path) -> None:
    before, script = sessions(server), tmp_path / "rehearsing.py"
    script.write_text(
        f"from jupyter_swarm import Recipe, rehearse\n"
        f"rehearse(Recipe.from_source({PLAIN!r}), peers=2, server={server.url!r}, rounds=10**6)\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.DEVNULL) as kernel:
        try:
            owner = Client.of_owner(server.url)
            until(lambda: len(sessions(server)) > len(before))
            session = (set(sessions(server)) - set(before)).pop()
            until(lambda: owner.describe(session)["status"]["version"] > 0)
            students = psutil.Process(kernel.pid).children()
        finally:
            kernel.kill()
    until(lambda: sessions(server) == before)
    assert students
    assert not psutil.wait_procs(students, 60)[1]


def test_a_server_that_dies_is_a_finding(own_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Line, "show", lambda line, text: own_server.kill() if "s each" in text else None)
    found = rehearse(Recipe.from_source(PLAIN), peers=2, server=own_server.url, rounds=50)
    assert found.joined == 2
    assert "cannot be reached" in found.problems[0]
    assert "could not be deleted" in found.problems[-1]
    assert not processes()


def test_what_cannot_be_rehearsed_is_said_before_anything_is_opened(server: Server) -> None:
    before = sessions(server)
    recipe = Recipe.from_source(PLAIN)
    with pytest.raises(SettingError, match="201 students"):
        rehearse(recipe, peers=201, server=server.url)
    with pytest.raises(SettingError, match="no setting 'rate'"):
        rehearse(recipe, server=server.url, rate=3)
    with pytest.raises(RecipeError, match="ZeroDivisionError"):
        rehearse(Recipe.from_source(PLAIN.replace("x, y = batch", "x, y = batch; 1 / 0", 1)), server=server.url)
    with pytest.raises(LinkError):
        rehearse(recipe)
    assert sessions(server) == before


def test_the_servers_process_is_found_where_it_runs_here(server: Server) -> None:
    process = process_of(f"http://localhost:{server.port}/user/ann")
    assert process is not None
    assert "jupyter_server" in " ".join(process.cmdline())
    assert process_of("http://localhost:9") is None
    assert process_of(f"http://192.0.2.1:{server.port}") is None
