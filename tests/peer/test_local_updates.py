"""Rounds of steps over real sockets: every peer ends at one view, every sample counts once, nobody is waited for."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import safetensors.torch
import torch

from jupyter_swarm.peer import api
from jupyter_swarm.peer.client import Client
from jupyter_swarm.peer.compute import prepare
from jupyter_swarm.peer.identity import Identity
from jupyter_swarm.peer.record import Record, Status
from jupyter_swarm.peer.session import Session
from jupyter_swarm.peer.trainer import Trainer
from tests.waiting import until

from .classroom import EVERY_STEP, NORMED, PLAIN, close, local, parameters_of
from .conftest import Server

pytestmark = pytest.mark.usefixtures("kernel")

LOCAL = "LocalUpdates(steps=4, batch=3, grace=2.0)"
WARM = f"WarmStart({EVERY_STEP}, 3, {LOCAL})"


class Peer:
    """One of several peers in this process. It stops in its first step at version `stops_at` until `gate` is set.
    steps: forward passes of training so far."""

    def __init__(self, session: Session, server: Server, folder: Path, name: str, stops_at: int) -> None:
        self.stops_at = stops_at
        self.steps = 0
        self.gate = threading.Event()
        self.stopped = threading.Event()
        client = Client.of_member(session.invite())
        self.record = Record(session.id)
        ours = msgspec.structs.replace(session.recipe, loss=self._gated(session.recipe.loss))
        self.computer = prepare(ours, session.recipe.seed)
        self.trainer = Trainer(
            client.socket_url(session.id),
            client.headers,
            self.computer,
            self.record,
            Identity(server.url, session.id, name, folder),
            session.recipe.sha256,
            name,
        )
        self.trainer.start()

    def _gated(self, loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def gated(*arguments: Any) -> torch.Tensor:
            if torch.is_grad_enabled() and self.record.status.version >= self.stops_at and not self.gate.is_set():
                self.stopped.set()
                assert self.gate.wait(60)
            self.steps += torch.is_grad_enabled()
            return loss(*arguments)

        return gated

    def reaches(self, condition: Callable[[Status], bool]) -> None:
        """Fails unless the peer's status fulfils `condition` before long."""
        met = self.record.wait_for(lambda status: condition(status) or status.state == "failed", 60)
        assert met, self.record.status
        assert condition(self.record.status), self.record.status


Join = Callable[..., Peer]


@pytest.fixture
def join(server: Server, tmp_path: Path) -> Iterator[Join]:
    peers: list[Peer] = []

    def join(session: Session, name: str, stops_at: int = 10**6) -> Peer:
        peers.append(Peer(session, server, tmp_path / "identities", name, stops_at))
        return peers[-1]

    yield join
    for peer in peers:
        peer.gate.set()
        peer.trainer.leave()


def records(session: Session) -> list[dict[str, Any]]:
    return list(session._client.records(session.id))


def end_alike(session: Session, *peers: Peer) -> None:
    """End the session; all have the same numbers then."""
    session.stop()
    for peer in peers:
        peer.reaches(lambda status: status.state == "finished")
    assert len({peer.trainer.digest() for peer in peers}) == 1


def check_once(rounds: list[dict[str, Any]]) -> None:
    """No position is in two contributions, and all before the cursor are in one, or wait to be leased again."""
    taken = [tuple(pair) for record in rounds for one in record["contributors"] for pair in one["leases"]]
    book = rounds[-1]["book"]
    parts = sorted(taken + [tuple(pair) for pair in book["pool"]])
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(parts)), parts
    assert sum(stop - start for start, stop in taken) == book["consumed"] == sum(r["samples"] for r in rounds)
    assert sum(stop - start for start, stop in parts) == parts[-1][1] == book["cursor"]


