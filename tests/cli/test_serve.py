"""`jupyter swarm serve`: sessions and nothing else; opened and joined from terminals."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from jupyter_swarm.peer.client import Client
from tests.cli.processes import Run, Served, command, gone, wait_until

REFUSED = [
    ("GET", "api/kernels"),
    ("POST", "api/kernels"),
    ("GET", "api/kernelspecs"),
    ("GET", "api/sessions"),
    ("POST", "api/sessions"),
    ("GET", "api/terminals"),
    ("POST", "api/terminals"),
    ("GET", "terminals/websocket/1"),
    ("GET", "api/contents"),
    ("PUT", "api/contents/x.ipynb"),
    ("GET", "files/owner-token"),
    ("GET", "view/owner-token"),
    ("GET", "nbconvert/html/x.ipynb"),
    ("GET", "api/config/notebook"),
    ("GET", "lab"),
    ("GET", "tree"),
]


def owner(served: Served) -> Client:
    return Client(served.url, {"Authorization": f"token {served.token}"})


def open_session(run: Run, served: Served, recipe: Path, *options: str) -> tuple[str, str]:
    """Open a session as its owner would; returns the invite link and the recipe's hash."""
    done = run("host", str(recipe), "--server", served.url, *options, JUPYTER_SWARM_TOKEN=served.token)
    assert done.returncode == 0, done.stderr
    link = re.search(r"'(http\S+)'", done.stdout)
    agree = re.search(r"^ +([0-9a-f]{64})$", done.stdout, re.MULTILINE)
    assert link is not None
    assert agree is not None
    return link[1], agree[1]


def session_of(link: str) -> str:
    return link.split("/swarm/join/")[1].split("#")[0]


def test_nothing_that_runs_code_or_reads_files_is_served_even_to_the_owner(served: Served) -> None:
    headers = {"Authorization": f"token {served.token}"}
    with httpx.Client(headers=headers) as client:
        assert client.get(f"{served.url}/swarm/api/sessions").is_success
        answers = {(verb, path): client.request(verb, f"{served.url}/{path}").status_code for verb, path in REFUSED}
    assert set(answers.values()) == {404}, answers


def test_without_the_token_nothing_is_told(served: Served) -> None:
    for path in ("api/status", "swarm/api/sessions", "metrics"):
        assert httpx.get(f"{served.url}/{path}").status_code == 403
    assert httpx.post(f"{served.url}/api/shutdown").status_code == 403


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no permission bits")
def test_the_owners_token_is_for_the_owner_and_stays_the_same(served: Served) -> None:
    from jupyter_swarm.coordinator.serve_app import token_file

    file = served.storage / "owner-token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert token_file(served.storage).read_text() == served.token
    log = (served.storage.parent / "serve.log").read_text()
    assert str(file) in log
    assert served.token not in log


def test_an_empty_token_file_does_not_open_the_server(tmp_path: Path) -> None:
    from jupyter_swarm.coordinator.serve_app import token_file

    (tmp_path / "owner-token").write_text("\n")
    assert len(token_file(tmp_path).read_text()) > 40


def test_a_session_is_opened_with_the_token_and_joined_with_the_invite(served: Served, run: Run, recipe: Path) -> None:
    link, agree = open_session(run, served, recipe)
    # As a cell of a notebook runs it, with its output in a file.
    done = run("peer", link, "--name", "Ada", "--agree", agree[:16], "--threads", "1", FORCE_COLOR="1")
    assert done.returncode == 0, done.stderr
    assert "The session has finished" in done.stdout
    assert "\x1b" not in done.stdout
    session = session_of(link)
    records = owner(served).records(session)
    assert len(records) == 20
    assert {one["peer"] for record in records for one in record["contributors"]} == {"peer-1"}
    losses = [row["mean"] for row in owner(served).metrics(session) if row["name"] == "loss"]
    assert losses[-1] < losses[0] / 10


def test_the_doctor_says_by_its_exit_code_whether_something_is_in_the_way(
    served: Served, run: Run, recipe: Path
) -> None:
    link, _ = open_session(run, served, recipe)
    found = run("doctor", link)
    assert found.returncode == 0, found.stdout + found.stderr
    assert link.partition("#")[2] not in found.stdout
    assert run("doctor", "http://127.0.0.1:1", "--seconds", "2").returncode == 1


def test_a_wrong_token_opens_nothing(served: Served, run: Run, recipe: Path) -> None:
    before = session_ids(served)
    done = run("host", str(recipe), "--server", served.url, JUPYTER_SWARM_TOKEN="wrong")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert session_ids(served) == before


def test_nobody_is_made_to_run_a_recipe(served: Served, run: Run, recipe: Path) -> None:
    link, agree = open_session(run, served, recipe)
    wrong = run("peer", link, "--agree", "0" * 64)
    nowhere = run("peer", link, "--agree", agree, "--device", "abacus")
    unasked = run("peer", link)  # nobody is there to be asked
    assert (wrong.returncode, unasked.returncode, nowhere.returncode) == (2, 2, 2)
    assert "cannot compute on 'abacus'" in nowhere.stderr
    assert "not the one that was agreed to" in wrong.stderr
    assert "Nobody could be asked" in unasked.stderr
    assert "recipe = Recipe(" in unasked.stdout


def session_ids(served: Served) -> list[str]:
    return [session["session"] for session in owner(served)._ask("GET", "sessions")["sessions"]]


def joined(served: Served, session: str) -> list[str]:
    return [peer["name"] for peer in owner(served).describe(session)["status"]["peers"]]


@pytest.mark.skipif(sys.platform == "win32", reason="sends the Ctrl-C of a terminal")
def test_ctrl_c_leaves(served: Served, run: Run, recipe: Path, environment: dict[str, str], tmp_path: Path) -> None:
    import signal

    link, agree = open_session(run, served, recipe, "--rounds", "0")
    peer = subprocess.Popen(
        command("peer", link, "--name", "Ada", "--agree", agree, "--threads", "1"),
        env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert wait_until(lambda: joined(served, session_of(link)) == ["Ada"], 60)
        peer.send_signal(signal.SIGINT)
        printed, _ = peer.communicate(timeout=60)
    finally:
        peer.kill()
    assert peer.returncode == 0
    assert "Left the session" in printed
    assert joined(served, session_of(link)) == []


_PARENT = """
import os, subprocess, sys
peer = subprocess.Popen([*sys.argv[1:], "--parent", str(os.getpid())], stdin=subprocess.DEVNULL)
print(peer.pid, flush=True)
peer.wait()
"""


def test_a_peer_ends_with_its_parent(
    served: Served, run: Run, recipe: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    link, agree = open_session(run, served, recipe, "--rounds", "0")
    started = [sys.executable, "-c", _PARENT, *command("peer", link, "--agree", agree, "--threads", "1")]
    with subprocess.Popen(started, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        peer = psutil.Process(int(parent.stdout.readline()))
        try:
            assert wait_until(lambda: len(joined(served, session_of(link))) == 1, 60)
            parent.kill()
            assert wait_until(lambda: gone(peer), 60)
        finally:
            if not gone(peer):
                peer.kill()
    assert wait_until(lambda: joined(served, session_of(link)) == [], 60)
