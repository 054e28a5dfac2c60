"""The host's kernel shows the class what the model writes: by itself, and what the host asks for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from jupyter_swarm.peer import api, showing
from jupyter_swarm.peer.recipe import Recipe
from jupyter_swarm.peer.record import Record
from jupyter_swarm.peer.showing import Showing
from jupyter_swarm.protocol.errors import LinkError, RecipeError, SessionError
from jupyter_swarm.protocol.samples import SAMPLE_CHARACTERS

from .classroom import PLAIN
from .conftest import Server

SECONDS = 60
SAMPLING = PLAIN.replace(
    "recipe = Recipe(",
    "def sample(model, data, prompt):\n    return f'{prompt} is what {len(data.train[0])} samples say'\n\n"
    "recipe = Recipe(sample=sample,",
)


class Board:
    """What is shown; the next `refused` texts are not."""

    def __init__(self, refused: int = 0) -> None:
        self.refused = refused
        self.shown: list[tuple[str, str, int]] = []
        self._changed = threading.Condition()

    def send(self, prompt: str, text: str, round: int) -> None:
        with self._changed:
            self.refused -= 1
            if self.refused >= 0:
                raise LinkError("The server does not answer.")
            self.shown.append((prompt, text, round))
            self._changed.notify_all()

    def has(self, count: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: len(self.shown) >= count, SECONDS)


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(showing, "_REST_SECONDS", 0.0)
    monkeypatch.setattr(showing, "_REST", 0.0)
    monkeypatch.setattr(showing, "_AGAIN_SECONDS", 0.0)
    record = Record("cs101")
    yield record
    record.set(state="left")
    for thread in threading.enumerate():
        if thread.name == "swarm-showing":
            thread.join(SECONDS)
            assert not thread.is_alive()


def running(record: Record, board: Board, sample: Callable[[str], str]) -> Showing:
    one = Showing(record, lambda prompt: (sample(prompt), record.status.version), board.send)
    one.start()
    return one


def test_a_text_is_shown_after_each_evaluation_and_goes_on_with_the_prompt_that_was_asked_for(record: Record) -> None:
    board = Board()
    one = running(record, board, lambda prompt: prompt + "x" * 3 * SAMPLE_CHARACTERS)
    for version in (2, 4):
        record.set(version=version, metrics={"loss": 1.0})
        assert board.has(version // 2)
    assert [round for _, _, round in board.shown] == [2, 4]
    assert len(board.shown[0][1]) == SAMPLE_CHARACTERS
    one.asked("To be", "To be or", 4)
    assert board.has(3)
    assert board.shown[2] == ("To be", "To be or", 4)
    record.set(version=6, metrics={"loss": 1.0})
    assert board.has(4)
    assert board.shown[3][0] == "To be"


def test_what_does_not_get_through_is_forgotten(record: Record) -> None:
    board, tried = Board(refused=3), threading.Event()

    def sample(prompt: str) -> str:
        if tried.is_set():
            return "there"
        tried.set()
        raise SessionError("The session's parameters are not here yet.")

    running(record, board, sample)
    while not board.shown:
        record.set(metrics={"loss": 1.0})
        record.wait_for(lambda status: False, 0.01)
    assert board.shown[0][1] == "there"
    assert record.status.notes == ()


def test_a_recipe_whose_sampler_fails_trains_on_without(record: Record) -> None:
    def sample(prompt: str) -> str:
        raise RecipeError("sample() has failed: no such file")

    running(record, Board(), sample)
    record.set(metrics={"loss": 1.0})
    assert record.wait_for(lambda status: bool(status.notes), SECONDS)
    assert record.status.notes == ("No texts of the model are shown: sample() has failed: no such file",)
    assert record.status.state == "connecting"


@pytest.mark.usefixtures("kernel")
def test_the_class_sees_what_the_hosts_model_writes(server: Server) -> None:
    hosted = api.host(Recipe.from_source(SAMPLING), rounds=10**6, server=server.url, preflight=False)
    pause = threading.Event()

    def until(condition: Callable[[Any], bool]) -> Any:
        while not condition(sample := hosted._client.describe(hosted.id)["sample"]):
            pause.wait(0.05)
        return sample

    first = until(lambda sample: sample is not None)
    assert first["text"] == " is what 30 samples say"
    assert first["round"] % 2 == 0
    hosted.sample("This")
    assert until(lambda sample: sample["prompt"] == "This")["text"] == "This is what 30 samples say"
    hosted.stop()
    assert hosted.wait(SECONDS)
    hosted.leave()
