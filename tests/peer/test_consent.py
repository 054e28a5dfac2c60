"""A recipe runs after its reader said yes, and not before."""

from __future__ import annotations

import builtins

import pytest

from jupyter_swarm.peer.consent import agree_to
from jupyter_swarm.peer.source import hash_source
from jupyter_swarm.protocol.errors import RecipeError

SOURCE = "recipe = 'shown to the student'\n"


def answer(monkeypatch: pytest.MonkeyPatch, reply: str) -> None:
    monkeypatch.setattr(builtins, "input", lambda prompt: reply)


def test_the_code_and_its_hash_are_shown_before_the_question(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []

    def ask(prompt: str) -> str:
        shown.append(capsys.readouterr().out)
        return "yes"

    monkeypatch.setattr(builtins, "input", ask)
    assert agree_to(SOURCE, "a") == hash_source(SOURCE)
    assert SOURCE.strip() in shown[0]
    assert hash_source(SOURCE)[:16] in shown[0]


@pytest.mark.parametrize(
    "hiding", ["\x1b[2K", "\r", "\x1b]0;", "\u202e", "\x08"], ids=["erase", "return", "title", "right to left", "back"]
)
def test_nothing_of_the_code_can_be_hidden_on_a_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], hiding: str
) -> None:
    answer(monkeypatch, "no")
    with pytest.raises(RecipeError, match="not agreed"):
        agree_to(f"steal()  # {hiding}größe = 3\n", f"a{hiding}", None, [("strategy", f"s{hiding}")])
    shown = capsys.readouterr().out
    assert hiding not in shown
    assert shown.count(hiding.encode("unicode_escape").decode()) == 3
    assert "größe = 3\n" in shown


@pytest.mark.parametrize("reply", ["no", "", "yesterday"])
def test_anything_but_yes_refuses(monkeypatch: pytest.MonkeyPatch, reply: str) -> None:
    answer(monkeypatch, reply)
    with pytest.raises(RecipeError, match="not agreed"):
        agree_to(SOURCE, "a")


def test_a_hash_given_beforehand_agrees_without_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "input", lambda prompt: pytest.fail("asked"))
    sha256 = hash_source(SOURCE)
    for agree in (sha256, sha256[:16], f" {sha256.upper()} "):
        assert agree_to(SOURCE, "a", agree) == sha256


@pytest.mark.parametrize("agree", ["", "abc", "yes", "f" * 15, "0" * 64])
def test_another_hash_or_too_little_of_it_refuses(monkeypatch: pytest.MonkeyPatch, agree: str) -> None:
    answer(monkeypatch, "yes")
    with pytest.raises(RecipeError):
        agree_to(SOURCE, "a", agree)


def test_a_recipe_that_changed_after_it_was_agreed_to_refuses() -> None:
    with pytest.raises(RecipeError, match="nothing has run"):
        agree_to(SOURCE + "import os\n", "a", hash_source(SOURCE))


def test_where_nobody_can_be_asked_the_error_says_how_to_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr(builtins, "input", ask)
    with pytest.raises(RecipeError, match=f"agree='{hash_source(SOURCE)}'"):
        agree_to(SOURCE, "a")
