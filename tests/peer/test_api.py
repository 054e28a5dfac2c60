"""host, join and train, over real sockets to a real server."""

from __future__ import annotations

import _thread
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch

from jupyter_swarm.peer import api
from jupyter_swarm.peer.client import Client
from jupyter_swarm.peer.founding import open_session
from jupyter_swarm.peer.recipe import Recipe
from jupyter_swarm.peer.record import Record, Status
from jupyter_swarm.protocol.errors import InviteError, LinkError, RecipeError, SessionError, SettingError
from jupyter_swarm.protocol.invites import Invite, new_secret
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.shards.vector import FlatVector

from .classroom import NORMED, PLAIN
from .conftest import Server

pytestmark = pytest.mark.usefixtures("kernel")

LONG = 10**6


def recipe(text: str = PLAIN) -> Recipe:
    return Recipe.from_source(text)


def reaches(session: api.Session, condition: Callable[[Status], bool]) -> None:
    """Fails unless the session's status fulfils `condition` before long."""
    met = session._record.wait_for(lambda status: condition(status) or status.state == "failed", 60)
    assert met, session.status()
    assert condition(session.status()), session.status()


def swarm_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("swarm")]


JOIN = """
import sys
from jupyter_swarm import join
session = join(sys.argv[1], sys.argv[2], agree=sys.argv[3])
print(session.status().peer, flush=True)
finished = session.wait(60)
print(session.status().version, session.digest(), flush=True)
session.leave()
"""


