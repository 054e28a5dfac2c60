"""The widgets by their traits, over a session that a test plays."""

from __future__ import annotations

import re
import threading

import pytest

from jupyter_swarm.notebook import html, parts
from jupyter_swarm.notebook.panel import Panel
from jupyter_swarm.notebook.parts import VIEW
from jupyter_swarm.peer.record import Status
from jupyter_swarm.protocol.errors import LinkError, SessionError

from .played import HOSTILE, PEER, Session


@pytest.fixture
def session() -> Session:
    return Session()


def test_a_look_shows_what_is_and_why(session: Session) -> None:
    panel = Panel(session)  # type: ignore[arg-type]
    assert "waiting for Ann" in panel.status.value
    assert (panel.rounds.value, panel.rounds.max) == (3, 10)
    assert bytes(panel.curve.value).startswith(b"\x89PNG")
    assert panel.rounds.layout.display is None
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
    panel.pause_all.click()
    panel.resume_all.click()
    panel.end.click()
    assert session.done == ["pause", "resume", "pause all", "resume all"], "the end for everybody is asked for twice"
    panel.end.click()
    assert session.done[4:] == ["stop"]
    panel.leave.click()
    panel.refresh()
    assert "The server is gone." in panel.said.box.value


def test_a_double_click_asks_and_does_not_answer(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    panel = Panel(session)  # type: ignore[arg-type]
    monkeypatch.setattr(parts, "READING_SECONDS", 3600.0)
    panel.end.click()
    panel.end.click()
    assert session.done == []
    assert panel.end.description == "Really end it for everybody?"
    monkeypatch.setattr(parts, "READING_SECONDS", 0.0)
    panel.end.click()
    assert session.done == ["stop"]


def test_a_server_that_does_not_answer_is_said_and_the_panel_goes_on(session: Session) -> None:
    panel = Panel(session)  # type: ignore[arg-type]
    session.error = LinkError("The server cannot be reached.")
    assert panel.refresh()
    assert "cannot be reached" in panel.said.box.value
    session.error = ValueError("a bug")
    assert panel.refresh()
    assert "a bug" in panel.said.box.value
    session.error = None
    assert panel.refresh()
    assert panel.said.box.value == "", "the server answers again"


def test_a_host_that_does_not_train_has_no_buttons_for_it(session: Session) -> None:
    session.trains = False
    panel = Panel(session)  # type: ignore[arg-type]
    assert [one.disabled for one in (panel.pause, panel.resume, panel.leave, panel.end)] == [True, True, True, False]


@pytest.mark.parametrize(("role", "steers"), [("owner", True), ("instructor", True), ("peer", False)])
def test_who_may_not_steer_has_no_buttons_for_it(session: Session, role: str, steers: bool) -> None:
    session.role = role
    panel = Panel(session)  # type: ignore[arg-type]
    assert (panel.end in panel.buttons.children) is steers
    assert (panel.peers.steering.layout.display is None) is steers
    assert (panel.checkpoints.saving.layout.display is None) is steers
    assert panel.leave in panel.buttons.children


def test_the_curve_is_of_the_page_s_colours_unless_a_theme_is_chosen(session: Session) -> None:
    for theme, follows in (("auto", True), ("light", False), ("dark", False)):
        panel = Panel(session, theme)  # type: ignore[arg-type]
        assert (html.CURVE in panel.curve._dom_classes) is follows
        assert (f".{html.CURVE}" in panel.style.value) is follows


def test_what_stays_at_the_end_is_what_a_kernel_still_serves(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jupyter_swarm.notebook.panel.saves_widgets", lambda: False)
    panel = Panel(session)  # type: ignore[arg-type]
    assert VIEW not in panel.tail()
    assert "%swarm watch" in panel.tail()["text/plain"]
    session.now = Status(state="finished", version=10, rounds=10)
    panel.refresh()
    assert panel.tail()[VIEW]["model_id"] == panel.tools.model_id
    assert "Live" not in panel.tail()["text/html"]
    monkeypatch.setattr("jupyter_swarm.notebook.panel.saves_widgets", lambda: True)
    assert VIEW not in panel.tail()


def test_who_is_muted_is_drawn_no_more_from_the_next_look_on(session: Session) -> None:
    panel = Panel(session, seconds=0.0)  # type: ignore[arg-type]
    session.people = [{**PEER, "muted": True}]
    panel._next_drawing = 0.0
    panel.refresh()
    assert session.drawings == 2, "though no round has ended since"


def test_a_session_that_is_deleted_while_it_is_watched_ends_the_panel(session: Session) -> None:
    panel = Panel(session, seconds=0.01)  # type: ignore[arg-type]
    session.error = SessionError("There is no session cs101-7f3a on this server.", "It was deleted.")
    panel.start()
    panel._thread.join(20)
    assert not panel._thread.is_alive()
    assert "It was deleted." in panel.heading()["text/html"]
    assert set(panel._repr_mimebundle_()) == {"image/png", "text/plain"}
    assert [one.disabled for one in panel.for_all] == [True] * 3


def test_names_of_others_are_text_and_colours_are_the_pages(session: Session) -> None:
    panel = Panel(session)  # type: ignore[arg-type]
    shown = [
        panel.peers.table.value,
        html.heading(HOSTILE),
        html.code(f"x = '{HOSTILE}'"),
        html.facts([(HOSTILE, HOSTILE)]),
    ]
    shown += [html.copyable(HOSTILE, HOSTILE), html.copyable("a", HOSTILE, 3), html.sample(HOSTILE, HOSTILE)]
    shown.append(html.status(Status(reason=f"{HOSTILE}\n{HOSTILE}", notes=(HOSTILE,))))
    assert html.status(Status(state="paused", reason="paused: by owner")).count("paused") == 1
    numbers = html.status(Status(state="waiting", reason="for  two  peers", version=3)).partition("</div>")[0]
    assert "two" not in numbers
    for text in shown:
        assert "<script" not in text
        assert "&lt;script" in text
        assert not re.search(r"[;\"]color:(?!var\(|inherit)", text)


def test_what_is_measured_of_a_peer_is_shown_with_its_units() -> None:
    link = {"up": 1.5e6, "down": 1.25e7, "round_trip": 0.0234, "step_seconds": 0.214, "free_memory": 3_140_000_000}
    text = re.sub(r"<[^>]+>", "|", html.peers([{**PEER, **link}]))
    for head in ("Mbit/s ↑ / ↓", "round trip", "step", "free"):
        assert f"|{head}|" in text
    for value in ("12 / 100", "23 ms", "0.21 s", "3.1 GB"):
        assert f"|{value}|" in text
    assert html.peer_line({**PEER, **link}).endswith("; ↑ / ↓ 12 / 100 Mbit/s, 23 ms")
    assert "– / –" in html.peers([PEER]), "not measured yet, or by an older server"
    assert "Mbit/s" not in html.peer_line(PEER)


def test_the_bundle_has_the_view_and_the_picture_and_at_the_end_only_the_picture(session: Session) -> None:
    panel = Panel(session)  # type: ignore[arg-type]
    assert set(panel._repr_mimebundle_()) == {VIEW, "image/png", "text/plain"}
    session.now = Status(state="finished", version=10, rounds=10)
    panel.refresh()
    assert set(panel._repr_mimebundle_()) == {"image/png", "text/plain"}


def test_a_notebook_that_is_saved_meanwhile_has_a_picture_of_now(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = Panel(session, seconds=0.001)  # type: ignore[arg-type]
    shown: list[tuple[dict[str, str] | None, ...]] = []
    twice = threading.Event()

    def show(*bundles: dict[str, str] | None) -> None:
        shown.append(bundles)
        session.now = Status(state="training", version=4, rounds=10)
        if len(shown) > 1:
            twice.set()

    monkeypatch.setattr(panel.display, "show", show)
    panel.start()
    assert twice.wait(30)
    panel.close()
    panel._thread.join(20)
    assert shown[0][:2] == (None, None), "the view that is live is not built anew"
    first, second = (bundles[2]["text/html"] for bundles in shown[:2])  # type: ignore[index]
    assert "after round 3" in first
    assert "after round 4" in second
    assert "data:image/png;base64,iVBOR" in second


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
    assert "%swarm resume" in panel.said.box.value
    assert panel._thread.is_alive(), "the panel lives on behind the cell"
    panel.close()
    panel._thread.join(20)
    session.trains = False
    panel.follow()
    assert session.done == ["pause"]
    assert "paused" not in panel.said.box.value, "a host that does not train has nothing to pause"
