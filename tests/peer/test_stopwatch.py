"""What a peer tells of its speed."""

from __future__ import annotations

from jupyter_swarm.peer.record import Status
from jupyter_swarm.peer.stopwatch import Done, Stopwatch


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_is_not_computing_is_waiting() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    for seconds, samples in ((3.0, 12), (0.5, 3)):
        with watch.computing():
            clock.now += seconds
            watch.count(samples)
        clock.now += 1.0
    assert watch.done == Done(15, 3.5, 5.5)
    assert watch.done.waiting == 2.0


def test_a_long_computation_is_reported_while_it_lasts() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    with watch.computing():
        for _ in range(3):
            clock.now += 1.0
            watch.count(10)
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
