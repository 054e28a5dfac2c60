"""What a peer has not sent yet outlives its kernel; a file that is not exactly that is not used, and stops nobody."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from jupyter_swarm.peer.residual import Residual
from jupyter_swarm.peer.residual_file import ResidualFile, Stamp
from jupyter_swarm.protocol.layout import Stream
from jupyter_swarm.protocol.messages import Accepted, Status
from jupyter_swarm.protocol.rules import SGD, Codec
from jupyter_swarm.shards.feedback import MISSED_ROUNDS
from jupyter_swarm.shards.vector import FlatVector
from jupyter_swarm.strategies import SparseLocalUpdates
from tests.store.disks import filled, small_disk_at

from .classroom import EVERY_STEP, PLAIN, Classroom, local

SPARSE = "SparseLocalUpdates(steps=4, batch=3)"
NOW = Stamp("class", "peer-1", 2, "layout", version=7)
STAMP = Stamp("class", "peer-1", 2, "layout", version=7, base=6, codec="TOPK")
MANY = 3_000_000
"""Numbers in several pieces."""


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def file(tmp_path: Path, said: list[str]) -> ResidualFile:
    return ResidualFile(tmp_path / "peer.residual", said.append)


def saved(file: ResidualFile, values: torch.Tensor, stamp: Stamp = STAMP) -> torch.Tensor:
    file.save(stamp, values)
    file.wait()
    return values


def numbers(count: int = 5000) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("count", [1, 5000, MANY])
def test_what_is_saved_is_there_again(file: ResidualFile, tmp_path: Path, count: int, said: list[str]) -> None:
    values, again = saved(file, numbers(count)), torch.empty(count)
    stamp = ResidualFile(tmp_path / "peer.residual", said.append).load(NOW, lambda: again)
    assert stamp is not None
    assert (stamp.base, stamp.codec) == (6, "TOPK")
    assert torch.equal(again, values)
    assert torch.equal(safetensors.torch.load_file(tmp_path / "peer.residual")["residual"], values)
    assert not said


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def _damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def _foreign(path: Path) -> None:
    safetensors.torch.save_file({"residual": torch.zeros(5000)}, path)


@pytest.mark.parametrize(
    ("spoil", "now", "why"),
    [
        (_truncated, NOW, "ends too soon"),
        (_damaged, NOW, "damaged"),
        (_foreign, NOW, "missing required field"),
        (lambda path: path.write_bytes(b""), NOW, "truncated"),
        (lambda path: path.write_bytes(b"\xff" * 4000), NOW, "malformed"),
        (bytes, Stamp("other class", "peer-1", 2, "layout", version=7), "another peer's"),
        (bytes, Stamp("class", "peer-2", 2, "layout", version=7), "another peer's"),
        (bytes, Stamp("class", "peer-1", 2, "other layout", version=7), "another model"),
        (bytes, Stamp("class", "peer-1", 1, "layout", version=7), "knows of round 7"),
        (bytes, Stamp("class", "peer-1", 2, "layout", version=6), "knows of round 7"),
    ],
)
def test_what_does_not_fit_is_not_used_said_once_and_gone(
    file: ResidualFile, tmp_path: Path, said: list[str], spoil: Callable[[Path], object], now: Stamp, why: str
) -> None:
    saved(file, numbers())
    spoil(tmp_path / "peer.residual")
    assert file.load(now, lambda: torch.empty(5000)) is None
    (line,) = said
    assert why in line
    assert file.load(now, lambda: torch.empty(5000)) is None
    assert len(said) == 1


def test_a_model_of_another_size_does_not_get_it(file: ResidualFile, said: list[str]) -> None:
    saved(file, numbers())
    assert file.load(NOW, lambda: torch.empty(4999)) is None
    assert "another kind" in said[0]


def test_what_changes_while_it_is_written_is_never_there(tmp_path: Path, said: list[str]) -> None:
    """The numbers change as soon as `void` returns, however far the writing is."""
    file, values = ResidualFile(tmp_path / "peer.residual", said.append), numbers(MANY)
    for delay in (0.0, 0.001, 0.003, 0.01, 0.03):
        file.save(STAMP, values)
        threading.Event().wait(delay)
        file.void()
        values += 1
        file.wait()
        assert not [*tmp_path.iterdir()]
    assert not said


def test_a_full_disk_is_said_once_and_nothing_of_the_file_is_left(tmp_path: Path, said: list[str]) -> None:
    with small_disk_at(tmp_path / "disk", "8m") as folder:
        file = ResidualFile(folder / "peer.residual", said.append)
        with filled(folder):
            for _ in range(2):
                saved(file, numbers())
            assert [path.name for path in folder.iterdir() if "residual" in path.name] == []
        assert len(said) == 1
        assert "No space left" in said[0]
        assert "Training goes on" in said[0]
        values, again = saved(file, numbers()), torch.empty(5000)
        assert file.load(NOW, lambda: again) is not None
        assert torch.equal(again, values)


def test_what_a_killed_writer_left_goes_and_so_does_what_nobody_came_back_for(tmp_path: Path) -> None:
    for name, age in [("a.residual", 0), ("b.residual", 10**6), ("c.residual.x.tmp", 0), ("me.residual.x.tmp", 0)]:
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, times=(os.stat(tmp_path / name).st_mtime - age,) * 2)
    ResidualFile(tmp_path / "me.residual", print)
    assert {path.name for path in tmp_path.iterdir()} == {"a.residual", "c.residual.x.tmp"}


# --- a member and its file


class Kernel:
    """A peer by hand whose kernel can be restarted."""

    def __init__(self, room: Classroom, folder: Path) -> None:
        self.room = room
        self.path = folder / "peer.residual"
        self.start()

    def start(self) -> None:
        self.desk = self.room.join(residual=self.path)

    @property
    def residual(self) -> Residual:
        return self.desk.member.residual

    @property
    def left(self) -> torch.Tensor:
        """What is still to be sent."""
        values = self.residual._feedback.values
        assert values is not None
        return values.clone()

    def round(self) -> None:
        """One that this peer contributes to."""
        room, member = self.room, self.desk.member
        room.train(self.desk, 12)
        staged = room.collect(self.desk)
        assert member._contribution is not None
        member.handle(Accepted(1, member._contribution.key, staged[0]))
        room.deliver(self.desk, room.packets([staged]))

    def restart(self) -> None:
        self.residual.end(kept=True)
        self.start()


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    one = Kernel(Classroom(local(strategy=SPARSE)), tmp_path)
    yield one
    one.residual.end(kept=False)


def pass_rounds(room: Classroom, count: int) -> None:
    """Rounds of which the peer knows nothing: the others make them."""
    other = room.join()
    for _ in range(count):
        room.round(other, 12)


def test_a_restarted_kernel_goes_on_with_what_it_had_not_sent(kernel: Kernel) -> None:
    for _ in range(2):
        kernel.round()
    left = kernel.left
    assert left.any()
    kernel.restart()
    assert torch.equal(kernel.left, left)
    kernel.room.train(kernel.desk, 12)
    kernel.room.collect(kernel.desk)
    assert not kernel.path.exists(), "what is being sent may count"


@pytest.mark.parametrize(("missed", "goes_on"), [(MISSED_ROUNDS, True), (MISSED_ROUNDS + 1, False)])
def test_after_three_missed_rounds_it_goes_on_and_after_four_it_starts_at_zero(
    kernel: Kernel, missed: int, goes_on: bool
) -> None:
    for _ in range(2):
        kernel.round()
    left = kernel.left
    kernel.residual.end(kept=True)
    pass_rounds(kernel.room, missed)
    kernel.start()
    kernel.room.train(kernel.desk, 12)
    made, _ = kernel.desk.computer.worker.finish(kernel.desk.member.view.vector)  # type: ignore[call-arg]
    delta = made.sections[Stream.PARAMETERS].clone()
    kernel.room.collect(kernel.desk)
    contribution = kernel.desk.member._contribution
    assert contribution is not None
    kernel.residual.lost(contribution.encoded)
    torch.testing.assert_close(kernel.left, delta + 0.95 * left if goes_on else delta)


def test_nothing_is_written_while_a_contribution_may_still_count(kernel: Kernel) -> None:
    kernel.room.train(kernel.desk, 12)
    kernel.room.collect(kernel.desk)
    kernel.desk.member.pause("by its user")
    kernel.residual.end(kept=True)
    assert not kernel.path.exists()


def test_a_session_that_has_finished_leaves_nothing(kernel: Kernel) -> None:
    kernel.round()
    kernel.desk.member.pause("by its user")
    kernel.residual._file.wait()  # type: ignore[union-attr]
    assert kernel.path.exists()
    kernel.desk.member.handle(Status(1, "finished", "all rounds are done"))
    kernel.residual.end(kept=True)
    assert not kernel.path.exists()


def test_a_rule_without_feedback_has_no_file(tmp_path: Path) -> None:
    for strategy in (EVERY_STEP, "LocalUpdates(steps=4, batch=3)"):
        kernel = Kernel(Classroom(local(PLAIN, strategy)), tmp_path)
        kernel.round()
        kernel.residual.end(kept=True)
        assert not [*tmp_path.iterdir()]


def test_what_was_left_by_another_codec_is_not_sent(kernel: Kernel) -> None:
    kernel.round()
    kernel.restart()
    assert kernel.left.any()
    rule = SparseLocalUpdates(steps=4, batch=3, up=Codec.INT8).rule(SGD(0.1))
    kernel.residual.encode(FlatVector(kernel.room.layout), rule, 1)
    assert not kernel.left.any()
