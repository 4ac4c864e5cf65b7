"""Small log-log plots made of Braille characters, each of which has 2 × 4 dots.

Source: The Unicode Standard, block 2800–28FF: dot n of a cell is bit n − 1, numbered down the left column, then the
right, the lowest row last.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Piece = tuple[str, str]  # text and its style
BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # by row and column of the dot
BLANK = 0x2800
LABELS = (" loss (nats) against compute (FLOPs) ", " loss against FLOPs ", "")
MARGIN = 7  # characters for the numbers at the left


@dataclass(frozen=True, eq=False)
class Line:
    """A curve with both coordinates above zero, and its style."""

    x: Vector
    y: Vector
    style: str


@dataclass(frozen=True)
class Mark:
    """A single character at a place."""

    x: float
    y: float
    text: str
    style: str


def picture(
    lines: Sequence[Line], marks: Sequence[Mark], *, width: int = 72, height: int = 16, top: float = math.inf
) -> list[list[Piece]]:
    """A plot as rows of styled pieces, with its smallest and largest numbers at the left and below.

    Points above `top` are left out.
    """
    columns = width - MARGIN
    kept = [(line, line.y <= top) for line in lines]
    kept = [(line, inside) for line, inside in kept if inside.any()]
    frame = _Frame(
        np.concatenate([np.log(line.x[inside]) for line, inside in kept]),
        np.concatenate([np.log(line.y[inside]) for line, inside in kept]),
        columns,
        height,
    )
    dots = np.zeros((height, columns), dtype=int)
    cells: list[list[Piece]] = [[(" ", "")] * columns for _ in range(height)]
    for line, inside in kept:
        for column, row in frame.path(line.x[inside], line.y[inside]):
            dots[row // 4, column // 2] |= BITS[row % 4][column % 2]
            cells[row // 4][column // 2] = (chr(BLANK + int(dots[row // 4, column // 2])), line.style)
    for mark in marks:
        (column, row) = frame.dot(math.log(mark.x), math.log(mark.y))
        cells[row // 4][column // 2] = (mark.text, mark.style)
    numbers = {0: f"{math.exp(frame.high[1]):.2f}", height - 1: f"{math.exp(frame.low[1]):.2f}"}
    rows = [[(f"{numbers.get(row, ''):>{MARGIN - 2}} │", "dim"), *pieces] for row, pieces in enumerate(cells)]
    ends = [f"{math.exp(one):.1e}" for one in (frame.low[0], frame.high[0])]
    room = columns - len(ends[0]) - len(ends[1])
    label = next(one for one in LABELS if len(one) <= room).center(room)
    return [
        *rows,
        [(" " * (MARGIN - 1) + "└" + "─" * columns, "dim")],
        [(" " * MARGIN + ends[0] + label + ends[1], "dim")],
    ]


class _Frame:
    """The area of a plot, which turns logarithms of coordinates into dots."""

    def __init__(self, x: Vector, y: Vector, columns: int, rows: int) -> None:
        self.low, self.high = (float(x.min()), float(y.min())), (float(x.max()), float(y.max()))
        self._most = 2 * columns - 1, 4 * rows - 1

    def dot(self, x: float, y: float) -> tuple[int, int]:
        """The column and row of the nearest dot inside the area, counted from the upper left."""
        shares = [
            min(1.0, max(0.0, (value - low) / max(high - low, 1e-12)))
            for value, low, high in zip((x, y), self.low, self.high, strict=True)
        ]
        return round(shares[0] * self._most[0]), round((1 - shares[1]) * self._most[1])

    def path(self, x: Vector, y: Vector) -> list[tuple[int, int]]:
        """All dots of a curve, including those between its points."""
        corners = [self.dot(math.log(one), math.log(other)) for one, other in zip(x, y, strict=True)]
        found = corners[:1]
        for (column, row), (next_column, next_row) in itertools.pairwise(corners):
            num = max(abs(next_column - column), abs(next_row - row))
            found += [
                (round(column + (next_column - column) * one / num), round(row + (next_row - row) * one / num))
                for one in range(1, num + 1)
            ]
        return found
