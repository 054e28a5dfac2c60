"""Tunnels by somebody else's command: a small reverse proxy that talks as such commands do."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jupyter_swarm.peer import api
from jupyter_swarm.peer import tunnel as tunnels
from jupyter_swarm.peer.recipe import Recipe
from jupyter_swarm.peer.tunnel import Tunnel
from jupyter_swarm.protocol.errors import LinkError, SettingError
from jupyter_swarm.protocol.invites import Invite, parse_invite

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
    until = time.monotonic() + 20
    while running(tmp_path) and time.monotonic() < until:
        time.sleep(0.05)
    assert not running(tmp_path)


def test_a_command_that_is_not_there(server: Server) -> None:
    base = f"http://127.0.0.1:{server.port}"
    with pytest.raises(SettingError, match="'no-such-tunnel' cannot be started"):
        Tunnel.open("no-such-tunnel --url http://localhost:{port}", base)
    with pytest.raises(SettingError, match="cannot be read"):
        Tunnel.open('cloudflared "', base)
    with pytest.raises(SettingError, match="no command"):
        Tunnel.open("  ", base)


def test_a_command_that_ends_is_quoted(server: Server, tmp_path: Path) -> None:
    code = "import sys; print('failed to sign in'); sys.exit(3)"
    with pytest.raises(LinkError, match=r"has ended \(exit code 3\)") as caught:
        Tunnel.open(command(tmp_path, code), f"http://127.0.0.1:{server.port}")
    assert "failed to sign in" in caught.value.why


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


def test_the_servers_path_is_part_of_the_address(server: Server, tmp_path: Path) -> None:
    # Nothing of this server's is under that path, so the address is not the right one.
    with pytest.raises(LinkError, match=r"Behind .*/user/ann this server"):
        Tunnel.open(command(tmp_path, TUNNEL), f"http://127.0.0.1:{server.port}/user/ann/", seconds=2.0)
