"""Peers that lie: each is told why it is refused, and the class goes on as if it had not been there."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_swarm.protocol import messages as m
from jupyter_swarm.protocol.frames import HEADER_BYTES, MAX_FRAME_BYTES

from .account import account_for
from .classroom import Classroom, classroom
from .hostile import Frames, Hostile, hostile
from .recipes import CHUNKS, LOCAL, MANY_SHARDS, SPARSE, Size


@contextlib.contextmanager
def class_of_liars(folder: Path, size: Size) -> Iterator[Classroom]:
    """A class that all the liars come to. In the end an honest peer comes, and everything is as it should be."""
    with classroom(folder, size) as one:
        yield one
        assert one.status()["version"] == 0
        one.start("ann")
        digests = one.finish()
    assert account_for(one, digests, []).problems() == []


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Classroom]:
    with class_of_liars(tmp_path_factory.mktemp("class"), MANY_SHARDS) as one:
        yield one


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Classroom]:
    with class_of_liars(tmp_path_factory.mktemp("local"), LOCAL) as one:
        yield one


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        (lambda liar: {"norms": {**liar.norms, "gradient": 2 * liar.norms["gradient"]}}, "announced was"),
        (lambda liar: {"norms": {**liar.norms, "gradient": -1.0}}, "a negative norm"),
        (lambda liar: {"norms": {**liar.norms, "hessian": 1.0}}, "hessian, which this session does not exchange"),
        (lambda liar: {"norms": {}}, "not a finite number"),
        (lambda liar: {"leases": (*liar.leases, 10**6)}, "given to another peer"),
        (lambda liar: {"leases": liar.leases[:1] * 2}, "given to another peer"),
        (lambda liar: {"base_version": 7}, "starts from version 7"),
        (lambda liar: {"round": 5}, "round 5 is over"),
    ],
)  # fmt: skip
def test_an_announcement_that_is_not_true(room: Classroom, lie: Callable[[Hostile], dict[str, Any]], why: str) -> None:
    with hostile(room) as liar:
        liar.hello()
        liar.work()
        liar.announce(**lie(liar))
        if why == "announced was":
            liar.send(liar.frames())
        assert why in liar.hear(m.Dropped).reason


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        ({"base_version": 3}, "starts from version 3"),
        ({"steps": 10**30}, "more losses or steps than its"),
        ({"loss_count": 10**30}, "more losses or steps than its"),
        ({"leases": (10**6,)}, "given to another peer"),
    ],
)
def test_an_announcement_of_steps_that_is_not_true(local: Classroom, lie: dict[str, Any], why: str) -> None:
    with hostile(local) as liar:
        liar.hello()
        liar.work()
        liar.announce(**lie)
        assert why in liar.hear(m.Dropped).reason


def test_a_peer_cannot_change_the_strategy(local: Classroom) -> None:
    with hostile(local) as liar:
        liar.hello()
        liar.say(m.Strategy(liar.welcome.generation, ()))
        assert "could not be read" in liar.hear(m.Refused).what
        assert liar.is_closed()


@pytest.mark.parametrize("computed", [10**30, -7, 13])
def test_a_lease_of_steps_counts_by_its_samples_whatever_is_said_of_it(tmp_path: Path, computed: int) -> None:
    """13 samples are a step and a part of one: what is left of the lease is leased again, as all that counts once."""
    with classroom(tmp_path, LOCAL) as room:
        with hostile(room) as liar:
            liar.hello()
            liar.work(lambda lease: computed if not lease.start else -1)
            liar.announce()
            liar.send(liar.frames())
            liar.hear(m.Commit)
            mallory = liar.welcome.peer
        room.start("ann")
        digests = room.finish()
    assert account_for(room, digests, []).problems() == []
    (first,) = room.recorded()[0].contributors
    assert (first.peer, first.weight) == (mallory, 48)


def test_data_of_ones_own_counts_as_much_as_the_instructor_says(tmp_path: Path) -> None:
    with classroom(tmp_path, LOCAL, own_samples=16) as room:
        with hostile(room) as liar:
            liar.hello(own_samples=10**12)
            liar.work()
            liar.announce()
            liar.send(liar.frames())
            liar.hear(m.Commit)
        room.start("ann")
        digests = room.finish()
    account = account_for(room, digests, [])
    assert (account.digests_equal, account.samples_lost, account.samples_twice) == (True, 0, 0)
    first, *others = room.recorded()
    (liars,) = first.contributors
    assert (liars.weight, liars.own, liars.leases) == (16, 16, ())
    assert not any(contributor.own for record in others for contributor in record.contributors)


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Classroom]:
    with class_of_liars(tmp_path_factory.mktemp("sparse"), SPARSE) as one:
        yield one


# In a chunk of 192 numbers: two ratios, a scale, three places in 12 bits each, their symbols.
_RATIOS, _SCALE, _PLACES = 0, 8, 10


@pytest.mark.parametrize(
    ("at", "forged", "why"),
    [
        (_PLACES, bytes(6), "repeat, are out of order, or are outside"),
        (_PLACES, b"\x02\x10\x00\x03\x00\x00", "repeat, are out of order, or are outside"),
        (_PLACES, b"\x00\x10\x00\xff\x0f\x00", "repeat, are out of order, or are outside"),
        (_SCALE, b"\xc0\x7f", "negative or not finite"),
        (_SCALE, b"\x80\xff", "negative or not finite"),
        (_SCALE, b"\x00\xc0", "negative or not finite"),
        (_RATIOS, struct.pack("<f", float("nan")), "negative or not finite"),
        (_RATIOS, struct.pack("<ff", float("inf"), float("inf")), "negative or not finite"),
        (_RATIOS, struct.pack("<ff", 3e38, 3e38), "infinite or too large"),
        (_RATIOS, struct.pack("<ff", 50.0, 50.0), "announced was"),
    ],
    ids=["repeated", "unordered", "outside", "nan", "-inf", "negative", "nan ratio", "inf ratio", "huge", "other"],
)  # fmt: skip
def test_sparse_numbers_that_are_none(sparse: Classroom, at: int, forged: bytes, why: str) -> None:
    def forge(frame: bytes) -> bytes:
        place = HEADER_BYTES + at
        return frame[:place] + forged + frame[place + len(forged) :]

    with hostile(sparse) as liar:
        liar.hello()
        liar.work()
        liar.announce()
        frames = liar.frames()
        assert len(frames[0]) == HEADER_BYTES + _PLACES + 6 + 1
        liar.send(frames[:1], forge)
        liar.send(frames[1:])
        assert why in liar.hear(m.Dropped).reason
        # Its leases went back: it gets the same ones again.
        liar.say(m.WantWork(liar.welcome.generation, 0))
        assert liar.hear(m.LeaseGrant).round == 1


def _nan(frames: Frames) -> Frames:
    return [frame[:HEADER_BYTES] + struct.pack("<f", float("nan")) + frame[HEADER_BYTES + 4 :] for frame in frames]


def _other_round(frames: Frames) -> Frames:
    return [frame[:24] + struct.pack("<Q", 9) + frame[32:] for frame in frames]


def _out_of_place(frames: Frames) -> Frames:
    return [frame[:48] + struct.pack("<Q", 17) + frame[56:] for frame in frames]


@pytest.mark.parametrize(
    ("forge", "why"),
    [
        (_nan, "NaN"),
        (_other_round, "This is for round 9"),
        (_out_of_place, "no chunk"),
        (lambda frames: frames[:1] * 2, "came twice"),
    ],
)
def test_frames_that_do_not_count(room: Classroom, forge: Callable[[Frames], Frames], why: str) -> None:
    with hostile(room) as liar:
        liar.hello()
        liar.work()
        liar.announce()
        liar.send(forge(liar.frames()))
        assert why in liar.hear(m.Dropped).reason


@pytest.mark.parametrize(
    ("forge", "why"),
    [
        (lambda frame: frame[:-1], "carries"),
        (lambda frame: frame[:40], "too short"),
        (lambda frame: frame + bytes(MAX_FRAME_BYTES), "more than is allowed"),
        (lambda frame: b"XX" + frame[2:], "not a frame"),
    ],
)
def test_bytes_that_are_no_frame_end_the_connection(room: Classroom, forge: Callable[[bytes], bytes], why: str) -> None:
    with hostile(room) as liar:
        liar.hello()
        liar.work()
        liar.announce()
        liar.send(liar.frames(), forge)
        refused = liar.hear(m.Refused)
        assert why in f"{refused.what} {refused.why}"
        assert liar.is_closed()


def test_an_upload_that_never_ends_does_not_hold_up_the_class(tmp_path: Path) -> None:
    with classroom(tmp_path, CHUNKS, lease_seconds=1.0) as room, hostile(room) as liar:
        liar.hello()
        liar.work()
        liar.announce()
        liar.send(liar.frames()[:1])
        room.start("ann")
        assert "took longer than" in liar.hear(m.Dropped).reason
        digests = room.finish()
    account = account_for(room, digests, [])
    assert account.problems() == []
    assert account.samples_skipped == 0


@pytest.mark.parametrize(
    ("different", "why"),
    [
        ({"protocol": 99}, "version 1 of the protocol, you speak 99"),
        ({"layout_digest": "0" * 64}, "Your model differs from the session's"),
        ({"agreed": "0" * 64}, "The recipe you agreed to is not the session's"),
        ({"role": "holder"}, "for a peer, not for a holder"),
        ({"own_samples": 5}, "This session takes no data of your own"),
        ({"own_samples": -5}, "-5 samples of your own"),
    ],
)  # fmt: skip
def test_a_hello_that_does_not_fit(room: Classroom, different: dict[str, Any], why: str) -> None:
    with hostile(room) as stranger:
        with pytest.raises(AssertionError, match="Refused") as told:
            stranger.hello(**different)
        assert why in str(told.value)
        assert "retry=False" in str(told.value)
        assert stranger.is_closed()


def test_of_two_joins_with_one_identity_the_later_counts(room: Classroom) -> None:
    with hostile(room) as first, hostile(room) as second:
        token = first.hello().token
        assert second.hello(token=token).peer == first.welcome.peer
        assert first.hear(m.Refused).what == "You have joined from another place."
        assert first.is_closed()
        assert [peer["id"] for peer in room.status()["peers"]] == [first.welcome.peer]
