"""Grids of width times resolution as tables whose cells are coloured by a figure.

They are tables and no pictures: they can be read aloud, by row and column, and every colour has its number in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit.manifest import VariantRecord
from edgekit.variant import format_alpha

STEPS = 9  # of the colour scale, in the style sheet


@dataclass(frozen=True)
class Cell:
    """What one variant has to say. `value` decides the colour; None for one that is not to be coloured."""

    value: float | None
    text: str
    small: str
    title: str
    target: str


@dataclass(frozen=True)
class Coloured:
    """A cell with the number of its colour."""

    cell: Cell
    step: int | None


@dataclass(frozen=True)
class Row:
    """One width; None where there is no such variant."""

    head: str
    cells: tuple[Coloured | None, ...]


@dataclass(frozen=True)
class Heat:
    """One grid. `series` numbers its runtime and precision, None where it is about the networks alone."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    low: str
    high: str
    series: int | None


Placed = tuple[VariantRecord, Cell]


def heat(
    title: str,
    note: str,
    placed: Sequence[Placed],
    scale: Sequence[float],
    show: Callable[[float], str],
    series: int | None,
) -> Heat:
    """A grid of cells, coloured on a logarithmic scale from the least to the largest of `scale`."""
    alphas = sorted({it.alpha for it, _ in placed}, key=lambda alpha: -(alpha or 0.0))
    sizes = sorted({it.resolution for it, _ in placed}, key=lambda size: size or 0)
    cells = {(it.alpha, it.resolution): cell for it, cell in placed}
    rows = [Row(_alpha(a), tuple(_coloured(cells.get((a, size)), scale) for size in sizes)) for a in alphas]
    ends = (show(min(scale)), show(max(scale))) if scale else ("", "")
    return Heat(title, note, tuple(_size(size) for size in sizes), tuple(rows), *ends, series)


def _alpha(alpha: float | None) -> str:
    return "no width" if alpha is None else f"α {format_alpha(alpha)}"


def _size(size: int | None) -> str:
    return "its own size" if size is None else f"{size} px"


def _coloured(cell: Cell | None, scale: Sequence[float]) -> Coloured | None:
    if cell is None:
        return None
    return Coloured(cell, None if cell.value is None else step(cell.value, min(scale), max(scale)))


def step(value: float, low: float, high: float) -> int:
    """The number of the colour, 0 at `low` to STEPS - 1 at `high`, in equal ratios."""
    if not 0 < low < high:
        return 0
    share = math.log(value / low) / math.log(high / low)
    return min(STEPS - 1, max(0, int(share * STEPS)))
