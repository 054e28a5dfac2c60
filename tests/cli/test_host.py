"""`jupyter swarm host`: how others are to reach the session, and a rehearsal of it."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from jupyter_swarm.peer.client import Client
from jupyter_swarm.protocol.invites import parse_invite
from tests.cli.processes import Run, Served, command, gone
from tests.peer.tunnelling import TUNNEL
from tests.peer.tunnelling import command as tunnel_command


def sessions(served: Served) -> list[str]:
    owner = Client(served.url, {"Authorization": f"token {served.token}"})
    return [one["session"] for one in owner._ask("GET", "sessions")["sessions"]]


def test_a_rehearsal_ends_with_a_verdict_and_leaves_no_session(run: Run, served: Served, recipe: Path) -> None:
    before = sessions(served)
    done = run("host", str(recipe), "--server", served.url, "--rehearse", "3", JUPYTER_SWARM_TOKEN=served.token)
    assert done.returncode == 0, done.stderr
    assert re.search(r"joins +3 of 3", done.stdout)
    assert "A class of 3 can train line here." in done.stdout
    assert re.search(r"memory +server \d", done.stdout)
    assert sessions(served) == before


@pytest.mark.skipif(sys.platform == "win32", reason="an interrupt cannot be sent there")
def test_the_link_leads_through_the_tunnel_which_ends_with_the_command(
    served: Served, recipe: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    line = command("host", str(recipe), "--server", served.url, "--tunnel", tunnel_command(tmp_path, TUNNEL))
    environment = environment | {"JUPYTER_SWARM_TOKEN": served.token, "PYTHONUNBUFFERED": "1"}
    with (
        subprocess.Popen(line, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(process.kill)
        assert process.stdout is not None
        said = ""
        while "until this command ends" not in said:
            text = process.stdout.readline()
            assert text, said
            said += text
        family = psutil.Process(process.pid).children(recursive=True)
        link = re.search(r"'(http\S+)'", said)
        assert link is not None
        invite = parse_invite(link[1])
        assert Client.of_member(invite).describe(invite.session)["your_role"] == "peer"
        assert not invite.server.endswith(served.url.rpartition(":")[2])
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert len(family) == 2
    assert all(map(gone, family))


@pytest.mark.parametrize("others", [["--tunnel", "b"], ["--rehearse", "2"]])
def test_one_way_in_is_enough_and_a_rehearsal_needs_none(run: Run, recipe: Path, others: list[str]) -> None:
    done = run("host", str(recipe), "--server", "http://localhost:1", "--url", "http://a", *others)
    assert done.returncode == 2
    assert "not allowed with" in done.stderr


@pytest.mark.parametrize("wrong", [["--url", "there"], ["--hours", "99999"]])
def test_a_link_that_cannot_be_made_leaves_no_session(run: Run, served: Served, recipe: Path, wrong: list[str]) -> None:
    before = sessions(served)
    done = run("host", str(recipe), "--server", served.url, *wrong, JUPYTER_SWARM_TOKEN=served.token)
    assert done.returncode == 2, done.stdout
    assert "What to do" in done.stderr
    assert "Traceback" not in done.stderr
    assert sessions(served) == before


def test_nobody_rehearses_nothing(run: Run, recipe: Path) -> None:
    done = run("host", str(recipe), "--server", "http://localhost:1", "--rehearse", "0", JUPYTER_SWARM_TOKEN="x")
    assert done.returncode == 2
    assert "0 students is not possible" in done.stderr