# Not a warm start with batch norm: the batches it normalises in a round of samples are leases, however large.
@pytest.mark.parametrize(
    ("strategy", "text"),
    [(LOCAL, PLAIN), (LOCAL, NORMED), (WARM, PLAIN)],
    ids=["local", "local with batch norm", "warm start"],
)
def test_one_peer_in_a_session_is_the_training_alone(server: Server, strategy: str, text: str) -> None:
    session = api.host(local(text, strategy), rounds=6, server=server.url)
    assert session.wait(60)
    alone = api.train(local(text, strategy), rounds=6)
    assert close(parameters_of(session._computer), parameters_of(alone._computer))
    ours, theirs = (history.sel(round=slice(1, None)) for history in (session.history(), alone.history()))
    for name in ("round", "strategy", "inner_steps", "samples", "samples_done", "learning_rate"):
        assert ours[name].values.tolist() == theirs[name].values.tolist()
    assert ours.loss.values == pytest.approx(theirs.loss.values, rel=1e-4)
    check_once(records(session))


SPARSE = f"WarmStart({EVERY_STEP}, 3, SparseLocalUpdates(steps=4, batch=3, grace=2.0))"
STREAMING = f"WarmStart({EVERY_STEP}, 3, StreamingLocalUpdates(steps=8, batch=3, fragments=2, grace=2.0))"


@pytest.mark.parametrize(("count", "strategy"), [(2, WARM), (3, WARM), (3, SPARSE), (3, STREAMING)])
def test_peers_end_at_one_view_and_every_sample_counts_once(
    server: Server, join: Join, count: int, strategy: str
) -> None:
    session = api.host(local(NORMED, strategy), rounds=8, train=False, minimum_peers=count, server=server.url)
    peers = [join(session, f"peer {number}") for number in range(count)]
    for peer in peers:
        peer.reaches(lambda status: status.state == "finished")
    assert len({peer.trainer.digest() for peer in peers}) == 1
    rounds = records(session)
    later = {WARM: "LocalUpdates", SPARSE: "SparseLocalUpdates", STREAMING: "StreamingLocalUpdates"}[strategy]
    assert [record["strategy"] for record in rounds] == ["EveryStep"] * 3 + [later] * 5
    assert {one["peer"] for record in rounds for one in record["contributors"]} == {
        peer.record.status.peer for peer in peers
    }
    for record in rounds[3:]:
        for one in record["contributors"]:
            assert 1 <= one["steps"] <= 4
            assert 3 * (one["steps"] - 1) < one["weight"] <= 3 * one["steps"]
    check_once(rounds)


def test_a_peer_that_stops_in_mid_round_holds_up_nobody_and_counts_a_round_late(server: Server, join: Join) -> None:
    session = api.host(local(strategy=LOCAL), rounds=10**6, train=False, minimum_peers=2, server=server.url)
    ann, bob = join(session, "ann", stops_at=3), join(session, "bob", stops_at=2)
    assert bob.stopped.wait(60)
    # Round 3 ends without him. Round 4 does not before he has told what he had, and has work again.
    assert ann.stopped.wait(60)
    assert ann.record.status.version == 3
    bob.gate.set()
    bob.reaches(lambda status: status.version == 3 and status.state == "training")
    ann.gate.set()
    ann.reaches(lambda status: status.version > 6)
    end_alike(session, ann, bob)
    rounds = records(session)
    late = [
        (record["round"], one["peer"])
        for record in rounds
        for one in record["contributors"]
        if one["base_version"] < record["round"] - 1
    ]
    assert late == [(4, bob.record.status.peer)]
    check_once(rounds)


def test_a_peer_that_stops_for_many_rounds_goes_on_from_where_the_class_is(server: Server, join: Join) -> None:
    session = api.host(local(strategy=LOCAL), rounds=10**6, train=False, minimum_peers=1, server=server.url)
    ann, bob = join(session, "ann"), join(session, "bob", stops_at=2)
    assert bob.stopped.wait(60)
    ann.reaches(lambda status: status.version >= 6)
    bob.gate.set()
    bob.reaches(lambda status: status.version >= 8)
    end_alike(session, ann, bob)
    check_once(records(session))


