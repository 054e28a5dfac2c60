"""A peer's half of rounds of steps, message by message, against a real holder; and what Sophia needs of it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import torch

from jupyter_swarm.peer.alone import Training
from jupyter_swarm.peer.compute import Computer, prepare
from jupyter_swarm.peer.inbox import Item, Pause
from jupyter_swarm.peer.recipe import Data, Recipe
from jupyter_swarm.protocol.layout import Stream
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
from jupyter_swarm.strategies import EveryStep, LocalUpdates
from tests.peer.classroom import NORMED, PLAIN, Classroom, Desk

STEPS = "LocalUpdates(steps=4, batch=3)"
STATEMENT = "EveryStep(target_batch=12)"


def local(text: str = PLAIN, strategy: str = STEPS) -> Recipe:
    text = text.replace("EveryStep, Recipe", "EveryStep, LocalUpdates, Recipe, Sophia, WarmStart")
    return Recipe.from_source(text.replace(STATEMENT, strategy, 1))


@pytest.fixture
def room() -> Classroom:
    return Classroom(local(NORMED))


def parameters(room: Classroom, model: torch.nn.Module) -> torch.Tensor:
    return FlatVector.of(room.layout, model).sections[Stream.PARAMETERS]


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return bool(torch.linalg.vector_norm(one - other) <= tolerance * torch.linalg.vector_norm(other))


def at_forward(desk: Desk, number: int, act: Callable[[], None]) -> None:
    """Call `act` in the forward pass of that number from now on."""
    seen: list[int] = []

    def count(*args: object) -> None:
        seen.append(1)
        if len(seen) == number:
            act()

    desk.computer.model.register_forward_pre_hook(count)


def take_all(desk: Desk, count: int) -> None:
    """Let the member answer what waits in its inbox."""
    for _ in range(count):
        item = desk.inbox.get()
        if isinstance(item, Pause):
            desk.member.pause(item.reason)
        else:
            desk.member.handle(item)  # type: ignore[arg-type]


def done(desk: Desk) -> LeaseDone:
    (message,) = desk.wire.take(LeaseDone)
    assert isinstance(message, LeaseDone)
    return message


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
    assert desk.member.view.digest_all() == room.view.digest_all()
    assert close(parameters(room, alone.model), room.view.sections[Stream.PARAMETERS])
    assert [entry["steps"] for entry in desk.record.history] == [4, 4, 4]
    assert [entry["strategy"] for entry in desk.record.history] == ["LocalUpdates"] * 3


def test_steps_change_the_model_and_not_the_view(room: Classroom) -> None:
    desk = room.join()
    room.train(desk, 12)
    assert desk.member.view.digest_all() == room.view.digest_all()
    assert not close(parameters(room, desk.computer.model), room.view.sections[Stream.PARAMETERS], 1e-3)


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
    assert ann.member.view.digest_all() == bob.member.view.digest_all() == room.view.digest_all()


@pytest.mark.parametrize(
    "item", [ContributeNow(1, 1, 1), Pause("by its user"), Commit(1, 1, 1, 12, 1, 0.5, 0.01, 0)], ids=lambda i: type(i)
)
def test_steps_end_after_the_one_under_way_when_somebody_waits(room: Classroom, item: Item) -> None:
    desk = room.join()
    # Four steps of one micro-batch each.
    at_forward(desk, 2, lambda: desk.inbox.put(item))
    desk.member.handle(room.lease(12))
    assert done(desk).computed == 6


def test_a_peer_that_is_asked_for_what_it_has_contributes_that(room: Classroom) -> None:
    desk = room.join()
    at_forward(desk, 2, lambda: desk.inbox.put(ContributeNow(1, 1, 1)))
    desk.member.handle(room.lease(12))
    take_all(desk, 1)
    announce = room.announced(desk)
    assert (announce.steps, announce.loss_count) == (2, 6)


def test_a_lease_that_comes_to_a_paused_peer_goes_back_whole(room: Classroom) -> None:
    desk = room.join()
    room.train(desk, 3)
    desk.member.pause("by its user")
    desk.member.handle(room.lease(9))
    assert done(desk).computed == 0
    desk.member.handle(ContributeNow(1, 1, 1))
    assert room.announced(desk).steps == 1


def test_a_lease_that_comes_when_it_is_too_late_goes_back_whole(room: Classroom) -> None:
    desk = room.join()
    desk.inbox.put(ContributeNow(1, 1, 1))
    desk.member.handle(room.lease(12))
    assert done(desk).computed == 0
    take_all(desk, 1)
    assert not desk.wire.take(Announce)


def test_a_contribution_counts_a_round_late_from_the_version_it_began_at(room: Classroom) -> None:
    ann, bob = room.join(), room.join()
    room.train(ann, 12)
    at_forward(bob, 2, lambda: bob.inbox.put(ContributeNow(1, 1, 1)))
    bob.member.handle(room.lease(12))
    number = room.collect(ann)
    first = room.packets([number])
    room.deliver(ann, first)
    # The commit is here before bob has announced.
    for frame in first:
        bob.member.arrivals.take(frame)
    bob.inbox.put(room.commit())
    moments = bob.computer.worker
    drifted = parameters(room, bob.computer.model)
    assert done(bob).computed == 6
    take_all(bob, 2)
    late = room.announced(bob)
    assert (late.round, late.base_version, late.loss_count) == (1, 0, 6)
    assert bob.member.view.digest_all() == room.view.digest_all()
    assert bob.wire.take(WantWork)[-1] == WantWork(1, 1)
    # Nothing is begun on the new view before the old contribution is decided.
    assert parameters(room, bob.computer.model).equal(drifted)

    staged = room.upload(bob, late)
    bob.member.handle(Accepted(1, late.key, staged[0]))
    assert close(parameters(room, bob.computer.model), room.view.sections[Stream.PARAMETERS], 0)
    room.train(bob, 6)
    room.train(ann, 12)
    frames = room.packets([staged, room.collect(ann), room.collect(bob)])
    room.deliver(ann, frames)
    room.deliver(bob, frames)
    assert ann.member.view.digest_all() == bob.member.view.digest_all() == room.view.digest_all()
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
            take_all(bob, 2)
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
    assert parameters(room, bob.computer.model).equal(room.view.sections[Stream.PARAMETERS])


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
    at_forward(desk, 2, lambda: desk.inbox.put(Abort(1, 1, 1, "a holder is gone")))
    desk.member.handle(room.lease(12))
    assert not desk.wire.take(LeaseDone)
    take_all(desk, 1)
    desk.member.handle(room.lease(0, attempt=2))
    assert parameters(room, desk.computer.model).equal(room.view.sections[Stream.PARAMETERS])


BAD = PLAIN.replace(
    "    x, y = batch\n    return nn.f",
    "    x, y = batch\n    TIMES.append(1)\n    x = x * (float('nan') if len(TIMES) == 3 else 1.0)\n    return nn.f",
    1,
).replace("def loss", "TIMES = []\n\ndef loss", 1)


def test_a_step_that_fails_leaves_no_trace_and_those_before_it_stand() -> None:
    spoilt, good = Classroom(local(BAD)), Classroom(local())
    desk, other = spoilt.join(), good.join()
    desk.member.handle(spoilt.lease(12))
    message = done(desk)
    assert message.computed == 6
    assert "nan" in message.failed
    assert "A step failed" in desk.record.status.notes[-1]
    good.train(other, 6)
    assert parameters(good, other.computer.model).equal(parameters(spoilt, desk.computer.model))
    # The moments too are those of two steps: the next ones are the same.
    spoilt.train(desk, 3)
    good.lease(6)
    good.train(other, 3)
    assert parameters(good, other.computer.model).equal(parameters(spoilt, desk.computer.model))


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
    assert parameters(room, desk.computer.model).isfinite().all()
    assert "not a number" in "\n".join(desk.record.status.notes)


def test_too_little_memory_in_a_step_means_smaller_micro_batches_and_the_same_step() -> None:
    small, plenty = Classroom(local()), Classroom(local())
    desk, other = small.join(), plenty.join()
    forward = desk.computer.model.forward

    def limited(x: torch.Tensor) -> torch.Tensor:
        if len(x) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(x)

    desk.computer.model.forward = limited  # type: ignore[method-assign]
    small.train(desk, 12)
    plenty.train(other, 12)
    assert desk.computer.micro_batch == 2
    assert close(parameters(small, desk.computer.model), parameters(plenty, other.computer.model), 1e-6)


def test_an_evaluation_between_steps_measures_the_view_and_does_not_touch_them(room: Classroom) -> None:
    desk, other = room.join(), Classroom(local(NORMED)).join()
    other.member.handle(room.lease(10, "evaluate"))
    at_view = done(other)
    room.train(desk, 6)
    before = FlatVector.of(room.layout, desk.computer.model).digest_all()
    desk.member.handle(room.lease(10, "evaluate"))
    assert done(desk).sums == at_view.sums
    assert FlatVector.of(room.layout, desk.computer.model).digest_all() == before


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_steps_under_autocast_are_nearly_those_without(precision: str) -> None:
    narrow = Classroom(local(PLAIN.replace("micro_batch=5", f"micro_batch=5, autocast={precision!r}")))
    wide = Classroom(local())
    desk, other = narrow.join(), wide.join()
    narrow.train(desk, 12)
    wide.train(other, 12)
    first, second = parameters(narrow, desk.computer.model), parameters(wide, other.computer.model)
    assert not first.equal(second)
    assert close(first, second, 0.05)


def test_float16_gradients_that_overflow_are_scaled_up_less() -> None:
    text = PLAIN.replace("micro_batch=5", "micro_batch=5, autocast='float16'").replace(
        "return nn.functional", "return 50 * nn.functional"
    )
    computer = prepare(Recipe.from_source(text), 0)
    computer.gradient(0, 12)
    exact = prepare(Recipe.from_source(text.replace("'float16'", "''")), 0)
    exact.gradient(0, 12)
    assert close(gradient(computer), gradient(exact), 0.02)


def gradient(computer: Computer) -> torch.Tensor:
    return computer.worker.finish()[0].sections[Stream.PARAMETERS]  # type: ignore[call-arg]


def test_own_samples_are_counted_by_themselves() -> None:
    recipe = local()
    room = Classroom(recipe)
    desk = room.join()
    x = torch.full((5, 6), 7.0)
    desk.computer = desk.member.computer = prepare(recipe, 3, own=Data(train=(x, torch.zeros(5, dtype=torch.long))))
    assert desk.computer.own_samples == 5
    seen: list[torch.Tensor] = []
    desk.computer.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    desk.member.handle(room.lease(6, own=True))
    assert done(desk).computed == 6
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
    room.round(desk, 6, 6)
    room.round(desk, 12)
    room.round(desk, 9, 3)
    assert desk.member.view.digest_all() == room.view.digest_all()
    assert [entry["strategy"] for entry in desk.record.history] == ["EveryStep"] * 2 + ["LocalUpdates"] * 2
    assert [entry["steps"] for entry in desk.record.history] == [0, 0, 4, 4]
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
    take_all(ann, 1)
    room.train(ann, 12)
    for frame in room.packets([room.collect(ann)]):
        bob.member.arrivals.take(frame)
    bob.inbox.put(room.commit())
    take_all(bob, 3)
    assert bob.member.version == 2
    assert bob.member.view.digest_all() == room.view.digest_all()


def test_moments_stay_while_the_inner_optimizer_does(room: Classroom) -> None:
    computer = prepare(room.recipe, 0)
    worker = computer.worker
    faster = LocalUpdates(steps=8, batch=3).rule(AdamW(lr=0.5))
    other = LocalUpdates(steps=8, batch=3).rule(AdamW(lr=0.5, betas=(0.8, 0.9)))
    assert not computer.follow(faster, 2)
    assert computer.worker is worker
    assert computer.follow(other, 3)
    assert computer.worker is not worker


def test_a_warm_start_alone_changes_strategy_where_it_says() -> None:
    recipe = local(strategy=f"WarmStart({STATEMENT}, 2, {STEPS})")
    room = Classroom(recipe)
    desk = room.join()
    alone = Training(recipe)
    for leases in ((12,), (5, 7), (12,), (6, 6)):
        room.round(desk, *leases)
        alone.step()
    assert [entry["strategy"] for entry in alone.entries] == ["EveryStep"] * 2 + ["LocalUpdates"] * 2
    assert close(parameters(room, alone.model), room.view.sections[Stream.PARAMETERS])


def test_an_interrupt_in_the_midst_of_a_round_of_steps_leaves_the_model_of_the_round_before() -> None:
    recipe = local()
    seen: list[int] = []

    def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        seen.append(1)
        if len(seen) == 7:
            raise KeyboardInterrupt
        return recipe.loss(model, batch)

    training, other = Training(msgspec.structs.replace(recipe, loss=loss)), Training(recipe)
    with pytest.raises(KeyboardInterrupt):
        training.run(3)
    other.run(1)
    assert training.round == 1
    for one, two in zip(training.model.parameters(), other.model.parameters(), strict=True):
        assert one.equal(two)
    assert training.run(2).round == 3


# --- Sophia


@pytest.mark.parametrize(
    ("estimator", "leases"), [("hutchinson", (12,)), ("hutchinson", (5, 7)), ("gnb", (12,))], ids=str
)
def test_sophia_in_a_session_is_sophia_alone(estimator: str, leases: tuple[int, ...]) -> None:
    text = PLAIN.replace("AdamW(lr=0.01)", f"Sophia(lr=0.01, hessian_every=2, estimator={estimator!r})")
    text = text.replace("metrics=", "sampled_loss=sampled, metrics=").replace(
        "def accuracy", "def sampled(model, batch):\n    return sampled_cross_entropy(model(batch[0]))\n\ndef accuracy"
    )
    text = text.replace("from torch import nn", "from torch import nn\nfrom jupyter_swarm.optim.hessian import *", 1)
    recipe = local(text, STATEMENT)
    room = Classroom(recipe)
    desk = room.join()
    alone = Training(recipe)
    for _ in range(4):
        room.round(desk, *leases)
        alone.step()
    assert desk.member.view.digest_all() == room.view.digest_all()
    assert close(parameters(room, alone.model), room.view.sections[Stream.PARAMETERS])


def test_sophia_makes_the_inner_steps() -> None:
    text = PLAIN.replace("AdamW(lr=0.01)", "Sophia(lr=0.01, hessian_every=3, estimator='hutchinson')")
    recipe = local(text)
    room = Classroom(recipe)
    desk = room.join()
    alone = Training(recipe)
    for leases in ((12,), (6, 6)):
        room.round(desk, *leases)
        alone.step()
    assert close(parameters(room, alone.model), room.view.sections[Stream.PARAMETERS])


def test_an_estimate_does_not_disturb_what_is_random_in_the_model_or_its_buffers() -> None:
    text = NORMED.replace("AdamW(lr=0.01)", "Sophia(lr=0.01, hessian_every=1, estimator='hutchinson')")
    text = text.replace("nn.ReLU()", "nn.Dropout(0.5)", 1)
    results = []
    for every in ("1", "1000000"):
        computer = prepare(local(text.replace("hessian_every=1", f"hessian_every={every}"), STATEMENT), 0)
        computer.follow(EveryStep(12).rule(computer.recipe.optimizer), 2)
        torch.manual_seed(5)
        computer.gradient(0, 12)
        results.append(FlatVector.of(computer.layout, computer.model).digest_all())
        results.append(str(torch.rand(1)))
    assert results[:2] == results[2:]


# --- recipes that go wrong


def test_a_batch_of_another_shape_is_named_with_the_line_of_the_recipe() -> None:
    text = PLAIN.replace("x[:30], y[:30]", "torch.cat([x[:30], x[:30]], 1), y[:30]")
    desk = Classroom(local(text)).join()
    desk.member.handle(Classroom(local(text)).lease(12))
    message = done(desk)
    assert "nn.functional.cross_entropy(model(x), y)" in message.failed


def test_samples_of_different_shapes_are_named_as_such() -> None:
    text = PLAIN.replace("(x[:30], y[:30])", "[(x[i, : 5 + (i != 7)], y[i]) for i in range(30)]")
    desk = Classroom(local(text)).join()
    desk.member.handle(Classroom(local(text)).lease(30))
    assert "do not make a batch" in done(desk).failed
