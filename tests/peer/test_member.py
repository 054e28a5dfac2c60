"""A peer's half of the protocol, message by message, against a real holder."""

from __future__ import annotations

import threading

import pytest
import torch

from jupyter_swarm.peer import arrivals
from jupyter_swarm.peer.alone import Training
from jupyter_swarm.peer.recipe import Recipe
from jupyter_swarm.protocol import failpoints
from jupyter_swarm.protocol.errors import LayoutError, RecipeError
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.messages import (
    Abort,
    Accepted,
    Announce,
    ContributeNow,
    Dropped,
    Resync,
    SnapshotOffer,
    Status,
    Synced,
    ViewDigest,
    WantSnapshot,
    WantWork,
)
from jupyter_swarm.shards.vector import FlatVector
from tests.peer.classroom import NORMED, PLAIN, Classroom, Desk, close, parameters_of


@pytest.fixture
def room() -> Classroom:
    return Classroom(Recipe.from_source(NORMED))


def spoil(desk: Desk) -> None:
    """Another view than the class's."""
    desk.member.view.vector.sections[Stream.PARAMETERS].add_(1.0)


def test_a_new_peer_that_built_the_same_numbers_fetches_nothing(room: Classroom) -> None:
    desk = room.join()
    (synced,) = desk.wire.take(Synced)
    assert isinstance(synced, Synced)
    assert (synced.version, synced.digest) == (0, room.view.digest_all())
    assert isinstance(desk.wire.sent[-1], WantWork)


def test_a_joiner_fetches_the_chunks_that_differ_and_trains_from_there(room: Classroom) -> None:
    early = room.join()
    room.round(early, 12)
    late = room.join()
    assert late.member.view.version == 1
    assert late.member.view.digest() == room.view.digest_all()
    assert FlatVector.of(room.layout, late.computer.model).digest_all() == room.view.digest_all()


def test_a_damaged_chunk_is_not_taken_and_is_asked_for_again(room: Classroom) -> None:
    desk = room.join()
    spoil(desk)
    desk.member.handle(Resync(1, "another digest"))
    room.chunks, honest = lambda number, chunks: (flipped(frame) for frame in honest(number, chunks)), room.chunks
    room.offer(desk)
    room.chunks = honest
    assert desk.member.view.version == -1
    assert desk.member.view.digest() == "", "what is half of one version and half of another is nobody's to see"
    assert not desk.member.view.copy_to(desk.computer.recipe.build())
    room.offer(desk)
    assert desk.member.view.digest() == room.view.digest_all()


def test_chunks_of_an_earlier_offer_are_ignored(room: Classroom) -> None:
    desk = room.join()
    spoil(desk)
    desk.member.handle(Resync(1, "another digest"))
    desk.member.handle(SnapshotOffer(1, 50, 0, room.view.chunk_digests()))
    desk.member.handle(SnapshotOffer(1, 51, 0, room.view.chunk_digests()))
    wanted = desk.wire.take(WantSnapshot)[-1]
    assert isinstance(wanted, WantSnapshot)
    for number in (50, 51):
        for frame in room.chunks(number, wanted.chunks):
            desk.member.arrivals.take(frame)
    desk.member.snapshot_arrived(desk.inbox.get())
    assert desk.member.view.digest() == room.view.digest_all()
    desk.wire.sent.clear()
    desk.member.handle(SnapshotOffer(1, 52, 0, ()))
    assert desk.wire.sent == [], "an offer that nobody waits for any more"


def flipped(frame: memoryview) -> bytes:
    changed = bytearray(frame)
    changed[-1] ^= 1
    return bytes(changed)


