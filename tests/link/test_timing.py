from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jupyter_swarm.link.timing import Backoff, Found, Pulse, Questions, Timing


def test_heartbeats_are_due_every_twenty_seconds_once_each() -> None:
    pulse = Pulse(Timing(), now=100.0)
    assert not pulse.due(119.9)
    assert pulse.rest(110.0) == 10.0
    assert pulse.due(120.0)
    assert not pulse.due(120.1)
    assert pulse.rest(125.0) == 15.0
    assert pulse.rest(1000.0) == 0.0


def test_silence_is_sixty_seconds_since_the_last_sign_of_life() -> None:
    pulse = Pulse(Timing(), now=0.0)
    pulse.heard(50.0)
    assert not pulse.silent(109.9)
    assert pulse.silent(110.0)


def test_waits_double_from_half_a_second_to_thirty() -> None:
    backoff = Backoff(Timing(), draw=lambda: 0.0)
    assert [backoff.next() for _ in range(8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    backoff.reset()
    assert backoff.next() == 0.5


@given(st.floats(0.0, 1.0, exclude_max=True), st.integers(0, 2000))
def test_chance_cuts_a_wait_by_up_to_a_half(draw: float, tries: int) -> None:
    plain, backoff = Backoff(Timing(), draw=lambda: 0.0), Backoff(Timing(), draw=lambda: draw)
    for _ in range(tries):
        plain.next(), backoff.next()
    longest = plain.next()
    assert longest / 2 <= backoff.next() <= longest <= 30.0


seconds = st.floats(1e-4, 1e4)
counts = st.integers(1, 10**12)
clocks = st.floats(-1e6, 1e6)
"""Where a clock stands at first: hours before and after any other."""


@given(clocks, seconds, counts)
def test_a_link_is_measured_by_one_clock_wherever_it_stands(start: float, taken: float, count: int) -> None:
    questions = Questions()
    number = questions.ask("down", count, start)
    found = questions.answered(number, 0, start + taken)
    assert found is not None
    assert found[:2] == ("down", count)
    assert abs(found.seconds - max(taken, 1e-6)) < 1e-6 + 1e-9 * abs(start)


@given(st.lists(seconds, min_size=1, max_size=20))
def test_the_round_trip_is_the_shortest_of_the_last_few(trips: list[float]) -> None:
    questions = Questions()
    for taken in trips:
        questions.answered(questions.ask("round trip", 0, 0.0), 0, taken)
    assert questions.round_trip == min(trips[-5:])


@given(st.lists(seconds, min_size=1, max_size=9), seconds, counts)
def test_answering_late_at_times_makes_a_link_at_most_twice_as_fast(
    trips: list[float], taken: float, count: int
) -> None:
    questions = Questions()
    for late in trips:
        questions.answered(questions.ask("round trip", 0, 0.0), 0, late)
    found = questions.answered(questions.ask("down", count, 0.0), 0, taken)
    assert found is not None
    assert taken / 2 <= found.seconds <= taken


@given(st.sets(st.integers(0, 2**53 - 1), min_size=1, max_size=50))
def test_nobody_answers_before_the_question(guesses: set[int]) -> None:
    numbers = iter(range(2**60, 2**60 + 3))
    questions = Questions(lambda: next(numbers))
    asked = [questions.ask("up", 1000, 0.0), questions.ask("down", 1000, 0.0)]
    assert all(questions.answered(guess, 10**9, 0.1) is None for guess in guesses)
    assert questions.answered(asked[1], 0, 2.0) == Found("down", 1000, 2.0)
    assert questions.answered(asked[1], 0, 0.1) is None, "an answer counts once"


def test_one_question_of_a_kind_is_under_way_and_a_round_trip_may_be_lost() -> None:
    questions = Questions()
    assert questions.ask("up", 10, 0.0)
    assert not questions.ask("up", 10, 1.0)
    lost = questions.ask("round trip", 0, 0.0)
    again = questions.ask("round trip", 0, 20.0)
    assert questions.answered(lost, 0, 21.0) is None
    assert questions.answered(again, 0, 21.0) == Found("round trip", 0, 1.0)


def test_an_upload_that_lacks_bytes_measures_nothing_and_can_be_asked_for_again() -> None:
    questions = Questions()
    assert questions.answered(questions.ask("up", 1000, 0.0), 999, 1.0) is None
    assert questions.answered(questions.ask("up", 1000, 0.0), 1000, 1.0) == Found("up", 1000, 1.0)
