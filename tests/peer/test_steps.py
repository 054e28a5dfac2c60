"""A peer's half of rounds of steps, message by message, against a real holder."""

from __future__ import annotations

import pytest
import torch

from jupyter_swarm.peer.alone import Training
from jupyter_swarm.peer.inbox import Item, Pause
from jupyter_swarm.peer.recipe import Data, Recipe
from jupyter_swarm.protocol.messages import (
    Abort,
    Accepted,
    Announce,
    Commit,
    ContributeNow,
    Dropped,
    LeaseDone,
    Strategy,
    Synced,
    ViewDigest,
    WantWork,
)
from jupyter_swarm.protocol.rules import AdamW, Codec, StrategyChange
from jupyter_swarm.shards.pseudo_gradient import PseudoGradient
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.strategies import LocalUpdates
from tests.peer.classroom import NORMED, PLAIN, Classroom, close, local, parameters_of


@pytest.fixture
def room() -> Classroom:
    return Classroom(local(NORMED))


@pytest.mark.parametrize("text", [PLAIN, NORMED])
def test_rounds_of_steps_are_the_training_alone(text: str) -> None:
    recipe = local(text)
    room = Classroom(recipe)
    desk = room.join()
    alone = Training(recipe)
    for leases in ((12,), (6, 6), (3, 3, 6)):
        room.round(desk, *leases)
        entry = alone.step()
        digest = desk.wire.last(ViewDigest)
        assert isinstance(digest, ViewDigest)
        assert digest.sha256 == room.view.digest(room.layout.shards[digest.shard])
        assert (entry["steps"], entry["samples"], entry["strategy"]) == (4, 12, "LocalUpdates")
    assert desk.member.view.digest() == room.view.digest_all()
    assert close(parameters_of(alone._computer), room.parameters)


def test_steps_change_the_model_and_not_the_view(room: Classroom) -> None:
    desk = room.join()
    room.train(desk, 12)
    assert desk.member.view.digest() == room.view.digest_all()
    assert not close(parameters_of(desk.computer), room.parameters, 1e-3)


def test_a_contribution_says_how_many_steps_and_samples_it_is_of(room: Classroom) -> None:
    desk = room.join()
    room.train(desk, 6, 4)
    desk.member.handle(ContributeNow(1, 1, 1))
    announce = room.announced(desk)
    assert (announce.steps, announce.loss_count, announce.leases) == (4, 10, (1, 2))


def test_peers_that_took_different_numbers_of_samples_end_at_one_view(room: Classroom) -> None:
    ann, bob = room.join(), room.join()
    for _ in range(2):
        room.train(ann, 12)
        room.train(bob, 3)
        frames = room.packets([room.collect(ann), room.collect(bob)])
        room.deliver(ann, frames)
        room.deliver(bob, frames)
    assert ann.member.view.digest() == bob.member.view.digest() == room.view.digest_all()


@pytest.mark.parametrize(
    "item", [ContributeNow(1, 1, 1), Pause("by its user"), Commit(1, 1, 1, 12, 1, 0.5, 0.01, 0)], ids=lambda i: type(i)
)
def test_steps_end_after_the_one_under_way_when_somebody_waits(room: Classroom, item: Item) -> None:
    desk = room.join()
    # Four steps of one micro-batch each.
    desk.at_forward(2, lambda: desk.inbox.put(item))
    desk.member.handle(room.lease(12))
    assert desk.done().computed == 6


def test_a_peer_that_is_asked_for_what_it_has_contributes_that(room: Classroom) -> None:
    desk = room.join()
    desk.at_forward(2, lambda: desk.inbox.put(ContributeNow(1, 1, 1)))
    desk.member.handle(room.lease(12))
    desk.take_all(1)
    announce = room.announced(desk)
    assert (announce.steps, announce.loss_count) == (2, 6)


def test_a_lease_that_comes_to_a_paused_peer_goes_back_whole(room: Classroom) -> None:
    desk = room.join()
    room.train(desk, 3)
    desk.member.pause("by its user")
    desk.member.handle(room.lease(9))
    assert desk.done().computed == 0
    desk.member.handle(ContributeNow(1, 1, 1))
    assert room.announced(desk).steps == 1


def test_a_lease_that_comes_when_it_is_too_late_goes_back_whole(room: Classroom) -> None:
    desk = room.join()
    desk.inbox.put(ContributeNow(1, 1, 1))
    desk.member.handle(room.lease(12))
    assert desk.done().computed == 0
    desk.take_all(1)
    assert not desk.wire.take(Announce)


