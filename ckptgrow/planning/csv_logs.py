"""Steps and losses out of a CSV file, as they stand there; a last row that was cut short is left out."""

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
    """Rows that have a loss, and how many were left out because a crash had cut them short."""

    rows: list[Row]
    cut: int


def read_table(path: Path, columns: Columns) -> Table:
    """The two columns of a CSV file with a header.

    A row is cut where a crash stopped its writing: the file's last one, without an end of line; or, where a restarted
    run wrote on behind it, one with more cells than the header.

    Raises DataError for files that cannot be read, and for values that are no numbers.
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
        raise DataError(f"{path}: has a value that is no number ({error}), expected a CSV log") from error
    return Table(rows, num_rows - len(cells))


def _is_cut(cells: Sequence[Sequence[str]], places: Sequence[int], num: int) -> bool:
    """Whether the last row, which no end of line closes, lacks cells, or its last one lacks digits.

    Many programs write no end of line after the last row, so a row that looks like the others is kept: its last number
    has at least as many characters as the shortest above it, and its step is higher than the last.
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
