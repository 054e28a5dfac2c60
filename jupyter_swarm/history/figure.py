"""Figures of a history: one to keep, and one that is drawn again and again for a widget."""

from __future__ import annotations

import io

import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .drawing import draw
from .panels import usual_panels
from .themes import DPI, ThemeName


class Picture(Figure):
    """A figure without pyplot that a notebook shows all the same."""

    def png(self) -> bytes:
        """As the notebook shows it."""
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=self.dpi, facecolor=self.get_facecolor())
        return file.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png()


class CurveFigure:
    """Loss, a held-out metric, speed and bytes of a history in one reused figure. width, height: pixels of the PNG. For
    one thread at a time."""

    def __init__(self, width: int = 760, height: int = 560, theme: ThemeName = "light") -> None:
        self._theme: ThemeName = theme
        self.figure = Picture(figsize=(width / DPI, height / DPI), dpi=DPI)
        self.canvas = FigureCanvasAgg(self.figure)

    def png(self, dataset: xr.Dataset) -> bytes:
        """The history as it is now; without any rounds, an empty frame that says so."""
        first, *metrics, speed = usual_panels(dataset)
        draw(self.figure, dataset, theme=self._theme, panels=[first, *metrics[:1], speed, "bytes"], live=True)
        return self.figure.png()
