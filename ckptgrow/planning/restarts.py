"""Leaves out the rows of a log that a restarted run made again.

A run may stop at step 3,000 and go on from step 1,000. Then the rows that it logged from step 1,000 on, before it
stopped, belong to a part that was lost, whether at the same steps as the new ones or at others.
"""

from __future__ import annotations

from collections.abc import Sequence

from ckptgrow.errors import DataError

Row = tuple[float, float]  # step, loss
MOST_RESTARTS = 0.4  # of rows: rows in no order fall at every second, a run that dies often makes some evaluations


def surviving(rows: Sequence[Row], where: str) -> list[Row]:
    """Rows of the run that went on, as they were written: each takes the place of all from its step on.

    >>> surviving([(100, 3.0), (200, 2.5), (300, 2.0), (150, 2.7)], "log")
    [(100, 3.0), (150, 2.7)]

    Raises DataError for rows in no order, or in a falling one, which are no restarts.
    """
    kept: list[Row] = []
    falls = 0
    for number, (step, loss) in enumerate(rows):
        falls += number > 0 and step < rows[number - 1][0]
        while kept and kept[-1][0] >= step:
            kept.pop()
        kept.append((step, loss))
    if falls > MOST_RESTARTS * len(rows):
        place = next(index for index in range(1, len(rows)) if rows[index][0] < rows[index - 1][0])
        raise DataError(
            f"{where}: step {rows[place][0]:g} follows {rows[place - 1][0]:g}, and so at {falls} of {len(rows)} rows, "
            "expected increasing steps, but for restarts; sort the rows by step"
        )
    return kept
