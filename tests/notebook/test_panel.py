"""The widgets by their traits, over a session that a test plays."""

from __future__ import annotations

import re
import threading
from typing import Any

import msgspec
import pytest
import xarray as xr

from jupyter_swarm.history import build
from jupyter_swarm.notebook import html
from jupyter_swarm.notebook.consent import JoinCard
from jupyter_swarm.notebook.panel import VIEW, Panel
from jupyter_swarm.peer.offer import Offer
from jupyter_swarm.peer.record import Status
from jupyter_swarm.protocol.errors import LinkError, RecipeError
from jupyter_swarm.protocol.rules import SGD
from jupyter_swarm.strategies import EveryStep

HOSTILE = "<script>alert('x')</script>"
PEER = {
    "id": "peer-1", "name": HOSTILE, "device": "cpu", "state": "computing", "reason": "", "speed": 12.5, "share": 0.5,
    "bytes_sent": 1_000_000, "bytes_received": 500_000,
}  # fmt: skip


class Recipe:
    name = HOSTILE


class Session:
    """What a panel asks of a session; a test sets the answers."""

    id = "cs101-7f3a"
    recipe = Recipe()

    def __init__(self) -> None:
        self.now = Status(state="training", reason="waiting for Ann", version=3, rounds=10, loss=0.5)
        self.trains = True
        self.done: list[str] = []
        self.drawings = 0
        self.error: Exception | None = None

    def status(self) -> Status:
        if self.error is not None:
            raise self.error
        return self.now

    def history(self) -> xr.Dataset:
        self.drawings += 1
        return build([])

    def peers(self) -> list[dict[str, Any]]:
        return [PEER]

    def checkpoints(self) -> list[Any]:
        return []

    def checkpoint(self) -> None:
        self.done.append("checkpoint")

    def pause(self) -> None:
        self.done.append("pause")
        self.now = Status(state="paused", reason="paused here", version=3, rounds=10)

    def resume(self) -> None:
        self.done.append("resume")

    def leave(self) -> None:
        raise LinkError("The server is gone.")


@pytest.fixture
def session() -> Session:
    return Session()


def test_a_look_shows_what_is_and_why(session: Session) -> None:
    panel = Panel(session)  # type: ignore[arg-type]
    assert "waiting for Ann" in panel.status.value
    assert (panel.rounds.value, panel.rounds.max) == (3, 10)
    assert bytes(panel.curve.value).startswith(b"\x89PNG")
    assert panel.rounds.layout.display == ""
    session.now = Status(state="training", version=4)
    assert panel.refresh()
    assert panel.rounds.layout.display == "none"


def test_the_curve_is_drawn_once_for_a_round_and_not_at_every_look(session: Session) -> None:
    panel = Panel(session, seconds=3600)  # type: ignore[arg-type]
    for version in (3, 3, 4, 5):
        session.now = Status(state="training", version=version)
        panel.refresh()
    assert session.drawings == 1
    session.now = Status(state="finished", version=3)
    assert not panel.refresh()
    assert session.drawings == 2, "the last evaluation comes after the last round"


def test_buttons_do_and_say_what_went_wrong(session: Session) -> None:
    panel = Panel(session)  # type: ignore[arg-type]
    assert panel.resume.disabled
    panel.pause.click()
    assert panel.pause.disabled
    assert not panel.resume.disabled
    panel.resume.click()
    panel.keep.click()
    assert session.done == ["pause", "resume", "checkpoint"]
    panel.leave.click()
    panel.refresh()
    assert "The server is gone." in panel.said.value


def test_a_server_that_does_not_answer_is_said_and_the_panel_goes_on(session: Session) -> None:
    panel = Panel(session)  # type: ignore[arg-type]
    session.error = LinkError("The server cannot be reached.")
    assert panel.refresh()
    assert "cannot be reached" in panel.said.value
    session.error = ValueError("a bug")
    assert panel.refresh()
    assert "a bug" in panel.said.value
    session.error = None
    assert panel.refresh()
    assert panel.said.value == "", "the server answers again"


