"""What those who watch are told of each peer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from jupyter_swarm.coordinator.members import Attached, Members
from jupyter_swarm.coordinator.status import status_of
from jupyter_swarm.decisions.state import Peer, new_state
from jupyter_swarm.protocol.messages import PROTOCOL_VERSION, Hello, Progress
from jupyter_swarm.protocol.rules import SGD, RoundRule, SessionSettings
from jupyter_swarm.store.rows import Member

HELLO = Hello(PROTOCOL_VERSION, "0.1", "peer", "ann")


def test_a_peers_own_telemetry_is_shown_beside_what_the_server_measures() -> None:
    state = new_state("s", RoundRule("EveryStep", SGD(lr=0.1), target_batch=8), SessionSettings(), 100, 0, 1)
    members = Members("s", [])
    for name, samples in (("ann", 30), ("bob", 10)):
        state.peers[name] = Peer(name, name, samples=samples)
        connection = cast(Any, SimpleNamespace(bytes_sent=5, bytes_received=7))
        members.connected[name] = Attached(Member("s", name, "peer", name, "", 0.0, 0.0), connection, HELLO)
    members.connected["ann"].progress = Progress(12.0, computing=3.0, waiting=1.0, memory=1 << 20)
    ann, bob = status_of(state, members, "class", {}, now=0.0).peers
    assert (ann.computing, ann.memory, ann.share) == pytest.approx((0.75, 1 << 20, 0.75))
    assert (bob.computing, bob.memory, bob.bytes_received) == (0.0, 0, 7)
