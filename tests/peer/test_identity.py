"""A restarted kernel is the same peer; two live ones never are."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jupyter_swarm.peer.identity import Identity

HOLD = """
import sys
from pathlib import Path
from jupyter_swarm.peer.identity import Identity
identity = Identity("http://a", "s", key="kernel", directory=Path(sys.argv[1]))
print(identity.token, flush=True)
if not identity.token:
    identity.keep(sys.argv[2])
sys.stdin.read()
"""


def hold(folder: Path, token: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), token], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def token_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_restarted_kernel_is_the_same_peer_and_a_second_one_another(tmp_path: Path) -> None:
    with hold(tmp_path, "first") as one:
        assert token_of(one) == ""
        with hold(tmp_path, "second") as two:
            assert token_of(two) == ""
            two.communicate()
        one.communicate()
    with hold(tmp_path, "third") as again:
        assert token_of(again) == "first"
        again.kill()
    with hold(tmp_path, "fourth") as after_kill:
        assert token_of(after_kill) == "first"
        after_kill.communicate()


def test_what_one_thread_took_another_releases(tmp_path: Path) -> None:
    identity = Identity("http://a", "s", key="kernel", directory=tmp_path)
    identity.keep("token")
    thread = threading.Thread(target=identity.release)
    thread.start()
    thread.join()
    assert Identity("http://a", "s", key="kernel", directory=tmp_path).token == "token"


def test_sessions_servers_and_kernels_have_their_own_identities(tmp_path: Path) -> None:
    Identity("http://a", "s", key="kernel", directory=tmp_path).keep("token")
    for server, session, key in [("http://b", "s", "kernel"), ("http://a", "t", "kernel"), ("http://a", "s", "other")]:
        assert Identity(server, session, key=key, directory=tmp_path).token == ""


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps other users out by the folder it lies in")
def test_the_token_is_for_this_user_only(tmp_path: Path) -> None:
    identity = Identity("http://a", "s", key="kernel", directory=tmp_path)
    identity.keep("old")
    identity.keep("new")
    (path,) = tmp_path.glob("*.json")
    assert path.stat().st_mode & 0o777 == 0o600
    assert "new" in path.read_text()
    assert "new" not in repr(identity)


def test_a_damaged_file_means_a_new_peer(tmp_path: Path) -> None:
    identity = Identity("http://a", "s", key="kernel", directory=tmp_path)
    identity.keep("token")
    identity.release()
    (path,) = tmp_path.glob("*.json")
    path.write_text("{")
    assert Identity("http://a", "s", key="kernel", directory=tmp_path).token == ""


def test_without_a_place_to_write_this_is_a_new_peer(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    identity = Identity("http://a", "s", key="kernel", directory=blocked / "folder")
    identity.keep("token")
    assert identity.token == "token"