def test_rounds_in_uneven_leases_are_the_training_alone() -> None:
    recipe = Recipe.from_source(PLAIN)
    room = Classroom(recipe)
    desk = room.join()
    alone = Training(recipe)
    for leases in ((12,), (6, 3, 3), (1, 11), (5, 5, 2)):
        room.round(desk, *leases)
        alone.step()
        digest = desk.wire.last(ViewDigest)
        assert isinstance(digest, ViewDigest)
        assert digest.sha256 == room.view.digest(room.layout.shards[digest.shard])
    assert desk.member.view.digest() == room.view.digest_all()
    assert close(parameters_of(alone._computer), room.parameters)
    assert desk.record.status.version == 4


def test_two_peers_make_the_step_of_one(room: Classroom) -> None:
    ann, bob = room.join(), room.join()
    room.train(ann, 7)
    room.train(bob, 5)
    frames = room.packets([room.collect(ann), room.collect(bob)])
    room.deliver(ann, frames)
    room.deliver(bob, frames)
    assert ann.member.view.digest() == bob.member.view.digest() == room.view.digest_all()


def test_a_peer_contributes_a_second_time_when_work_comes_back(room: Classroom) -> None:
    desk = room.join()
    room.train(desk, 4)
    first = room.collect(desk)
    desk.member.handle(Accepted(1, 1, first[0]))
    room.train(desk, 8)
    second = room.collect(desk)
    room.deliver(desk, room.packets([first, second]))

    other = Classroom(Recipe.from_source(NORMED))
    ann, bob = other.join(), other.join()
    other.train(ann, 4)
    other.train(bob, 8)
    other.packets([other.collect(ann), other.collect(bob)])
    assert room.view.digest_all() == other.view.digest_all()


def test_a_dropped_contribution_leaves_nothing_behind(room: Classroom) -> None:
    desk = room.join()
    room.train(desk, 12)
    number, _ = room.collect(desk)
    room.holder.forget(number)
    desk.member.handle(Dropped(1, 1, "its upload took too long"))
    room.position = 0
    room.round(desk, 12)

    other = Classroom(Recipe.from_source(NORMED))
    other.round(other.join(), 12)
    assert room.view.digest_all() == other.view.digest_all()
    assert "took too long" in desk.record.status.notes[-1]


def test_an_aborted_attempt_leaves_nothing_behind(room: Classroom) -> None:
    desk = room.join()
    room.train(desk, 9)
    desk.member.handle(Abort(1, 1, 1, "a holder is gone"))
    desk.member.handle(ContributeNow(1, 1, 1))
    assert not desk.wire.take(Announce)
    room.position = 0
    room.train(desk, 12, attempt=2)
    room.deliver(desk, room.packets([room.collect(desk, attempt=2)], attempt=2), attempt=2)

    other = Classroom(Recipe.from_source(NORMED))
    other.round(other.join(), 12)
    assert room.view.digest_all() == other.view.digest_all()


def test_packets_of_a_void_attempt_do_not_reach_the_view(room: Classroom) -> None:
    desk = room.join()
    room.train(desk, 12)
    before = desk.member.view.digest()
    for frame in room.packets([room.collect(desk)]):
        desk.member.arrivals.take(frame)
    desk.member.handle(Abort(1, 1, 1, "the disk is full"))
    assert desk.member.view.digest() == before
    assert parameters_of(desk.computer).equal(desk.member.view.vector.sections[Stream.PARAMETERS])


def test_a_commit_without_all_its_packets_means_a_new_snapshot(room: Classroom) -> None:
    desk = room.join()
    room.train(desk, 12)
    frames = room.packets([room.collect(desk)])
    room.deliver(desk, frames[:-1])
    assert desk.member.view.version == 0
    room.offer(desk)
    assert desk.member.view.version == 1
    assert desk.member.view.digest() == room.view.digest_all()


def test_a_peer_far_behind_applies_every_round(room: Classroom) -> None:
    fast, slow = room.join(), room.join()
    commits = []
    for _ in range(12):
        room.train(fast, 12)
        frames = room.packets([room.collect(fast)])
        room.deliver(fast, frames)
        for frame in frames:
            slow.member.arrivals.take(frame)
        commits.append(room.commit())
    for commit in commits:
        slow.member.handle(commit)
    assert slow.member.view.version == 12
    assert slow.member.view.digest() == room.view.digest_all()


