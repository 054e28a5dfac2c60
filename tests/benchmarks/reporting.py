"""How the benchmarks report: a table for people, `--json FILE` for programs. Figures only; nobody judges here."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from .harness import Failed

Figures = dict[str, Any]


def machine() -> Figures:
    """What the figures were taken on, and how busy it was before."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_before": psutil.getloadavg()[0],
    }


def reached(places: Sequence[float], losses: Sequence[float], target: float) -> float:
    """The place where a curve first is at `target`, straight between its points; NaN if it never is."""
    if losses[0] <= target:
        return places[0]
    for (start, before), (end, after) in itertools.pairwise(zip(places, losses, strict=True)):
        if after <= target:
            return start + (before - target) / (before - after) * (end - start)
    return math.nan


def main(parser: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], Figures]) -> None:
    """Parse the command line, measure, write the JSON. Ends with code 1 and the reason if it could not be done."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    chosen = parser.parse_args()
    about = machine()
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    try:
        figures = measure(chosen)
    except Failed as error:
        sys.exit(f"Not measured: {error}")
    if chosen.json:
        chosen.json.write_text(json.dumps({"machine": about, **figures}, indent=1) + "\n", encoding="utf-8")


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under heads, numbers to the right."""
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(heads, *cells, strict=True)]
    print()
    for row, numeric in [(list(heads), [False] * len(heads)), *zip(cells, map(_numeric, rows), strict=True)]:
        aligned = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        )
        print("  ".join(aligned).rstrip())
    print(flush=True)


def _numeric(row: Sequence[Any]) -> list[bool]:
    return [isinstance(cell, (int, float)) for cell in row]


def _text(cell: Any) -> str:
    if cell is None:
        return "-"
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)