def second_peer(link: str, name: str, sha256: str, runtime: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "JUPYTER_RUNTIME_DIR": str(runtime)}
    return subprocess.Popen(
        [sys.executable, "-c", JOIN, link, name, sha256], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_one_peer_in_a_session_is_the_training_alone(server: Server) -> None:
    session = api.host(recipe(), rounds=12, server=server.url)
    assert session.wait(60)
    alone = api.train(recipe(), rounds=12)
    layout = session._computer.layout
    expected = FlatVector.of(layout, alone.model).sections[Stream.PARAMETERS]
    got = FlatVector.of(layout, session.model).sections[Stream.PARAMETERS]
    assert torch.linalg.vector_norm(got - expected) <= 1e-5 * torch.linalg.vector_norm(expected)
    ours, theirs = session.history().sel(round=slice(1, None)), alone.history()
    assert ours["round"].values.tolist() == list(range(1, 13))
    assert ours.loss.values == pytest.approx(theirs.loss.values, rel=1e-4)
    assert ours.held_out_accuracy.dropna("round").values == pytest.approx(
        theirs.held_out_accuracy.dropna("round").values
    )


def test_two_processes_train_one_model_and_leave_nothing_behind(server: Server, tmp_path: Path) -> None:
    before = threading.active_count()
    session = api.host(recipe(NORMED), rounds=40, minimum_peers=2, server=server.url)
    with second_peer(session.invite().link, "bob", session.recipe.sha256, tmp_path / "bob") as bob:
        assert session.wait(60)
        out, _ = bob.communicate(timeout=60)
    assert bob.returncode == 0
    assert out.split()[-2:] == ["40", session.digest()]
    assert session.history().contributions.max() == 2
    session.leave()
    assert session.status().state == "left"
    assert swarm_threads() == []
    assert threading.active_count() == before


def test_joining_twice_from_one_kernel_gives_the_same_session(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    hosted = api.host(recipe(), rounds=LONG, train=False, server=server.url)
    link, sha256 = hosted.invite().link, hosted.recipe.sha256
    first = api.join(link, agree=sha256)
    assert api.join(link, agree=sha256) is first
    assert "already trains" in capsys.readouterr().out
    first.leave()
    again = api.join(link, agree=sha256)
    assert again is not first
    assert again.status().peer == first.status().peer, "the same kernel is the same peer"
    assert api.current() is again


def test_a_recipe_that_is_not_agreed_to_does_not_run(server: Server, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    text = PLAIN + f"\nif 'STUDENT' in __import__('os').environ: __import__('pathlib').Path({str(marker)!r}).touch()\n"
    hosted = api.host(recipe(text), rounds=LONG, train=False, server=server.url)
    os.environ["STUDENT"] = "1"
    try:
        with pytest.raises(RecipeError, match="nothing has run"):
            api.join(hosted.invite().link, agree="0" * 64)
        assert not marker.exists()
        api.join(hosted.invite().link, agree=hosted.recipe.sha256[:16])
        assert marker.exists()
    finally:
        del os.environ["STUDENT"]


def test_invites_that_do_not_let_in(server: Server) -> None:
    hosted = api.host(recipe(), rounds=LONG, train=False, server=server.url)
    base = hosted.invite().server
    with pytest.raises(InviteError, match="not invited"):
        api.join(Invite(base, hosted.id, new_secret()).link)
    with pytest.raises(InviteError, match="not invited"):
        api.join(Invite(base, "no-such-session", new_secret()).link)
    with pytest.raises(InviteError, match="viewer"):
        api.join(hosted.invite("viewer").link, agree=hosted.recipe.sha256)
    with pytest.raises(InviteError, match="no role"):
        hosted.invite("king")  # type: ignore[arg-type]
    with pytest.raises(LinkError, match="cannot be reached"):
        api.join(Invite("http://127.0.0.1:9", hosted.id, new_secret()).link)
    assert swarm_threads() == []


def test_a_server_that_is_none_of_ours(server: Server) -> None:
    link = Invite(f"http://127.0.0.1:{server.port}/other", "cs101-1", new_secret()).link
    with pytest.raises((LinkError, SessionError, InviteError)):
        api.join(link)


def test_without_a_server_the_error_says_how_to_get_one() -> None:
    with pytest.raises(LinkError, match="jupyter swarm serve"):
        api.host(recipe())
    with pytest.raises(LinkError, match="with its token"):
        api.host(recipe(), server="http://127.0.0.1:9/")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"round": 3}, "Did you mean rounds"),
        ({"rounds": -1}, "rounds is -1"),
        ({"capacity": "many"}, "wrong kind"),
        ({"target_batch": 31}, "target_batch is 31"),
        ({"batch": 31}, "target_batch is 31"),
        ({"lr": 0.1, "learning_rate": 0.2}, "set twice"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_opened(
    settings: dict[str, object], says: str
) -> None:
    with pytest.raises(SettingError) as caught:
        open_session(
            Client("http://127.0.0.1:9", {}), recipe(), "toy", api._settings_of(recipe(), None, settings),
            api.prepare(recipe(), 0), None,
        )  # fmt: skip
    assert says in str(caught.value)


def test_an_interrupt_pauses_this_kernel_and_the_session_lives(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    session = api.host(recipe(), rounds=LONG, server=server.url)
    reaches(session, lambda status: status.version >= 2)
    timer = threading.Timer(0.3, _thread.interrupt_main)
    timer.start()
    assert not session.follow(60)
    timer.join()
    assert "resume() goes on" in capsys.readouterr().out
    reaches(session, lambda status: status.state == "paused")
    reached = session.status().version
    session.resume()
    reaches(session, lambda status: status.version > reached + 3)


def test_an_interrupt_while_joining_leaves_nothing_behind(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    hosted = api.host(recipe(), rounds=LONG, train=False, server=server.url)

    def interrupted(*args: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Record, "wait_for", interrupted)
        with pytest.raises(KeyboardInterrupt):
            api.join(hosted.invite().link, agree=hosted.recipe.sha256)
    assert swarm_threads() == []
    reaches(api.join(hosted.invite().link, agree=hosted.recipe.sha256), lambda status: status.version >= 1)


def test_training_alone_can_be_interrupted_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    rounds: list[int] = []

    def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        rounds.append(len(batch[0]))
        if len(rounds) == 8:
            raise KeyboardInterrupt
        return recipe().loss(model, batch)

    training = api.train(msgspec.structs.replace(recipe(), loss=loss), rounds=5)
    assert 0 < training.round < 5
    assert "run(rounds) goes on" in capsys.readouterr().out
    reached = training.round
    assert training.run(2).round == reached + 2


def test_training_alone_needs_a_number_of_rounds() -> None:
    with pytest.raises(SettingError, match="how many rounds"):
        api.train(recipe(PLAIN.replace("rounds=4", "rounds=0")))


def test_pause_and_resume_and_stop(server: Server) -> None:
    session = api.host(recipe(), rounds=LONG, server=server.url)
    reaches(session, lambda status: status.version >= 1)
    session.pause()
    reaches(session, lambda status: status.state == "paused")
    assert not session.wait(0.1)
    session.resume()
    session.stop()
    assert session.wait(30)
    assert session.status().state == "finished"


def test_a_host_that_does_not_train_sees_the_session_through_the_server(server: Server, tmp_path: Path) -> None:
    session = api.host(recipe(), "CS 101", rounds=6, train=False, server=server.url)
    assert session.id.startswith("cs-101-")
    assert session.status().state == "waiting"
    with pytest.raises(SessionError, match="train=False"):
        session.pause()
    with second_peer(session.invite().link, "bob", session.recipe.sha256, tmp_path / "bob") as bob:
        assert session.wait(60)
        bob.communicate(timeout=60)
    assert session.history().loss.dropna("round")["round"].values.tolist() == list(range(1, 7))


def test_training_goes_on_after_the_server_was_killed_and_started_again(own_server: Server) -> None:
    session = api.host(recipe(), rounds=LONG, server=own_server.url)
    reaches(session, lambda status: status.version >= 3)
    peer = session.status().peer
    own_server.kill()
    reaches(session, lambda status: status.state == "connecting")
    reached = session.status().version
    own_server.start()
    reaches(session, lambda status: status.version > reached + 3)
    assert session.status().peer == peer


def test_a_peer_whose_leases_fail_says_so_and_pauses(server: Server) -> None:
    broken = recipe(PLAIN.replace("x, y = batch", "x, y = batch; 1 / 0", 1))
    session = api.host(broken, rounds=LONG, preflight=False, server=server.url)
    reaches(session, lambda status: status.state == "paused")
    status = session.status()
    assert "ZeroDivisionError" in status.reason
    assert "x, y = batch; 1 / 0" in "\n".join(status.notes)