def test_a_host_that_does_not_train_has_no_buttons_for_it(session: Session) -> None:
    session.trains = False
    panel = Panel(session)  # type: ignore[arg-type]
    assert [one.disabled for one in (panel.pause, panel.resume, panel.leave, panel.keep)] == [True, True, True, False]


def test_names_of_others_are_text_and_colours_are_the_pages(session: Session) -> None:
    panel = Panel(session)  # type: ignore[arg-type]
    shown = [panel.peers.value, html.heading(HOSTILE), html.code(f"x = '{HOSTILE}'"), html.facts([(HOSTILE, HOSTILE)])]
    shown.append(html.invite(HOSTILE, f"http://a/swarm/join/x#{HOSTILE}", HOSTILE, HOSTILE, ""))
    shown.append(html.status(Status(reason=f"{HOSTILE}\n{HOSTILE}", notes=(HOSTILE,))))
    numbers = html.status(Status(state="waiting", reason="for  two  peers", version=3)).partition("</div>")[0]
    assert "two" not in numbers
    for text in shown:
        assert "<script" not in text
        assert "&lt;script" in text
        assert not re.search(r"[;\"]color:(?!var\(|inherit)", text)


def test_the_bundle_has_the_view_and_the_picture_and_at_the_end_only_the_picture(session: Session) -> None:
    panel = Panel(session)  # type: ignore[arg-type]
    assert set(panel._repr_mimebundle_()) == {VIEW, "image/png", "text/plain"}
    session.now = Status(state="finished", version=10, rounds=10)
    panel.refresh()
    assert set(panel._repr_mimebundle_()) == {"image/png", "text/plain"}


def test_the_timer_ends_with_the_session_and_with_the_panel(session: Session) -> None:
    panels = [Panel(session, seconds=0.01) for _ in range(2)]  # type: ignore[arg-type]
    for panel in panels:
        panel.start()
    panels[0].close()
    panels[0]._thread.join(20)
    assert panels[1]._thread.is_alive()
    session.now = Status(state="finished", version=10)
    panels[1]._thread.join(20)
    assert not [thread for thread in threading.enumerate() if thread.name == "swarm-panel"]


def test_an_interrupt_of_the_foreground_pauses_training(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    panel = Panel(session)  # type: ignore[arg-type]
    monkeypatch.setattr("jupyter_swarm.notebook.panel.time.sleep", interrupt)
    panel.follow()
    assert session.done == ["pause"]
    assert "%swarm resume" in panel.said.value
    session.trains = False
    panel.follow()
    assert session.done == ["pause"]
    assert "paused" not in panel.said.value, "a host that does not train has nothing to pause"


# --- consent


OFFER = Offer("cs101-7f3a", HOSTILE, f"# {HOSTILE}\nimport torch\n", 100, 5_000_000, 0, EveryStep(8).rule(SGD(0.1)))


def test_nothing_is_joined_without_a_yes(session: Session) -> None:
    joined: list[str] = []

    def join(sha256: str) -> Panel:
        joined.append(sha256)
        return Panel(session, seconds=0.01)  # type: ignore[arg-type]

    card = JoinCard(OFFER, join)
    assert "<script" not in card.text.value
    assert OFFER.sha256 in card.facts.value
    card.no.click()
    assert joined == []
    assert card.yes.disabled
    assert "has not run" in card.said.value

    card = JoinCard(OFFER, join)
    card.yes.click()
    assert joined == [OFFER.sha256]
    assert card.text not in card.box.children
    session.now = Status(state="finished")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RecipeError("The recipe needs what is not here.", todo="Run: pip install nothing"), "pip install nothing"),
        (ValueError("a bug"), "ValueError: a bug"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_a_join_that_fails_says_why_and_may_be_tried_again(error: BaseException, says: str) -> None:
    def join(_: str) -> Panel:
        raise error

    card = JoinCard(OFFER, join)
    card.yes.click()
    assert says in card.said.value
    assert not card.yes.disabled


def test_nothing_of_a_recipe_is_hidden_from_its_reader() -> None:
    card = JoinCard(msgspec.structs.replace(OFFER, source="x = 1  # \u202e harmless"), lambda _: None)  # type: ignore[arg-type, return-value]
    assert "\u202e" not in card.text.value
    assert "\\u202e" in card.text.value
