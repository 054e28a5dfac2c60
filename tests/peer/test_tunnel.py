"""Tunnels by somebody else's command: a small reverse proxy that talks as such commands do."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jupyter_swarm.peer import api
from jupyter_swarm.peer import tunnel as tunnels
from jupyter_swarm.peer.client import Client
from jupyter_swarm.peer.recipe import Recipe
from jupyter_swarm.peer.tunnel import Tunnel
from jupyter_swarm.peer.words import words_of
from jupyter_swarm.protocol.errors import LinkError, SettingError
from jupyter_swarm.protocol.invites import Invite, parse_invite
from tests.waiting import until

from .classroom import PLAIN
from .conftest import Server
from .tunnelling import TUNNEL, command

pytestmark = pytest.mark.usefixtures("kernel", "direct")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    for tunnel in tunnels._open.values():
        tunnel.close()
    tunnels._open.clear()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seconds that a tunnel has begin when its command has said something, however busy the machine is."""
    wait = Tunnel._wait

    def later(tunnel: Tunnel, seconds: float) -> None:
        until(lambda: bool(tunnel._said))
        wait(tunnel, seconds)

    monkeypatch.setattr(Tunnel, "_wait", later)


def running(folder: Path) -> list[psutil.Process]:
    """The tunnel commands that run."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if str(folder / "tunnel command.py") in words and "jupyter_swarm.peer.leash" not in words:
            found.append(process)
    return found


def test_a_peer_joins_through_the_tunnel_and_trains(server: Server, tmp_path: Path) -> None:
    base = f"http://127.0.0.1:{server.port}"
    tunnel = Tunnel.open(command(tmp_path, TUNNEL), base)
    assert tunnel.url != base
    assert tunnel.url.startswith("http://127.0.0.1:")
    host = api.host(Recipe.from_source(PLAIN), rounds=10**6, train=False, server=server.url)
    invite = parse_invite(host.invite().link)
    joined = api.join(Invite(tunnel.url, invite.session, invite.secret).link, agree=host.recipe.sha256)
    assert joined._record.wait_for(lambda status: status.version >= 2, 60)
    joined.leave()
    again = Tunnel.open(command(tmp_path, TUNNEL), base)
    assert again is tunnel, "the same command is run once"
    assert len(running(tmp_path)) == 1
    tunnel.close()
    assert not running(tmp_path)


def test_it_ends_with_the_process_that_opened_it_however_that_went(server: Server, tmp_path: Path) -> None:
    text = f"""
    from jupyter_swarm.peer.tunnel import Tunnel
    print(Tunnel.open({command(tmp_path, TUNNEL)!r}, "http://127.0.0.1:{server.port}").url, flush=True)
    input()
    """
    kernel = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert kernel.stdin is not None
    assert kernel.stdout is not None
    with kernel, kernel.stdin, kernel.stdout as said:
        assert said.readline().startswith(b"http://127.0.0.1:")
        assert len(running(tmp_path)) == 1
        kernel.kill()
    until(lambda: not running(tmp_path))


def test_a_command_that_is_not_there(server: Server) -> None:
    base = f"http://127.0.0.1:{server.port}"
    with pytest.raises(SettingError, match="'no-such-tunnel' cannot be started"):
        Tunnel.open("no-such-tunnel --url http://localhost:{port}", base)
    with pytest.raises(SettingError, match="cannot be read"):
        Tunnel.open('cloudflared "', base)
    with pytest.raises(SettingError, match="no command"):
        Tunnel.open("  ", base)


def test_what_is_written_for_terminals_is_read_too(server: Server, tmp_path: Path) -> None:
    plain = '"\\x1b[32mINF\\x1b[0m |  http://127.0.0.1:%d  |"'
    link = '"\\x1b[?25l\\rwait\\r\\x1b]8;;http://127.0.0.1:%d\\x07open it\\x1b]8;;\\x07\\r" + " " * 70000 + "\\r"'
    assert plain in TUNNEL
    tunnel = Tunnel.open(command(tmp_path, TUNNEL.replace(plain, f"({link})")), f"http://127.0.0.1:{server.port}")
    assert Client(tunnel.url, {}).probe(10).ours


def test_of_two_ways_in_the_encrypted_one_is_taken(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnels, "_answers", lambda url, seconds: True)
    code = "import time; print('http://fox.example https://fox.example/', flush=True); time.sleep(600)"
    assert Tunnel.open(command(tmp_path, code), f"http://127.0.0.1:{server.port}").url == "https://fox.example"


@pytest.mark.usefixtures("patience")
def test_the_address_that_it_leads_to_is_no_way_in(server: Server, tmp_path: Path) -> None:
    base = f"http://127.0.0.1:{server.port}"
    code = f"import time; print('{base} http://localhost:{server.port}', flush=True); time.sleep(600)"
    with pytest.raises(LinkError, match="named no address"):
        Tunnel.open(command(tmp_path, code), base, seconds=2.0)


def test_paths_with_backslashes_and_spaces_are_words() -> None:
    assert words_of(r'"C:\My tools\cf.exe" tunnel C:\x') == [r"C:\My tools\cf.exe", "tunnel", r"C:\x"]


@pytest.mark.skipif(sys.platform == "win32", reason="there every process can be ended at once")
def test_what_the_command_has_started_ends_with_it_even_against_its_will(server: Server, tmp_path: Path) -> None:
    code = """
    import signal, subprocess, sys, time
    if sys.argv[1] == "stay":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("failed", flush=True)
    else:
        subprocess.Popen([*sys.orig_argv[:2], "stay"])
    time.sleep(600)
    """
    tunnel = Tunnel(command(tmp_path, code), f"http://127.0.0.1:{server.port}")
    until(lambda: "failed" in tunnel._said)
    assert len(running(tmp_path)) == 2
    tunnel.close()
    assert not running(tmp_path)


def test_a_command_that_ends_is_quoted(server: Server, tmp_path: Path) -> None:
    code = "import sys; print('failed to sign in', end=''); sys.exit(3)"
    with pytest.raises(LinkError, match=r"has ended \(exit code 3\)") as caught:
        Tunnel.open(command(tmp_path, code), f"http://127.0.0.1:{server.port}")
    assert "failed to sign in" in caught.value.why


@pytest.mark.usefixtures("patience")
def test_a_command_that_names_no_way_in(server: Server, tmp_path: Path) -> None:
    base = f"http://127.0.0.1:{server.port}"
    silent = "import time; print('please wait', flush=True); time.sleep(600)"
    with pytest.raises(LinkError, match="named no address") as caught:
        Tunnel.open(command(tmp_path, silent), base, seconds=2.0)
    assert "please wait" in caught.value.why
    other = f"import time; print('https://127.0.0.1:9/help and {base}', flush=True); time.sleep(600)"
    with pytest.raises(LinkError, match=r"Behind https://127.0.0.1:9 this server does not answer"):
        Tunnel.open(command(tmp_path, other), base, seconds=2.0)
    assert not running(tmp_path)


@pytest.mark.usefixtures("patience")
def test_the_servers_path_is_part_of_the_address(server: Server, tmp_path: Path) -> None:
    # Nothing of this server's is under that path, so the address is not the right one.
    with pytest.raises(LinkError, match=r"Behind .*/user/ann this server"):
        Tunnel.open(command(tmp_path, TUNNEL), f"http://127.0.0.1:{server.port}/user/ann/", seconds=2.0)
