"""What a peer tells of its speed."""

from __future__ import annotations

from jupyter_swarm.peer.record import Status
from jupyter_swarm.peer.stopwatch import Done, Stopwatch


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_laps_add_up_to_everything() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    with watch.computing():
        clock.now += 3.0
        watch.count(12, steps=4)
    clock.now += 1.0
    first = watch.lap()
    assert first == Done(12, 4, 3.0, 4.0)
    assert first.waiting == 1.0
    with watch.computing():
        clock.now += 0.5
        watch.count(3, steps=1)
    assert watch.lap() == Done(3, 1, 0.5, 0.5)
    assert watch.done == Done(15, 5, 3.5, 4.5)


def test_a_long_computation_is_reported_while_it_lasts() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    with watch.computing():
        for _ in range(3):
            clock.now += 1.0
            watch.count(10, steps=1)
        report = watch.report()
        assert report is not None
        assert (report.samples_per_second, report.computing, report.waiting) == (10.0, 3.0, 0.0)
        clock.now += 1.5
        assert watch.report() is None, "at most one in two seconds"
    clock.now += 1.5
    report = watch.report()
    assert report is not None
    assert (report.samples_per_second, report.computing, report.waiting) == (0.0, 1.5, 1.5)


def test_the_speed_is_shown_in_tokens_where_samples_are_windows_of_them() -> None:
    status = Status(state="training", version=3, samples_per_second=120.4)
    assert "120 samples/s" in status.line()
    assert "15,411 tokens/s" in Status(samples_per_second=120.4, predictions=128).line()
    assert "0.25 samples/s" in Status(samples_per_second=0.25).line()
    assert "/s" not in Status().line()
