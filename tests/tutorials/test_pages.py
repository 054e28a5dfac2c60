"""What the pages for people say can be typed is understood, and what they say is shown is what the code says."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

import jupyter_swarm
from jupyter_swarm.cli import demo, doctor, host, peer, plan, serve
from jupyter_swarm.notebook.commands import COMMANDS, values_of
from jupyter_swarm.notebook.magics import _parsed, _split
from jupyter_swarm.peer.session import Session
from jupyter_swarm.peer.steering import ALIASES, SETTINGS
from jupyter_swarm.protocol.standing import SteerAction

from .executing import TUTORIALS

TOP = TUTORIALS.parent
PAGES = [TOP / "README.md", TUTORIALS / "for-instructors.md", TUTORIALS / "for-students.md"]
PACKAGE = "\n".join(path.read_text(encoding="utf-8") for path in (TOP / "jupyter_swarm").rglob("*.py"))
pages = pytest.mark.parametrize("page", PAGES, ids=[path.name for path in PAGES])


def typed(page: Path) -> Iterator[str]:
    """The lines of its code: spans in the text, and blocks."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```(?:python|sh)\n(.*?)```", text, flags=re.DOTALL):
        yield from block.splitlines()
    for span in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        yield " ".join(span.split())


def terminal() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    for command in (demo, peer, host, serve, plan, doctor):
        command.add_to(commands)
    return parser


@pages
def test_magics_are_understood(page: Path) -> None:
    lines = [line.removeprefix("%swarm ") for line in typed(page) if line.startswith("%swarm ")]
    assert lines
    for name, *words in map(_split, lines):
        said = _parsed(COMMANDS[name].parser, words)  # type: ignore[attr-defined]
        for setting in values_of(getattr(said, "settings", [])):
            assert setting.isupper() or setting in {*SETTINGS, *ALIASES, "strategy"}, setting


@pages
def test_commands_of_a_terminal_are_understood(page: Path) -> None:
    lines = [line.removeprefix("jupyter swarm ") for line in typed(page) if line.startswith("jupyter swarm ")]
    assert lines
    for words in map(_split, lines):
        if words not in (["peer"], ["doctor"], ["host"]):  # by their names alone
            terminal().parse_args(words)


@pages
def test_python_calls_what_there_is(page: Path) -> None:
    owners = {"session": Session, "jupyter_swarm": jupyter_swarm}
    lines = [line for line in typed(page) if re.match(r"(session|jupyter_swarm)\.\w+\(|for \w+ in session", line)]
    for call in (node for line in lines for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Call)):
        if not isinstance(call.func, ast.Attribute) or ast.unparse(call.func.value) not in owners:
            continue
        owner, name = owners[ast.unparse(call.func.value)], call.func.attr
        values = [*([None] if owner is Session else []), *call.args]
        inspect.signature(getattr(owner, name)).bind(*values, **{str(one.arg): one.value for one in call.keywords})
        if name == "steer":
            assert ast.literal_eval(call.args[1]) in get_args(SteerAction)


@pages
def test_its_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def rows(page: str, header: str) -> list[str]:
    """The first cells of the table that begins so."""
    text = (TUTORIALS / page).read_text(encoding="utf-8")
    table = text.partition(f"| {header} |")[2].partition("\n\n")[0]
    found = re.findall(r"^\| (.+?) \|", table, flags=re.MULTILINE)
    assert found
    return found


@pytest.mark.parametrize("reason", rows("for-instructors.md", "reason"))
def test_reasons_for_waiting_are_said_so(reason: str) -> None:
    source = (TOP / "jupyter_swarm" / "decisions" / "explain.py").read_text(encoding="utf-8")
    assert not [part for part in re.split(r"[…:,]", reason.strip("`")) if part.strip() not in source]


@pytest.mark.parametrize(
    "seen", [text for row in rows("for-students.md", "you see") for text in re.findall(r"\*(.+?)\*", row)]
)
def test_what_students_see_is_said_so(seen: str) -> None:
    if seen.startswith("No module named"):
        return  # Python's own words
    assert seen in PACKAGE