def test_packets_beyond_what_may_wait_hold_up_the_link_until_a_round_is_applied(
    room: Classroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "KEPT_BYTES", 1)
    desk = room.join()
    room.train(desk, 12)
    frames, commits = [room.packets([room.collect(desk)])], [room.commit()]
    other = room.join()
    room.train(other, 12)
    frames.append(room.packets([room.collect(other)]))
    commits.append(room.commit())
    receiving = threading.Thread(target=lambda: [desk.member.arrivals.take(frame) for part in frames for frame in part])
    receiving.start()
    receiving.join(0.2)
    assert receiving.is_alive()
    desk.member.handle(commits[0])
    receiving.join(10)
    assert not receiving.is_alive()
    desk.member.handle(commits[1])
    assert desk.member.view.digest() == room.view.digest_all()


def test_an_evaluation_in_between_does_not_touch_training(room: Classroom) -> None:
    desk = room.join()
    room.train(desk, 6)
    desk.member.handle(room.lease(10, "evaluate"))
    done = desk.done()
    assert done.count == 10
    assert set(done.sums) == {"loss", "accuracy"}
    room.train(desk, 6)
    room.deliver(desk, room.packets([room.collect(desk)]))

    other = Classroom(Recipe.from_source(NORMED))
    other.round(other.join(), 6, 6)
    assert room.view.digest_all() == other.view.digest_all()


def test_an_evaluation_measures_the_view_and_not_what_training_has_under_way(room: Classroom) -> None:
    desk = room.join()
    desk.member.handle(room.lease(10, "evaluate"))
    before = desk.done()
    room.train(desk, 12)
    desk.member.handle(room.lease(10, "evaluate"))
    assert desk.done().sums == before.sums


def test_a_model_that_is_switched_to_eval_meanwhile_still_trains(room: Classroom) -> None:
    desk, other = room.join(), room.join()
    desk.computer.model.register_forward_hook(lambda *args: desk.computer.model.eval() and None)
    room.train(desk, 12)
    room.position = 0
    room.train(other, 12)
    one, two = (FlatVector.of(room.layout, each.computer.model) for each in (desk, other))
    assert one.sections[Stream.COUNTER].equal(two.sections[Stream.COUNTER]), "batch norm has seen all micro-batches"


def test_messages_of_another_generation_or_round_are_ignored(room: Classroom) -> None:
    desk = room.join()
    desk.wire.sent.clear()
    for change in ({"generation": 2}, {"round": 2}):
        lease = room.lease(4)
        fields = {name: getattr(lease, name) for name in lease.__struct_fields__} | change
        desk.member.handle(type(lease)(**fields))
    assert desk.wire.sent == []


def test_a_reconnection_to_the_same_server_goes_on_from_the_view_it_has(room: Classroom) -> None:
    desk = room.join()
    room.train(desk, 5)
    desk.wire.sent.clear()
    desk.member.welcome(room.welcome())
    assert not desk.wire.take(WantSnapshot)
    assert desk.wire.take(Synced)
    desk.member.handle(ContributeNow(1, 1, 1))
    assert not desk.wire.take(Announce), "its leases went back when the connection was lost"


def test_whoever_rests_hears_that_the_session_has_finished(room: Classroom) -> None:
    desk = room.join()
    desk.member.pause("by its user")
    desk.member.handle(Status(1, "training", "round 1"))
    assert desk.record.status.state == "paused"
    desk.member.handle(Status(1, "finished", "stopped by Ann"))
    assert (desk.record.status.state, desk.record.status.reason) == ("finished", "stopped by Ann")
    desk.member.resume()
    desk.member.pause("by its user")
    assert desk.record.status.state == "finished"


