"""Figures: what is on them, that people can read them, and that the live one is always the same canvas."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from jupyter_swarm.history import build, concat
from jupyter_swarm.history.figure import CurveFigure
from jupyter_swarm.history.themes import THEMES
from jupyter_swarm.protocol.errors import SettingError

from .rows import event, run

PNG = b"\x89PNG\r\n\x1a\n"


def contrast(one: object, other: object) -> float:
    """Of two colours, as WCAG 2 defines it: 1 to 21."""

    def luminance(color: object) -> float:
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(color)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def texts(figure: Figure) -> Iterator[Text]:
    figure.draw_without_rendering()
    return (text for text in figure.findobj(Text) if text.get_visible() and text.get_text())


def test_a_figure_shows_loss_metrics_and_who_computes() -> None:
    figure = build(**run()).swarm.plot()
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy", "samples/s"]
    assert figure.axes[-1].get_xlabel() == "round"
    shown = {text.get_text() for text in texts(figure)}
    assert {
        "training",
        "held-out\n0.5",
        "Ann",
        "Bob",
        "EveryStep",
        "LocalUpdates",
        "Ann pauses",
        "Ann goes on",
    } <= shown
    assert "Ann joined" not in shown, "before the first round everybody joins"
    assert figure._repr_png_().startswith(PNG)


@pytest.mark.parametrize("x", ["samples", "time"])
def test_other_axes_and_panels(x: str) -> None:
    panels = ["loss", "speed", "share", "waiting", "bytes", "held_out_accuracy"]
    figure = build(**run(40, 10)).swarm.plot(x, panels=panels, theme="dark")
    assert [axes.get_ylabel() for axes in figure.axes[1:5]] == ["samples/s", "share [%]", "waiting [%]", "sent so far"]
    assert figure.axes[-1].get_xlabel() == {"samples": "samples", "time": "time since the start [s]"}[x]
    assert "3 others" in {text.get_text() for text in texts(figure)}, "more peers than colours"


def test_any_name_can_be_drawn() -> None:
    names = ("$\\frac{$", "_Maximilian Mustermann-Schultz", "李明")
    figure = build(**run(6, 3, names)).swarm.plot(panels=["speed"])
    shown = {text.get_text().strip() for text in texts(figure)}
    assert {*names[:2], "□□", "$\\frac{$ pauses"} <= shown
    width = figure.bbox.width
    assert all(text.get_window_extent().x1 <= width for text in texts(figure))
    assert "_Maximilian Mu…" in {text.get_text().strip() for text in texts(live(names))}


def test_marks_that_are_close_do_not_lie_on_each_other() -> None:
    told = ["Bob joined.", "Eve joined.", "Ann is paused by the instructor.", "Ann goes on.", "Bob is gone."]
    rows = run(100)
    rows["events"] = [event(number, 80 + number, text) for number, text in enumerate(told)]
    figure = build(**rows).swarm.plot()
    words = {"Bob joined", "Eve joined", "Ann pauses", "Ann goes on", "Bob gone"}
    boxes = [text.get_window_extent() for text in texts(figure) if text.get_text() in words]
    assert len(boxes) >= 3
    assert not [one for place, one in enumerate(boxes) if any(one.overlaps(other) for other in boxes[:place])]


def live(names: tuple[str, ...]) -> Figure:
    curve = CurveFigure()
    assert curve.png(build(**run(6, 3, names)))
    return curve.figure


def test_settings_are_marked_that_a_curve_shows_and_once() -> None:
    said = "host changed the settings from the next round on:"
    lines = (
        (2, "minimum_peers 1 → 2."), (2, "rounds 0 → 9, learning_rate 0 → 0.0003."), (3, "inner_steps 0 → 25."),
    )  # fmt: skip
    told = [event(number, round, f"{said} {text}") for number, (round, text) in enumerate(lines)]
    told.append(event(9, 5, "The server goes on from version 4."))
    shown = {text.get_text() for text in texts(build(**{**run(), "events": told}).swarm.plot(panels=["loss"]))}
    assert {"learning_rate 0.0003", "server restarted"} <= shown
    assert not [text for text in shown if "minimum" in text or "goes on" in text]
    assert "inner_steps 25" not in shown, "it came with the strategy, which is shown"


@pytest.mark.parametrize(("x", "limits"), [("round", (3, 6)), ("samples", (24, 48)), ("time", (0, 3))])
def test_a_part_of_a_run_begins_where_the_round_before_ended(x: str, limits: tuple[float, float]) -> None:
    figure = build(**run()).sel(round=slice(4, None)).swarm.plot(x)
    assert figure.axes[0].get_xlim() == limits


def test_the_stack_is_the_class() -> None:
    figure = build(**run(6, 3)).swarm.plot(panels=["speed"])
    tops = [patch.get_paths()[0].vertices[:, 1].max() for patch in figure.axes[0].collections]
    assert tops == pytest.approx([4.0, 8.0, 12.0])


def test_several_runs_in_one_figure() -> None:
    together = concat([build(**run(6, 2)), build(**run(3, 4))], ["long", "wide"])
    figure = together.swarm.plot("samples")
    shown = {text.get_text() for text in texts(figure)}
    assert {"long\n0.5", "wide\n1.5", "long", "wide"} <= shown
    ends = {line.get_label(): line.get_xdata()[-1] for line in figure.axes[0].lines}
    assert ends["long\n0.5"] == 48
    assert ends["wide\n1.5"] == 32


@pytest.mark.parametrize("theme", THEMES)
def test_text_can_be_read(theme: str) -> None:
    figure = build(**run()).swarm.plot(theme=theme)
    background = figure.get_facecolor()
    for text in texts(figure):
        assert contrast(text.get_color(), background) >= 4.5, text.get_text()
        assert text.get_fontsize() >= 10
    for color in {*THEMES[theme].series, THEMES[theme].training, THEMES[theme].held_out}:
        assert contrast(color, background) >= 2.0


def test_the_live_figure_is_one_canvas(monkeypatch: pytest.MonkeyPatch) -> None:
    curve = CurveFigure(400, 300, "dark")
    first = curve.png(build(**run(2)))
    axes = list(curve.figure.axes)
    later = curve.png(build(**run(9, 4)))
    fresh = CurveFigure(400, 300, "dark").png(build(**run(9, 4)))
    assert first.startswith(PNG)
    assert (int.from_bytes(first[16:20], "big"), int.from_bytes(first[20:24], "big")) == (400, 300)
    assert curve.figure.axes == axes
    assert first != later == fresh, "nothing of the older drawing stays"


def test_before_the_first_round() -> None:
    curve = CurveFigure()
    assert curve.png(build([])).startswith(PNG)
    assert "no rounds yet" in {text.get_text() for text in texts(curve.figure)}
    curve.png(build(**run(1)))
    assert "no rounds yet" not in {text.get_text() for text in texts(curve.figure)}


@pytest.mark.parametrize("options", [{"x": "day"}, {"theme": "pink"}, {"panels": ["weather"]}])
def test_what_cannot_be_drawn_is_said(options: dict[str, object]) -> None:
    with pytest.raises(SettingError, match="There is no"):
        build(**run()).swarm.plot(**options)


def test_pyplot_is_never_loaded() -> None:
    code = """
import sys
from jupyter_swarm.history import build
from jupyter_swarm.history.figure import CurveFigure
assert CurveFigure().png(build([]))
print(*{"matplotlib.pyplot", "torch", "httpx", "websockets"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\s*", done.stdout)
