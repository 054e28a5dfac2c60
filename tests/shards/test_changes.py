"""Rules that change between two rounds."""

import pytest
import torch

from jupyter_swarm.optim import SGD, AdamW, Nesterov, OptimizerRule, Sophia
from jupyter_swarm.optim.slices import slot_names
from jupyter_swarm.protocol.errors import SettingError
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.messages import Adopt
from jupyter_swarm.protocol.rules import Codec, RoundRule
from jupyter_swarm.shards.carried import carries_over
from jupyter_swarm.shards.holder import Holder
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.strategies import EveryStep, LocalUpdates

from .rounds import GENERATION, SESSION, holder_of, prepare_of, prepared, run_round, send, small, state_of


def every(optimizer: OptimizerRule = AdamW(1e-2), down: Codec = Codec.FP32) -> RoundRule:
    return EveryStep(target_batch=60, down=down).rule(optimizer)


def local(down: Codec = Codec.FP32, outer: OptimizerRule = Nesterov(0.7)) -> RoundRule:
    return LocalUpdates(steps=5, batch=4, down=down, outer=outer).rule(AdamW(1e-2))


class Session:
    """One holder, or two, and the views of peers, some of which join late."""

    def __init__(self, rule: RoundRule, split: bool = False) -> None:
        model, self.layout = small()
        self.round = 0
        self.views = [FlatVector.of(self.layout, model)]
        everything = tuple(shard.index for shard in self.layout.shards)
        parts = (everything[:2], everything[2:]) if split else (everything,)
        self.holders = [holder_of(self.views[0], rule, part) for part in parts]

    def change(self, rule: RoundRule) -> None:
        for holder in self.holders:
            holder.change_rule(rule)
        self.check()

    def rounds(self, count: int = 2) -> None:
        for _ in range(count):
            self.round += 1
            numbers = [10 * self.round + 1, 10 * self.round + 2]
            run_round(self.holders, self.views, self.round, numbers, weights=(20, 40))
            self.check()

    def join(self) -> None:
        self.views.append(self.pulled())

    def pulled(self) -> FlatVector:
        view = FlatVector(self.layout)
        for holder in self.holders:
            holder.copy_view(view)
        return view

    def check(self) -> None:
        """What all peers have is what the holders say they have, bit for bit."""
        assert {view.digest_all() for view in self.views} == {self.pulled().digest_all()}
        for holder in self.holders:
            for index in holder.shards:
                assert holder.view_digest(index) == self.views[0].digest(self.layout.shards[index])


CHANGES = [
    (every(), local(), every()),
    (every(down=Codec.FP16), every(), every(down=Codec.INT8)),
    (local(Codec.INT8), every(SGD(0.1)), local(Codec.BF16)),
    (every(Nesterov(0.1), Codec.BF16), every(Nesterov(0.1), Codec.INT8), every(Sophia(0.01))),
    (every(Sophia(0.01, hessian_every=2), Codec.FP16), every(SGD(0.1)), every(Sophia(0.01, hessian_every=2))),
]


@pytest.mark.parametrize("rules", CHANGES)
@pytest.mark.parametrize("split", [False, True])
def test_views_stay_the_same_bits_on_all_peers_over_changes(rules: tuple[RoundRule, ...], split: bool) -> None:
    session = Session(rules[0], split)
    session.rounds()
    session.join()
    for rule in rules[1:]:
        session.change(rule)
        session.join()
        session.rounds()
    assert [holder.version for holder in session.holders] == [6] * len(session.holders)


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        (every(AdamW(1e-2)), every(AdamW(1e-3), Codec.INT8), True),
        (every(Nesterov(0.1)), every(SGD(0.1, momentum=0.5)), True),
        (every(AdamW(1e-2)), every(Nesterov(0.1)), False),
        (every(AdamW(1e-2)), every(Sophia(1e-2)), False),
        # The momentum of gradients is of another size than that of pseudo-gradients.
        (every(Nesterov(0.1)), local(), False),
    ],
)
def test_the_optimizers_state_goes_on_where_it_means_the_same(old: RoundRule, new: RoundRule, kept: bool) -> None:
    session = Session(old)
    session.rounds()
    holder = session.holders[0]

    def slots() -> list[bytes]:
        # A master that differs from the view comes behind them.
        return [frame[64:] for frame in state_of(holder) if frame[4] == Stream.OPTIMIZER and frame[32] < count]

    count = len(slot_names(old.optimizer))
    before = slots()
    assert carries_over(old, new) == kept
    session.change(new)
    count = len(slot_names(new.optimizer))
    assert holder.step_number == (2 if kept else 0)
    assert (slots() == before) == kept
    assert kept or not any(any(each) for each in slots())


def test_a_change_that_starts_anew_goes_on_like_a_new_session_from_the_same_view() -> None:
    session = Session(every(AdamW(1e-2), Codec.FP16))
    session.rounds(3)
    session.change(local())
    fresh = holder_of(session.views[0], local())
    session.rounds(1)
    for number in (41, 42):
        send([fresh], number)
    prepared([fresh], prepare_of(local(), {41: 20, 42: 40}))
    fresh.install()
    assert [frame[64:] for frame in state_of(fresh)] == [frame[64:] for frame in state_of(session.holders[0])]


def test_the_rule_that_holds_changes_nothing_and_one_that_cannot_is_refused() -> None:
    session = Session(every(AdamW(1e-2), Codec.INT8))
    session.rounds()
    holder = session.holders[0]
    before = state_of(holder)
    session.change(every(AdamW(1e-2), Codec.INT8))
    with pytest.raises(SettingError):
        holder.change_rule(local(outer=Sophia(0.1)))
    assert state_of(holder) == before
    session.rounds()


def test_what_changed_can_be_handed_over() -> None:
    session = Session(every(AdamW(1e-2), Codec.INT8))
    session.rounds()
    for rule in (every(AdamW(1e-2), Codec.FP16), every(AdamW(1e-2)), local()):
        session.change(rule)
        first = session.holders[0]
        second = Holder(session.layout, every(), SESSION)
        second.change_rule(rule)
        for frame in state_of(first):
            second.take_state(frame)
        second.adopt(Adopt(GENERATION, session.round, first.step_number, first.shards))
        assert state_of(second) == state_of(first)
        session.holders = [second]
        session.rounds()


def test_a_lossy_master_is_kept_as_long_as_packets_lose_digits() -> None:
    session = Session(every(SGD(0.05), Codec.INT8))
    session.rounds(3)
    exact = Session(every(SGD(0.05)))
    exact.rounds(3)
    session.change(every(SGD(0.05), Codec.FP16))
    for each in (session, exact):
        each.rounds(1)
    # What int8 had lost came with the next packet.
    places = [each.views[0].sections[Stream.PARAMETERS] for each in (session, exact)]
    torch.testing.assert_close(*places, rtol=0, atol=1e-4)
