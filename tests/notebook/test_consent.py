"""Joining by widgets: nothing runs before a yes, and a link is understood as people paste it."""

from __future__ import annotations

import msgspec
import pytest

from jupyter_swarm.notebook import parts
from jupyter_swarm.notebook.consent import JoinCard, LinkField
from jupyter_swarm.notebook.frontend import Display
from jupyter_swarm.notebook.machine import device_text
from jupyter_swarm.notebook.panel import Panel
from jupyter_swarm.peer.offer import Offer
from jupyter_swarm.peer.record import Status
from jupyter_swarm.protocol.errors import LinkError, RecipeError
from jupyter_swarm.protocol.invites import Invite
from jupyter_swarm.protocol.rules import SGD
from jupyter_swarm.strategies import EveryStep

from .played import HOSTILE, SECRET, Session, settle

LINK = Invite("http://a:8888/user/ann", "cs101-7f3a", SECRET).link
OFFER = Offer("cs101-7f3a", HOSTILE, f"# {HOSTILE}\nimport torch\n", 100, 5_000_000, 0, EveryStep(8).rule(SGD(0.1)))


def never(_: str, __: str) -> Panel:
    raise AssertionError("nobody has agreed")


def test_nothing_is_joined_without_a_yes() -> None:
    session = Session()
    joined: list[tuple[str, str]] = []

    def join(sha256: str, name: str) -> Panel:
        joined.append((sha256, name))
        return Panel(session, seconds=0.01)  # type: ignore[arg-type]

    card = JoinCard(OFFER, join, lambda: OFFER)
    assert "<script" not in card.text.value
    assert OFFER.sha256 in card.facts.value
    card.no.click()
    assert joined == []
    assert card.yes.disabled
    assert "has not run" in card.said.box.value

    card = JoinCard(OFFER, join, lambda: OFFER, "Ann")
    card.name.value = " Ann B "
    card.yes.click()
    assert joined == [(OFFER.sha256, "Ann B")]
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
    def join(_: str, __: str) -> Panel:
        raise error

    card = JoinCard(OFFER, join, lambda: OFFER)
    card.yes.click()
    assert says in card.said.box.value
    assert not card.yes.disabled


def test_a_recipe_that_has_changed_since_it_was_read_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    other = msgspec.structs.replace(OFFER, source="import os\n")
    agreed: list[str] = []

    def join(sha256: str, _: str) -> Panel:
        agreed.append(sha256)
        if sha256 != other.sha256:
            raise RecipeError("The session's recipe is not the one that was agreed to; nothing has run.")
        raise LinkError("enough")

    card = JoinCard(OFFER, join, lambda: other)
    monkeypatch.setattr(parts, "READING_SECONDS", 3600.0)
    card.yes.click()
    card.yes.click()
    assert agreed == [OFFER.sha256], "a double click is no yes to what nobody has read"
    assert "read it again" in card.said.box.value
    assert "import torch" not in card.text.value
    assert other.sha256 in card.facts.value
    monkeypatch.setattr(parts, "READING_SECONDS", 0.0)
    card.yes.click()
    assert agreed == [OFFER.sha256, other.sha256]
    assert "enough" in card.said.box.value


def test_nothing_of_a_recipe_is_hidden_from_its_reader() -> None:
    card = JoinCard(msgspec.structs.replace(OFFER, source="x = 1  # \u202e harmless"), never, lambda: OFFER)
    assert "\u202e" not in card.text.value
    assert "\\u202e" in card.text.value


@pytest.mark.parametrize(("name", "says"), [("", "the CPU"), ("cpu", "cpu"), ("abacus", "cannot compute on")])
def test_it_is_said_beforehand_what_would_compute(name: str, says: str) -> None:
    card = JoinCard(OFFER, never, lambda: OFFER, device=name)
    assert says in card.facts.value


def test_colab_says_where_a_gpu_is_selected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jupyter_swarm.notebook.machine.in_colab", lambda: True)
    assert "Runtime → Change runtime type" in device_text()


# --- the link


def field(cards: list[tuple[str, str]]) -> LinkField:
    def card(link: str, offer: Offer, name: str, display: Display) -> JoinCard:
        cards.append((link, name))
        return JoinCard(offer, never, lambda: offer, name, display=display)

    return LinkField(lambda link: OFFER, card, "Ann")


@pytest.mark.parametrize(
    "pasted",
    [LINK, f"  '{LINK}' ", f"<{LINK}>.", f"{LINK[:40]} \n{LINK[40:]}",
     f"\ufeff\u201c{LINK[:30]}\u200b{LINK[30:]}\u200d\u201d\u2026",
     f"Join us: {LINK}", f"%swarm join {LINK}",
     f"%pip install -q http://a/b.whl\n%load_ext jupyter_swarm\n%swarm join {LINK}"],
)  # fmt: skip
def test_a_link_is_taken_as_people_paste_it(pasted: str) -> None:
    cards: list[tuple[str, str]] = []
    one = field(cards)
    one.link.value = pasted
    assert "cs101-7f3a" in one.said.box.value
    assert not one.go.disabled
    one.go.click()
    settle()
    assert [name for _, name in cards] == ["Ann"]
    assert one.link.value == "", "a saved notebook has no secret"
    assert one.link not in one.box.children


@pytest.mark.parametrize(
    ("pasted", "says"),
    [
        (LINK[:-3], "is incomplete or mistyped"),
        (LINK.partition("#")[0], "Nothing follows the #"),
        ("hello", "not an invite link"),
        (LINK.replace("/join/", "/watch/"), "watch the session"),
    ],
)
def test_what_is_wrong_with_a_link_is_said_at_once(pasted: str, says: str) -> None:
    one = field([])
    assert one.go.disabled
    one.link.value = pasted
    assert says in one.said.box.value
    assert one.go.disabled
    one.link.value = ""
    assert one.said.box.value == ""


def test_a_server_that_does_not_answer_is_said_and_asked_again() -> None:
    def look(_: str) -> Offer:
        raise LinkError("The server cannot be reached.")

    one = LinkField(look, lambda *_: JoinCard(OFFER, never, lambda: OFFER))
    one.link.value = LINK
    one.go.click()
    settle()
    assert "cannot be reached" in one.said.box.value
    assert not one.go.disabled
    assert one.link.value == LINK
