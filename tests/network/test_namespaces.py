"""A network of namespaces is what it says; a peer behind NAT takes part in a session."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_swarm import Recipe, host
from tests.benchmarks import recipes
from tests.benchmarks.harness import peer, server, wait_until, workplace
from tests.network.namespaces import PREFIX, Line, Network, Unavailable, bytes_per_second, missing, traffic

_REASON = missing(nat=True)
pytestmark = pytest.mark.skipif(bool(_REASON), reason=_REASON)


@pytest.fixture(scope="module", autouse=True)
def _possible() -> None:
    """Root in a container may not be allowed to, and a kernel may lack what shapes links."""
    try:
        with Network({"one": Line("1mbit"), "two": Line(nat=True)}) as tried, tried.inside("two"):
            pass
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network({"server": Line("200mbit"), "open": Line("200mbit"), "behind": Line("100mbit", nat=True)}) as network:
        yield network


def sent_to(listening: socket.socket, network: Network, name: str, count: int) -> str:
    """Let a machine send `count` bytes to the server's socket; returns from which address they came."""
    script = f"import socket; socket.create_connection(('10.77.0.1', 5000)).sendall(bytes({count}))"
    sender = subprocess.Popen([*network.command(name), sys.executable, "-c", script])
    with sender:
        connection, (address, _) = listening.accept()
        with connection:
            while count:
                count -= len(connection.recv(1 << 20))
    assert sender.returncode == 0
    return str(address)


def test_machines_reach_the_server_and_its_link_counts_what_comes(network: Network) -> None:
    with network.inside("server"), socket.create_server((network.address("server"), 5000)) as listening:
        before = traffic()
        assert sent_to(listening, network, "open", 200_000) == network.address("open")
        assert sent_to(listening, network, "behind", 300_000) == network.address("behind"), "its router's"
        assert 500_000 <= traffic().received - before.received < 600_000


def reached(address: str) -> bool:
    try:
        socket.create_connection((address, 6000), timeout=10).close()
    except OSError:
        return False
    return True


def test_nobody_reaches_a_machine_behind_nat(network: Network) -> None:
    for name, there in (("open", True), ("behind", False)):
        with network.inside(name):
            listening = socket.create_server(("0.0.0.0", 6000))
        with listening, network.inside("server"):
            assert reached(network.address(name)) == there
            assert not reached("192.168.7.2")


def test_a_peer_behind_nat_takes_part(network: Network) -> None:
    with workplace() as (folder, stack), network.inside("server"):
        here = server(folder, stack, address=network.address("server"))
        recipe = Recipe.from_source(recipes.VECTOR.format(parameters=300_000, target=4, seconds=0.1))
        session = host(recipe, train=False, server=here.owner_url, minimum_peers=2, evaluate_every=0)
        link = session.invite("peer").link
        for name in ("open", "behind"):
            stack.callback(peer(link, recipe.sha256, name, folder, prefix=network.command(name)).stop)

        def contributors() -> set[str]:
            return {one["peer"] for record in here.client.records(session.id) for one in record["contributors"]}

        wait_until(lambda: len(contributors()) == 2, "a round of each", 240)


def test_nothing_is_left_after_an_error() -> None:
    started: list[subprocess.Popen[bytes]] = []
    with contextlib.suppress(ZeroDivisionError), Network({"server": Line(), "other": Line(nat=True)}) as network:
        name = Path(network.namespace("other")).name
        assert name.startswith(PREFIX)
        assert name in _namespaces()
        started.append(subprocess.Popen([*network.command("other"), "sleep", "1000"]))
        _ = 1 / 0
    assert started[0].wait(10) < 0
    assert name.removesuffix("other") not in _namespaces()


def _namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("rate", "speed"), [("1gbit", 125e6), ("100mbit", 12.5e6), ("64kbit", 8e3)])
def test_rates_are_in_bits(rate: str, speed: float) -> None:
    assert bytes_per_second(rate) == speed


def test_what_is_no_rate_is_said() -> None:
    with pytest.raises(ValueError, match=re.escape("100mbit or 1gbit")):
        bytes_per_second("fast")
