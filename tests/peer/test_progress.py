"""One line of progress, wherever text is shown."""

from __future__ import annotations

import io

from jupyter_swarm.peer.progress import Line
from jupyter_swarm.peer.record import Record, Status


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_terminals_line_is_replaced_and_ends_with_the_last_text() -> None:
    terminal, clock = Terminal(), Clock()
    with Line(terminal, clock) as line:
        line.show("round 10 of many")
        line.show("round 11")
        clock.now += 1
        line.show("round 12")
        line.show("round 13")
    assert terminal.getvalue() == "\rround 10 of many\rround 12        \rround 13\n"


def test_a_file_gets_a_line_now_and_then() -> None:
    file, clock = io.StringIO(), Clock()
    with Line(file, clock) as line:
        for number in range(25):
            clock.now = float(number)
            line.show(f"round {number}")
    assert file.getvalue().split("\n") == ["round 0", "round 10", "round 20", "round 24", ""]


def test_a_status_says_in_one_line_why_nothing_moves() -> None:
    status = Status(
        state="failed", reason="The server is gone.\nWhy: no", version=3, rounds=5, metrics={"accuracy": 0.5}
    )
    assert status.line() == "round 3/5  held-out accuracy 0.5  failed: The server is gone."


def test_what_is_over_stays_over_and_the_first_error_is_kept() -> None:
    record = Record("s")
    first = ValueError("first")
    record.fail(first)
    record.fail(ValueError("second"))
    record.set(state="left", reason="", version=7)
    assert record.error is first
    assert (record.status.state, record.status.reason, record.status.version) == ("failed", "first", 7)


def test_a_session_that_has_finished_cannot_fail_any_more() -> None:
    record = Record("s")
    record.set(state="finished", reason="all rounds are done")
    record.fail(ValueError("the server is gone"))
    assert record.error is None
    assert record.status.state == "finished"
    record.set(state="left", reason="")
    assert record.status.state == "left"


def test_the_same_note_is_not_repeated() -> None:
    record = Record("s")
    for text in ("a", "a", "b", "a"):
        record.note(text)
    assert record.status.notes == ("a", "b", "a")
