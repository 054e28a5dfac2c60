from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jupyter_swarm.link.timing import Backoff, Pulse, Timing


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