def test_a_paused_peer_contributes_the_steps_that_it_has_made(server: Server, join: Join) -> None:
    session = api.host(local(strategy=LOCAL), rounds=10**6, train=False, server=server.url)
    ann = join(session, "ann", stops_at=2)
    assert ann.stopped.wait(60)
    ann.trainer.pause("by its user")
    ann.gate.set()
    ann.reaches(lambda status: status.state == "paused" and status.version == 3)
    ann.trainer.resume()
    ann.reaches(lambda status: status.version >= 4)
    session.stop()
    ann.reaches(lambda status: status.state == "finished")
    rounds = records(session)
    assert [record["contributors"][0]["steps"] for record in rounds[:4]] == [4, 4, 1, 4]
    check_once(rounds)


def test_a_recipe_that_does_not_return_keeps_nobody_from_leaving(server: Server, join: Join) -> None:
    session = api.host(local(strategy=LOCAL), rounds=10**6, train=False, server=server.url)
    ann = join(session, "ann", stops_at=0)
    assert ann.stopped.wait(60)
    assert not ann.trainer.leave(0.2)
    bob = join(session, "bob")
    bob.reaches(lambda status: status.version >= 2)
    check_once(records(session))


def test_steps_go_on_while_a_round_waits_for_another_peer(server: Server, join: Join) -> None:
    # One step a round, as a slower peer makes fewer steps than a faster one, but never less than one.
    streaming = "StreamingLocalUpdates(steps=2, batch=3, fragments=2, grace=60.0)"
    session = api.host(local(strategy=streaming), rounds=10**6, train=False, minimum_peers=2, server=server.url)
    ann, bob = join(session, "ann"), join(session, "bob", stops_at=2)
    assert bob.stopped.wait(60)
    # That of the round that waits for him is made and sent, and then that of the next one.
    until(lambda: ann.steps >= ann.record.status.version + 2)
    assert ann.record.status.version < 4
    bob.gate.set()
    ann.reaches(lambda status: status.version > 8)
    end_alike(session, ann, bob)
    check_once(records(session))


def test_streaming_goes_on_after_the_server_was_away(server: Server, join: Join) -> None:
    streaming = "StreamingLocalUpdates(steps=8, batch=3, fragments=2, grace=2.0)"
    session = api.host(local(strategy=streaming), rounds=10**6, train=False, minimum_peers=2, server=server.url)
    ann, bob = join(session, "ann"), join(session, "bob")
    ann.reaches(lambda status: status.version >= 3)
    server.kill()
    server.start()
    came = ann.record.status.version
    for peer in (ann, bob):
        peer.reaches(lambda status: status.version > came + 3)
    end_alike(session, ann, bob)
    check_once(records(session))


def test_a_restarted_peer_goes_on_with_what_it_had_not_sent(server: Server, join: Join, tmp_path: Path) -> None:
    strategy, kept = "SparseLocalUpdates(steps=4, batch=3, grace=2.0)", tmp_path / "identities"
    session = api.host(local(strategy=strategy), rounds=10**6, train=False, server=server.url)
    ann = join(session, "ann")
    ann.reaches(lambda status: status.version >= 3)
    ann.trainer.pause()
    ann.reaches(lambda status: status.state == "paused")
    member = ann.trainer._member
    assert member is not None
    # What it has computed still counts: then all is decided, and written.
    until(lambda: not member._work.leases and member._contribution is None and [*kept.glob("*.residual")])
    ann.trainer.leave()
    (path,) = kept.glob("*.residual")
    left = safetensors.torch.load_file(path)["residual"]
    assert left.any()
    again = join(session, "ann", stops_at=0)
    assert again.stopped.wait(60)
    assert again.record.status.peer == ann.record.status.peer
    back = again.trainer._member
    assert back is not None
    values = back.residual._feedback.values
    assert values is not None
    assert torch.equal(values, left)
    again.gate.set()
    version = again.record.status.version
    again.reaches(lambda status: status.version >= version + 2)
    session.stop()
    again.reaches(lambda status: status.state == "finished")
    again.trainer.leave()
    assert not [*kept.glob("*.residual")]
    check_once(records(session))
