"""What those who watch are told of each peer, and of many together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from jupyter_swarm.coordinator.members import Attached, Members
from jupyter_swarm.coordinator.status import LISTED, push, status_of
from jupyter_swarm.coordinator.traffic import Traffic
from jupyter_swarm.decisions.state import Peer, State, new_state
from jupyter_swarm.protocol.messages import PROTOCOL_VERSION, Hello, Progress
from jupyter_swarm.protocol.rules import SGD, RoundRule, SessionSettings
from jupyter_swarm.protocol.standing import Standing
from jupyter_swarm.store.rows import Member

HELLO = Hello(PROTOCOL_VERSION, "0.1", "peer", "ann")


def those(**samples: int) -> tuple[State, Members]:
    """A session with these peers, and what they have done."""
    state = new_state("s", RoundRule("EveryStep", SGD(lr=0.1), target_batch=8), SessionSettings(), 100, 0, 1)
    members = Members("s", [])
    for name, count in samples.items():
        state.peers[name] = Peer(name, name, samples=count, synced=True, version=0, speed=2.0)
        connection = cast(Any, SimpleNamespace(bytes_sent=5, bytes_received=7))
        members.connected[name] = Attached(Member("s", name, "peer", name, "", 0.0, 0.0), connection, HELLO)
    return state, members


def test_a_peers_own_telemetry_is_shown_beside_what_the_server_measures() -> None:
    state, members = those(ann=30, bob=10)
    members.connected["ann"].progress = Progress(12.0, computing=3.0, waiting=1.0, memory=1 << 20)
    ann, bob = status_of(state, members, Traffic("s"), "class", {}, now=0.0).peers
    assert (ann.computing, ann.memory, ann.share) == pytest.approx((0.75, 1 << 20, 0.75))
    assert (bob.computing, bob.memory, bob.bytes_received) == (0.0, 0, 7)


def test_of_a_crowd_all_are_counted_and_those_who_are_steered_are_listed() -> None:
    def size(count: int) -> int:
        state, members = those(**{f"peer-{number}": 1 for number in range(count)})
        return len(push("status", **msgspec.structs.asdict(status_of(state, members, Traffic("s"), "class", {}, 0.0))))

    assert size(5000) < size(LISTED) + 1000
    state, members = those(**{f"peer-{number}": 1 for number in range(1000)})
    state.peers["peer-990"].standing = Standing(paused=True)
    state.peers["peer-995"].standing = Standing(muted=True)
    found = status_of(state, members, Traffic("s"), "class", {}, now=0.0)
    assert [peer.id for peer in found.peers[:3]] == ["peer-990", "peer-995", "peer-0"]
    assert len(found.peers) == LISTED
    assert found.peers[0].share == pytest.approx(0.001)
    assert (found.crowd.peers, found.crowd.speed, found.crowd.bytes) == (1000, 2000.0, 12_000)
    assert found.crowd.states == {"waiting": 999, "paused": 1}


def test_those_who_are_gone_have_moved_their_bytes() -> None:
    state, members = those(ann=30, bob=10)
    traffic = Traffic("s")
    traffic.ended(members.connected.pop("ann"))
    assert status_of(state, members, traffic, "class", {}, now=0.0).crowd.bytes == 24
