"""How figures look: two themes, colours that people with any colour vision tell apart, sizes for a projector."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..protocol.errors import SettingError

DPI = 100
ThemeName = Literal["light", "dark"]


class Theme(msgspec.Struct, frozen=True):
    """Colours. text has at least 7:1 contrast to the background (WCAG AAA), muted 4.5:1. series: the palette of Okabe
    and Ito, less what a background swallows; others: whatever has no colour of its own."""

    background: str
    text: str
    muted: str
    grid: str
    training: str
    held_out: str
    series: tuple[str, ...]
    others: str


THEMES: dict[str, Theme] = {
    "light": Theme(
        background="#ffffff",
        text="#1b1f24",
        muted="#57606a",
        grid="#e4e7eb",
        training="#0072b2",
        held_out="#d55e00",
        series=("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7a5195"),
        others="#9aa3ad",
    ),
    "dark": Theme(
        background="#14171c",
        text="#f2f4f7",
        muted="#aab4c0",
        grid="#2b313a",
        training="#56b4e9",
        held_out="#f0a04b",
        series=("#56b4e9", "#e69f00", "#2fbf94", "#e39cc4", "#f0e442", "#ef7b3a", "#a78bda"),
        others="#6b7683",
    ),
}
DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)))
"""When the colours are used up, lines differ by dashes."""


def theme_of(name: str) -> Theme:
    """Raises `SettingError`."""
    try:
        return THEMES[name]
    except KeyError:
        raise SettingError(f"There is no theme {name!r}.", todo=f"Choose one of {', '.join(THEMES)}.") from None
