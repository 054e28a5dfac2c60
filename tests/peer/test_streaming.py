"""Steps that go on while a round is finished, message by message."""

from __future__ import annotations

import pytest
from torch import nn

from jupyter_swarm.peer.arrivals import Arrivals
from jupyter_swarm.protocol.messages import (
    Accepted,
    Announce,
    Commit,
    ContributeNow,
    Dropped,
    Grant,
    LeaseDone,
    LeaseGrant,
    Strategy,
    WantWork,
)
from jupyter_swarm.protocol.rules import SGD, StrategyChange
from jupyter_swarm.shards.layout import layout_of
from jupyter_swarm.strategies import LocalUpdates, StreamingLocalUpdates

from .classroom import Classroom, Desk, local

STREAMING = "StreamingLocalUpdates(steps=8, batch=3, fragments=2, up=Codec.FP32, down=Codec.FP32)"


@pytest.fixture
def room() -> Classroom:
    return Classroom(local(strategy=STREAMING))


def sent(room: Classroom) -> tuple[Desk, Announce]:
    """A member whose contribution to the first round is announced."""
    desk = room.join()
    room.train(desk, 12)
    desk.member.handle(ContributeNow(1, 1, 1))
    return desk, room.announced(desk)


def early(room: Classroom) -> LeaseGrant:
    """Steps for the round after the one under way."""
    lease = room.lease(12)
    return LeaseGrant(1, lease.round + 1, 1, lease.lease, "train", lease.start, lease.stop, lease.learning_rate)


def test_a_round_is_finished_between_the_steps_of_the_next(room: Classroom) -> None:
    desk, announce = sent(room)
    assert desk.wire.take(WantWork), "it goes on at once"
    number = []

    def granted() -> None:
        number.append(room._number + 1)
        desk.inbox.put(Grant(1, 1, 1, announce.key, number[0], 5.0))

    def committed() -> None:
        desk.inbox.put(Accepted(1, announce.key, number[0]))
        staged = room.upload(desk, announce)  # what was sent since the grant
        for frame in room.packets([staged]):
            desk.member.arrivals.take(frame)
        desk.inbox.put(room.commit())

    desk.at_forward(1, granted)
    desk.at_forward(3, committed)
    desk.member.handle(early(room))
    assert desk.done().computed == 12, "nothing was lost of the lease"
    assert desk.member.view.version == 1
    assert desk.member.view.digest() == room.view.digest_all()
    desk.member.handle(ContributeNow(1, 2, 1))
    later = room.announced(desk)
    assert (later.round, later.base_version, later.steps) == (2, 1, 4)


def test_another_strategy_ends_the_steps_that_were_made_ahead_and_the_peer_asks_for_work(room: Classroom) -> None:
    desk, announce = sent(room)
    frames = room.packets([room.upload(desk, announce)])
    for frame in frames:
        desk.member.arrivals.take(frame)
    lease = LeaseGrant(1, 2, 1, 77, "train", 12, 24, 0.01)
    desk.inbox.put(Strategy(1, (StrategyChange(2, LocalUpdates(4, 3).rule(room.recipe.optimizer)),)))
    desk.inbox.put(room.commit())
    desk.wire.sent.clear()
    desk.member.handle(lease)
    assert not desk.wire.take(LeaseDone)
    assert desk.wire.take(WantWork)[-1] == WantWork(1, 1)


def test_a_call_for_the_next_round_that_overtakes_the_commit_is_answered_and_stands(room: Classroom) -> None:
    desk, announce = sent(room)
    frames = room.packets([room.upload(desk, announce)])
    desk.member.handle(Accepted(1, announce.key, 1))
    desk.member.handle(LeaseGrant(1, 2, 1, 77, "train", 12, 24, 0.01))
    desk.member.handle(ContributeNow(1, 2, 1))
    later = room.announced(desk)
    room.deliver(desk, frames)
    assert room.upload(desk, later)[1] == 12


def test_a_contribution_that_does_not_count_takes_the_steps_ahead_with_it(room: Classroom) -> None:
    desk, announce = sent(room)
    desk.at_forward(2, lambda: desk.inbox.put(Dropped(1, announce.key, "too slow")))
    desk.wire.sent.clear()
    desk.member.handle(early(room))
    assert not desk.wire.take(LeaseDone)
    assert desk.wire.take(WantWork)


def test_a_fragment_without_parameters_needs_no_packets() -> None:
    rule = StreamingLocalUpdates(steps=8, batch=1).rule(SGD(0.1))
    arrivals = Arrivals(layout_of(nn.Linear(1, 1)), lambda round: rule, "x", lambda event: None)
    assert arrivals.packets_of(1, 1) is not None
    assert arrivals.packets_of(2, 1) is None


def test_a_commit_whose_packets_are_missing_makes_the_peer_fetch_all_again(room: Classroom) -> None:
    desk, _ = sent(room)
    desk.at_forward(2, lambda: desk.inbox.put(Commit(1, 1, 1, 12, 1, 0.5, 0.01, 0)))
    desk.member.handle(early(room))
    assert desk.record.status.state == "syncing"
    room.offer(desk)
    room.train(desk, 12)