def test_a_contribution_counts_a_round_late_from_the_version_it_began_at(room: Classroom) -> None:
    ann, bob = room.join(), room.join()
    room.train(ann, 12)
    bob.at_forward(2, lambda: bob.inbox.put(ContributeNow(1, 1, 1)))
    bob.member.handle(room.lease(12))
    number = room.collect(ann)
    first = room.packets([number])
    room.deliver(ann, first)
    # The commit is here before bob has announced.
    for frame in first:
        bob.member.arrivals.take(frame)
    bob.inbox.put(room.commit())
    moments = bob.computer.worker
    drifted = parameters_of(bob.computer)
    assert bob.done().computed == 6
    bob.take_all(2)
    late = room.announced(bob)
    assert (late.round, late.base_version, late.loss_count) == (1, 0, 6)
    assert bob.member.view.digest() == room.view.digest_all()
    assert bob.wire.take(WantWork)[-1] == WantWork(1, 1)
    # Nothing is begun on the new view before the old contribution is decided.
    assert parameters_of(bob.computer).equal(drifted)

    staged = room.upload(bob, late)
    bob.member.handle(Accepted(1, late.key, staged[0]))
    assert close(parameters_of(bob.computer), room.parameters, 0)
    room.train(bob, 6)
    room.train(ann, 12)
    frames = room.packets([staged, room.collect(ann), room.collect(bob)])
    room.deliver(ann, frames)
    room.deliver(bob, frames)
    assert ann.member.view.digest() == bob.member.view.digest() == room.view.digest_all()
    assert bob.computer.worker is moments


def test_a_late_contribution_is_what_it_would_have_been_in_time() -> None:
    norms = []
    for late in (False, True):
        room = Classroom(local(NORMED))
        ann, bob = room.join(), room.join()
        room.train(ann, 12)
        room.train(bob, 6)
        if late:
            bob.inbox.put(ContributeNow(1, 1, 1))
            frames = room.packets([room.collect(ann)])
            for frame in frames:
                bob.member.arrivals.take(frame)
            bob.inbox.put(room.commit())
            bob.take_all(2)
        else:
            bob.member.handle(ContributeNow(1, 1, 1))
        norms.append(room.announced(bob).norms)
    assert norms[0] == norms[1]


def test_what_may_not_count_late_is_forgotten_at_the_commit() -> None:
    room = Classroom(local(strategy="LocalUpdates(steps=4, batch=3, staleness=0)"))
    ann, bob = room.join(), room.join()
    room.train(ann, 12)
    room.train(bob, 6)
    frames = room.packets([room.collect(ann)])
    room.deliver(bob, frames)
    assert not bob.wire.take(Announce)
    assert parameters_of(bob.computer).equal(room.parameters)


@pytest.mark.parametrize("how", ["abort", "drop", "reconnect"])
def test_what_is_void_leaves_nothing_behind_but_moments(room: Classroom, how: str) -> None:
    desk = room.join()
    room.train(desk, 12)
    if how == "abort":
        desk.member.handle(Abort(1, 1, 1, "a holder is gone"))
    elif how == "drop":
        desk.member.handle(ContributeNow(1, 1, 1))
        desk.member.handle(Dropped(1, room.announced(desk).key, "its upload took too long"))
    else:
        desk.member.welcome(room.welcome())
        assert desk.wire.take(Synced)
    desk.member.handle(ContributeNow(1, 1, 1))
    assert not desk.wire.take(Announce)
    room.position = 0
    room.train(desk, 3, attempt=2)
    assert isinstance(desk.computer.worker, PseudoGradient)
    assert desk.computer.worker.steps == 1


def test_an_abort_in_the_midst_of_steps_ends_them_without_a_word(room: Classroom) -> None:
    desk = room.join()
    desk.at_forward(2, lambda: desk.inbox.put(Abort(1, 1, 1, "a holder is gone")))
    desk.member.handle(room.lease(12))
    assert not desk.wire.take(LeaseDone)
    desk.take_all(1)
    desk.member.handle(room.lease(0, attempt=2))
    assert parameters_of(desk.computer).equal(room.parameters)


BAD = PLAIN.replace(
    "    x, y = batch\n    return nn.f",
    "    x, y = batch\n    TIMES.append(1)\n    x = x * (float('nan') if len(TIMES) == 3 else 1.0)\n    return nn.f",
    1,
).replace("def loss", "TIMES = []\n\ndef loss", 1)


