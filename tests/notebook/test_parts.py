"""The parts of a panel: peers, checkpoints, trying the model; by their traits, over a session that a test plays."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace

import ipywidgets as widgets
import pytest

from jupyter_swarm.notebook import keeping
from jupyter_swarm.notebook.keeping import Checkpoints
from jupyter_swarm.notebook.parts import choices
from jupyter_swarm.notebook.peers import Peers
from jupyter_swarm.notebook.trying import Try
from jupyter_swarm.protocol.errors import RecipeError, SessionError

from .played import HOSTILE, PEER, Kept, Session, settle


@pytest.fixture
def session() -> Session:
    return Session()


def test_what_is_chosen_stays_chosen_while_a_list_changes() -> None:
    many = widgets.SelectMultiple(options=())
    choices(many, [("Ann", 1), ("Bob", 2), ("Ann", 3)])
    assert many.value == ()
    many.value = (2, 3)
    choices(many, [("Bob (waiting)", 2), ("Cem", 4)])
    assert many.value == (2,)
    one = widgets.Dropdown(options=())
    choices(one, [("a", 1), ("b", 2)])
    assert one.value == 1
    one.value = 2
    choices(one, [("c", 3), ("a", 1), ("b", 2)])
    assert one.value == 2
    choices(one, [])
    assert one.value is None


# --- peers


def several(session: Session, count: int = 3) -> Peers:
    session.people = [{**PEER, "id": f"peer-{n}", "name": f"Ann {n}"} for n in range(count)]
    peers = Peers(session, steers=True)  # type: ignore[arg-type]
    peers.refresh()
    return peers


def test_peers_show_why_they_wait_and_what_was_done_to_them(session: Session) -> None:
    session.people = [
        {**PEER, "name": "Ann", "state": "waiting", "reason": "for peer-2"},
        {**PEER, "name": "peer 2", "muted": True, "slowed": 0.5, "paused_by": "the owner", "state": "paused"},
    ]
    peers = Peers(session, steers=True)  # type: ignore[arg-type]
    peers.refresh()
    assert "waiting: for peer-2" in peers.table.value
    assert "paused by the owner, slowed to 50 %, muted" in peers.table.value
    assert peers.muted == {"peer-1"}


def test_what_an_older_server_does_not_tell_is_not_shown(session: Session) -> None:
    session.people = [{name: value for name, value in PEER.items() if name not in ("muted", "paused_by", "slowed")}]
    peers = Peers(session, steers=True)  # type: ignore[arg-type]
    peers.refresh()
    assert "computing<" in peers.table.value


def test_the_chosen_peers_are_steered(session: Session) -> None:
    peers = several(session)
    peers.pause.click()
    assert session.done == []
    assert "Choose one peer" in peers.said.box.value
    peers.chosen.value = ("peer-0", "peer-2")
    peers.pause.click()
    peers.share.value = 0.25
    peers.slow.click()
    assert session.done == [
        ("peer-0", "pause"), ("peer-2", "pause"), ("peer-0", "slow", 0.25), ("peer-2", "slow", 0.25),
    ]  # fmt: skip
    assert peers.chosen.value == ("peer-0", "peer-2")


def test_nobody_is_removed_by_one_press(session: Session) -> None:
    peers = several(session)
    peers.remove.click()
    peers.chosen.value = ("peer-1",)
    peers.remove.click()
    assert session.done == []
    assert peers.remove.description == "Really remove 1?"
    peers.chosen.value = ("peer-2",)
    assert peers.remove.description == "Remove", "the question was about others"
    peers.remove.click()
    peers.remove.click()
    assert session.done == [("peer-2", "remove")]


def test_what_the_server_refuses_is_said(session: Session) -> None:
    peers = several(session)
    peers.chosen.value = ("peer-1",)
    session.error = SessionError("There is no such peer any more.")
    peers.mute.click()
    assert "no such peer" in peers.said.box.value


def test_of_a_large_class_the_first_are_shown_and_the_others_are_found(session: Session) -> None:
    peers = several(session, 200)
    assert peers.table.value.count("<tr") == 51
    assert [label for label, _ in peers.chosen.options[:11]] == [f"Ann {n}" for n in range(11)], "9 comes before 10"
    assert "200 connected, 50 are shown" in peers.more.value
    peers.find.value = " ANN 17 "
    assert [label for label, _ in peers.chosen.options] == ["Ann 17", *(f"Ann {n}" for n in range(170, 180))]
    assert "11 connected are called so" in peers.more.value
    peers.chosen.value = ("peer-171",)
    peers.find.value = "19"
    peers.pause.click()
    assert session.done == [("peer-171", "pause")], "who is chosen stays so"
    peers.find.value = ""
    assert peers.table.value.count("<tr") == 51


def test_a_small_class_needs_no_search(session: Session) -> None:
    assert several(session, 30).find.layout.display == "none"


def test_a_large_class_costs_no_memory_by_being_looked_at(session: Session) -> None:
    peers = several(session, 200)

    def looks(count: int) -> None:
        for number in range(count):
            session.people = [{**one, "speed": float(number)} for one in session.people]
            peers.refresh()

    looks(20)
    tracemalloc.start()
    try:
        looks(20)
        before = tracemalloc.get_traced_memory()[0]
        looks(100)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    size = len(peers.table.value)
    assert grown < size, "not even one table more"
    assert size < 100_000


# --- checkpoints


def kept(session: Session, *names: str) -> Checkpoints:
    session.kept = [Kept(name, float(number)) for number, name in enumerate(names, 1)]
    part = Checkpoints(session, keeps=True)  # type: ignore[arg-type]
    part.refresh()
    return part


def test_checkpoints_are_saved_by_name(session: Session) -> None:
    part = kept(session)
    assert part.tools.layout.display == "none", "there is none yet"
    part.name.value = f" {HOSTILE} "
    part.save.click()
    settle()
    assert [one.name for one in session.kept] == [HOSTILE]
    assert "<script" not in part.table.value
    assert "&lt;script" in part.table.value
    assert part.chosen.value == session.kept[0].sha256
    session.error = SessionError("The disk is full.")
    part.save.click()
    settle()
    assert "The disk is full." in part.said.box.value
    assert not part.save.disabled


def test_a_download_shows_its_progress_and_where_it_went(session: Session) -> None:
    part = kept(session, "best of/../all", "b")
    part.chosen.value = session.kept[0].sha256
    seen: list[float] = []
    part.progress.observe(lambda change: seen.append(change["new"]), "value")
    part.download.click()
    settle()
    assert seen == [0.4]
    assert "cs101-7f3a-best-of-..-all" in part.said.box.value
    assert part.progress.layout.display == "none"
    part.folder.value = "a full disk"
    part.download.click()
    settle()
    assert "The disk is full." in part.said.box.value
    assert part.progress.layout.display == "none"


def test_a_checkpoint_is_loaded_into_a_model_of_its_own(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: dict[str, object] = {}
    monkeypatch.setattr(keeping, "get_ipython", lambda: SimpleNamespace(push=pushed.update))
    part = kept(session, "a", "b")
    part.chosen.value = session.kept[1].sha256
    part.load.click()
    settle()
    assert pushed["loaded"].weight.tolist() == [[2.0, 2.0]]  # type: ignore[attr-defined]
    assert "loaded is now a model with the numbers of b" in part.said.box.value


def test_two_checkpoints_are_compared_and_one_is_gone_on_from(session: Session) -> None:
    part = kept(session, "a", "b")
    assert part.chosen.value != part.other.value, "the two that differ are offered"
    part.chosen.value, part.other.value = (one.sha256 for one in session.kept)
    part.compare.click()
    settle()
    assert "weight" in part.answer.value
    assert "0.5" in part.answer.value
    part.start.click()
    settle()
    assert "start=start" in part.answer.value
    assert "jupyter_swarm.host(session.recipe" in part.answer.value


def test_a_checkpoint_that_is_gone_is_said(session: Session) -> None:
    part = kept(session, "a")
    part._found = []
    part.load.click()
    settle()
    assert "No checkpoint is chosen." in part.said.box.value


# --- the model


def test_the_model_is_tried_and_tested(session: Session) -> None:
    part = Try(session)  # type: ignore[arg-type]
    part.prompt.value = "To be"
    part.sample.click()
    settle()
    assert "<b>To be</b>&lt;script" in part.shown.value
    part.test.click()
    settle()
    assert "1.25" in part.shown.value
    session.error = RecipeError("The sampler failed.")
    part.sample.click()
    settle()
    assert "The sampler failed." in part.said.box.value
    assert not part.sample.disabled


def test_a_recipe_without_samples_can_be_tested_only(session: Session) -> None:
    session.recipe.sample = None
    part = Try(session)  # type: ignore[arg-type]
    buttons = part.box.children[0].children
    assert part.test in buttons
    assert part.sample not in buttons