def test_whoever_finishes_its_work_in_a_paused_session_still_says_so(room: Classroom) -> None:
    desk = room.join()
    desk.member.handle(Status(1, "paused", "paused: by Ann"))
    room.train(desk, 12)
    room.packets([room.collect(desk)])
    assert (desk.record.status.state, desk.record.status.reason) == ("paused", "paused: by Ann")
    desk.member.handle(Status(1, "training", "round 2"))
    assert desk.record.status.state == "training"


def test_whoever_comes_to_a_finished_session_is_told_once_the_parameters_are_here(room: Classroom) -> None:
    desk = Desk(room.recipe, room.welcome())
    spoil(desk)
    desk.member.welcome(room.welcome())
    desk.member.handle(Status(1, "finished", "all rounds are done"))
    assert desk.record.status.state == "syncing"
    room.offer(desk)
    assert desk.record.status.state == "finished"
    assert desk.member.view.digest() == room.view.digest_all()


def test_a_restarted_server_is_asked_for_a_snapshot(room: Classroom) -> None:
    desk = room.join()
    desk.member.welcome(room.welcome(generation=2))
    assert desk.wire.take(WantSnapshot) == [WantSnapshot(2)]


def test_a_model_that_differs_is_refused_with_the_first_difference(room: Classroom) -> None:
    with pytest.raises(LayoutError, match=r"tensor 0\.weight"):
        Desk(Recipe.from_source(PLAIN.replace("6, 8", "6, 9").replace("8, 2", "9, 2")), room.welcome())


def test_data_that_differs_is_refused(room: Classroom) -> None:
    with pytest.raises(RecipeError, match="29"):
        Desk(Recipe.from_source(NORMED.replace("x[:30], y[:30]", "x[:29], y[:29]")), room.welcome())


def test_a_lease_that_is_void_already_is_not_computed(room: Classroom) -> None:
    desk = room.join()
    desk.wire.sent.clear()
    desk.inbox.put(Abort(1, 1, 1, "a holder is gone"))
    desk.member.handle(room.lease(12))
    assert desk.wire.sent == []
    desk.inbox.get()
    room.train(desk, 12)


POISONED = NORMED.replace(
    "    x, y = batch\n    return nn.f", "    x, y = batch\n    x = x.clone()\n    x[y == 1] *= BAD\n    return nn.f", 1
)


@pytest.mark.parametrize("bad", ["float('nan')", "float('inf')", "(1 / 0)"])
def test_a_lease_that_fails_leaves_no_trace_and_says_why(bad: str) -> None:
    room = Classroom(Recipe.from_source(POISONED.replace("BAD", bad)))
    desk = room.join()
    before = FlatVector.of(room.layout, desk.computer.model).digest_all()
    desk.member.handle(room.lease(12))
    assert desk.done().failed
    assert "failed on this peer" in desk.record.status.notes[-1]
    assert FlatVector.of(room.layout, desk.computer.model).digest_all() == before
    assert not torch.isnan(desk.computer.worker.finish()[0].sections[Stream.PARAMETERS]).any()
    assert isinstance(desk.wire.sent[-1], WantWork)


def test_a_paused_peer_still_contributes_what_it_has_computed(room: Classroom) -> None:
    desk = room.join()
    room.train(desk, 12)
    desk.member.pause("by its user")
    room.deliver(desk, room.packets([room.collect(desk)]))
    assert desk.member.view.version == 1
    assert not isinstance(desk.wire.sent[-1], WantWork)


def test_the_named_points_are_reached(room: Classroom, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[str] = []
    monkeypatch.setattr(failpoints, "hook", reached.append)
    desk = room.join()
    room.train(desk, 12)
    frames = room.packets([room.collect(desk)])
    assert reached == ["mid-upload"]
    room.deliver(desk, frames)
    assert reached == ["mid-upload", "half-delivered"]
