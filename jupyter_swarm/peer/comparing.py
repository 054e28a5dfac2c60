"""Two checkpoints side by side: how far apart their numbers are, and what was measured of each."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ..protocol.errors import LayoutError
from .checkpoints import Checkpoint


class Comparison(NamedTuple):
    """What `compare` found; shown as a table.

    names: of the two checkpoints. tensors: name -> ‖a - b‖ / ‖a‖ (L2; inf where a is all zeros and b is not).
    total: the same over all tensors together. metrics: name -> the value of each, None where it was not measured.
    """

    names: tuple[str, str]
    tensors: dict[str, float]
    total: float
    metrics: dict[str, tuple[float | None, float | None]]

    def __str__(self) -> str:
        rows = [("", *self.names), *((name, *map(_number, pair)) for name, pair in self.metrics.items())]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ["  ".join((row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:]))) for row in rows]
        width = max(map(len, ("relative difference", *self.tensors)))
        lines += ["", f"{'relative difference'.ljust(width)}  ‖a - b‖ / ‖a‖"]
        lines += [f"{name.ljust(width)}  {value:.3g}" for name, value in self.tensors.items()]
        return "\n".join([*lines, f"{'all tensors'.ljust(width)}  {self.total:.3g}"])

    def __repr__(self) -> str:
        return str(self)


def compare(a: Checkpoint, b: Checkpoint) -> Comparison:
    """How `b` differs from `a`. Raises `LayoutError` for different models, `CheckpointError`, `LinkError`."""
    first, second = a.tensors(), b.tensors()
    different = [name for name in {**first, **second} if not _alike(first.get(name), second.get(name))]
    if different:
        raise LayoutError(
            f"{a.name} and {b.name} are of different models.",
            f"Tensor {different[0]} is not in both with the same shape.",
            "Compare checkpoints of the same model.",
        )
    squares = {name: _squares(first[name], second[name]) for name in first}
    totals = [math.fsum(column) for column in zip(*squares.values(), strict=True)]
    measured = {
        "version": (float(a.version), float(b.version)),
        "samples": (float(a.manifest.samples), float(b.manifest.samples)),
        **{name: (a.metrics.get(name), b.metrics.get(name)) for name in {**a.metrics, **b.metrics}},
    }
    return Comparison(
        (a.name, b.name), {name: _ratio(*pair) for name, pair in squares.items()}, _ratio(*totals), measured
    )


def _alike(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is not None and other is not None and one.shape == other.shape


def _squares(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
    """‖a - b‖² and ‖a‖²."""
    kind = torch.float64 if not a.is_floating_point() else torch.float32
    first, second = a.to(kind), b.to(kind)
    norms = (torch.linalg.vector_norm(one, dtype=torch.float64) for one in (first - second, first))
    difference, size = (float(norm) ** 2 for norm in norms)
    return difference, size


def _ratio(difference: float, size: float) -> float:
    if not difference:
        return 0.0
    return math.sqrt(difference / size) if size else math.inf


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
