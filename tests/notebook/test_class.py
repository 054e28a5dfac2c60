"""The magics and the panel over a real server: what goes wrong in a class, and that it is over afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from jupyter_swarm.notebook.invite import InviteCard
from jupyter_swarm.notebook.panel import Panel
from jupyter_swarm.peer import api
from jupyter_swarm.peer.client import Client
from jupyter_swarm.peer.recipe import Recipe
from jupyter_swarm.protocol.invites import Invite
from tests.waiting import until

from ..peer.classroom import PLAIN
from ..peer.conftest import Server

pytestmark = pytest.mark.usefixtures("kernel")
_LONG = 10**6


def open_class(server: Server, train: bool = False) -> api.Session:
    return api.host(Recipe.from_source(PLAIN), "cs101", rounds=_LONG, train=train, server=server.url)


@contextmanager
def live(session: api.Session, invite: InviteCard | None = None) -> Iterator[Panel]:
    panel = Panel(session, seconds=0.05, invite=invite)
    panel.start()
    yield panel
    panel.close()
    panel._thread.join(30)
    assert not panel._thread.is_alive()


def connected(session: api.Session) -> list[str]:
    return [str(peer["name"]) for peer in session.peers()]


def test_a_no_joins_nothing_and_a_yes_afterwards_does(
    said: Callable[[str], str], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosted = open_class(server)
    answers = iter(["no", "yes"])
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    line = f"%swarm join {hosted.invite().link} --name Ann"
    refused = said(line)
    assert "was not agreed to, and has not run" in refused
    assert "it would compute" not in refused
    assert connected(hosted) == []
    said(line)
    until(lambda: connected(hosted) == ["Ann"])
    api.current().leave()


def test_a_panel_says_that_its_server_is_gone_and_goes_on_when_it_is_back(own_server: Server) -> None:
    hosted = open_class(own_server, train=True)
    with live(hosted) as panel:
        until(lambda: hosted.status().version >= 1)
        peer = hosted.status().peer
        own_server.kill()
        until(lambda: "cannot be reached" in panel.said.box.value and "connecting" in panel.status.value)
        seen = hosted.status().version
        own_server.start()
        until(lambda: hosted.status().version > seen)
        until(lambda: panel.said.box.value == "" and "connecting" not in panel.status.value)
        assert hosted.status().peer == peer, "who comes back is the same peer"
        assert connected(hosted) == ["host"]


def test_a_session_that_is_deleted_ends_the_panels_of_whoever_watches(server: Server) -> None:
    hosted = open_class(server)
    joined = api.join(hosted.invite().link, "Ann", agree=hosted.recipe.sha256)
    card = InviteCard(hosted)
    card.issue()
    with live(hosted, card) as owners, live(joined) as anns:
        until(lambda: hosted.status().version >= 1)
        Client.of_owner(server.url).delete(hosted.id)
        for panel in (owners, anns):
            panel._thread.join(60)
            assert panel.over
            assert "failed" in panel.heading()["text/html"]
        assert "It was deleted" in owners.heading()["text/html"]
        assert "#" not in card.link.value
        assert not [one for one in threading.enumerate() if one.name == "swarm-trainer"]


def test_a_link_to_watch_joins_nothing_and_steers_nothing(said: Callable[[str], str], server: Server) -> None:
    hosted = open_class(server)
    viewer = hosted.invite("viewer")
    assert "Open it in a browser to watch" in said(f"%swarm join {viewer.link}")
    renamed = Invite(viewer.server, viewer.session, viewer.secret, "join")
    answer = said(f"%swarm join {renamed.link} --agree {hosted.recipe.sha256}")
    assert "What to do:" in answer
    assert "watch" in answer or "viewer" in answer
    assert connected(hosted) == []
    status = httpx.post(
        f"{viewer.server}/swarm/api/sessions/{hosted.id}/actions",
        json={"action": "pause"}, headers={"X-Swarm-Invite": viewer.secret}, trust_env=False,
    )  # fmt: skip
    assert status.status_code == 403


def test_a_student_who_steers_the_class_is_told_who_may(said: Callable[[str], str], server: Server) -> None:
    hosted = open_class(server)
    joined = api.join(hosted.invite().link, "Ann", agree=hosted.recipe.sha256)
    answer = said("%swarm pause --all")
    assert "peer" in answer
    assert "What to do:" in answer
    assert "What to do:" in said("%swarm invite")
    panel = Panel(joined)
    assert panel.end not in panel.buttons.children
    hosted.stop()


def test_who_was_muted_is_in_nothing_that_was_fetched_before(server: Server) -> None:
    hosted = open_class(server)
    rude, ann = (api.join(hosted.invite().link, name, agree=hosted.recipe.sha256) for name in ("RUDE", "Ann"))
    assert rude is ann, "one kernel is one peer"
    until(lambda: hosted.status().version >= 2)
    before = hosted.history()
    assert "RUDE" in str(before.event_text.values)
    assert not before.muted.any()
    hosted.steer("RUDE", "mute")
    # Its name is in the texts of the log, of the run card and of the coordinates.
    until(lambda: "RUDE" not in str([one.values for one in hosted.history().variables.values()]))
    assert hosted.history().muted.values.tolist() == [True]
    hosted.stop()
