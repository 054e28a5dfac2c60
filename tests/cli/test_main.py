"""What every command has in common: help for people, errors in words."""

from __future__ import annotations

import pytest

from jupyter_swarm.cli import main
from jupyter_swarm.protocol.invites import Invite, new_secret

COMMANDS = ("demo", "doctor", "host", "peer", "plan", "serve")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"jupyter swarm {command}" in capsys.readouterr().out


def test_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"    {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["peer", "not a link"], "not an invite link"),
        (["peer", "http://localhost:1/swarm/join/cs101#cut"], "not complete"),
        (["peer", "http://localhost:1/swarm/join/cs101#cut", "--threads", "0"], "--threads is 0"),
        (["peer", "http://localhost:1/swarm/join/cs101#cut", "--parent", "-4"], "--parent is -4"),
        (["peer", Invite("http://127.0.0.1:1", "cs101", new_secret()).link], "cannot be reached"),
        (["host", "digits", "--server", "http://localhost:1/?token=secret"], "seen by other users"),
        (["host", "digits", "--server", "localhost"], "not the address of a server"),
        (["demo", "--peers", "2"], "at least 4"),
        (["demo", "--rounds", "1"], "at least 30"),
        (["serve", "--certificate", "/nowhere/cert.pem"], "There is no file"),
    ],
)
def test_an_error_says_what_to_do_and_shows_no_traceback(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert says in shown.err
    assert "What to do:" in shown.err
    assert "Traceback" not in shown.err + shown.out
