"""The invite card: what it says, what it does, and that a saved notebook never has the secret."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from jupyter_swarm.notebook import invite
from jupyter_swarm.notebook.invite import InviteCard, reach_text
from jupyter_swarm.notebook.panel import Panel
from jupyter_swarm.notebook.parts import VIEW
from jupyter_swarm.peer.record import Status
from jupyter_swarm.protocol.errors import InviteError

from .played import Session


@pytest.fixture
def session() -> Session:
    return Session()


@pytest.fixture
def card(session: Session) -> InviteCard:
    card = InviteCard(session)  # type: ignore[arg-type]
    card.issue()
    return card


def state(card: InviteCard) -> str:
    """All that the widgets hold, which is what a front end may save."""
    widgets = [
        card.box,
        *card.box.children,
        *(inner for one in card.box.children for inner in getattr(one, "children", ())),
    ]
    return str([one.get_state() for one in widgets])


def test_a_card_shows_the_ways_in(session: Session, card: InviteCard) -> None:
    link = card.issued["link"]
    assert link in card.link.value
    assert "<svg" in card.qr.value
    assert f"%swarm join {link}" in card.link.value
    assert "from this machine only" in card.facts.value
    card.role.value = "viewer"
    card.new.click()
    assert card.issued["link"] in card.link.value
    assert "/swarm/watch/" in card.issued["link"]
    assert "%pip" not in card.link.value, "who looks on needs a browser and nothing else"
    assert len(card.listed.options) == 2


def test_the_cell_installs_the_version_that_the_server_has(session: Session) -> None:
    session.wheel = "https://hub.org/user/ann/swarm/wheel/jupyter_swarm-9.9-py3-none-any.whl"
    card = InviteCard(session)  # type: ignore[arg-type]
    card.issue()
    assert f"%pip install -q {session.wheel}" in card.link.value


@pytest.mark.parametrize(
    ("reach", "outside", "says"),
    [
        ("machine", False, "from this machine only"),
        ("network", False, "nobody has connected from another machine yet"),
        ("internet", False, "from this machine only, as far as is known"),
        ("machine", True, "yes"),
        ("internet", True, "yes"),
        ("internet", None, "an internet address"),
        (None, False, "nobody has connected"),
        (None, None, ""),
    ],
)
def test_reach_is_said_as_far_as_it_is_known(reach: str | None, outside: bool | None, says: str) -> None:
    said = reach_text(reach, outside)
    assert says in said
    assert bool(said) is bool(says)


def test_the_first_from_outside_changes_what_the_card_says(session: Session, card: InviteCard) -> None:
    session.outside = True
    card.refresh()
    assert "somebody has connected from another machine" in card.facts.value


def test_a_revoked_invite_is_shown_no_more(session: Session, card: InviteCard) -> None:
    secret = card.issued["link"].partition("#")[2]
    card.revoke.click()
    assert (card.revoke.description, session.made[0]["revoked"]) == ("Really revoke 1?", None)
    card.revoke.click()
    assert session.made[0]["revoked"]
    assert secret not in state(card)
    assert "Invite 1 is revoked" in card.said.box.value
    assert card.listed.options == ()


def test_an_invite_that_is_made_while_a_panel_looks_stays_shown(session: Session, card: InviteCard) -> None:
    pressing = threading.Thread(target=card.new.click, daemon=True)

    def invites() -> list[dict[str, Any]]:
        before = list(session.made)
        if not pressing.ident:
            pressing.start()
            pressing.join(1)
        return before

    session.invites = invites  # type: ignore[method-assign]
    card.refresh()
    pressing.join(20)
    assert card.issued["number"] == 2
    assert card.issued["link"] in card.link.value
    assert [number for _, number in card.listed.options] == [1, 2]


def test_a_used_up_invite_is_not_among_the_valid(session: Session, card: InviteCard) -> None:
    session.made.append({**session.made[0], "number": 2, "capacity": 1, "uses": 1})
    card.refresh()
    assert [number for _, number in card.listed.options] == [1]


def test_what_the_server_refuses_is_said(session: Session, card: InviteCard) -> None:
    session.error = InviteError("Only the owner may do this.")
    card.new.click()
    assert "Only the owner" in card.said.box.value
    card.revoke.click()
    card.revoke.click()
    assert "Only the owner" in card.said.box.value


def test_the_output_has_no_secret_and_a_front_end_that_saves_widgets_gets_it_only_when_asked(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[object] = []
    monkeypatch.setattr(invite, "saves_widgets", lambda: True)
    monkeypatch.setattr(invite.Display, "show", lambda _, *bundles: published.extend(bundles))
    card = InviteCard(session)  # type: ignore[arg-type]
    card.issue()
    card.show()
    secret = card.issued["link"].partition("#")[2]
    assert VIEW in published[1]  # type: ignore[operator]
    assert secret not in str(published)
    assert secret not in state(card)
    card.hide.click()
    assert secret in state(card)
    card.hide.click()
    assert secret not in state(card)


def test_the_end_of_the_session_takes_the_secret_away(
    session: Session, card: InviteCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[dict[str, object], ...]] = []
    monkeypatch.setattr(card.display, "show", lambda *bundles: shown.append(bundles))
    secret = card.issued["link"].partition("#")[2]
    panel = Panel(session, invite=card)  # type: ignore[arg-type]
    assert secret in state(card)
    session.now = Status(state="finished", version=10)
    panel.refresh()
    panel.show()
    assert secret not in state(card)
    assert [VIEW in bundle for bundle in shown[-1]] == [False, False]