def test_a_step_that_fails_leaves_no_trace_and_those_before_it_stand() -> None:
    spoilt, good = Classroom(local(BAD)), Classroom(local())
    desk, other = spoilt.join(), good.join()
    desk.member.handle(spoilt.lease(12))
    message = desk.done()
    assert message.computed == 6
    assert "nan" in message.failed
    assert "A step failed" in desk.record.status.notes[-1]
    good.train(other, 6)
    assert parameters_of(other.computer).equal(parameters_of(desk.computer))
    # The moments too are those of two steps: the next ones are the same.
    spoilt.train(desk, 3)
    good.lease(6)
    good.train(other, 3)
    assert parameters_of(other.computer).equal(parameters_of(desk.computer))


def test_parameters_that_are_no_numbers_any_more_are_announced_as_such(room: Classroom) -> None:
    desk = room.join()
    room.train(desk, 12)
    with torch.no_grad():
        next(desk.computer.model.parameters()).fill_(float("inf"))
    desk.member.handle(ContributeNow(1, 1, 1))
    announce = room.announced(desk)
    assert announce.norms == {}
    desk.member.handle(Dropped(1, announce.key, "its norm is not a number"))
    room.train(desk, 3)
    assert parameters_of(desk.computer).isfinite().all()
    assert "not a number" in "\n".join(desk.record.status.notes)


def test_an_evaluation_between_steps_measures_the_view_and_does_not_touch_them(room: Classroom) -> None:
    desk, other = room.join(), Classroom(local(NORMED)).join()
    other.member.handle(room.lease(10, "evaluate"))
    at_view = other.done()
    room.train(desk, 6)
    before = FlatVector.of(room.layout, desk.computer.model).digest_all()
    desk.member.handle(room.lease(10, "evaluate"))
    assert desk.done().sums == at_view.sums
    assert FlatVector.of(room.layout, desk.computer.model).digest_all() == before


def test_own_samples_are_counted_by_themselves() -> None:
    x = torch.full((5, 6), 7.0)
    room = Classroom(local())
    desk = room.join(own=Data(train=(x, torch.zeros(5, dtype=torch.long))))
    assert desk.computer.own_samples == 5
    seen: list[torch.Tensor] = []
    desk.computer.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    desk.member.handle(room.lease(6, own=True))
    assert desk.done().computed == 6
    assert torch.cat(seen).eq(7.0).all()
    assert sum(map(len, seen)) == 6


# --- strategies that change


def test_a_strategy_that_changes_holds_from_its_round_on(room: Classroom) -> None:
    recipe = Recipe.from_source(PLAIN)
    room = Classroom(recipe)
    desk = room.join()
    room.round(desk, 12)
    rule = LocalUpdates(steps=4, batch=3, down=Codec.INT8).rule(AdamW(lr=0.01))
    room.change(desk, StrategyChange(3, rule))
    assert desk.record.status.strategy == "EveryStep"
    room.round(desk, 6, 6)
    assert desk.record.status.strategy == "LocalUpdates"
    room.round(desk, 12)
    room.round(desk, 9, 3)
    assert desk.member.view.digest() == room.view.digest_all()
    assert "From round 3 on: LocalUpdates" in "\n".join(desk.record.status.notes)


def test_packets_of_a_new_rule_are_taken_before_the_message_that_brings_it_is_read(room: Classroom) -> None:
    ann, bob = room.join(), room.join()
    room.train(ann, 12)
    rule = LocalUpdates(steps=4, batch=3, down=Codec.FP16).rule(AdamW(lr=0.01))
    first = room.packets([room.collect(ann)])
    for desk in (ann, bob):
        for frame in first:
            desk.member.arrivals.take(frame)
    bob.inbox.put(room.commit())
    ann.member.handle(room.commit())
    room.changes = (StrategyChange(2, rule),)
    room.holder.change_rule(rule)
    for desk in (ann, bob):
        desk.inbox.put(Strategy(1, room.changes))
    ann.take_all(1)
    room.train(ann, 12)
    for frame in room.packets([room.collect(ann)]):
        bob.member.arrivals.take(frame)
    bob.inbox.put(room.commit())
    bob.take_all(3)
    assert bob.member.view.version == 2
    assert bob.member.view.digest() == room.view.digest_all()
