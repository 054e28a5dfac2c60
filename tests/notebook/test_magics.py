"""`%swarm` in a real shell."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from jupyter_swarm.peer import api
from jupyter_swarm.protocol.invites import Invite, new_secret


@pytest.fixture
def shell(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
    for name in ("JUPYTER_SWARM_SERVER", "JUPYTER_SWARM_OWNER"):
        monkeypatch.delenv(name, raising=False)
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    shell.run_line_magic("load_ext", "jupyter_swarm")
    yield shell
    InteractiveShell.clear_instance()


def said(shell: InteractiveShell, capsys: pytest.CaptureFixture[str], line: str) -> str:
    """What a cell with `%swarm line` prints; an exception in it fails the test."""
    result = shell.run_cell(f"%swarm {line}")
    assert result.success
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return captured.out


def test_an_unknown_subcommand_suggests_the_nearest(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "%swarm resume?" in said(shell, capsys, "resme")
    assert "host" in said(shell, capsys, "")
    assert "Did you mean" not in said(shell, capsys, "xyzzy")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("host", "jupyter swarm serve"),
        ("host --recipe no_such", "no recipe called 'no_such'"),
        ("join https://example.org", "not an invite link"),
        ("status", "in no session"),
        ("pause", "in no session"),
        ("join", "usage: %swarm join"),
        ("host --rounds many", "invalid int value"),
        ("host 'half", "No closing quotation"),
        ("join -h", "agreed to beforehand"),
    ],
)
def test_what_goes_wrong_is_said_in_words(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], line: str, says: str
) -> None:
    assert says in said(shell, capsys, line)


def test_an_unreachable_server_is_said_with_what_to_do(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    link = Invite("http://127.0.0.1:9", "cs101-1", new_secret()).link
    assert "What to do: Check that it runs" in said(shell, capsys, f"join {link}")


def test_arguments_reach_the_api(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(api, "join", lambda *args, **kwargs: calls.append((args, kwargs)))
    said(shell, capsys, "join 'http://a/swarm/join/x#y' --name 'Ann B' --agree 12345678 --wait")
    assert calls == [(("http://a/swarm/join/x#y", "Ann B"), {"agree": "12345678", "wait": True})]
