"""Reads steps and losses from a CSV file; rows that a crash cut short are left out."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ckptgrow.errors import DataError
from ckptgrow.planning.restarts import Row

Columns = Callable[[Sequence[str]], tuple[str, str]]  # names to those of step and loss


@dataclass(frozen=True)
class Table:
    """The rows that have a loss, and the number of rows left out because a crash had cut them short (`cut`)."""

    rows: list[Row]
    cut: int


def read_table(path: Path, columns: Columns) -> Table:
    """Reads two columns of a CSV file with a header.

    A row is cut short where a crash stopped the writing: it is the file's last row, without a line end, or, where a
    restarted run went on writing behind it, a row with more cells than the header.

    Raises DataError for files that cannot be read, and for values that are not numbers.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            text = file.read()
        whole = text.rstrip("\0")  # what a file system leaves where it had not written yet
        reader = csv.reader(io.StringIO(whole, newline=""))
        names = next(reader, [])
        places = tuple(names.index(name) for name in columns([name for name in names if name]))
        cells = [row for row in reader if row]
        num_rows = len(cells)
        cells = [row for row in cells if not any(row[len(names) :])]
        if whole and not whole.endswith(("\n", "\r")) and cells and _is_cut(cells, places, len(names)):
            cells.pop()
        rows = [
            (float(row[places[0]]), float(row[places[1]]))
            for row in cells
            if max(places) < len(row) and row[places[1]] != ""
        ]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}), expected a CSV log or a directory") from error
    except (ValueError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: has a value that is not a number ({error}), expected a CSV log") from error
    return Table(rows, num_rows - len(cells))


def _is_cut(cells: Sequence[Sequence[str]], places: Sequence[int], num: int) -> bool:
    """Whether the last row, which has no line end, lacks cells, or digits in its last cell.

    Many programs write no line end after the last row, so a row that looks like the others is kept: its last number has
    at least as many characters as the shortest above it, or, if that is the step, it is larger than the one before.
    """
    *others, last = cells
    if len(last) < num:
        return True
    loss, end = max(places), num - 1
    if end == places[0] and others:
        return not _is_higher(last[end], others[-1][end] if end < len(others[-1]) else "")
    if end != loss or last[end] == "":
        return False
    lengths = [len(row[end]) for row in others if end < len(row) and row[end] != ""]
    return not _is_number(last[end]) or len(last[end]) < min(lengths, default=0)


def _is_higher(step: str, before: str) -> bool:
    return _is_number(step) and (not _is_number(before) or float(step) > float(before))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
